"""Prompts of each mode: what fits the window, what is left out first, and where the text was cut."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.options import Options
from environments.haystack.tokens import Tokens
from environments.memory.passages import Passages
from environments.memory.prompts import Prompts
from environments.memory.questions import Question, of_rows
from environments.retrieval.chunking import Chunk
from environments.retrieval.ordering import ORDERS
from environments.retrieval.ranking import Hit
from longthread.errors import ConfigError
from tests.environments.tiny_model import tiny_tokenizer

REPLY = 50
TOKENS = Tokens(tiny_tokenizer())  # a token a byte


@dataclass
class Settings:
    passages: int = 3
    chunk_tokens: int = 60
    overlap: int = 10
    chunking: str = "fixed"
    ranking: str = "bm25"
    search_hops: int = 0
    embedding_model: str = ""
    chunk_store: str = ""


def question(text: str, folder: Path, asked: str = "Who keeps the mill?") -> Question:
    path = folder / "q.jsonl"
    path.write_text(json.dumps({"document": text, "question": asked, "answer": "Anna"}) + "\n")
    return of_rows(str(path), "test", Options(answer_format="plain"), TOKENS)[0]


def prompts(order: str = "rank") -> Prompts:
    return Prompts(TOKENS, Options(answer_format="plain"), REPLY, order)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("questions")


@settings(max_examples=40, deadline=None)
@given(st.text("abc é漢\n", min_size=1500, max_size=3000).filter(str.strip), st.integers(450, 3200))
def test_a_cut_text_keeps_both_ends_and_fits(text: str, window: int) -> None:
    made = _of_text(text)
    prepared = prompts().prepare(made, "context", window)
    assert len(prepared.tokens) + REPLY <= window
    content = prepared.messages[0]["content"]
    if not prepared.cut_tokens:
        assert text in content and not prepared.passages
        return
    head, tail = prepared.passages
    assert text.startswith(head.text) and text.endswith(tail.text) and head.end <= tail.start
    assert f"{head.text}\n\n[Here {prepared.cut_tokens:,} tokens of the text are left out.]\n\n{tail.text}" in content
    assert head.tokens + tail.tokens + prepared.cut_tokens == len(text.encode())
    assert window - REPLY - len(prepared.tokens) < 40  # no more is cut than has to be


def _of_text(text: str) -> Question:
    with tempfile.TemporaryDirectory() as name:
        return question(text, Path(name))


@pytest.mark.parametrize("order", ORDERS)
def test_the_worst_hits_are_left_out_first_in_any_order(folder: Path, order: str) -> None:
    made = question("x " * 50, folder)
    hits = [
        Hit(Chunk(f"passage {i} " + "x" * 150, 200 * (i % 2) + i, 200 * (i % 2) + i + 1, 160), 9.0 - i)
        for i in range(4)
    ]
    free = prompts(order).prepare(made, "retrieval", 0, hits)
    assert set(free.passages) == {hit.chunk for hit in hits}
    tight = prompts(order).prepare(made, "retrieval", len(free.tokens) + REPLY - 200, hits)
    assert [hit.chunk for hit in hits if hit.chunk not in tight.passages] == [hits[2].chunk, hits[3].chunk]
    assert tight.messages[0]["content"].count("* * *") == 1


def test_what_cannot_fit_is_said(folder: Path) -> None:
    made = question("x " * 50, folder)
    for mode in ("context", "retrieval", "weights"):
        with pytest.raises(ConfigError, match="more than the window of 100"):
            prompts().prepare(made, mode, 100)


def test_no_hit_is_said_to_the_model(folder: Path) -> None:
    made = question("x " * 50, folder)
    assert "(No passage was found.)" in prompts().prepare(made, "retrieval", 0).messages[0]["content"]


@pytest.mark.parametrize("chunking", ["fixed", "semantic"])
def test_an_index_is_made_once_a_document(folder: Path, chunking: str) -> None:
    text = "\n\n".join(f"Person{i} keeps the house number {i} by the river and sells bread." for i in range(30))
    made = question(text, folder, "What does Person17 keep?")
    passages = Passages(Settings(chunking=chunking), TOKENS)
    index = passages.index(made.document)
    assert passages.index(made.document) is index and index.stored_bytes > len(text) and index.seconds is not None
    hits = passages.find(made, index)
    assert 1 <= len(hits) <= 3 and any("Person17" in hit.chunk.text for hit in hits)
    chunks = passages.chunks(made.document)
    assert all(chunk.tokens <= 60 for chunk in chunks) and text.startswith(chunks[0].text)


def test_hops_follow_names_that_the_question_lacks(folder: Path) -> None:
    facts = ["Anna Berg has Karl Lund as her tutor.", "Karl Lund keeps the key 4815162342 in a box."]
    filler = [f"The road to village {i} was long and dusty that year." for i in range(40)]
    made = question(
        "\n\n".join([*filler[:20], facts[1], *filler[20:], facts[0]]), folder, "Which key has the tutor of Anna Berg?"
    )
    one = Passages(Settings(chunking="semantic", passages=4), TOKENS)
    linked = Passages(Settings(chunking="semantic", passages=4, search_hops=4), TOKENS)
    found = [hit.chunk.text for hit in linked.find(made, linked.index(made.document))]
    assert any("4815162342" in text for text in found) and any("Anna Berg" in text for text in found)
    by_question = [hit.chunk.text for hit in one.find(made, one.index(made.document))]
    assert len(found) < len(by_question) == 4 and "Anna Berg" in by_question[0]
