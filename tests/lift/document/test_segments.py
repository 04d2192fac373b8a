"""Segments against a slow reference, and the context in front of one."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.document.segments import ELLIPSIS, IGNORED, RECITE, Context, contextualised, plain, segments
from longthread.errors import LongthreadError
from tests.environments.tiny_model import tiny_tokenizer


def context(budget: int, window: int) -> Context:
    return Context((-1, -2), (-3,), budget, window)  # ids that no document has


def reference(n_tokens: int, length: int, stride: int) -> list[range]:
    """One segment after the other, until one reaches the end."""
    found, start = [], 0
    while n_tokens:
        found.append(range(start, min(start + length, n_tokens)))
        if start + length >= n_tokens:
            break
        start += stride
    return found


shapes = st.integers(1, 60).flatmap(
    lambda length: st.tuples(st.integers(0, 400), st.just(length), st.integers(1, length))
)


@given(shapes)
def test_the_same_as_the_reference(shape: tuple[int, int, int]) -> None:
    assert segments(*shape) == reference(*shape)


@given(shapes)
def test_every_token_is_covered_and_no_segment_is_shorter_than_the_overlap(shape: tuple[int, int, int]) -> None:
    n, length, stride = shape
    found = segments(n, length, stride)
    assert sorted({at for span in found for at in span}) == list(range(n))
    assert all(len(span) == length for span in found[:-1])
    assert all(later.start - earlier.start == stride for earlier, later in zip(found, found[1:], strict=False))
    if len(found) > 1:
        assert len(found[-1]) > length - stride


def test_the_published_shape() -> None:
    found = segments(10_000, 2048)
    assert [span.start for span in found[:4]] == [0, 768, 1536, 2304]
    assert {len(span) for span in found[:-1]} == {2048}
    assert found[-1].stop == 10_000
    assert segments(2048, 2048) == [range(2048)]
    assert segments(2, 2) == [range(2)]  # 3/8 of so short a length would be no stride at all


@pytest.mark.parametrize("shape", [(10, 0, 1), (10, 4, 0), (10, 4, 5), (-1, 4, 2)])
def test_shapes_that_leave_tokens_out_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(LongthreadError, match=r"^[^\n]+$"):
        segments(*shape)


@given(st.integers(0, 300), st.integers(0, 60), st.integers(30, 80), st.integers())
def test_context_comes_from_both_ends_and_fills_the_budget(n: int, budget: int, window: int, seed: int) -> None:
    head, tail = context(budget, window).spans(n, Random(seed))
    assert len(head) + len(tail) == min(budget, n)
    assert 0 <= head.start <= head.stop <= min(window, n)
    assert max(0, n - window) <= tail.start <= tail.stop <= n


def test_context_is_drawn_from_all_of_both_windows() -> None:
    rng = Random(0)
    drawn = [context(64, 64).spans(1000, rng) for _ in range(4000)]
    assert {len(head) for head, _ in drawn} == set(range(64))  # U[0, budget), as published
    assert {at for head, _ in drawn for at in head} == set(range(64))
    assert {at for _, tail in drawn for at in tail} == set(range(936, 1000))


def test_a_budget_beyond_both_windows_is_refused() -> None:
    with pytest.raises(LongthreadError, match="context of 9 tokens is outside 0 to 8"):
        context(9, 4).spans(100, Random(0))


@given(st.integers(1, 200), st.integers(0, 40), st.data())
def test_only_the_segment_is_supervised(n: int, budget: int, data: st.DataObject) -> None:
    ids = [1000 + at for at in range(n)]
    segment = data.draw(st.sampled_from(segments(n, 16)))
    made = contextualised(ids, segment, Random(1), context(budget, 32))
    before = len(made.ids) - len(segment)
    assert made.ids[before:] == ids[segment.start : segment.stop] == made.labels[before:]
    assert made.labels[:before] == [IGNORED] * before
    head, tail = context(budget, 32).spans(n, Random(1))
    expected = [*(ids[at] for at in head), -1, -2, *(ids[at] for at in tail), -3]
    assert made.ids[:before] == expected


def test_every_call_draws_anew_and_a_seed_repeats_it() -> None:
    ids, segment, rng = list(range(500)), range(100, 120), Random(3)
    first, second = (contextualised(ids, segment, rng, context(50, 60)) for _ in range(2))
    assert first != second
    assert contextualised(ids, segment, Random(3), context(50, 60)) == first


def test_a_plain_segment_is_supervised_throughout() -> None:
    made = plain(list(range(50)), range(10, 13))
    assert made.ids == made.labels == [10, 11, 12]
    assert made.ids is not made.labels


def test_joints_are_plain_text_tokens() -> None:
    tokenizer = tiny_tokenizer()
    made = Context.of(tokenizer)
    assert tokenizer.decode(made.ellipsis) == ELLIPSIS
    assert tokenizer.decode(made.instruction) == RECITE
