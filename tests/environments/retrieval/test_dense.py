"""Ranking by embeddings: against all cosines, and by meaning with a model of a few megabytes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.retrieval.chunking import Chunk
from environments.retrieval.dense import Dense, Embedder
from environments.retrieval.ranking import BM25, Fused
from longthread.errors import ConfigError
from tests.environments.retrieval.embedders import hashed, static_model

texts = st.lists(st.lists(st.sampled_from("ab cd ef gh ij".split()), max_size=5).map(" ".join), max_size=8)


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(text, i, i + 1, 1) for i, text in enumerate(texts)]


@settings(deadline=None)
@given(texts, texts, st.integers(0, 20))
def test_hits_are_those_of_the_highest_cosines(first: list[str], second: list[str], k: int) -> None:
    embedder, added = hashed(), chunks(*first, *second)
    ranking = Dense(embedder)
    ranking.add(added[: len(first)])
    ranking.add(added[len(first) :])
    hits = ranking.search("ab cd", k)
    cosines = [float(embedder.documents([c.text])[0] @ embedder.question("ab cd")) for c in added]
    expected = sorted(cosines, reverse=True)[:k]
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
    assert all(abs(cosines[hit.chunk.start] - hit.score) < 1e-5 for hit in hits)


def test_a_model_is_known_by_its_vectors_not_by_its_name() -> None:
    assert hashed(name="a").identity().matches(hashed(name="b").identity())
    assert not hashed().identity().matches(hashed(seed=1).identity())
    assert not hashed().identity().matches(hashed(dimension=32).identity())


def test_a_sentence_transformers_model_finds_what_shares_no_word(tmp_path: Path) -> None:
    embedder = Embedder.load(str(static_model(tmp_path / "static")))
    added = chunks("The physician treated her patient.", "A vessel sank in the storm.", "Bread is baked from flour.")
    dense, words = Dense(embedder), BM25()
    both = Fused([dense, words])
    both.add(added)
    for question, found in (("doctor", 0), ("ship", 1), ("cake", 2)):
        assert words.search(question, 1) == []
        assert dense.search(question, 1)[0].chunk == both.search(question, 1)[0].chunk == added[found]
    assert embedder.identity().dimension == 256


def test_what_is_missing_or_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ConfigError, match="embedding model .*nowhere' cannot be loaded"):
        Embedder.load(str(tmp_path / "nowhere"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match="pip install 'sentence-transformers>=5'"):
        Embedder.load("any")
