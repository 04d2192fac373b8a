"""What looking things up is worth against reading all: accuracy, tokens read and calls, by task and length.

    python -m benchmarks.reading [--samples 40] [--model-samples 6] [--json out.json]

All readers get the same samples, with numbers as values and replies without tags, as in the demo:

    all        the whole text, and a reader that misses nothing: right by construction, the cost of reading all
    bm25       the 5 passages that BM25 ranks highest for the question, and a reader that misses nothing: right where all
               needles that the answer rests on stand in them (recall)
    scripted   a rule that searches and reads with the tools (`reading_policies.scripted`), scored as a model is
    model bm25, model tools
               the demo's model on those passages, and with the tools in their plain form; a few samples alone (what it
               makes of whole texts stands in docs/results.md)
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.reading_policies import asking, scripted
from environments.haystack.sample import NEEDED, Haystacks, Options, Sample
from environments.haystack.tokens import BREAK, load_full_tokenizer
from environments.inference.completions import request_group
from environments.inference.contracts import Completion, CompletionRequest, PlainServer, ServerAddress
from environments.inference.embedded.demo_model import fetch
from environments.inference.embedded.server import background
from environments.inference.endpoint import Endpoint
from environments.reading.episode import Ask, Episodes, Limits, Sampling
from environments.reading.text_file import Passage, TextFile, join
from environments.rollouts.scoring import score
from longthread.statistics import estimate

TASKS = ("single", "multi_key", "chain")
LENGTHS = (8_000, 32_000, 128_000)
LIMITS = Limits(turns=8, tokens=2048)
HITS = 5
REPLY = 40  # tokens at most, as in the demo


@dataclass(frozen=True)
class Reading:
    """One sample read in one way: its score, the tokens of the text that were read, and the calls of tools."""

    score: float
    tokens: int
    calls: int


@dataclass(frozen=True)
class Row:
    """One way of reading at one task and length: means over `n` samples."""

    task: str
    length: int
    reader: str
    score: float
    stderr: float
    tokens: float
    calls: float
    n: int


def best_passages(file: TextFile, question: str) -> list[Passage]:
    """The passages that rank highest for the question, whole, in the order of the text."""
    scores = file.ranks(question)
    best = sorted(scores, key=lambda number: (-scores[number], number))[:HITS]
    return [Passage(number, file.passages[number - 1]) for number in sorted(best)]


def recalled(sample: Sample, passages: Sequence[Passage]) -> bool:
    """Whether all needles that the answer rests on stand in the passages."""
    return all(any(n.text in text for _, text in passages) for n in sample.needles if n.role in NEEDED)


def without_model(haystacks: Haystacks, sample: Sample) -> Iterator[tuple[str, Reading]]:
    """Read a sample in each way that needs no model."""
    file, tokens = TextFile.of(sample), haystacks.tokens
    passages = best_passages(file, sample.question)
    yield "all", Reading(1.0, file.count(tokens), 0)
    yield "bm25", Reading(float(recalled(sample, passages)), len(tokens.encode(join(passages))), 1)
    yield "scripted", asyncio.run(_episode(haystacks, sample, asking(scripted)))


def with_model(haystacks: Haystacks, sample: Sample, ask: Ask) -> Iterator[tuple[str, Reading]]:
    """Read a sample with a model in both ways."""
    file, tokens = TextFile.of(sample), haystacks.tokens
    passages = join(best_passages(file, sample.question))
    instruction = sample.messages[0]["content"].partition(BREAK)[0]
    content = BREAK.join([instruction, passages, file.question])
    yield "model bm25", _asked(haystacks, sample, ask, content, len(tokens.encode(passages)), 1)
    yield "model tools", asyncio.run(_episode(haystacks, sample, ask))


def _asked(haystacks: Haystacks, sample: Sample, ask: Ask, content: str, read: int, calls: int) -> Reading:
    messages = [{"role": "user", "content": content}]
    prompt = haystacks.tokens.encode(haystacks.tokens.render(messages))
    completion = asyncio.run(_reply(ask, CompletionRequest(messages, prompt, REPLY, 0.0)))
    return Reading(score(completion.text, sample.answer, "plain").score, read, calls)


async def _reply(ask: Ask, request: CompletionRequest) -> Completion:
    [completion] = await ask(request, 1)
    return completion


async def _episode(haystacks: Haystacks, sample: Sample, ask: Ask) -> Reading:
    episodes = Episodes("plain", LIMITS, haystacks.tokens, ask, lambda completion: completion.text)
    _, _, [transcript] = await episodes.run(sample, Sampling(REPLY, 0.0), 1)
    counts = transcript.reading
    earned = score(transcript.answer, sample.answer, "plain").score
    return Reading(earned, counts.tokens_read, counts.searches + counts.reads + counts.tool_errors)


def measure(haystacks: Haystacks, samples: int, model_samples: int, ask: Ask | None) -> Iterator[list[Row]]:
    """Yield the rows of each task and length."""
    for task in TASKS:
        for length in LENGTHS:
            readings: dict[str, list[Reading]] = {}
            for seed in range(samples):
                sample = haystacks.sample(seed, "eval", task, length)
                for reader, reading in without_model(haystacks, sample):
                    readings.setdefault(reader, []).append(reading)
                if ask and seed < model_samples:
                    for reader, reading in with_model(haystacks, sample, ask):
                        readings.setdefault(reader, []).append(reading)
            yield [_row(task, length, reader, group) for reader, group in readings.items()]


def _row(task: str, length: int, reader: str, readings: Sequence[Reading]) -> Row:
    scores, n = estimate(reading.score for reading in readings), len(readings)
    tokens, calls = sum(reading.tokens for reading in readings) / n, sum(reading.calls for reading in readings) / n
    return Row(task, length, reader, scores.mean, scores.stderr, tokens, calls, n)


def line(row: Row) -> str:
    """A row as a line of the Markdown table."""
    share = 100 * row.tokens / row.length
    return (
        f"| {row.task} | {row.length // 1000}k | {row.reader} | {row.score:.2f}±{row.stderr:.2f} | {row.tokens:,.0f} | "
        f"{share:.1f} % | {row.calls:.1f} | {row.n} |"
    )


def main(
    samples: Annotated[int, typer.Option(help="Samples of each task and length.", min=2)] = 40,
    model_samples: Annotated[int, typer.Option(help="Of them, for the demo's model; 0: without it.", min=0)] = 6,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers there.")] = None,
) -> None:
    """Print the table."""
    folder = fetch()
    tokenizer = load_full_tokenizer(str(folder))
    options = Options(
        value_kind="numbers",
        distractors=1,
        answer_format="plain",
        may_abstain=False,
        pool_tokens=2 * max(LENGTHS),
    )
    haystacks, rows = Haystacks(tokenizer, options), list[Row]()
    print(
        "| task | length | reader | score | tokens read | of the text | calls | n |\n|---|---:|---|---:|---:|---:|---:|---:|"
    )
    with background(folder) as url:

        async def ask(request: CompletionRequest, n: int) -> list[Completion]:
            # An endpoint's locks belong to one event loop, and each sample has its own.
            endpoint = Endpoint(PlainServer(ServerAddress(url, "x", folder.name)), tokenizer)
            return await request_group([endpoint], request, n)

        for group in measure(haystacks, samples, model_samples, ask if model_samples else None):
            rows += group
            print("\n".join(map(line, group)), flush=True)
    if json_file:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    typer.run(main)
