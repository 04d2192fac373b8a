"""What Weights & Biases is sent: numbers, pictures, questions, expected answers and clipped completions.

Never an API key, never a haystack. `RolloutLog` counts finished groups and needs no W&B; `wandb_run` opens the run.
"""

from __future__ import annotations

import io
import math
import statistics
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from environments.inference.finish_reason import Ending, ending
from environments.reports import html
from environments.reports.metrics import MISSING, READING, Record, depth_of, grid, is_failure
from environments.reports.report import Report
from environments.rollouts.rollout import RolloutGroup, RolloutRequest, finite
from environments.rollouts.scoring import Score
from longthread.counts import counted
from longthread.secrets import redact_text

if TYPE_CHECKING:
    from wandb import Image, Run

LONGEST_TEXT = 2_000  # characters of a text in a table; beyond, its head and tail. A model may repeat its whole prompt
MOST_ROWS = 10_000  # of a table and of a picture: as many as W&B shows
PICTURE_GROUPS = 100  # groups of rollouts that are enough for a heatmap while training


class LogSettings(Protocol):
    """The settings of an environment's config that a log reads."""

    num_rollouts_to_keep: int  # groups in a table, the latest
    num_rollouts_per_group_for_logging: int  # completions of each in a table; -1: all
    min_items_sent_before_logging: int  # groups between two logs of `process`


@dataclass(frozen=True)
class TableRow:
    """One completion as the tables show it; the fields are the columns."""

    task: str
    length: int
    depth: float | None
    question: str
    answer: str
    completion: str
    score: float
    correct: bool
    finish_reason: str | None
    completion_tokens: int
    seed: int

    def values(self) -> list[object]:
        """Return the fields in the order of `COLUMNS`."""
        return [getattr(self, column) for column in COLUMNS]


COLUMNS = [column.name for column in fields(TableRow)]


# ---- rollouts ---------------------------------------------------------------------------------------------------


@dataclass
class _Interval:
    """Means and counts of the groups since the last log."""

    groups: int = 0
    failures: int = 0
    longest: int = 0  # tokens of a completion
    sums: dict[str, tuple[int, float]] = field(default_factory=lambda: defaultdict(lambda: (0, 0.0)))

    def observe(self, name: str, value: float) -> None:
        """Count one more value in the mean of that name."""
        n, total = self.sums[name]
        self.sums[name] = n + 1, total + value

    def add(self, rows: list[TableRow], scores: list[Score], present: bool) -> None:
        """Count one group."""
        for row, score in zip(rows, scores, strict=True):
            for name in ("score", f"score_by_task/{row.task}", f"score_by_length/{row.length}"):
                self.observe(name, row.score)
            self.observe("exact", row.correct)
            self.observe("truncated", ending(row.finish_reason) is Ending.CUT)
            self.observe("completion_tokens_mean", row.completion_tokens)
            self.longest = max(self.longest, row.completion_tokens)
            if present:
                self.observe("false_silence", score.abstained)
            else:
                self.observe("false_answers", not score.abstained)
        self.observe("group_score_std", statistics.pstdev(row.score for row in rows))
        self.observe("flat_groups", len({row.score for row in rows}) == 1)
        self.groups += 1

    def metrics(self) -> dict[str, float]:
        """Return the means and counts under W&B's keys; a mean of nothing is left out."""
        numbers = {name: total / n for name, (n, total) in self.sums.items()}
        if self.groups:
            numbers["completion_tokens_max"] = self.longest
        numbers |= {"groups": self.groups, "failures": self.failures}
        return {f"train/{name}": value for name, value in numbers.items()}


