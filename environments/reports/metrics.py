"""Results into numbers and text: means with standard errors, the grid, the effective length, false answers.

A record is one evaluated sample (a line of samples.jsonl). A record with an error, without a finite score, or whose reply
had no content, is a failure: excluded from means, counted separately. The heatmap, the curves and the effective length are
of samples whose fact is in the text; `false_answers` says what the model does when it is not.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longthread.counts import counted
from longthread.files import write_json
from longthread.statistics import Estimate, estimate

Record = Mapping[str, Any]
# Why a reply had no content, and what mends it.
MISSING = {
    "no_content": "the server gave none",
    "budget_spent_thinking": "raise max_new_tokens, or turn thinking off in request",
}

SHORT = 1_024  # tokens; NoLiMa takes its base score at 250, 500 and 1k
COLUMNS = 8  # lengths side by side in the text table: 8 of 11 characters fit a terminal of 100
CELLS_WITH_NUMBERS = 150  # of a heatmap or a text table; more have no room for numbers
BINS = 5  # bars of a breakdown by a field of many values


def is_failure(record: Record) -> bool:
    """Return True for a record that has an error, no finite score, or a reply without content."""
    score = record.get("score")
    lacks_score = not isinstance(score, int | float) or not math.isfinite(score)
    return record.get("error") is not None or lacks_score or bool(record.get("missing"))


def without_text(records: Iterable[Record]) -> bool:
    """Return whether the questions were asked without their text (`no_context`): their scores say what guessing earns."""
    return any(record.get("no_context") for record in records)


def present(records: Iterable[Record]) -> list[Record]:
    """Return the scored records whose fact is in the text."""
    return [record for record in records if not is_failure(record) and record.get("present", True)]


def by(records: Iterable[Record], field: str) -> dict[Any, Estimate]:
    """Return the mean score for each value of a field (length, depth, task, hops), in order; missing is None, and last."""
    groups: dict[Any, list[float]] = {}
    for record in records:
        if not is_failure(record):
            value = record.get(field)
            key = (
                value if isinstance(value, str | int | float | None) else json.dumps(value, sort_keys=True, default=str)
            )
            groups.setdefault(key, []).append(record["score"])
    order = sorted(groups, key=lambda k: (k is None, isinstance(k, str), k if k is not None else 0))
    return {key: estimate(groups[key]) for key in order}


def depth_of(record: Record) -> float | None:
    """Return the depth asked for; where it was random and one needle answers, its true depth to the nearest tenth."""
    if record.get("depth") is not None:
        return round(float(record["depth"]), 6)
    depths = [needle.get("depth") for needle in record.get("needles") or () if needle.get("role") == "answer"]
    return round(depths[0], 1) if len(depths) == 1 and depths[0] is not None else None


@dataclass(frozen=True)
class Grid:
    """Scores by depth (rows, 0 to 1 from the top; NaN, last, for samples without one depth) and length (columns)."""

    lengths: np.ndarray  # (L,) tokens, ascending
    depths: np.ndarray  # (D,) ascending
    mean: np.ndarray  # (D, L), NaN where no record
    stderr: np.ndarray  # (D, L), NaN below two records
    n: np.ndarray  # (D, L)


def grid(records: Iterable[Record]) -> Grid:
    """Return the mean, standard error and count of the scores at each depth and length; every scored record counts."""
    cells: dict[tuple[float | None, int], list[float]] = {}
    for record in records:
        if not is_failure(record):
            cells.setdefault((depth_of(record), int(record["length"])), []).append(record["score"])
    lengths = sorted({length for _, length in cells})
    depths = sorted({depth for depth, _ in cells}, key=lambda d: math.inf if d is None else d)
    table = [[estimate(cells.get((depth, length), ())) for length in lengths] for depth in depths]
    shape = (len(depths), len(lengths))
    return Grid(
        lengths=np.array(lengths, dtype=int),
        depths=np.array([math.nan if depth is None else depth for depth in depths], dtype=float),
        mean=np.array([[cell.mean for cell in row] for row in table], dtype=float).reshape(shape),
        stderr=np.array([[cell.stderr for cell in row] for row in table], dtype=float).reshape(shape),
        n=np.array([[cell.n for cell in row] for row in table], dtype=int).reshape(shape),
    )


@dataclass(frozen=True)
class EffectiveLength:
    """The longest prompt at which a model still scores close to its base; `length` is None when there is none."""

    length: int | None
    base: float  # score, 0..1
    base_length: int  # tokens; the length where the base was found
    share: float
    shortest: int
    longest: int

    @property
    def label(self) -> str:
        """The length in short: "16k", "≥ 32k" where no longer one was tested, "none"."""
        if self.length is None:
            return "none"
        return ("≥ " if self.length == self.longest else "") + length_label(self.length)

    @property
    def reason(self) -> str:
        """Why this is the effective length, in one line."""
        rule = f"{self.share:.0%} of the base score {self.base:.2f} (at {length_label(self.base_length)})"
        if self.base <= 0:
            return "the base score is 0, so no length is held"
        if self.length is None:
            return f"even the shortest length, {length_label(self.shortest)}, is below {rule}"
        if self.length == self.longest:
            return f"every tested length keeps {rule}; longer ones are untested"
        return f"the longest tested length up to which each keeps {rule}"


def effective_length(records: Iterable[Record], share: float = 0.85) -> EffectiveLength | None:
    """Return the effective length of NoLiMa (arXiv 2502.05167): how far the score holds at `share` of its base.

    Only scored records whose fact is in the text count. The score of a length is the mean over all its records. The
    base is the best score among the tested lengths of at most 1,024 tokens or, when all are longer, the score at the
    shortest. The effective length is the longest tested one such that it and every shorter tested length score at
    least `share * base`; None when the shortest already does not, or when the base is 0. No records give None, and
    neither do questions asked without their text.
    """
    records = list(records)
    if without_text(records):
        return None
    means = {int(length): score.mean for length, score in by(present(records), "length").items()}
    if not means:
        return None
    shortest, longest = min(means), max(means)
    base_length = max((length for length in means if length <= SHORT), key=means.__getitem__, default=shortest)
    base, reached = means[base_length], None
    for length in sorted(means):
        if base <= 0 or means[length] < share * base - 1e-9:
            break
        reached = length
    return EffectiveLength(reached, base, base_length, share, shortest, longest)


@dataclass(frozen=True)
class FalseAnswers:
    """Two ways to be wrong about whether the text holds the answer."""

    invented: Estimate  # of absent samples, the share that got an answer
    withheld: Estimate  # of present samples, the share on which the model abstained
    by_length: dict[int, tuple[Estimate, Estimate]]  # length -> (invented, withheld)


def false_answers(records: Iterable[Record]) -> FalseAnswers:
    """Return the share of absent facts answered, and of present ones on which the model abstained, in all and by length."""
    scored = [record for record in records if not is_failure(record)]

    def rates(subset: Sequence[Record]) -> tuple[Estimate, Estimate]:
        absent = [record for record in subset if not record.get("present", True)]
        invented = estimate(not record.get("abstained", False) for record in absent)
        return invented, estimate(bool(record.get("abstained", False)) for record in present(subset))

    lengths: dict[int, list[Record]] = {}
    for record in scored:
        lengths.setdefault(int(record["length"]), []).append(record)
    return FalseAnswers(*rates(scored), by_length={length: rates(lengths[length]) for length in sorted(lengths)})


def failures(records: Iterable[Record]) -> dict[str, int]:
    """Return how often each error came, the most frequent first."""
    errors = Counter(_failure(record) for record in records if is_failure(record))
    return dict(errors.most_common())


def _failure(record: Record) -> str:
    if missing := record.get("missing"):
        return f"{missing}: {MISSING.get(missing, 'no content')}"
    return str(record.get("error") or "no finite score")


def missing_shares(records: Sequence[Record]) -> dict[str, Estimate]:
    """Return the share of the records whose reply had no content, by reason; without the reasons that never came."""
    reasons = sorted({str(record["missing"]) for record in records if record.get("missing")})
    return {reason: estimate(record.get("missing") == reason for record in records) for reason in reasons}


def breakdown(records: Iterable[Record], field: str, of: str = "score") -> dict[str, Estimate]:
    """Return the mean score, or the mean of another field `of`, by the values of a numeric field, ready to draw.

    Each value stands by itself if there are few, else in bins of equal counts. Empty where no record has the field, or
    all have the same value.
    """
    scored = [r for r in records if not is_failure(r) and isinstance(r.get(of), int | float)]
    pairs = [(r[field], r[of]) for r in scored if isinstance(r.get(field), int | float)]
    values = sorted({value for value, _ in pairs})
    if len(values) < 2:
        return {}
    if len(values) <= BINS + 3 and all(float(v).is_integer() for v in values):
        return {f"{v:g}": estimate(score for value, score in pairs if value == v) for v in values}
    edges = sorted(set(np.quantile([value for value, _ in pairs], np.linspace(0, 1, BINS + 1)).tolist()))
    bins: dict[str, Estimate] = {}
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [score for value, score in pairs if low <= value < high or value == high == edges[-1]]
        if inside:
            bins[f"{low:.2g}–{high:.2g}"] = estimate(inside)
    return bins


# What `rollouts.transcript.ReadingCounts` counts of an episode in which the text was looked up.
READING = ("turns", "searches", "reads", "tokens_read", "share_read", "tool_errors")


def reading(records: Iterable[Record]) -> dict[str, Estimate]:
    """Return the mean of each of `READING` over the scored records; empty where the text was given, not looked up."""
    scored = [record for record in records if not is_failure(record) and "tokens_read" in record]
    return {name: estimate(record[name] for record in scored) for name in READING if scored}


def length_label(length: int) -> str:
    """Return a short label: 1024 -> 1k, 32000 -> 32k, 131072 -> 128k, 1048576 -> 1M, 1500 -> 1,500."""
    for unit in (1_000, 1_024):
        if length and length % unit == 0:
            thousands = length // unit
            return f"{thousands // unit}M" if thousands % unit == 0 else f"{thousands}k"
    return f"{length:,}"


def length_labels(lengths: Iterable[int]) -> list[str]:
    """Return a label for each length, all different: full numbers where the short ones clash (128000 beside 131072)."""
    lengths = [int(length) for length in lengths]
    short = [length_label(length) for length in lengths]
    return short if len(set(short)) == len(set(lengths)) else [f"{length:,}" for length in lengths]


def depth_label(depth: float) -> str:
    """Return a depth as a percentage: 0.5 -> 50, 0.0294 -> 2.9; NaN (no single depth) -> any."""
    return "any" if math.isnan(depth) else f"{100 * depth:.1f}".removesuffix(".0")


def summary_table(records: Iterable[Record]) -> str:
    """Return a table of scores by depth and length as plain text, at most 95 columns wide, followed by `summary`."""
    records = list(records)
    scored = present(records)
    cells, columns = grid(scored), by(scored, "length")
    labels, lines = length_labels(cells.lengths), []
    if len(labels):
        lines.append("score by depth (rows, % of the text) and length (columns, tokens): mean±standard error")
    for start in range(0, len(labels), COLUMNS):
        block = slice(start, start + COLUMNS)
        rows = [["depth", *labels[block]]]
        for i, depth in enumerate(cells.depths):
            row = zip(cells.mean[i, block], cells.stderr[i, block], cells.n[i, block], strict=True)
            rows.append([depth_label(depth), *(str(Estimate(*cell)) for cell in row)])
        rows.append(["mean", *(str(columns[int(length)]) for length in cells.lengths[block])])
        rows.append(["n", *(f"{columns[int(length)].n:,}" for length in cells.lengths[block])])
        lines += ["".join(f"{text:>{11 if j else 7}}" for j, text in enumerate(row)) for row in rows] + [""]
    return "\n".join([*lines, summary(records)])


def summary(records: Sequence[Record]) -> str:
    """Return mean score, effective length, false answers and failures as lines of text."""
    lines = []
    for name, text in _facts(records):
        lines += textwrap.wrap(text, 95, initial_indent=f"{name:<18}", subsequent_indent=" " * 18)
    return "\n".join(lines)


def _facts(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    scored, wrong = present(records), false_answers(records)
    reach, failed = effective_length(records), failures(records)
    if without_text(records):
        yield "no context", "every question was asked without its text: this is what guessing earns"
    samples = counted(len(scored), "sample")
    yield "mean score", f"{estimate(r['score'] for r in scored)} of {samples} whose fact is in the text"
    tasks = by(scored, "task")
    if len(tasks) > 1:
        yield "by task", ", ".join(f"{one_line(str(task), 40)} {score}" for task, score in tasks.items())
    yield "effective length", f"{reach.label}: {reach.reason}" if reach else "–: no sample scored with its text"
    yield (
        "false answers",
        f"answered {wrong.invented} of {counted(wrong.invented.n, 'sample')} whose fact is absent; "
        f"abstained on {wrong.withheld} of {wrong.withheld.n:,} whose fact is there",
    )
    if looked := {name: count.mean for name, count in reading(records).items()}:
        yield (
            "reading",
            "{turns:.1f} turns, {searches:.1f} searches, {reads:.1f} reads, {tokens_read:,.0f} tokens read ({share_read:.1%} "
            "of the text), {tool_errors:.1f} tool errors a sample".format(**looked),
        )
    errors = "; ".join(f"{count}× {one_line(error, 60)}" for error, count in list(failed.items())[:3])
    more = f"; and {counted(len(failed) - 3, 'other error')}" if len(failed) > 3 else ""
    of_records = f"{sum(failed.values()):,} of {counted(len(records), 'record')}"
    yield "failures", f"{of_records}, excluded from means" + (f": {errors}{more}" if failed else "")


def one_line(text: str, limit: int) -> str:
    """Return a text for a terminal or a picture: one line, no control characters, cut to `limit` characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


