"""Chunks on disk rank as those in memory do, stay there, and are refused to another embedding model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from environments.retrieval import lance_store
from environments.retrieval.chunking import Chunk
from environments.retrieval.dense import Dense, Embedder
from environments.retrieval.lance_store import LanceStore
from longthread.errors import ConfigError, DataError
from tests.environments.retrieval.embedders import hashed

SUBJECTS = "miller baker mayor abbot widow".split()
THINGS = "key boat letter lamp coin bell saddle".split()
TEXTS = [
    f"The {who} of village {i} hid a {what}." for i, (who, what) in enumerate((w, t) for w in SUBJECTS for t in THINGS)
]
TEXTS += ["她的密码是七三九一。", "天气很好，我们去公园散步。"]
CHUNKS = [Chunk(text, 10 * i, 10 * i + 9, i, f"book {i % 2}") for i, text in enumerate(TEXTS)]
QUESTIONS = ["Where did the widow hide the bell?", "密码", "village 17"]


@pytest.fixture(autouse=True, scope="module")
def _lancedb() -> None:
    """Imported when a test wants it: its 4 s are not spent on every process that collects tests."""
    pytest.importorskip("lancedb")


@pytest.mark.parametrize("embedder", [None, hashed()], ids=["terms", "vectors"])
def test_a_store_finds_what_memory_finds_also_when_opened_again(tmp_path: Path, embedder: Embedder | None) -> None:
    store = LanceStore(tmp_path / "store", embedder)
    assert store.search("anything", 3) == []
    store.add([])
    store.add(CHUNKS[:20])
    assert store.search(QUESTIONS[2], 1)[0].chunk == CHUNKS[17]
    store.add(CHUNKS[20:])
    again = LanceStore(tmp_path / "store", embedder)
    for question, found in zip(QUESTIONS, (33, 35, 17), strict=True):
        hits = again.search(question, 4)
        assert hits[0].chunk == CHUNKS[found]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(again.search(QUESTIONS[0], 99)) > 4 and again.search(QUESTIONS[0], 0) == []
    if embedder:
        memory = Dense(embedder)
        memory.add(CHUNKS)
        for question in QUESTIONS:
            hits, exact = again.search(question, 9), memory.search(question, 9)
            np.testing.assert_allclose([h.score for h in hits], [h.score for h in exact], atol=1e-5)
    else:
        assert again.search("?!", 3) == [] and again.search("zebra", 3) == []
        assert again.search('key" (or) AND: -boat*', 3) != []  # no query language


def test_an_index_over_many_vectors_finds_most_of_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is approximate, and made at random: by chance it would find 1 in 600."""
    monkeypatch.setattr(lance_store, "FRESH", 400)
    store = LanceStore(tmp_path, hashed(16))
    store.add([Chunk(f"word{i} word{i % 5}", i, i + 1, 1) for i in range(600)])
    memory = Dense(hashed(16))
    memory.add([Chunk(f"word{i} word{i % 5}", i, i + 1, 1) for i in range(600)])
    asked = [f"word{number}" for number in range(7, 600, 12)]
    assert sum(store.search(one, 1)[0].chunk == memory.search(one, 1)[0].chunk for one in asked) > len(asked) / 2
    store.add([Chunk("zebra", 9000, 9001, 1)])  # not yet in the index: found for certain
    assert store.search("zebra", 1)[0].chunk.start == 9000
    store.add([Chunk(f"later{i}", i, i + 1, 1) for i in range(1000, 1600)])
    later = range(1000, 1600, 20)
    assert sum(store.search(f"later{i}", 1)[0].chunk.start == i for i in later) > len(later) / 2


def refused(folder: Path, embedder: Embedder | None, said: str, error: type[ConfigError] = ConfigError) -> None:
    with pytest.raises(error, match=said) as raised:
        LanceStore(folder, embedder)
    assert "\n" not in raised.value.line()


def test_a_store_of_another_embedding_model_is_refused(tmp_path: Path) -> None:
    LanceStore(tmp_path / "vectors", hashed(name="first")).add(CHUNKS)
    LanceStore(tmp_path / "vectors", hashed(name="renamed"))  # the same model
    refused(
        tmp_path / "vectors", hashed(seed=1, name="second"), "'first' .64 dimensions., not embedding model 'second'"
    )
    refused(tmp_path / "vectors", hashed(32), "64 dimensions., not embedding model 'hashed' .32 dimensions")
    refused(tmp_path / "vectors", None, "'first' .64 dimensions., not no embedding model")
    LanceStore(tmp_path / "terms")
    refused(tmp_path / "terms", hashed(), "made with no embedding model, not embedding model 'hashed'")


def test_folders_that_are_no_store_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(tmp_path, None, "is not a store and not empty")
    LanceStore(tmp_path / "store")
    (tmp_path / "store" / "store.json").write_text("{")
    refused(tmp_path / "store", None, "store.json is damaged", DataError)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    refused(tmp_path / "other", None, "pip install lancedb")