class RolloutLog:
    """Counts finished groups, for numbers, a table and a heatmap, in bounded memory: prompts are never kept."""

    def __init__(self, config: LogSettings):
        """`config` says how much the tables hold, and how often `send` logs."""
        self.total = 0  # groups since the start
        self._every = max(1, config.min_items_sent_before_logging)
        per_group = config.num_rollouts_per_group_for_logging
        self._rows_per_group = per_group if per_group >= 0 else None
        self._interval = _Interval()
        self._tables: deque[list[list[object]]] = deque(maxlen=max(0, config.num_rollouts_to_keep))  # rows of a group
        self._scores: deque[Record] = deque(maxlen=MOST_ROWS)  # one a completion
        self._undrawn = 0  # groups since the last heatmap

    def add(self, group: RolloutGroup) -> None:
        """Count one finished group. Raises ValueError for a score that is not finite."""
        rows = [_row_of_completion(group, i) for i in range(len(group.scores))]
        present = group.sample.answer.kind != "absent"
        self._interval.add(rows, group.scores, present)
        for transcript in group.transcripts:
            for name in READING:
                self._interval.observe(f"reading_{name}", getattr(transcript.reading, name))
        for completion in group.completions:
            for reason in MISSING:
                self._interval.observe(reason, completion.missing == reason)
        if present:
            self._scores += [{"depth": row.depth, "length": row.length, "score": row.score} for row in rows]
        self._tables.append([row.values() for row in rows[: self._rows_per_group]])
        self.total, self._undrawn = self.total + 1, self._undrawn + 1

    def fail(self) -> None:
        """Count one request that failed."""
        self._interval.failures += 1

    def counting(
        self, sample_group: Callable[[RolloutRequest], Awaitable[RolloutGroup]], run: Run | None
    ) -> Callable[[RolloutRequest], Awaitable[RolloutGroup]]:
        """Return a function that does what `sample_group` does, counts each group and failure here, and now and then
        sends the counts to the run."""

        async def counted(request: RolloutRequest) -> RolloutGroup:
            try:
                self.add(group := await sample_group(request))
            except Exception:
                self.fail()
                raise
            self.send(run)
            return group

        return counted

    def metrics(self) -> dict[str, float]:
        """Return the numbers of the groups since the last call (docs/wandb.md lists them)."""
        interval, self._interval = self._interval, _Interval()
        return interval.metrics()

    def media(self, final: bool = False) -> dict[str, Any]:
        """Return a table of the groups since the last call and, when there are enough groups or at the end, a heatmap
        of all since the last heatmap. Only with W&B on."""
        import wandb

        media: dict[str, Any] = {}
        if rows := [row for table in self._tables for row in table]:
            media["train/rollouts"] = wandb.Table(columns=[*COLUMNS], data=rows)
        self._tables.clear()
        if self._scores and (final or self._undrawn >= PICTURE_GROUPS):
            media["train/heatmap"] = _heatmap(list(self._scores))
            self._scores.clear()
            self._undrawn = 0
        return media

    def send(self, run: Run | None, final: bool = False) -> None:
        """Log to a run of `process`: numbers every few groups, table and heatmap at the end. Without a run: nothing."""
        if run is not None and (final or self._interval.groups >= self._every):
            values = {**self.metrics(), **(self.media(final) if final else {})}
            run.log(values, step=self.total + final)  # the same step again would overwrite the last numbers


def _row_of_completion(group: RolloutGroup, i: int) -> TableRow:
    request, sample, completion = group.request, group.sample, group.completions[i]
    needles = [{"role": needle.role, "depth": needle.depth} for needle in sample.needles]
    return TableRow(
        task=request.task,
        length=request.length,
        depth=depth_of({"depth": request.depth, "needles": needles}),
        question=_text(sample.question),
        answer=_text(html.answer_text(asdict(sample.answer))),
        completion=_text(completion.text),
        score=finite(group.scores[i].score),
        correct=group.scores[i].correct,
        finish_reason=completion.finish_reason,
        completion_tokens=len(completion.tokens),
        seed=request.seed,
    )


def _text(text: str) -> str:
    """Return a text for a table: without API keys and what cannot be encoded, and only head and tail where it is long."""
    head, omitted, tail = html.cut(redact_text(text), LONGEST_TEXT)
    return f"{head} […] {tail}" if omitted else head


def _heatmap(scores: Collection[Record]) -> Image:
    from environments.reports.figures import heatmap, png

    title = f"Score of {counted(len(scores), 'rollout')} by needle depth and context length"
    return _image(png(heatmap(grid(scores), title)))


def _image(png: bytes) -> Image:
    import PIL.Image
    import wandb

    return wandb.Image(PIL.Image.open(io.BytesIO(png)).convert("RGB"))


# ---- evaluations ------------------------------------------------------------------------------------------------


def log_evaluation(
    run: Run | None,
    report: Report,
    metrics: Mapping[str, float],
    prepend: str | None = None,
    step: int | None = None,
) -> None:
    """Log one evaluation: the numbers of metrics.json, the samples, the heatmap and the report. Without a run: nothing.

    `prepend` and `step` are, in `serve`, those that atroposlib puts its own keys under: `{prepend}_{key}` at `step`.
    """
    if run is None:
        return
    import wandb

    scored = [record for record in report.records if not is_failure(record)]
    if len(scored) > MOST_ROWS:  # the worst are what one looks for
        scored = sorted(scored, key=lambda record: record["score"])[:MOST_ROWS]
    values: dict[str, Any] = {name: value for name, value in metrics.items() if math.isfinite(value)}
    values["eval/samples"] = wandb.Table(
        columns=[*COLUMNS], data=[_row_of_record(record).values() for record in scored]
    )
    values["eval/heatmap"] = _image(report.pictures["heatmap"].png)
    values["eval/report"] = wandb.Html(report.page([_without_windows(record) for record in report.worst]), inject=False)
    run.log({f"{prepend}_{name}" if prepend else name: value for name, value in values.items()}, step=step)


def _row_of_record(record: Record) -> TableRow:
    texts = {name: _text(record[name]) for name in ("question", "completion")}
    texts["answer"] = _text(html.answer_text(record["answer"]))
    row = {**record, **texts, "depth": depth_of(record)}
    return TableRow(**{column: row[column] for column in COLUMNS})


def _without_windows(record: Record) -> Record:
    """Return the record without the text around its needles, and without API keys in its completion."""
    needles = [{**needle, "before": "", "after": ""} for needle in record["needles"]]
    return {**record, "completion": _text(record["completion"]), "needles": needles}
