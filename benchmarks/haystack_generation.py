"""How fast exact haystacks are built, on one core: samples/s at 8k, 32k and 128k tokens with five needles, and
at 128k with linked ones, questions about the text itself, code, and texts whose every line or word matters.

    python -m benchmarks.haystack_generation [--seconds 3] [--json out.json]

Three columns beside ours bound it: tokenising the finished prompt once, which is what every generator that fits a length
by counting has to do at least; and joining the same passages into one string, which nothing can undercut. Every checked
sample is re-tokenised: the error is the largest difference, in tokens, between its length and the length asked for.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.reference_tokenizers import NAMES, load
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tokens import BREAK

LENGTHS = (8_192, 32_768, 131_072)
CASES = (
    ("5 needles", "multi_key", Options(distractors=4)),
    ("chain of 8, 512 decoys", "chain", Options(hops="8", decoys=512)),
    ("find 64 among 128 decoys", "find_all", Options(matches="64", decoys=128)),
    ("graph of 32, 512 decoys", "graph", Options(matches="32", decoys=512)),
    ("graph, 64 decoys", "graph", Options(decoys=64)),
    ("hidden question, 64 decoys", "hidden_question", Options(decoys=64)),
    ("turns", "turns", Options()),
    ("sessions", "sessions", Options()),
    ("5 variables, 4 chains", "variable_tracking", Options(hops="5")),
    ("common words", "common_words", Options()),
    ("frequent words", "frequent_words", Options()),
    ("ledger", "aggregation", Options()),
    ("cloze", "cloze", Options()),
    ("entity", "entity", Options()),
    ("reconstruct 4 paragraphs", "reconstruct", Options(gaps="4")),
    ("code constant", "code_constant", Options()),
    ("code chain of 8", "code_chain", Options(hops="8")),
)
CHECKED = 12  # samples re-tokenised for each row


def per_second(work: Callable[[int], Any], seconds: float) -> float:
    """Calls a second of `work(i)`, i counting up, over at least `seconds` and three calls."""
    work(0)
    count, started = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - started < seconds:
        count += 1
        work(count)
    return count / (time.perf_counter() - started)


def measure(haystacks: Haystacks, name: str, task: str, length: int, seconds: float) -> dict[str, Any]:
    """One row: our rate, the two bounds, and the error over re-tokenised samples."""
    tokens, pool = haystacks.tokens, haystacks.pool("train", 0, task)
    prompts = [tokens.render(haystacks.sample(i, "train", task, length).messages) for i in range(CHECKED)]
    texts = [p.text for p in pool.passages]
    n = max(1, int(length / pool.costs.mean()))
    ours = per_second(lambda i: haystacks.sample(i, "train", task, length), seconds)
    return {
        "task": name,
        "length": length,
        "samples_per_s": ours,
        "tokens_per_s": ours * length,
        "retokenising_per_s": per_second(lambda i: tokens.encode(prompts[i % CHECKED]), seconds),
        "join_per_s": per_second(lambda i: BREAK.join(texts[i % 7 : i % 7 + n]), seconds),
        "max_error_tokens": max(abs(len(tokens.encode(prompt)) - length) for prompt in prompts),
    }


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for each rate.")] = 3.0,
    tokenizers: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(NAMES),
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print the table of haystacks built a second."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, also for what runs in threads
    rows = []
    names = [name for name in tokenizers.split(",") if name]
    for name in tqdm(names, desc="tokenizers", unit="tokenizer"):
        tokenizer = load(name)
        for label, task, options in CASES:
            haystacks = Haystacks(tokenizer, options)
            for length in LENGTHS if task == "multi_key" else LENGTHS[-1:]:
                rows.append({"tokenizer": name, **measure(haystacks, label, task, length, seconds)})
    table = Table("tokenizer", "task", "tokens", "samples/s", "M tokens/s", "re-tokenising/s", "join/s", "error")
    for row in rows:
        table.add_row(
            row["tokenizer"],
            row["task"],
            f"{row['length']:,}",
            f"{row['samples_per_s']:.0f}",
            f"{row['tokens_per_s'] / 1e6:.1f}",
            f"{row['retokenising_per_s']:.2f}",
            f"{row['join_per_s']:.0f}",
            str(row["max_error_tokens"]),
        )
    Console(width=110).print(table)
    if json_out:
        json_out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    typer.run(main)
