"""Rank the chunks of a text for a question: BM25 over their terms, and the fusion of several rankings.

Every ranking has two methods, `add` and `search`; see `Ranking`. `dense` ranks by an embedding model and `lance_store` on
disk, beyond what memory holds.
"""

import importlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np

from environments.retrieval.chunking import Chunk
from environments.retrieval.terms import terms
from longthread.errors import ConfigError
from longthread.without_packages import without

RRF_CONSTANT = 60  # of Cormack et al., SIGIR 2009, section 2
FUSED_DEPTH = 100  # chunks of each ranking that take part in a fusion


class Hit(NamedTuple):
    """A chunk that a search found, and its score: higher is better, comparable within one search alone."""

    chunk: Chunk
    score: float


class Ranking(Protocol):
    """Chunks that can be searched."""

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks to those that are searched."""

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the at most `k` chunks that rank highest for the question, best first, each once."""


class StoredRanking(Ranking, Protocol):
    """A ranking that says how many bytes it keeps beside the chunks' text."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of the index."""


def _bm25s() -> ModuleType:
    """Return bm25s, imported without JAX where nothing else has imported that.

    bm25s calls JAX at its import wherever it is installed, and JAX then takes three quarters of a GPU's memory for itself.
    Its logger is set to tell of every index; it is kept to warnings.
    """
    try:
        with without("jax"):
            found = importlib.import_module("bm25s")
    except ImportError:
        raise ConfigError("retrieval needs bm25s: pip install bm25s") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return found


class TermIndex:
    """BM25 (Lucene's variant, k1 1.5, b 0.75, by `bm25s`) over texts that are given by their terms; `size` counts them."""

    def __init__(self, of_texts: Sequence[list[str]]):
        """Index the texts. Raises `ConfigError` where bm25s is not installed."""
        bm25s = _bm25s()
        self.size, self._index = len(of_texts), None
        if any(of_texts):
            self._index = bm25s.BM25()
            self._index.index(list(of_texts), show_progress=False)

    def scores(self, question: str) -> np.ndarray:
        """Return the score of each text, float32 (texts,): 0 for one that shares no term with the question."""
        known = [term for term in terms(question) if self._index and term in self._index.vocab_dict]
        if self._index is None or not known:
            return np.zeros(self.size, np.float32)
        return self._index.get_scores(known)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the index: its arrays, and its terms in UTF-8."""
        if self._index is None:
            return 0
        arrays = (part.nbytes for part in self._index.scores.values() if isinstance(part, np.ndarray))
        return sum(arrays) + sum(len(term.encode()) for term in self._index.vocab_dict)

    def best(self, question: str, k: int) -> list[int]:
        """Return the numbers of the `k` texts that rank highest, best first; of two that rank equal, the earlier first."""
        return highest(self.scores(question), k)


class BM25:
    """Ranks by the terms that a chunk shares with the question; a chunk without any is not found.

    The index is built at the first search after chunks were added.
    """

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._index: TermIndex | None = None

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks to those that are searched."""
        self._chunks += chunks
        self._index = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of the index beside the chunks' text."""
        return self._built().stored_bytes

    def _built(self) -> TermIndex:
        if self._index is None:
            self._index = TermIndex([terms(chunk.text) for chunk in self._chunks])
        return self._index

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the at most `k` chunks that rank highest for the question, best first."""
        scores = self._built().scores(question)
        return [Hit(self._chunks[i], float(scores[i])) for i in highest(scores, k) if scores[i] > 0]


class Fused:
    """Ranks by several rankings at once: a chunk's score is the sum of 1 / (60 + its rank in each) that finds it.

    Reciprocal-rank fusion (Cormack et al., SIGIR 2009).
    """

    def __init__(self, rankings: Sequence[StoredRanking]):
        """`rankings`: of the same chunks; what is added here is added to each of them."""
        self.rankings = rankings

    @property
    def stored_bytes(self) -> int:
        """Bytes of all its rankings."""
        return sum(ranking.stored_bytes for ranking in self.rankings)

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks to each ranking."""
        for ranking in self.rankings:
            ranking.add(chunks)

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the at most `k` chunks that rank highest for the question, best first."""
        depth = max(k, FUSED_DEPTH)
        return fused((ranking.search(question, depth) for ranking in self.rankings), k)


def fused(searches: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """Return the `k` best chunks of several searches by reciprocal-rank fusion; see `Fused`."""
    scores: defaultdict[Chunk, float] = defaultdict(float)
    for hits in searches:
        for rank, hit in enumerate(hits, 1):
            scores[hit.chunk] += 1 / (RRF_CONSTANT + rank)
    best = sorted(scores, key=lambda chunk: -scores[chunk])[:k]  # a stable sort: of equals, the one found first
    return [Hit(chunk, scores[chunk]) for chunk in best]


def highest(scores: np.ndarray, k: int) -> list[int]:
    """Return the places of the `k` highest scores, highest first; of two that are equal, the earlier first."""
    k = min(max(k, 0), len(scores))
    if k == 0:
        return []
    least = np.partition(scores, -k)[-k]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")][:k].tolist()
