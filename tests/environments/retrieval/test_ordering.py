"""Orders of retrieved chunks, and how much of the evidence they cover."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.retrieval.chunking import Chunk
from environments.retrieval.ordering import ORDERS, ordered
from environments.retrieval.ranking import Hit
from environments.retrieval.recall import EvidenceRecall, evidence_recall
from longthread.errors import ConfigError

HITS = [
    Hit(Chunk(str(at), at, at + 1, 1, name), -rank)
    for rank, (name, at) in enumerate([("b", 7), ("a", 2), ("b", 3), ("a", 1)])
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("rank", [7, 2, 3, 1]), ("reverse_rank", [1, 3, 2, 7]), ("both_ends", [7, 3, 1, 2]), ("document", [3, 7, 1, 2])],
)
def test_orders(order: str, expected: list[int]) -> None:
    assert [hit.chunk.start for hit in ordered(HITS, order)] == expected


@pytest.mark.parametrize("order", list(ORDERS))
def test_an_order_keeps_every_hit(order: str) -> None:
    for size in range(len(HITS) + 1):
        for hits in permutations(HITS, size):
            assert len(ordered(hits, order)) == size and set(ordered(hits, order)) == set(hits)


@given(st.integers(1, 30))
def test_the_worst_stand_in_the_middle(n: int) -> None:
    ranks = [-int(hit.score) for hit in ordered([Hit(Chunk("", 0, 0, 0), -i) for i in range(n)], "both_ends")]
    worst = ranks.index(n - 1)
    assert ranks[: worst + 1] == sorted(ranks[: worst + 1]) and ranks[worst:] == sorted(ranks[worst:], reverse=True)


def test_an_unknown_order_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="one of rank, reverse_rank, both_ends, document"):
        ordered(HITS, "random")


spans = st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(spans, max_size=6), st.lists(spans, max_size=6))
def test_recall_is_what_a_count_of_characters_gives(
    needles: list[tuple[int, int]], found: list[tuple[int, int]]
) -> None:
    covered = {at for start, end in found for at in range(start, end)}
    recall = evidence_recall(needles, [Chunk("", start, end, 1) for start, end in found])
    whole = [set(range(start, end)) <= covered for start, end in needles]
    letters = [at in covered for start, end in needles for at in range(start, end)]
    assert recall.needles == pytest.approx(sum(whole) / len(whole) if whole else 1)
    assert recall.characters == pytest.approx(sum(letters) / len(letters) if letters else 1)


def test_chunks_that_meet_hold_a_needle_together() -> None:
    assert evidence_recall([(3, 9)], [Chunk("", 6, 12, 1), Chunk("", 0, 6, 1)]) == EvidenceRecall(1.0, 1.0)
    assert evidence_recall([(3, 9), (20, 26)], [Chunk("", 0, 6, 1)]) == EvidenceRecall(0.0, 0.25)
