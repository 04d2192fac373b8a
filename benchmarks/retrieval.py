"""Retrieval measured: how much of the evidence it finds, and how fast.

python -m benchmarks.retrieval recall [--samples 20] [--tokenizer gpt2]
    the share of samples of which all evidence stands in at most 16 chunks of 128 tokens, by one BM25 search and by hops
python -m benchmarks.retrieval passages [--lengths 131072,1048576]
    the share of questions about one document of which all evidence stands in 10 passages of 256 tokens, as memory-env looks
    them up: by windows with an overlap and by chunks of meaning, one search and hops, with the tokens that are read
python -m benchmarks.retrieval segments [--lengths 131072,1048576] [--size 36864]
    the share of these questions whose evidence stands in the segments that `lift serve` opens for them
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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

from benchmarks import reference_tokenizers
from benchmarks.memory_documents import KINDS, MANY, MadeQuestion, generate
from benchmarks.retrieval_store import BEST, QUERIES, batches, opened, queried
from environments.haystack.filler import prose
from environments.haystack.sample import NEEDED, Haystacks, Options, Sample
from environments.haystack.tokens import Tokens
from environments.memory.config import MemoryEnvConfig
from environments.retrieval.chunking import Chunk, fixed_chunks, semantic_chunks
from environments.retrieval.hops import search_in_hops
from environments.retrieval.ranking import BM25, Hit, TermIndex
from environments.retrieval.recall import evidence_recall
from environments.retrieval.terms import terms
from lift.library.segment_terms import OPENED
from longthread.command_line import App
from longthread.statistics import Share

TASKS = ("single", "chain", "graph", "hidden_question", "variable_tracking")
LENGTHS = (8_000, 32_000, 128_000)
CHUNK, K = 128, 16
ANSWERED = replace(MANY, asked=(*MANY.asked[:-1], 0))  # what is absent has no evidence

app = App()


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
        made = generate(tokens, length, seed, ANSWERED)
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


@app.command()
def segments(
    lengths: Annotated[str, typer.Option(help="Tokens of the documents.")] = "131072,1048576",
    size: Annotated[
        int, typer.Option(min=16, help="Tokens of a segment; an eighth of them is shared with the next.")
    ] = 36_864,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "smollm2",
    seed: Annotated[int, typer.Option(help="Of the documents.")] = 0,
) -> None:
    """Print for each length and kind of question how often all evidence stands in the segments that are opened."""
    from lift.training.compaction import OVERLAP  # brings torch, which no other command needs

    tokens = Tokens(reference_tokenizers.load(tokenizer))
    print("| length | segments | single | multi_key | chain |\n|---:|---:|---:|---:|---:|")
    for length in map(int, lengths.split(",")):
        made = generate(tokens, length, seed, ANSWERED)
        cut = fixed_chunks(made.text, tokens.offsets(made.text)[1], size, size // OVERLAP)
        index = TermIndex([terms(segment.text) for segment in cut])
        found = [[Hit(cut[i], 0.0) for i in index.best(question.text, OPENED)] for question in made.questions]
        shares = " | ".join(_share(kind, made.questions, found) for kind in KINDS[:-1])
        print(f"| {length:,} | {len(cut)} | {shares} |", flush=True)


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


@app.command()
def store(
    folder: Annotated[Path, typer.Argument(help="An empty folder for the store, or one that this command has filled.")],
    chunks: Annotated[int, typer.Option(min=1000, help="Chunks in the store.")] = 1_000_000,
    by: Annotated[str, typer.Option(help="vectors or terms.")] = "vectors",
) -> None:
    """Print how fast a store on disk is, and what memory its queries take."""
    began = time.perf_counter()
    made = opened(folder, by)
    if not made.search("0 first", 1):
        for batch in batches(chunks):
            made.add(batch)
        written = time.perf_counter()
        made.search("0 first", 1)
        print(
            f"{chunks:,} chunks by {by}: {written - began:.0f} s to write, {time.perf_counter() - written:.0f} s to index"
        )
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        p95, of_cpu, growth, found = pool.apply(queried, (folder, chunks, by))
    print(f"p95 of {QUERIES} queries {1000 * p95:.1f} ms, mean {1000 * of_cpu:.1f} ms of CPU, ", end="")
    print(f"memory growth {growth / 2**20:.0f} MiB, load {os.getloadavg()[0]:.1f}", end="")
    print(f", {100 * found:.0f} % of the exact {BEST} best found" if by == "vectors" else "")


if __name__ == "__main__":
    app()
