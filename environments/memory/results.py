"""Numbers of an evaluation in several modes: accuracy, recall, cost, where one mode is better, and from when it pays.

A record is a line of samples.jsonl. Failures are in no mean. A cell is a kind of question at a length; what is compared
between modes is compared on the same questions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from environments.memory.config import CONTEXT, HYBRID, MODES
from environments.reports.metrics import Record, is_failure
from longthread.counts import counted
from longthread.statistics import Estimate, estimate

RESAMPLES = 10_000
ENOUGH = 20  # questions at a length; fewer tell modes apart by chance alone
LENGTHS = 8  # of documents side by side; of more, each is rounded up to a power of two


class Cell(NamedTuple):
    """A kind of question (the task) at a length of the document, in tokens."""

    kind: str
    length: int


@dataclass(frozen=True)
class Difference:
    """Mean score of one mode minus another's on the same questions, with its 95 % interval by a paired bootstrap."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.n > 0 and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class ModeCell:
    """One mode in one cell.

    `recall`: share of the evidence that stands whole in the prompt, where that has parts of the text alone. Of the wrong
    answers to questions whose evidence is known, `missed` lacked a part of it, and `misread` had all. `cut`: share of prompts
    from which text was cut.
    """

    score: Estimate
    recall: Estimate
    missed: int
    misread: int
    cut: float


@dataclass(frozen=True)
class ModeCost:
    """What a mode costs at one length: seconds and tokens a question; bytes and seconds a document, NaN if not known."""

    seconds: float
    tokens_read: float
    stored_bytes: float
    prepare_seconds: float


@dataclass(frozen=True)
class BreakEven:
    """From how many questions about one document on `mode` takes less time in all than `other`.

    `questions`: 0 if from the first one on, None if never.
    """

    length: int
    mode: str
    other: str
    questions: int | None


@dataclass(frozen=True)
class Results:
    """An evaluation in numbers; `best` are, of each cell, the best single mode and hybrid's score minus its."""

    modes: Sequence[str]
    lengths: Sequence[int]
    cells: Mapping[Cell, Mapping[str, ModeCell]]
    costs: Mapping[int, Mapping[str, ModeCost]]
    best: Mapping[Cell, tuple[str, Difference]]
    break_even: Sequence[BreakEven]
    scores: Mapping[int, Mapping[str, Mapping[str, float]]]  # length, mode, question: the score


def results(records: Iterable[Record]) -> Results:
    """Return the numbers of an evaluation's records."""
    scored = [record for record in records if not is_failure(record)]
    length_of = _lengths(record["length"] for record in scored)
    by_cell: dict[Cell, dict[str, list[Record]]] = {}
    by_length: dict[int, dict[str, list[Record]]] = {}
    for record in scored:
        length = length_of[record["length"]]
        by_cell.setdefault(Cell(record["task"], length), {}).setdefault(record["mode"], []).append(record)
        by_length.setdefault(length, {}).setdefault(record["mode"], []).append(record)
    present = [mode for mode in MODES if any(mode in of_modes for of_modes in by_length.values())]
    costs = {
        length: {mode: _cost(of_modes[mode]) for mode in present if mode in of_modes}
        for length, of_modes in sorted(by_length.items())
    }
    cells = {
        cell: {mode: _mode_cell(of_modes[mode]) for mode in present if mode in of_modes}
        for cell, of_modes in sorted(by_cell.items())
    }
    return Results(
        modes=present,
        lengths=sorted(by_length),
        cells=cells,
        costs=costs,
        best={cell: found for cell in sorted(by_cell) if (found := _best_single(by_cell[cell]))},
        break_even=[e for length, of_modes in by_length.items() for e in _break_even(length, costs[length], of_modes)],
        scores={length: {m: _by_question(rows) for m, rows in modes.items()} for length, modes in by_length.items()},
    )


def _lengths(lengths: Iterable[int]) -> dict[int, int]:
    """Return the length to report each length under."""
    different = sorted(set(lengths))
    if len(different) <= LENGTHS:
        return {length: length for length in different}
    return {length: 1 << max(0, length - 1).bit_length() for length in different}


def _mode_cell(rows: Sequence[Record]) -> ModeCell:
    recalls = [row["recall"]["needles"] if row.get("recall") else None for row in rows]
    wrong = [recall for row, recall in zip(rows, recalls, strict=True) if recall is not None and not row["correct"]]
    return ModeCell(
        score=estimate(row["score"] for row in rows),
        recall=estimate(recall for recall in recalls if recall is not None),
        missed=sum(recall < 1 for recall in wrong),
        misread=sum(recall == 1 for recall in wrong),
        cut=estimate(row["cut_tokens"] > 0 for row in rows).mean,
    )


def _cost(rows: Sequence[Record]) -> ModeCost:
    documents = {row["document"]: row["cost"] for row in rows}.values()  # asked often, a document is stored once
    return ModeCost(
        estimate(row["cost"]["seconds"] for row in rows).mean,
        estimate(row["cost"]["tokens_read"] for row in rows).mean,
        *(_known_mean([cost[name] for cost in documents]) for name in ("stored_bytes", "prepare_seconds")),
    )


def _known_mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return estimate(known).mean if len(known) == len(values) else math.nan


