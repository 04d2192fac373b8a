"""The viewer of rollouts: a self-contained page with one group after the other.

from environments.reports.viewer import write_rollouts_html
write_rollouts_html(read_jsonl(Path("rollouts.jsonl")), Path("rollouts.html"))
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from environments.reports.html import TEMPLATES, number, render, short, source
from longthread.files import replacing

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class _Rollout:
    score: float
    completion: str
    finish_reason: object
    missing: object
    details: object
    reading: object

    @property
    def notes(self) -> list[str]:
        """Short texts on how the completion ended, and what its score is made of."""
        finish = [] if self.finish_reason is None else [f"finish {short(self.finish_reason)}"]
        finish += [short(self.missing)] if self.missing else []
        parts = [item for part in (self.details, self.reading) if isinstance(part, Mapping) for item in part.items()]
        return finish + [f"{short(name)} {_part(value)}" for name, value in parts]


def _part(value: object) -> str:
    text = number(value, ".3g")
    return short(value) if text == "?" else text


@dataclass(frozen=True)
class _Group:
    """One row of rollouts, checked."""

    task: str
    length: object
    question: object
    answer: object
    needles: object
    rollouts: Sequence[_Rollout]
    prompt: Sequence[Mapping[str, object]]

    @property
    def mean(self) -> float:
        """The mean score of the group's rollouts."""
        return math.fsum(rollout.score for rollout in self.rollouts) / len(self.rollouts)


def _group(row: object) -> _Group:
    """Check a row and return it as a group. Raises ValueError with a short reason when it is not a group of rollouts."""
    if not isinstance(row, Mapping):
        raise ValueError("not a JSON object")
    scores = row.get("scores")
    if not isinstance(scores, list) or not scores or any(number(score) == "?" for score in scores):
        raise ValueError("scores is not a list of finite numbers")

    def for_each_score(name: str) -> list[object]:
        """Return the row's list `name`, or Nones where it does not have one value for each score."""
        values = row.get(name)
        return values if isinstance(values, list) and len(values) == len(scores) else [None] * len(scores)

    chats = [chat if isinstance(chat, list) and chat else [{}] for chat in for_each_score("messages")]
    completions = row.get("completions")
    if completions is None:
        completions = [chat[-1].get("content") if isinstance(chat[-1], Mapping) else None for chat in chats]
    if not isinstance(completions, list) or [type(text) for text in completions] != [str] * len(scores):
        raise ValueError("not one completion for each score")
    recipe = row.get("recipe")
    if not isinstance(recipe, Mapping):
        recipe = {}
    fields = (for_each_score(name) for name in ("finish_reasons", "missing", "details", "reading"))
    rollouts = zip(scores, completions, *fields, strict=True)
    task = short(row.get("task", recipe.get("task"))) + (" without its text" if row.get("no_context") else "")
    return _Group(
        task=f"{task} ({short(row['mode'])})" if row.get("mode") else task,
        length=row.get("length", recipe.get("length")),
        question=row.get("question"),
        answer=row.get("answer"),
        needles=row.get("needles"),
        rollouts=[_Rollout(*rollout) for rollout in rollouts],
        prompt=[message for message in chats[0][:-1] if isinstance(message, Mapping)],
    )


@dataclass
class _Totals:
    """What the head of the viewer's page says of all rows; filled row by row."""

    groups: int = 0
    rollouts: int = 0
    score: float = 0.0
    tasks: Counter[str] = field(default_factory=Counter)
    bins: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> rows

    def add(self, group: _Group) -> None:
        """Count a group; a score beyond 0 to 1 counts in the outermost bin."""
        self.groups += 1
        self.rollouts += len(group.rollouts)
        self.tasks[group.task] += 1
        for rollout in group.rollouts:
            self.score += rollout.score
            share = min(max(rollout.score, 0.0), 1.0)
            self.bins[min(int(share * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1

    @property
    def mean(self) -> float:
        """The mean score of all rollouts; NaN without any."""
        return self.score / self.rollouts if self.rollouts else math.nan

    @property
    def tasks_in_words(self) -> str:
        """The six tasks with the most groups, as text, each with its number of groups."""
        return ", ".join(f"{task} {groups:,}" for task, groups in self.tasks.most_common(6))


def write_rollouts_html(rows: Iterable[object], out: Path, limit: int = 200, title: str = "Rollouts") -> Path:
    """Write the viewer's page and return its path: one `<details>` a group, the first `limit` groups; the head counts all.

    One row is in memory at a time. A row that is not a group (missing keys, wrong types) is skipped and counted on the
    page by reason. An exception of the iterable itself passes through, and leaves no file behind.
    """
    totals, shown, template = _Totals(), 0, TEMPLATES.get_template("group.jinja")
    # The head, which counts all rows, comes before the groups: these wait in a file.
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as groups:
        for row in rows:
            try:
                group = _group(row)
                if shown < limit:
                    groups.write(template.render(group=group, number=totals.groups + 1))
                    shown += 1
            except ValueError as error:
                totals.skipped[str(error)] += 1
            except (TypeError, AttributeError, LookupError, RecursionError, OverflowError) as error:
                totals.skipped[f"cannot be shown ({type(error).__name__})"] += 1
            else:
                totals.add(group)
        groups.seek(0)
        contents = {"totals": totals, "shown": shown, "groups": map(Markup, groups)}
        with replacing(out) as file:
            for text in render("rollouts.jinja", title, source("rollouts.js"), **contents):
                file.write(text.encode())
    return out
