"""Sections by their summaries, then their chunks; summaries by a model behind a loopback server."""

from collections.abc import Sequence

import pytest

from environments.inference.contracts import ServerAddress
from environments.retrieval.chunking import Chunk, semantic_chunks
from environments.retrieval.ranking import BM25
from environments.retrieval.sections import Sections, summaries_by
from environments.retrieval.terms import word_offsets
from tests.environments.loopback import ChatServer, choice

TEXT = "# One\n\nThe boat sank. Nobody saw it.\n\n"
TEXT += "# Two\n\nThe key is blue. A dog barked.\n\n# Three\n\nThe key is red. It rained.\n"
SUMMARIES = {"One": "Of shipwreck.", "Two": "Of the miller's house.", "Three": "Of the king's castle."}


def split(section: Chunk, size: int = 5) -> list[Chunk]:
    cut = semantic_chunks(section.text, word_offsets(section.text), size, section.document)
    return [Chunk(c.text, section.start + c.start, section.start + c.end, c.tokens, c.document) for c in cut]


def summary(text: str) -> str:
    return SUMMARIES[text.split("# ")[1].split()[0]]


def summarise(texts: Sequence[str]) -> list[str]:
    return [summary(text) for text in texts]


def test_chunks_of_the_section_that_the_question_is_about_are_found() -> None:
    ranking = Sections(BM25(), BM25(), summarise, split, opened=1)
    ranking.add([])
    ranking.add(semantic_chunks(TEXT, word_offsets(TEXT), 11))
    for asked, colour in (("castle", "red"), ("miller", "blue")):
        hits = ranking.search(f"What key is in the {asked}?", 1)
        assert [colour in hit.chunk.text for hit in hits] == [True]
        assert TEXT[hits[0].chunk.start : hits[0].chunk.end] == hits[0].chunk.text
    assert ranking.search("Of aeroplanes", 0) == [] and ranking.search("aeroplanes", 3) == []


def test_sections_may_be_found_whole() -> None:
    sections = semantic_chunks(TEXT, word_offsets(TEXT), 11)
    ranking = Sections(BM25(), BM25(), summarise, lambda section: [section], opened=2)
    ranking.add(sections)
    assert [hit.chunk for hit in ranking.search("the boat and the shipwreck", 2)][0] == sections[0]


def test_a_model_writes_the_summaries(caplog: pytest.LogCaptureFixture) -> None:
    def reply(body: dict, number: int) -> list[dict]:
        text = body["messages"][0]["content"]
        return [choice("<think>hm</think>" if "Three" in text else f"<think>hm</think> {summary(text)}\n")]

    sections = [chunk.text for chunk in semantic_chunks(TEXT, word_offsets(TEXT), 11)]
    with ChatServer(reply).running() as server:
        write = summaries_by(ServerAddress(server.url, "x", "m"), tokens=33)
        assert write(sections) == [SUMMARIES["One"], SUMMARIES["Two"], sections[2]]
        assert write([]) == [] and write(sections[:1]) == [SUMMARIES["One"]]  # a second call has a loop of its own
    assert {body["max_tokens"] for body in server.requests} == {33}
    assert "gave no summary of a section" in caplog.text
