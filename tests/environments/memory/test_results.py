"""The numbers of several modes: against slow references, and the advice that follows from them by rule."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from environments.memory import report
from environments.memory.config import MODES
from environments.memory.results import BreakEven, Cell, advice, difference, results


def record(mode: str, number: int, score: float = 1.0, **changes: Any) -> dict[str, Any]:
    cost = {"seconds": 1.0, "tokens_read": 1000, "stored_bytes": 100, "prepare_seconds": 0.0}
    fields = {
        "task": "single",
        "length": 8192,
        "document": f"d{number}",
        "cut_tokens": 0,
        "recall": None,
        "error": None,
    }
    cost |= changes.pop("cost", {})
    of = {"mode": mode, "question_key": f"q{number}", "score": score, "correct": score == 1, "cost": cost}
    return fields | of | changes


def asked(mode: str, right: int, n: int, **changes: Any) -> list[dict[str, Any]]:
    return [record(mode, i, float(i < right), **changes) for i in range(n)]


# ---- differences ----


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_the_interval_is_that_of_draws_one_by_one(pairs: list[tuple[float, float]]) -> None:
    one, other = ({f"{i:02}": pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    found = difference(one, other)
    gains = [a - b for a, b in pairs]
    rng = Random(1)
    means = [sum(rng.choices(gains, k=len(gains))) / len(gains) for _ in range(2000)]
    assert found.mean == pytest.approx(sum(gains) / len(gains)) and found.n == len(pairs)
    for end, share in ((found.low, 0.025), (found.high, 0.975)):  # by shares: means of few questions take few values
        assert sum(mean < end - 1e-9 for mean in means) / 2000 < share + 0.02
        assert sum(mean <= end + 1e-9 for mean in means) / 2000 > share - 0.02


def test_only_questions_that_both_were_asked_count() -> None:
    found = difference({"a": 1, "b": 0, "c": 1}, {"b": 1, "c": 1, "d": 0})
    assert (found.mean, found.n) == (-0.5, 2) and difference({"a": 1}, {"b": 1}).n == 0
    assert not difference({"a": 1}, {"b": 1}).told_apart and difference({"a": 1, "b": 1}, {"a": 0, "b": 0}).told_apart


# ---- cells and costs ----


def test_a_miss_is_told_from_a_misreading() -> None:
    hit, miss = {"needles": 1.0, "characters": 1.0}, {"needles": 0.5, "characters": 0.6}
    rows = [record("retrieval", 0, 1.0, recall=hit), record("retrieval", 1, 0.0, recall=hit),
            record("retrieval", 2, 0.0, recall=miss), record("retrieval", 3, 1.0, recall=miss),
            record("retrieval", 4, 0.0), record("retrieval", 5, math.nan, error="lost")]  # fmt: skip
    cell = results(rows).cells[Cell("single", 8192)]["retrieval"]
    assert (cell.score.n, cell.recall.n, cell.recall.mean, cell.missed, cell.misread) == (5, 4, 0.75, 1, 1)


def test_a_document_that_is_asked_often_is_stored_once_and_unknown_stays_unknown() -> None:
    rows = [record("weights", i, document="a" if i < 3 else "b", cost={"stored_bytes": 10 if i < 3 else 30})
            for i in range(4)]  # fmt: skip
    assert results(rows).costs[8192]["weights"].stored_bytes == 20
    rows[0]["cost"]["prepare_seconds"] = None
    rows = [row for row in rows if row["document"] == "a"][:1]
    assert math.isnan(results(rows).costs[8192]["weights"].prepare_seconds)


def test_many_lengths_are_rounded_up_to_powers_of_two() -> None:
    rows = [record("context", i, length=1000 + 100 * i) for i in range(20)]
    assert results(rows).lengths == [1024, 2048, 4096]
    assert results(rows[:3]).lengths == [1000, 1100, 1200]


@pytest.mark.parametrize(
    ("prepare", "seconds", "questions"),
    [(0.0, 0.5, 0), (10.0, 0.5, 21), (10.25, 0.5, 21), (10.0, 1.0, None), (None, 0.5, "unknown")],
)
def test_break_even_is_the_first_question_from_which_the_total_is_less(
    prepare: float | None, seconds: float, questions: int | str | None
) -> None:
    cost = {"prepare_seconds": prepare, "seconds": seconds}
    rows = [row for i in range(20) for row in (record("context", i), record("weights", i, cost=cost))]
    found = results(rows).break_even
    assert not results(rows[:38]).break_even, "19 questions of each mode"
    if questions == "unknown":
        assert not found
        return
    if questions is None:  # context is as fast and needs no preparation
        assert found == [BreakEven(8192, "context", "weights", 0)]
        return
    assert prepare is not None and found == [BreakEven(8192, "weights", "context", int(questions))]
    total = lambda n: prepare + n * seconds - n * 1.0  # noqa: E731
    assert questions == 0 or (total(int(questions)) < 0 <= total(int(questions) - 1))


# ---- advice ----

CHEAP = {"cost": {"tokens_read": 100}}


def test_of_modes_not_told_apart_the_one_that_reads_least_is_advised() -> None:
    said = advice(results([*asked("context", 39, 40), *asked("retrieval", 38, 40, **CHEAP)]))
    assert said.startswith(
        "At 8,192 tokens, by 40 questions, take retrieval: it scores 0.95±0.03 and reads 100 tokens a question, not told"
    )
    assert "apart from context (0.97±0.02)." in said


def test_a_mode_that_is_worse_is_never_advised_however_cheap() -> None:
    said = advice(results([*asked("context", 40, 40), *asked("retrieval", 10, 40, **CHEAP)]))
    assert "take context" in said and "above retrieval (0.25±0.07)" in said


def test_a_few_tokens_less_are_no_reason_to_score_less() -> None:
    nearly = {"cost": {"tokens_read": 95, "seconds": 0.2, "prepare_seconds": 0.0}}
    rows = [*asked("retrieval", 39, 40, **CHEAP), *asked("hybrid", 38, 40, **nearly)]
    assert "take retrieval" in advice(results(rows))


def test_too_few_questions_or_one_mode_give_no_advice() -> None:
    assert "too few to choose by (20" in advice(results([*asked("context", 9, 9), *asked("hybrid", 0, 9)]))
    assert "At 8,192 tokens 1 question is too few" in advice(results([*asked("context", 1, 1), *asked("hybrid", 0, 1)]))
    assert "only context was asked" in advice(results(asked("context", 30, 30)))


def test_advice_says_that_the_text_was_cut_and_from_when_a_memory_pays() -> None:
    dear = {"cost": {"tokens_read": 50, "seconds": 0.5, "prepare_seconds": 10.0}}
    said = advice(results([*asked("context", 30, 30, cut_tokens=5), *asked("weights", 30, 30, **dear)]))
    assert "There context was cut to fit the window." in said
    assert "From question 21 about a document on, weights takes less time in all than context." in said


def test_advice_is_of_what_was_measured_alone() -> None:
    found = results([*asked("context", 30, 30), *asked("retrieval", 30, 30)])
    assert "weights" not in advice(found) and "hybrid" not in advice(found) and not found.best


# ---- the report ----


def test_hybrid_stands_against_the_best_single_mode_of_each_cell() -> None:
    rows = [*asked("context", 10, 40), *asked("retrieval", 30, 40), *asked("hybrid", 30, 40)]
    found = results(rows)
    mode, gain = found.best[Cell("single", 8192)]
    assert mode == "retrieval" and gain.mean == 0 and not gain.told_apart
    [table] = [t for t in report.tables_of(found) if t.title.startswith("Hybrid")]
    assert table.rows == [["single", "8k", "retrieval", "+0.000 [+0.000, +0.000]", "40", "not told apart"]]


def test_of_few_questions_no_verdict_is_given() -> None:
    [table] = [
        t for t in report.tables_of(results([*asked("context", 1, 1), *asked("hybrid", 0, 1)])) if "Hybrid" in t[0]
    ]
    assert table.rows[0][-3:] == ["-1.000 [-1.000, -1.000]", "1", "too few questions"]


def test_modes_stand_in_one_order_whoever_answered_first() -> None:
    found = results([*asked("hybrid", 1, 2), *asked("weights", 1, 2), *asked("context", 2, 2)])
    order = ["context", "weights", "hybrid"]
    assert found.modes == list(found.costs[8192]) == list(found.cells[Cell("single", 8192)]) == order


def test_modes_that_were_asked_other_questions_are_compared_on_those_they_share() -> None:
    """Retrieval answers the 40 questions that all were asked, and none of 60 others."""
    rows = [*asked("context", 30, 40), *asked("hybrid", 30, 40), *asked("retrieval", 40, 100)]
    found = results(rows)
    assert found.best[Cell("single", 8192)][0] == "retrieval"
    assert "by 40 questions, take retrieval: it scores 1.00" in advice(found)
    accuracy = report.tables_of(found)[0]
    assert accuracy.rows[0][2] == "40–100"


def test_tables_show_cut_prompts_and_dashes_for_what_is_not_known() -> None:
    rows = [*asked("context", 2, 2, cut_tokens=9), record("weights", 0, cost={"stored_bytes": None})]
    accuracy, cost, *_ = report.tables_of(results(rows))
    assert accuracy.rows == [["single", "8k", "1–2", "1.00±0.00 (cut)", "1.00"]]
    assert [row[4] for row in cost.rows] == ["100", "–"]
    assert report.to_json(results(rows))["costs"][1]["stored_bytes"] is None
    assert len(report.png(report.accuracy_against_cost(results(rows), "$x")).strip()) > 1000


# ---- the picture ----


def drawn(*points: tuple[str, int, float, int]) -> Figure:
    """Return the picture of modes at lengths, each with its share of right answers and its tokens read."""
    rows = [
        row
        for mode, length, share, tokens in points
        for row in asked(mode, round(10 * share), 10, length=length, cost={"tokens_read": tokens})
    ]
    figure = report.accuracy_against_cost(results(rows), "title")
    figure.draw_without_rendering()
    return figure


def places(line: Line2D) -> list[list[float]]:
    return np.asarray(line.get_xydata()).tolist()


def marks(figure: Figure) -> list[Line2D]:
    return [line for line in figure.axes[0].lines if line.get_linestyle() == "None" and places(line)]


@pytest.mark.parametrize("apart", [0, 2], ids=["at one place", "nearly at one place"])
@pytest.mark.parametrize("lengths", [(8192,), (8192, 32768, 131072)])
def test_marks_at_one_place_lie_one_in_the_other(lengths: tuple[int, ...], apart: int) -> None:
    """The outline of each reaches out of the next one's: half the difference of their sizes is more than it is thick."""
    points = [(mode, length, 0.9, 1000 + apart * i) for i, mode in enumerate(MODES) for length in lengths]
    coinciding = marks(drawn(*points))
    assert len(coinciding) == len(points)
    assert all(mark.get_markerfacecolor() == "none" for mark in coinciding)
    for one, other in combinations(coinciding, 2):
        assert abs(one.get_markersize() - other.get_markersize()) / 2 > one.get_markeredgewidth()
        assert (one.get_color(), one.get_marker()) != (other.get_color(), other.get_marker())


