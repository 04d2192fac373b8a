"""What training has changed on the held-out split: mean scores before and after, task by task, from samples.jsonl."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from longthread.files import read_jsonl
from longthread.statistics import Z95, Estimate, estimate


@dataclass(frozen=True)
class Difference:
    """A task's mean scores before and after, at one length or at all (`length` None), on the same samples.

    `reach`: half the width of the 95 % interval of the mean paired difference.
    """

    environment: str
    task: str
    length: int | None
    before: Estimate
    after: Estimate
    reach: float


def differences(run: Path, names: Sequence[str]) -> Iterator[Difference]:
    """Yield what has changed: each task at all lengths, and then at each, where there are several."""
    for name in names:
        before, after = _scores(run / "before" / name), _scores(run / "after" / name)
        for task in dict.fromkeys(task for task, *_ in before):
            lengths = sorted({key[1] for key in before if key[0] == task})
            for length in [None, *(lengths if len(lengths) > 1 else [])]:
                keys = [key for key in before if key[0] == task and length in (None, key[1]) and key in after]
                if keys:
                    change = estimate(after[key] - before[key] for key in keys)
                    old, new = (estimate(scores[key] for key in keys) for scores in (before, after))
                    yield Difference(name, task, length, old, new, Z95 * change.stderr)


def table(run: Path, names: Sequence[str]) -> Table | None:
    """Return the differences as a table; None where nothing was evaluated."""
    shown = Table(
        "environment", "task", "tokens", "n", "before", "after", "change, 95 %", title="held-out split, greedy"
    )
    for one in differences(run, names):
        interval = "" if math.isnan(one.reach) else f"±{one.reach:.3f}"  # narrow: eighty columns hold the table
        change = f"{one.after.mean - one.before.mean:+.3f}{interval}"
        tokens = "all" if one.length is None else str(one.length)
        shown.add_row(
            one.environment,
            one.task,
            tokens,
            str(one.before.n),
            f"{one.before.mean:.3f}",
            f"{one.after.mean:.3f}",
            change,
        )
    return shown if shown.row_count else None


def _scores(folder: Path) -> dict[tuple[str, int, object, int], float]:
    path = folder / "samples.jsonl"
    rows = read_jsonl(path) if path.exists() else ()
    return {(row["task"], row["length"], row["depth"], row["repeat"]): row["score"] for row in rows}
