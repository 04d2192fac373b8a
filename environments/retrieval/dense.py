"""Rank by the meaning of a chunk: the cosine between its vector and the question's, by any sentence-transformers model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from environments.retrieval.chunking import Chunk
from environments.retrieval.ranking import Hit, highest
from longthread.errors import ConfigError

PROBES = (
    "The miller's daughter hid the key under the third stone of the bridge.",
    "In 1871 the town paid 312 crowns for coal.",
)
SAME_MODEL = 0.99  # cosine of a probe's two vectors, at least: devices and data types differ less, other models more


class SentenceEncoder(Protocol):
    """What is used of `sentence_transformers.SentenceTransformer`."""

    def encode_document(self, inputs: list[str], *, show_progress_bar: bool) -> np.ndarray:
        """Return the vectors of passages, (texts, dimension)."""

    def encode_query(self, inputs: list[str], *, show_progress_bar: bool) -> np.ndarray:
        """Return the vectors of questions, (texts, dimension)."""


@dataclass(frozen=True)
class EmbeddingIdentity:
    """By which vectors of two models are told apart: the model's name, and its vectors of the sentences in `PROBES`."""

    name: str
    probes: tuple[tuple[float, ...], ...]

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return len(self.probes[0])

    def matches(self, other: "EmbeddingIdentity") -> bool:
        """Return whether both are of one model, whatever it is called: its vectors of the same sentences are the same."""
        if self.dimension != other.dimension or len(self.probes) != len(other.probes):
            return False
        cosines = (np.array(self.probes) * np.array(other.probes)).sum(-1)
        return bool((cosines >= SAME_MODEL).all())


class Embedder:
    """An embedding model with its name; its vectors have length 1."""

    def __init__(self, model: SentenceEncoder, name: str):
        """`model`: a `SentenceTransformer`, or what has its two methods."""
        self.model, self.name = model, name

    @classmethod
    def load(cls, name: str) -> "Embedder":
        """Load the sentence-transformers model of a local folder or a hub name. Raises `ConfigError`."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ConfigError(
                "ranking by embeddings needs sentence-transformers: pip install 'sentence-transformers>=5'"
            ) from None
        try:
            return cls(SentenceTransformer(name), name)
        except Exception as error:  # OSError, ValueError and more for the same user mistake
            reason = str(error).strip().split("\n")[0][:200]
            raise ConfigError(
                f"embedding model {name!r} cannot be loaded ({reason}); give a local folder, or a hub name that this "
                "machine can reach"
            ) from None

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of passages, float32 (texts, dimension)."""
        return _unit(self.model.encode_document(list(texts), show_progress_bar=False))

    def question(self, text: str) -> np.ndarray:
        """Return the vector of a question, float32 (dimension,)."""
        return _unit(self.model.encode_query([text], show_progress_bar=False))[0]

    def identity(self) -> EmbeddingIdentity:
        """Return by what the model's vectors are known again."""
        return EmbeddingIdentity(self.name, tuple(map(tuple, self.documents(PROBES).tolist())))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Dense:
    """Ranks by the cosine of embeddings, all of them in memory."""

    def __init__(self, embedder: Embedder):
        """Begin without chunks; they are embedded as they are added."""
        self.embedder = embedder
        self._chunks: list[Chunk] = []
        self._vectors: list[np.ndarray] = []

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Embed chunks and add them to those that are searched."""
        if chunks:
            self._chunks += chunks
            self._vectors.append(self.embedder.documents([chunk.text for chunk in chunks]))

    @property
    def stored_bytes(self) -> int:
        """Bytes of the vectors."""
        return sum(vectors.nbytes for vectors in self._vectors)

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the `k` chunks whose vectors have the highest cosine with the question's, best first."""
        if not self._chunks:
            return []
        if len(self._vectors) > 1:
            self._vectors = [np.concatenate(self._vectors)]
        cosines = self._vectors[0] @ self.embedder.question(question)
        return [Hit(self._chunks[i], float(cosines[i])) for i in highest(cosines, k)]
