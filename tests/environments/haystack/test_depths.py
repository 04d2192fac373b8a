"""Depths that rise with their index, as needles that are told in order need them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from environments.haystack.depths import APART, in_order

depths = st.lists(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)), min_size=1, max_size=40)


@given(depths=depths, data=st.data())
def test_depths_rise_and_fixed_ones_stay(depths: list[float], data: st.DataObject) -> None:
    at = sorted(data.draw(st.sets(st.integers(0, len(depths) - 1), max_size=3)))
    fixed = dict(zip(at, sorted(data.draw(st.lists(st.floats(0, 1), min_size=len(at), max_size=len(at)))), strict=True))
    ordered = in_order(depths, fixed)
    assert len(ordered) == len(depths) and all(0 <= a < b <= 1 for a, b in pairwise([*ordered, 2.0]) if b <= 1)
    assert all(a < b for a, b in pairwise(ordered))
    assert all(abs(ordered[i] - depth) <= 2 * APART for i, depth in fixed.items())


@given(depths=depths)
def test_without_fixed_ones_they_are_sorted(depths: list[float]) -> None:
    assert all(abs(a - b) <= 2 * APART for a, b in zip(in_order(depths, {}), sorted(depths), strict=True))


def test_those_before_a_fixed_one_give_way() -> None:
    ordered = in_order([0.2, 0.4, 0.6, 0.8], {0: 0.0, 2: 0.1})
    assert ordered[0] == 0 and 0.04 < ordered[1] < 0.06 and abs(ordered[2] - 0.1) < 1e-6 and 0.1 < ordered[3] < 1
