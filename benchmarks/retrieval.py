"""Retrieval measured: how much of the evidence it finds, and how fast.

python -m benchmarks.retrieval recall [--samples 20] [--tokenizer gpt2]
    the share of samples of which all evidence stands in at most 16 chunks of 128 tokens, by one BM25 search and by hops
python -m benchmarks.retrieval passages [--lengths 131072,1048576]
    the share of questions about one document of which all evidence stands in 10 passages of 256 tokens, as memory-env looks
    them up: by windows with an overlap and by chunks of meaning, one search and hops, with the tokens that are read
python -m benchmarks.retrieval bm25 [--tokens 1000000]
    questions a second over chunks of 128 tokens, beside a plain scan of all chunks
python -m benchmarks.retrieval store FOLDER [--chunks 1000000] [--by vectors]
    a LanceDB store: seconds to write and to index; in a process of its own, the 95th percentile of a query, the growth of
    its resident memory, and the share of the exact 10 best chunks that are found
"""

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

from benchmarks import reference_tokenizers
from benchmarks.memory_documents import KINDS, Counts, MadeQuestion, generate
from environments.haystack.filler import prose
from environments.haystack.sample import NEEDED, Haystacks, Options, Sample
from environments.haystack.tokens import Tokens
from environments.memory.config import MemoryEnvConfig
from environments.retrieval.chunking import Chunk, fixed_chunks, semantic_chunks
from environments.retrieval.dense import Embedder
from environments.retrieval.hops import search_in_hops
from environments.retrieval.lance_store import LanceStore
from environments.retrieval.ranking import BM25, Hit
from environments.retrieval.recall import evidence_recall
from environments.retrieval.terms import terms
from longthread.statistics import Share

TASKS = ("single", "chain", "graph", "hidden_question", "variable_tracking")
LENGTHS = (8_000, 32_000, 128_000)
CHUNK, K = 128, 16
QUERIES = 300
BEST = 10
MANY = Counts(singles=64, groups=16, chains=64, asked=(200, 200, 200, 0))
DIMENSION, CENTRES, BATCH = 256, 2_000, 20_000

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# ---- recall of evidence ----


@app.command()
def recall(
    samples: Annotated[int, typer.Option(min=1, help="Samples of each task and length.")] = 20,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
) -> None:
    """Print for each task and length how often all evidence is found."""
    loaded = reference_tokenizers.load(tokenizer)
    haystacks = Haystacks(loaded, Options(may_abstain=False, pool_tokens=2 * max(LENGTHS)))
    print("| task | length | BM25 | hops | n |\n|---|---:|---:|---:|---:|")
    for task in TASKS:
        for length in LENGTHS:
            found = [_recalled(haystacks.sample(seed, "eval", task, length), Tokens(loaded)) for seed in range(samples)]
            once, hops = (sum(each) / samples for each in zip(*found, strict=True))
            print(f"| {task} | {length // 1000}k | {once:.2f} | {hops:.2f} | {samples} |", flush=True)


def _recalled(sample: Sample, tokens: Tokens) -> tuple[bool, bool]:
    """Return whether all evidence is found by one search, and by hops."""
    text = sample.messages[0]["content"].rpartition("\n\nQuestion: ")[0]
    starts = [(text.index(needle.text), len(needle.text)) for needle in sample.needles if needle.role in NEEDED]
    evidence = [(start, start + size) for start, size in starts]
    ranking = BM25()
    ranking.add(semantic_chunks(text, tokens.offsets(text)[1], CHUNK))
    once, hops = ranking.search(sample.question, K), search_in_hops(ranking, sample.question, K)
    first, second = (evidence_recall(evidence, [hit.chunk for hit in hits]).needles == 1 for hits in (once, hops))
    return first, second


# ---- recall of evidence, as memory-env looks it up ----


@app.command()
def passages(
    lengths: Annotated[str, typer.Option(help="Tokens of the documents.")] = "131072,1048576",
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "smollm2",
    seed: Annotated[int, typer.Option(help="Of the documents.")] = 0,
) -> None:
    """Print for each length, way and kind of question how often all evidence is found."""
    tokens, defaults = Tokens(reference_tokenizers.load(tokenizer)), MemoryEnvConfig()
    size, overlap, k = defaults.chunk_tokens, defaults.overlap, defaults.passages
    print("| length | chunks | search | tokens read | single | multi_key | chain | ms of CPU |")
    print("|---:|---|---|---:|---:|---:|---:|---:|")
    for length in map(int, lengths.split(",")):
        made = generate(tokens, length, seed, MANY)
        offsets = tokens.offsets(made.text)[1]
        chunkings = {
            "fixed": fixed_chunks(made.text, offsets, size, overlap),
            "semantic": semantic_chunks(made.text, offsets, size),
        }
        for chunking, chunks in chunkings.items():
            ranking = BM25()
            ranking.add(chunks)
            ranking.search("first", 1)
            for name, search in (("one", ranking.search), ("hops", partial(search_in_hops, ranking))):
                began = time.process_time()
                most = k if chunking == "fixed" else 2 * k  # chunks of meaning are shorter
                found = [_up_to(k * size, search(question.text, most)) for question in made.questions]
                spent = 1000 * (time.process_time() - began) / len(found)
                read = sum(hit.chunk.tokens for hits in found for hit in hits) / len(found)
                shares = " | ".join(_share(kind, made.questions, found) for kind in KINDS[:-1])
                print(f"| {length:,} | {chunking} | {name} | {read:,.0f} | {shares} | {spent:.1f} |", flush=True)


def _up_to(tokens: int, hits: Sequence[Hit]) -> list[Hit]:
    """Return the first hits that have at most so many tokens together."""
    counts = np.cumsum([hit.chunk.tokens for hit in hits])
    return list(hits[: int(np.searchsorted(counts, tokens, "right"))])


