"""Embedding models for tests, without a download: one of hashed words, and one whose weights a package ships."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from environments.retrieval.dense import Embedder
from environments.retrieval.terms import terms


class HashedWords:
    """A vector for each word, drawn by its hash; a text is the sum of its words'."""

    def __init__(self, dimension: int = 64, seed: int = 0):
        self.dimension, self.seed = dimension, seed

    def encode_document(self, inputs: list[str], *, show_progress_bar: bool) -> np.ndarray:
        return np.stack([sum(map(self._vector, terms(text)), np.zeros(self.dimension)) for text in inputs])

    encode_query = encode_document

    def _vector(self, word: str) -> np.ndarray:
        return np.random.default_rng([zlib.crc32(word.encode()), self.seed]).normal(size=self.dimension)


def hashed(dimension: int = 64, seed: int = 0, name: str = "hashed") -> Embedder:
    return Embedder(HashedWords(dimension, seed), name)


def static_model(folder: Path) -> Path:
    """A sentence-transformers model in a folder, with the static embeddings that wordllama ships."""
    pytest.importorskip("sentence_transformers")
    package = Path(pytest.importorskip("wordllama").__file__).parent
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    (weights,) = load_file(package / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights.astype(np.float32))]).save(
        str(folder)
    )
    return folder
