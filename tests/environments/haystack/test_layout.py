"""Depth rules, and layouts against a slow obvious reading of the finished text."""

import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.depths import draw_depths, parse_depths
from environments.haystack.layout import Hidden, LayoutError, lay_out, reference_layout
from environments.haystack.tokens import BREAK, LEFT, RIGHT
from longthread.errors import ConfigError
from tests.conftest import make_haystacks

NEEDLES = [f"Needle number {i} is hidden right here." for i in range(1, 7)]
depth = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1))


@pytest.mark.parametrize(
    ("spec", "depths"),
    [
        ("3", [0, 0.5, 1]),
        ("2", [0, 1]),
        ("0.1,0.5", [0.1, 0.5]),
        (" 0 , 1 ", [0, 1]),
        ("1", [1]),
        ("0", [0]),
        ("1,", [1]),
    ],
)
def test_parse_depths(spec: str, depths: list[float]) -> None:
    assert parse_depths(spec) == depths


@pytest.mark.parametrize("spec", ["", ",", "1.5", "-0.1", "0.5,2", "abc", "nan", "0.1;0.2", "inf"])
def test_parse_depths_refuses(spec: str) -> None:
    with pytest.raises(ConfigError, match="numbers from 0 to 1") as error:
        parse_depths(spec)
    assert repr(spec) in str(error.value) and "\n" not in str(error.value)


def test_draw_depths() -> None:
    rng = Random(0)
    uniform, sigmoid = draw_depths("uniform", 4000, rng), draw_depths("sigmoid", 4000, rng)
    for drawn in (uniform, sigmoid):
        assert all(0 <= d <= 1 for d in drawn)
        assert abs(sum(drawn) / 4000 - 0.5) < 0.03
    ends = [sum(d < 0.1 or d > 0.9 for d in drawn) / 4000 for drawn in (uniform, sigmoid)]
    assert 0.17 < ends[0] < 0.23 and ends[1] > 2 * ends[0]
    assert set(draw_depths("0.2,0.4", 100, rng)) == {0.2, 0.4}
    assert set(draw_depths("11", 500, rng)) == {i / 10 for i in range(11)}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "mistral", "cl100k-like"]),
    depths=st.lists(depth, max_size=6),
    budget=st.integers(400, 4000),
    seed=st.integers(0, 10**6),
    numbered=st.booleans(),
)
def test_positions_are_those_of_the_text(
    name: str, depths: list[float], budget: int, seed: int, numbered: bool
) -> None:
    pool = make_haystacks(name).pool("train", 0)
    needles = NEEDLES[: len(depths)]
    laid = lay_out(pool, Hidden(needles, depths), budget, Random(seed), numbered)
    lead = len(pool.tokens.encode(LEFT + BREAK + RIGHT)) - 1
    ids = pool.tokens.encode(BREAK.join([LEFT, laid.text, RIGHT]))
    assert len(ids) - lead - 1 == budget
    for i, needle in enumerate(needles):
        assert laid.text.count(needle) == 1 and laid.text.find(needle) == laid.chars[i]
        start = lead + laid.starts[i]
        assert pool.tokens.decode(ids[start : lead + laid.ends[i]]).strip() == needle
        before = laid.text[: laid.chars[i]]
        if numbered:
            assert laid.passages[i] == before.count(f"{BREAK}[") + before.startswith("[")
    firsts, lasts = [i for i, d in enumerate(depths) if d == 0], [i for i, d in enumerate(depths) if d == 1]
    for edge, backwards in ((firsts, False), (lasts, True)):
        ordered = sorted(edge, key=lambda i: laid.chars[i], reverse=backwards)
        text = laid.text.removeprefix("[1] ") if numbered else laid.text
        for i in ordered:  # nothing but needles stands outside those at the ends
            assert text.endswith(needles[i]) if backwards else text.startswith(needles[i])
            text = (text.removesuffix(needles[i]) if backwards else text.removeprefix(needles[i])).strip()


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "mistral", "cl100k-like", "crossing"]),
    depths=st.lists(depth, max_size=40),
    known=st.integers(0, 40),
    budget=st.integers(200, 6000),
    seed=st.integers(0, 10**6),
    numbered=st.booleans(),
)
def test_layouts_are_those_of_the_reference(
    name: str, depths: list[float], known: int, budget: int, seed: int, numbered: bool
) -> None:
    """Piece by piece or at once: the same text and the same places, or the same refusal."""
    pool = make_haystacks(name).pool("train", 0)
    needles = [f"Needle number {i} is hidden right here." for i in range(len(depths))]
    counted = np.array(pool.tokens.mid(needles[len(needles) - min(known, len(needles)) :]), dtype=np.int64)
    asked = Hidden(needles, depths, counted), budget, Random(seed), numbered
    try:
        reference = reference_layout(pool, Hidden(needles, depths, counted), budget, Random(seed), numbered)
    except LayoutError as error:
        with pytest.raises(LayoutError, match=re.escape(error.message)):
            lay_out(pool, *asked)
        return
    layout = lay_out(pool, *asked)
    assert layout.text == reference.text
    for name in ("starts", "ends", "chars", "passages"):
        assert getattr(layout, name).tolist() == getattr(reference, name).tolist()
        assert getattr(layout, name).dtype == np.int64


@pytest.mark.parametrize("budget", [-50, 0, 1, 40])
@pytest.mark.parametrize("numbered", [False, True])
def test_too_small(budget: int, numbered: bool) -> None:
    pool = make_haystacks("gpt2").pool("train", 0)
    with pytest.raises(LayoutError, match=rf"do not fit into a haystack of {budget} tokens") as error:
        lay_out(pool, Hidden(NEEDLES, [0.5] * 6), budget, Random(0), numbered)
    assert "\n" not in str(error.value) and error.value.settings[0] == "lengths"


@pytest.mark.parametrize("depth_asked", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("numbered", [False, True])
def test_needles_at_one_place_stand_in_random_order(depth_asked: float, numbered: bool) -> None:
    """The answer is the first needle given; were it always the first of its cluster, that would give it away."""
    pool = make_haystacks("gpt2").pool("train", 0)
    ranks = []
    for seed in range(200):
        laid = lay_out(pool, Hidden(NEEDLES[:4], [depth_asked] * 4), 1000, Random(seed), numbered)
        ranks.append(sorted(laid.chars).index(laid.chars[0]))
    assert all(25 < ranks.count(rank) < 80 for rank in range(4))


def test_order_of_filler_differs_by_seed() -> None:
    pool = make_haystacks("gpt2").pool("train", 0)
    assert len({lay_out(pool, Hidden([], []), 3000, Random(seed)).text for seed in range(20)}) == 20