# ---- metrics.json -----------------------------------------------------------------------------------------------


def write_metrics(path: Path, records: Sequence[Record], general: Mapping[str, object], env: str) -> dict[str, float]:
    """Write metrics.json in the form of atroposlib's `evaluate_log`, with standard errors; return the metrics."""
    wrong, reach = false_answers(records), effective_length(records)
    metrics: dict[str, float] = {}
    for name, score in _estimates(records, wrong):
        if score.n:
            metrics[name] = score.mean
            if math.isfinite(score.stderr):
                metrics[f"{name}/stderr"] = score.stderr
    metrics["eval/effective_length"] = (reach.length or 0) if reach else 0
    general = {**general, "samples": len(records)}
    write_json(path, {"config_general": general, "results": {f"atropos|{env}|0": metrics, "all": metrics}})
    return metrics


def _estimates(records: Sequence[Record], wrong: FalseAnswers) -> Iterator[tuple[str, Estimate]]:
    yield "eval/score", estimate(record["score"] for record in records if not is_failure(record))
    yield "eval/score_present", estimate(record["score"] for record in present(records))
    for field in ("task", "length"):
        for value, score in by(records, field).items():
            yield f"eval/score_by_{field}/{value}", score
    yield "eval/false_answers", wrong.invented
    yield "eval/false_silence", wrong.withheld
    for name, count in reading(records).items():
        yield f"eval/reading_{name}", count
    for reason, share in missing_shares(records).items():
        yield f"eval/{reason}", share
