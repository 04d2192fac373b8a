"""A store on disk that `benchmarks.retrieval store` fills with drawn chunks, and its queries in a process of their own."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np

from environments.retrieval.chunking import Chunk
from environments.retrieval.dense import Embedder
from environments.retrieval.lance_store import LanceStore

QUERIES = 300
BEST = 10
DIMENSION, CENTRES, BATCH = 256, 2_000, 20_000


class Drawn:
    """Vectors in clusters, drawn by the number that a text begins with, so that a million cost seconds."""

    def __init__(self) -> None:
        self.centres = np.random.default_rng(0).normal(size=(CENTRES, DIMENSION)).astype(np.float32)

    def encode_document(self, inputs: list[str], *, show_progress_bar: bool) -> np.ndarray:
        """Return the vectors of texts that begin with a number."""
        return self.vectors([int(match[0]) if (match := re.match(r"\d+", text)) else 0 for text in inputs])

    encode_query = encode_document

    def vectors(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the vectors of numbers, (numbers, DIMENSION); those of one batch of numbers are drawn together."""
        drawn = np.empty((len(numbers), DIMENSION), np.float32)
        batches = np.array(numbers) // BATCH
        for batch in np.unique(batches):
            rng = np.random.default_rng([1, int(batch)])
            noise = rng.normal(size=(BATCH, DIMENSION)).astype(np.float32)
            of_centre = rng.integers(CENTRES, size=BATCH)
            rows = np.flatnonzero(batches == batch)
            at = np.array(numbers)[rows] % BATCH
            drawn[rows] = self.centres[of_centre[at]] + noise[at]
        return drawn


def opened(folder: Path, by: str) -> LanceStore:
    """Return the store of a folder, by vectors or by terms."""
    return LanceStore(folder, Embedder(Drawn(), "drawn") if by == "vectors" else None)


def batches(chunks: int) -> Iterator[list[Chunk]]:
    """Yield so many chunks of drawn words, each beginning with its number."""
    rng = np.random.default_rng(2)
    vocabulary = np.array([f"w{i}" for i in range(50_000)])
    words = vocabulary[np.minimum(rng.zipf(1.3, 2_000_000) - 1, len(vocabulary) - 1)].tolist()
    for first in range(0, chunks, BATCH):
        starts = rng.integers(len(words) - 40, size=min(BATCH, chunks - first)).tolist()
        numbered = enumerate(starts, first)
        yield [Chunk(f"{i} {' '.join(words[at : at + 40])}", i, i + 1, 64) for i, at in numbered]


def queried(folder: Path, chunks: int, by: str) -> tuple[float, float, int, float]:
    """Return the 95th percentile of a query's seconds, its CPU seconds, the growth of resident memory, the share found."""
    import psutil

    drawn, process = Drawn(), psutil.Process()
    numbers = Random(3).sample(range(chunks), QUERIES)
    questions = [f"{number} w{number % 5000} w{number % 700}" for number in numbers]
    vectors = dict(zip(questions, drawn.vectors(numbers), strict=True))
    embedder = Embedder(_Known(vectors, drawn), "drawn") if by == "vectors" else None
    before = process.memory_info().rss
    made, seconds, found = LanceStore(folder, embedder), [], list[list[int]]()
    most = before
    made.search(questions[-1], BEST)
    used = time.process_time()
    for question in questions:
        began = time.perf_counter()
        hits = made.search(question, BEST)
        seconds.append(time.perf_counter() - began)
        found.append([hit.chunk.start for hit in hits])
        most = max(most, process.memory_info().rss)
    used = (time.process_time() - used) / QUERIES
    share = _share_found(drawn, np.stack(list(vectors.values())), found, chunks) if embedder else 0.0
    return float(np.quantile(seconds, 0.95)), used, most - before, share


class _Known(Drawn):
    """The vectors of questions that were drawn before, so that a query's time is the store's."""

    def __init__(self, vectors: dict[str, np.ndarray], drawn: Drawn):
        self.known, self.centres = vectors, drawn.centres

    def encode_query(self, inputs: list[str], *, show_progress_bar: bool) -> np.ndarray:
        """Return the vectors of questions."""
        return np.stack([self.known[text] for text in inputs])


def _share_found(drawn: Drawn, queries: np.ndarray, found: Sequence[Sequence[int]], chunks: int) -> float:
    """Return the share of the exact best chunks that the searches found, over the first 50 queries."""
    queries = queries[:50]
    best = np.full((len(queries), 0), 0.0)
    numbers = np.full((len(queries), 0), 0)
    for first in range(0, chunks, BATCH):
        batch = np.arange(first, min(first + BATCH, chunks))
        vectors = drawn.vectors(batch.tolist())
        cosines = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        best, numbers = np.hstack([best, cosines]), np.hstack([numbers, np.tile(batch, (len(queries), 1))])
        kept = np.argsort(-best, axis=1)[:, :BEST]
        best, numbers = np.take_along_axis(best, kept, 1), np.take_along_axis(numbers, kept, 1)
    exact = [set(row) for row in numbers.tolist()]
    return float(np.mean([len(set(a) & b) / BEST for a, b in zip(found, exact, strict=False)]))