def _by_question(rows: Sequence[Record]) -> dict[str, float]:
    return {row["question_key"]: row["score"] for row in rows}


# ---- one mode against another ----


def difference(one: Mapping[str, float], other: Mapping[str, float], seed: int = 0) -> Difference:
    """Return the difference of two modes' scores, given by question, over the questions that both were asked.

    The interval is the percentiles 2.5 and 97.5 of the mean over `RESAMPLES` draws of the questions, with replacement (Efron
    and Tibshirani, 1993, chapter 13).
    """
    both = sorted(one.keys() & other.keys())
    if not both:
        return Difference(math.nan, math.nan, math.nan, 0)
    gains = np.array([one[key] - other[key] for key in both])
    rng, means = np.random.default_rng(seed), np.empty(RESAMPLES)
    step = max(1, 2_000_000 // len(gains))  # draws at a time: 16 MB
    for start in range(0, RESAMPLES, step):
        drawn = rng.integers(0, len(gains), (min(step, RESAMPLES - start), len(gains)))
        means[start : start + step] = gains[drawn].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(gains.mean()), float(low), float(high), len(gains))


def _best_single(by_mode: Mapping[str, Sequence[Record]]) -> tuple[str, Difference] | None:
    """Return the best mode of a cell but hybrid, and how much better hybrid is; None where hybrid was not asked.

    The modes are those that were asked some of hybrid's questions, and the best is the best on these.
    """
    scores = {mode: _by_question(rows) for mode, rows in by_mode.items()}
    asked = scores.get(HYBRID, {}).keys()
    shared = {mode: [of[key] for key in of.keys() & asked] for mode, of in scores.items() if mode != HYBRID}
    single = {mode: estimate(of).mean for mode, of in shared.items() if of}
    if not single:
        return None
    best = max(single, key=lambda mode: single[mode])
    return best, difference(scores[HYBRID], scores[best])


def _break_even(length: int, costs: Mapping[str, ModeCost], asked: Mapping[str, Sequence[Record]]) -> list[BreakEven]:
    """Return, of each two modes whose costs are known, from when the one that is faster a question pays.

    The seconds of too few questions are those of whatever else the machine did.
    """
    pairs = []
    for pair in combinations([mode for mode in MODES if len(asked.get(mode, ())) >= ENOUGH], 2):
        fast, slow = sorted(pair, key=lambda mode: costs[mode].seconds)
        more = costs[fast].prepare_seconds - costs[slow].prepare_seconds
        gain = costs[slow].seconds - costs[fast].seconds
        if math.isnan(more):
            continue
        questions = 0 if more <= 0 else None if gain <= 0 else math.floor(more / gain) + 1
        pairs.append(BreakEven(length, fast, slow, questions))
    return pairs


# ---- advice ----

NEARLY = 1.1  # times the fewest tokens read a question: as few


def advice(found: Results) -> str:
    """Return one paragraph that says which mode to take at each length, by rule, and nothing that was not measured.

    At each length, over the questions of all kinds that every mode was asked: the mode of the highest mean score, and those
    that a paired bootstrap does not tell apart from it; of these the one that scores best among those that read at most a
    tenth more tokens a question than the least.
    """
    return " ".join(part for length in found.lengths for part in _advice_at(found, length))


def _advice_at(found: Results, length: int) -> list[str]:
    costs = found.costs[length]
    in_all = set.intersection(*map(set, found.scores[length].values()))
    n, scores = len(in_all), {m: {key: of[key] for key in in_all} for m, of in found.scores[length].items()}
    if len(scores) < 2:
        return [f"At {length:,} tokens only {next(iter(scores))} was asked, so there is nothing to choose between."]
    if n < ENOUGH:
        few = counted(n, "question is", "questions are")
        return [f"At {length:,} tokens {few} too few to choose by ({ENOUGH} are needed)."]
    means = {mode: estimate(scores[mode].values()) for mode in found.modes if mode in scores}
    best = max(means, key=lambda mode: means[mode].mean)
    alike = [m for m in means if m == best or not difference(scores[m], scores[best]).told_apart]
    most = NEARLY * min(costs[mode].tokens_read for mode in alike)
    taken = max((m for m in alike if costs[m].tokens_read <= most), key=lambda mode: means[mode].mean)
    others = [f"{mode} ({means[mode]})" for mode in alike if mode != taken]
    worse = [f"{mode} ({means[mode]})" for mode in means if mode not in alike]
    read = f"{costs[taken].tokens_read:,.0f} tokens a question"
    parts = [f"At {length:,} tokens, by {n} questions, take {taken}: it scores {means[taken]} and reads {read}"]
    if others:
        parts[0] += f", not told apart from {' and '.join(others)}"
    if worse:
        parts[0] += f", above {' and '.join(worse)}" if taken == best else f"; {' and '.join(worse)} scored less"
    parts[0] += "."
    if CONTEXT in scores and any(
        cell.length == length and m.get(CONTEXT) and m[CONTEXT].cut for cell, m in found.cells.items()
    ):
        parts.append("There context was cut to fit the window.")
    parts += [
        f"From question {e.questions:,} about a document on, {e.mode} takes less time in all than {e.other}."
        for e in found.break_even
        if e.length == length and e.questions and taken in (e.mode, e.other)
    ]
    return parts
