"""Decoys: disjoint chains with counts that are right, the same every time."""

from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.linked_uniqueness import read
from environments.haystack.decoys import CHAINS, Bank
from environments.haystack.facts import BY_KIND
from environments.haystack.sample import Options
from tests.conftest import make_haystacks

KINDS = sorted(BY_KIND)


@cache
def bank(gap: bool = False, split: str = "train") -> Bank:
    return Bank(make_haystacks("gpt2").pool(split, 0), split, gap, 0)


@settings(max_examples=10, deadline=None)
@given(st.booleans(), st.integers(0, 100), st.sampled_from(KINDS), st.integers(2, 8), st.integers(0, 2**32))
def test_drawn_chains_are_whole_and_disjoint(gap: bool, n: int, kind: str, hops: int, seed: int) -> None:
    texts, costs = bank(gap).draw(n, kind, hops, (), Random(seed))
    world = read(texts)
    assert len(texts) == len(costs) == n * hops == len(world.facts())
    assert len(world.values) == n and len(world.people()) == n * hops and world.people() <= bank(gap).names
    assert {relation for _, relation, _ in world.values} <= {BY_KIND[kind].name}
    assert len({value for *_, value in world.values}) == n
    after = {who: to for who, _, to in world.links}
    heads = after.keys() - set(after.values())
    ends = set()
    for at in heads:
        for _ in range(hops - 1):
            at = after[at]
        ends.add(at)
    assert ends == {who for who, *_ in world.values} and len(heads) == n


def test_counts_are_those_of_the_tokenizer() -> None:
    pool = make_haystacks("gpt2").pool("train", 0)
    for kind in KINDS:
        texts, costs = bank().draw(20, kind, 8, (), Random(1))
        assert list(costs) == list(pool.tokens.mid(texts))
        assert not any(pool.contains(value) for *_, value in read(texts).values)
    assert 10 < bank().mean_cost < 60


def test_the_same_whatever_was_drawn_before() -> None:
    fresh = Bank(make_haystacks("gpt2").pool("train", 0), "train", False, 0)
    for kind, hops in (("uuids", 5), ("words", 2)):  # the other order than below
        bank().draw(9, kind, hops, (), Random(4))
    for kind, hops in (("words", 2), ("uuids", 5)):
        (a, costs_a), (b, costs_b) = (each.draw(9, kind, hops, (), Random(4)) for each in (fresh, bank()))
        assert a == b and list(costs_a) == list(costs_b)


def test_splits_share_nobody() -> None:
    assert len(bank().names) == CHAINS * 8 and not bank().names & bank(split="eval").names


def test_a_chain_with_a_forbidden_value_is_left_out() -> None:
    texts, _ = bank().draw(5, "numbers", 3, (), Random(2))
    value = read(texts).values[0][2]
    fewer, costs = bank().draw(5, "numbers", 3, (value,), Random(2))
    assert len(fewer) == len(costs) == 12 and not any(value in text for text in fewer)
    assert set(fewer) < set(texts)


def test_more_chains_than_may_be_asked_for() -> None:
    with pytest.raises(ValueError):
        Options(decoys=CHAINS)
    assert len(bank().draw(CHAINS, "names", 2, (), Random(0))[0]) == 2 * CHAINS
