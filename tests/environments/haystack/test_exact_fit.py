"""A haystack fits its frame to the token, by sums or by trying, and every needle's span holds it."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack import exact_fit
from environments.haystack.exact_fit import Frame, fit
from environments.haystack.layout import Hidden, LayoutError
from environments.haystack.tokens import BREAK, PLACEHOLDER
from tests.conftest import build_tokenizer, make_haystacks

TEXTS = [f"Number {i} of the needles is hidden here by {name}." for i, name in enumerate(("Kai", "Bo", "Al", "Ed"))]
NAMES = ("smollm2", "gpt2", "mistral", "cl100k-like", "crossing")


def frame_of(name: str, length: int) -> Frame:
    tokens = make_haystacks(name).tokens
    before, after = tokens.frame(BREAK.join(["Read this.", PLACEHOLDER, "Question: who?"]))
    before, after = before.removesuffix(BREAK), after.removeprefix(BREAK)
    head = tokens.head(before)
    return Frame(before, after, head, length - head - tokens.tail(after), length)


def check(name: str, length: int, depths: list[float], numbered: bool, known: int, seed: int) -> None:
    pool, frame = make_haystacks(name).pool("train", 0), frame_of(name, length)
    texts = TEXTS[: len(depths)]
    counted = np.array(pool.tokens.mid(texts[len(texts) - known :]) if known else [])
    laid = fit(pool, frame, Hidden(texts, depths, counted), numbered, Random(seed))
    ids = pool.tokens.encode(BREAK.join([frame.before, laid.text, frame.after]))
    assert len(ids) == length
    for text, start, end, at in zip(texts, laid.starts, laid.ends, laid.chars, strict=True):
        found = pool.tokens.decode(ids[frame.head + start : frame.head + end])
        assert (found.strip() == text) if pool.additive else (text in found)
        assert laid.text[at : at + len(text)] == text and laid.text.count(text) == 1
    again = fit(pool, frame, Hidden(texts, depths, counted), numbered, Random(seed))
    assert again.text == laid.text and list(again.starts) == list(laid.starts) and list(again.ends) == list(laid.ends)


@pytest.mark.parametrize("name", NAMES)
def test_to_the_token(name: str) -> None:
    build_tokenizer(name)  # skips here if it cannot be had

    @settings(max_examples=12, deadline=None, database=None)
    @given(
        st.integers(600, 4000), st.lists(st.floats(0, 1), max_size=4), st.booleans(), st.integers(0, 4),
        st.integers(0, 2**32),
    )  # fmt: skip
    def fits(length: int, depths: list[float], numbered: bool, known: int, seed: int) -> None:
        inner = [min(max(d, 0.001), 0.999) for d in depths]  # at the ends a paragraph's cost is not `known`'s
        check(name, length, inner if known else depths, numbered, min(known, len(depths)), seed)

    fits()


@pytest.mark.parametrize("name", ["gpt2", "crossing"])
def test_too_many_needles(name: str) -> None:
    pool, frame = make_haystacks(name).pool("train", 0), frame_of(name, 90)
    with pytest.raises(LayoutError, match="do not fit into a haystack") as error:
        fit(pool, frame, Hidden(TEXTS * 3, [0.5] * 12, np.zeros(0)), False, Random(0))
    assert "\n" not in str(error.value)


def test_gives_up_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer whose counts can never come out right."""
    pool, frame = make_haystacks("crossing").pool("train", 0), frame_of("crossing", 1000)
    monkeypatch.setattr(exact_fit, "CORRECTIONS", 3)
    monkeypatch.setattr(type(pool.tokens), "offsets", lambda *_: ([0] * 999, []))
    with pytest.raises(LayoutError, match="exactly 1000 tokens was found in 3 tries.*another tokenizer") as error:
        fit(pool, frame, Hidden(TEXTS, [0.5] * 4, np.zeros(0)), False, Random(0))
    assert "\n" not in str(error.value)
