"""Means and intervals against the standard library, SciPy and a simulation."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from longthread.statistics import Estimate, Share, estimate

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


@given(values)
def test_mean_and_standard_error(numbers: list[float]) -> None:
    found = estimate(numbers)
    assert found.n == len(numbers) and found.mean == pytest.approx(statistics.fmean(numbers), abs=1e-6)
    assert found.stderr == pytest.approx(statistics.stdev(numbers) / math.sqrt(len(numbers)), rel=1e-6, abs=1e-6)


def test_too_few_values() -> None:
    assert estimate([]).n == 0 and math.isnan(estimate([]).mean) and str(estimate([])) == "–"
    assert estimate([0.5]).mean == 0.5 and math.isnan(estimate([0.5]).stderr) and str(estimate([0.5])) == "0.50"
    assert str(Estimate(0.5, 0.125, 9)) == "0.50±0.12"


def test_a_share_is_the_mean_of_zeros_and_ones() -> None:
    assert estimate([True, False, True, True]).mean == 0.75


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_is_wilsons(right: int, more: int) -> None:
    share = Share(right, right + more - 1 if right else more)
    low, high = share.interval
    wanted = binomtest(share.right, share.asked).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert 0 <= low <= share.value <= high <= 1


def test_none_and_all_right_reach_the_ends_exactly() -> None:
    assert Share(0, 7).interval[0] == 0 and Share(7, 7).interval[1] == 1
    assert Share().interval == (0, 1) and Share().value is None


def test_shares_add_up() -> None:
    assert Share(1, 2) + Share(3, 5) == Share(4, 7)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, p, n = Random(0), 0.9, 40
    inside = 0
    for _ in range(2000):
        low, high = Share(sum(rng.random() < p for _ in range(n)), n).interval
        inside += low <= p <= high
    assert 0.92 < inside / 2000 < 0.98
