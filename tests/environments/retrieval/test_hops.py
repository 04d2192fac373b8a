"""Search in hops finds all of the evidence for linked questions, which one search does not."""

from __future__ import annotations

import pytest

from environments.haystack.sample import NEEDED, Haystacks, Options, Sample
from environments.retrieval.chunking import Chunk, semantic_chunks
from environments.retrieval.hops import leads_of, search_in_hops
from environments.retrieval.ranking import BM25
from environments.retrieval.recall import evidence_recall
from environments.retrieval.terms import word_offsets
from tests.environments.tiny_model import tiny_tokenizer

K = 20


@pytest.fixture(scope="module")
def haystacks() -> Haystacks:
    return Haystacks(tiny_tokenizer(), Options(pool_tokens=150_000))


def cut(sample: Sample) -> tuple[list[tuple[int, int]], list[Chunk]]:
    """The evidence that the answer rests on, and the chunks of its text."""
    text = sample.messages[0]["content"].rpartition("\n\nQuestion: ")[0]
    starts = [(text.index(needle.text), len(needle.text)) for needle in sample.needles if needle.role in NEEDED]
    return [(start, start + size) for start, size in starts], semantic_chunks(text, word_offsets(text), 80)


@pytest.mark.parametrize("task", ["single", "chain", "graph", "hidden_question", "variable_tracking"])
def test_all_evidence_of_linked_questions_is_found(haystacks: Haystacks, task: str) -> None:
    for seed in range(3):
        sample = haystacks.sample(seed, "train", task, 40_000)
        evidence, chunks = cut(sample)
        ranking = BM25()
        ranking.add(chunks)
        hits = search_in_hops(ranking, sample.question, K)
        assert len(hits) <= K < len(chunks) / 4 and len({hit.chunk for hit in hits}) == len(hits)
        assert evidence_recall(evidence, [hit.chunk for hit in hits]).needles == 1, sample.question
        if task in ("chain", "hidden_question"):
            once = [hit.chunk for hit in ranking.search(sample.question, K)]
            assert evidence_recall(evidence, once).needles < 1


@pytest.mark.parametrize(
    ("text", "leads"),
    [
        ("The craft was taught to Anna Kord by Ben Ohm-Lee.", ["Anna Kord", "Ben Ohm-Lee"]),
        ("Anna Kord left. Then she met Otto.", ["Anna Kord", "Otto"]),
        ("By whom is Maro's rent paid, and Ben Ohm-Lee\u2019s?", ["Maro", "Ben Ohm-Lee"]),
        ("It was Anna Kord's Otto, of the Dukes' Court by O'Hara.", ["Anna Kord", "Otto", "Dukes", "Court", "O'Hara"]),
        ("VAR QPV = VAR BHR, that is 683511 or 12.", ["VAR QPV", "VAR BHR", "683511"]),
        ("the owner of a mill", ["the", "owner", "of", "mill"]),
        ("他的老师", ["他的", "的老", "老师"]),
        ("", []),
    ],
)
def test_leads_are_names_and_numbers_else_terms(text: str, leads: list[str]) -> None:
    assert leads_of(text) == leads


def test_a_name_within_another_is_no_lead_and_hops_end() -> None:
    ranking = BM25()
    ranking.add(
        [
            Chunk(text, i, i + 1, 9)
            for i, text in enumerate(["Ann met Bob Roy.", "Annika met Eve.", "Bob Roy met Zoe Ash."])
        ]
    )
    found = search_in_hops(ranking, "Whom did Ann meet?", 3)
    assert [hit.chunk.start for hit in found] == [0, 2]
    assert [hit.chunk.start for hit in search_in_hops(ranking, "Whom did Ann meet?", 3, hops=1)] == [0]
    assert search_in_hops(BM25(), "Whom did Ann meet?", 3) == []


def test_in_a_script_without_capitals_terms_lead_on() -> None:
    texts = ["小明的老师是王芳。", "天气很好。", "王芳住在桂林。", "火车从上海出发。", "下雨了，街上没有人。"]
    ranking = BM25()
    ranking.add([Chunk(text, i, i + 1, 9) for i, text in enumerate(texts)])
    assert {0, 2} <= {hit.chunk.start for hit in search_in_hops(ranking, "小明的老师住在哪里？", 3)}


def test_a_possessive_in_the_question_leads_to_the_name() -> None:
    texts = [
        "Maro owes money to Tivel.",
        "The sea was calm.",
        "At the gate, Tivel answers to the password oak-elm-ash-fir.",
    ]
    ranking = BM25()
    ranking.add([Chunk(text, i, i + 1, 9) for i, text in enumerate(texts)])
    found = search_in_hops(ranking, "What is the password of Maro's lender?", 3)
    assert {hit.chunk.start for hit in found} >= {0, 2}
