"""Make questions and answers from a document, with the places where the document states them (docs/lift.md).

Each task is a small class with `items(document, n, seed, split)`. To add one, write it in a file of its own and enter
it in `TASKS`. `self_study.SelfStudy` is one too, but needs a model that asks, so it is not in the table.
"""

from collections.abc import Sequence

from lift.document.document import Document
from lift.tasks.absent import Absent
from lift.tasks.cloze import Cloze
from lift.tasks.items import NO_ANSWER, Coverage, Item, Task, coverage, right
from lift.tasks.linked import Linked
from lift.tasks.needle import Needle
from lift.tasks.order import Order
from lift.tasks.recite import Recite
from lift.tasks.reverse import Reverse
from longthread.errors import ConfigError

__all__ = ["NO_ANSWER", "TASKS", "Coverage", "Item", "Task", "coverage", "make", "right"]

TASKS: dict[str, Task] = {
    task.kind: task for task in (Needle(), Linked(), Cloze(), Order(), Recite(), Reverse(), Absent())
}


def make(document: Document, kinds: Sequence[str], n: int, seed: int, split: str) -> list[Item]:
    """Return at most `n` items of each task kind, in the order of `kinds`.

    Raises `ConfigError` on an unknown kind or split.
    """
    if unknown := [kind for kind in kinds if kind not in TASKS]:
        raise ConfigError(f"task must be one of {', '.join(TASKS)} (got {unknown[0]!r})")
    if n < 0:
        raise ConfigError(f"{n} items cannot be made: give at least 0")
    return [item for kind in kinds for item in TASKS[kind].items(document, n, seed, split)]
