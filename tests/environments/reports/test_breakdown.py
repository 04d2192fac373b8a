"""Accuracy broken down by what makes a sample hard: against values worked out by hand."""

import math

import pytest

from environments.reports.figures import breakdown_bars
from environments.reports.metrics import breakdown


def record(score, **fields):
    return {"length": 1024, "depth": 0.5, "score": score, "present": True, "error": None} | fields


def test_few_whole_values_stand_by_themselves():
    records = [record(1.0, hops=2), record(0.0, hops=2), record(0.25, hops=3), record(1.0), record(1.0, hops=None)]
    found = breakdown(records, "hops")
    assert list(found) == ["2", "3"] and [e.n for e in found.values()] == [2, 1]
    assert found["2"].mean == 0.5 and found["2"].stderr == pytest.approx(math.sqrt(0.5 / 2)) and found["3"].mean == 0.25


def test_many_values_are_binned_and_none_is_lost():
    records = [record(i / 99, span=i / 99) for i in range(100)]
    found = breakdown(records, "span")
    assert len(found) == 5 and sum(e.n for e in found.values()) == 100
    assert [e.mean for e in found.values()] == sorted(e.mean for e in found.values())


def test_failures_and_fields_without_variety_are_left_out():
    assert breakdown([record(1.0, decoys=4), record(0.0, decoys=4)], "decoys") == {}
    assert breakdown([record(1.0, decoys=4), {**record(0.0, decoys=8), "error": "lost"}], "decoys") == {}
    assert breakdown([], "decoys") == {} and breakdown_bars([record(1.0)]) is None


def test_values_found_out_of_those_wanted_have_a_chart_of_their_own():
    records = [record(0.0, wanted=w, found_share=f) for w, f in [(2, 0.5), (2, 1.0), (4, 0.25), (4, None)]]
    assert {k: e.mean for k, e in breakdown(records, "wanted", "found_share").items()} == {"2": 0.75, "4": 0.25}
    figure = breakdown_bars(records)
    assert figure is not None
    assert [(axes.get_ylabel(), axes.get_xlabel()) for axes in figure.axes] == [("share found", "values to name")]
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.75, 0.25]
