"""The pool: counts against tokenising, closings against a slow search, what it contains."""

from functools import cache
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler import prose
from environments.haystack.filler.pool import Pool
from environments.haystack.tokens import BREAK, LEFT, RIGHT
from longthread.errors import ConfigError
from tests.conftest import make_haystacks


@cache
def pool_of(name: str) -> Pool:
    return make_haystacks(name).pool("train", 0)


def test_every_passage_costs_what_it_is_said_to(tokenizer_name: str) -> None:
    pool = pool_of(tokenizer_name)
    assert pool.additive == (tokenizer_name != "crossing")
    if not pool.additive:
        return
    frame = len(pool.tokens.encode(LEFT + BREAK + RIGHT))
    for passage in pool.passages[::7]:
        assert len(pool.tokens.encode(BREAK.join([LEFT, passage.text, RIGHT]))) == frame + passage.tokens


def test_cuts_are_spaces_between_sentences_and_counted(tokenizer_name: str) -> None:
    pool = pool_of(tokenizer_name)
    for passage in pool.passages[::19]:
        for chars, tokens in zip(passage.cut_chars, passage.cut_tokens, strict=True):
            assert passage.text[chars] == " "
            assert passage.text[:chars].rstrip("\"'”’")[-1] in ".!?"
            if pool.additive:
                start = len(pool.tokens.encode(LEFT + BREAK + RIGHT)) - 1
                assert len(pool.tokens.encode(LEFT + BREAK + passage.text[:chars])) == start + tokens


def test_relabel_is_the_price_of_a_label_in_front(tokenizer_name: str) -> None:
    pool = pool_of(tokenizer_name)
    if not pool.additive:
        return
    costs = pool.label_costs(250)
    frame = len(pool.tokens.encode(LEFT + BREAK + RIGHT))
    for number in (1, 9, 10, 99, 100, 250):
        passage = pool.passages[number % len(pool.passages)]
        whole = pool.tokens.encode(BREAK.join([LEFT, f"[{number}] {passage.text}", RIGHT]))
        assert len(whole) == frame + passage.tokens + passage.relabel + costs[number - 1]


def slow_costs(pool: Pool, used: set[int]) -> set[int]:
    """Every cost that one final sentence, or one from the middle and a final one, can have together."""
    finals = {c for c, entries in pool._finals.items() if any(i not in used for i, _ in entries)}
    mids = {c for c, entries in pool._mids.items() if any(i not in used for i, _ in entries)}
    return finals | {a + b for a in mids for b in finals}


@settings(max_examples=150, deadline=None)
@given(cost=st.integers(0, 140), seed=st.integers(0, 10**6), used=st.sets(st.integers(0, 191), max_size=40))
def test_closing_costs_exactly_what_is_missing(cost: int, seed: int, used: set[int]) -> None:
    for name in ("gpt2", "cl100k-like"):
        pool = pool_of(name)
        closing = pool.closing(cost, used, Random(seed))
        if closing is None:
            continue
        assert cost in slow_costs(pool, used)
        assert sum(c for _, c in closing) == cost and len(closing) in (1, 2)
        assert len({s for s, _ in closing}) == len(closing)
        frame = len(pool.tokens.encode(f"{LEFT}{BREAK}{RIGHT}")) - len(pool.tokens.encode(LEFT + BREAK + "A")) + 1
        text = f"{LEFT} {' '.join(s for s, _ in closing)}{BREAK}{RIGHT}"
        assert frame == 1 and len(pool.tokens.encode(text)) - len(pool.tokens.encode(LEFT)) - 1 == cost
        for sentence, _ in closing:
            owners = [i for i, p in enumerate(pool.passages) if sentence in p.text]
            assert not set(owners) & used


def test_closing_finds_every_usual_cost() -> None:
    pool = pool_of("gpt2")
    possible = [cost for cost in range(20, 60) if cost in slow_costs(pool, set())]
    assert len(possible) == 40
    assert all(pool.closing(cost, set(), Random(cost)) for cost in possible)


def test_closing_never_from_used_passages() -> None:
    pool = pool_of("gpt2")
    assert all(pool.closing(c, set(range(len(pool.passages))), Random(c)) is None for c in range(100))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_contains_against_a_plain_search(data: st.DataObject) -> None:
    pool = pool_of("gpt2")
    passage = data.draw(st.sampled_from(pool.passages))
    start = data.draw(st.integers(0, len(passage.text) - 1))
    text = passage.text[start : start + data.draw(st.integers(1, 30))]
    assert pool.contains(text)
    other = data.draw(st.sampled_from(["1234567890", "qzx", "The", "house-", "???", text + "q", text.swapcase()]))
    assert pool.contains(other) == any(other in p.text for p in pool.passages)


def test_digest_depends_on_the_text() -> None:
    tokens = make_haystacks("gpt2").tokens
    passages = list(islice(prose.passages(0, "train"), 3))
    first = Pool(tokens, passages, 100)
    assert first.digest == Pool(tokens, passages, 100).digest
    assert first.digest != Pool(tokens, [*passages[:2], [["Another."]]], 100).digest


@pytest.mark.parametrize("passages", [[], [[["Too short."]]]])
def test_too_little_filler(passages: list) -> None:
    with pytest.raises(ConfigError, match="fewer than the 1000 needed") as error:
        Pool(make_haystacks("gpt2").tokens, passages, 1000)
    assert "\n" not in str(error.value) and "give more text" in str(error.value)