def test_marks_and_lines_of_one_place_stay_where_they_were_measured_and_others_stay_small() -> None:
    figure = drawn(("context", 8192, 1.0, 8200), ("retrieval", 8192, 0.9, 1000), ("hybrid", 8192, 0.9, 1010))
    context, retrieval, hybrid = marks(figure)
    assert places(context) == [[8200, 1.0]]
    assert places(retrieval) == [[1000, 0.9]] and places(hybrid) == [[1010, 0.9]]
    assert context.get_markersize() == hybrid.get_markersize() < retrieval.get_markersize()
    widths = [line.get_linewidth() for line in figure.axes[0].lines if line.get_label() in MODES]
    assert widths == sorted(set(widths), reverse=True)


@pytest.mark.parametrize(
    "tokens", [(1000,), (1000, 1005), (141, 1729), (99, 4000), (60, 131_000), (2, 1000, 2_000_000)]
)
def test_labels_of_the_axis_do_not_overlap(tokens: tuple[int, ...]) -> None:
    figure = drawn(*((mode, 8192, 0.5, read) for mode, read in zip(MODES, tokens, strict=False)))
    axis = figure.axes[0].xaxis
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    boxes = [t.label1.get_window_extent() for t in ticks if t.label1.get_text() and low <= t.get_loc() <= high]
    assert len(boxes) > 1 and not any(one.overlaps(other) for one, other in combinations(boxes, 2))