def _share(kind: str, questions: Sequence[MadeQuestion], found: Sequence[Sequence[Hit]]) -> str:
    """Return in how many questions of a kind all evidence was found, in per cent with Wilson's interval."""
    whole = [
        evidence_recall(question.evidence, [hit.chunk for hit in hits]).needles == 1
        for question, hits in zip(questions, found, strict=True)
        if question.kind == kind
    ]
    share = Share(sum(whole), len(whole))
    low, high = (100 * end for end in share.interval)
    return f"{100 * (share.value or 0):.1f} [{low:.1f}, {high:.1f}]"


# ---- speed of BM25 ----


@app.command()
def bm25(
    tokens: Annotated[int, typer.Option(min=1000, help="Length of the text.")] = 1_000_000,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
) -> None:
    """Print the questions a second over a text in memory."""
    counted = Tokens(reference_tokenizers.load(tokenizer))
    text = "\n\n".join(map(prose.join, islice(prose.passages(0, "train"), tokens // 300)))
    began = time.perf_counter()
    offsets = counted.offsets(text)[1]
    encoded = time.perf_counter()
    chunks = semantic_chunks(text, offsets, CHUNK)
    cut = time.perf_counter()
    ranking = BM25()
    ranking.add(chunks)
    ranking.search("first", 1)
    indexed = time.perf_counter()
    print(f"{len(offsets):,} tokens, {len(chunks):,} chunks: encoded in {encoded - began:.1f} s, ", end="")
    print(f"cut in {cut - encoded:.1f} s, indexed in {indexed - cut:.1f} s")
    questions = [" ".join(terms(chunk.text)[:12]) for chunk in Random(0).choices(chunks, k=QUERIES)]
    speed, of_cpu = _a_second(lambda question: ranking.search(question, K), questions)
    _, scan = _a_second(lambda question: _scanned(question, chunks), questions[:3])
    print(
        f"BM25: {speed:.0f} questions a second, {of_cpu:.0f} a second of CPU; a plain scan: {scan:.2f} a second of CPU",
        end="",
    )
    print(f"; ratio {of_cpu / scan:.0f}; load {os.getloadavg()[0]:.1f}")


def _a_second(search: Callable[[str], object], questions: Sequence[str]) -> tuple[float, float]:
    """Return the questions that are answered in a second, and in a second of CPU time."""
    began, used = time.perf_counter(), time.process_time()
    for question in questions:
        search(question)
    return len(questions) / (time.perf_counter() - began), len(questions) / (time.process_time() - used)


def _scanned(question: str, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks that hold the most words of the question, found by reading all of them."""
    wanted = re.compile("|".join(map(re.escape, terms(question))))
    return sorted(chunks, key=lambda chunk: -len(set(wanted.findall(chunk.text.lower()))))[:K]


# ---- a store beyond memory ----


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


@app.command()
def store(
    folder: Annotated[Path, typer.Argument(help="An empty folder for the store, or one that this command has filled.")],
    chunks: Annotated[int, typer.Option(min=1000, help="Chunks in the store.")] = 1_000_000,
    by: Annotated[str, typer.Option(help="vectors or terms.")] = "vectors",
) -> None:
    """Print how fast a store on disk is, and what memory its queries take."""
    embedder = Embedder(Drawn(), "drawn") if by == "vectors" else None
    began = time.perf_counter()
    made = LanceStore(folder, embedder)
    if not made.search("0 first", 1):
        for batch in _batches(chunks):
            made.add(batch)
        written = time.perf_counter()
        made.search("0 first", 1)
        print(
            f"{chunks:,} chunks by {by}: {written - began:.0f} s to write, {time.perf_counter() - written:.0f} s to index"
        )
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        p95, of_cpu, growth, found = pool.apply(_queried, (folder, chunks, by))
    print(f"p95 of {QUERIES} queries {1000 * p95:.1f} ms, mean {1000 * of_cpu:.1f} ms of CPU, ", end="")
    print(f"memory growth {growth / 2**20:.0f} MiB, load {os.getloadavg()[0]:.1f}", end="")
    print(f", {100 * found:.0f} % of the exact {BEST} best found" if by == "vectors" else "")


def _batches(chunks: int) -> Iterator[list[Chunk]]:
    rng = np.random.default_rng(2)
    vocabulary = np.array([f"w{i}" for i in range(50_000)])
    words = vocabulary[np.minimum(rng.zipf(1.3, 2_000_000) - 1, len(vocabulary) - 1)].tolist()
    for first in range(0, chunks, BATCH):
        starts = rng.integers(len(words) - 40, size=min(BATCH, chunks - first)).tolist()
        numbered = enumerate(starts, first)
        yield [Chunk(f"{i} {' '.join(words[at : at + 40])}", i, i + 1, 64) for i, at in numbered]


def _queried(folder: Path, chunks: int, by: str) -> tuple[float, float, int, float]:
    """Return the 95th percentile of a query's seconds, its CPU seconds, the growth of resident memory, the share found."""
    import psutil

    drawn, process = Drawn(), psutil.Process()
    numbers = Random(3).sample(range(chunks), QUERIES)
    questions = [f"{number} w{number % 5000} w{number % 700}" for number in numbers]
    vectors = dict(zip(questions, drawn.vectors(numbers), strict=True))
    embedder = Embedder(_Known(vectors, drawn), "drawn") if by == "vectors" else None
    before = process.memory_info().rss
    opened, seconds, found = LanceStore(folder, embedder), [], list[list[int]]()
    most = before
    opened.search(questions[-1], BEST)
    used = time.process_time()
    for question in questions:
        began = time.perf_counter()
        hits = opened.search(question, BEST)
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


if __name__ == "__main__":
    app()
