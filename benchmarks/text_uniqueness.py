"""Whether each question about the text itself, or about code, has just one answer: 100,000 samples, solved from text alone.

    python -m benchmarks.text_uniqueness [--samples 100000] [--length 4096] [--json out.json]
    python -m benchmarks.text_uniqueness --samples 20000 --corpus novels/    # questions about a folder of one's own

The solver (`text_solver.py`) reads prompt and question and shares no code with the tasks. Of absent twins it finds nothing.
"""

import json
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.text_solver import faults
from environments.haystack.sample import Haystacks, Options, Sample

TEXT = ("cloze", "entity", "reconstruct", "absent_cloze", "absent_entity")
CODE = ("code_constant", "code_chain", "absent_code_constant", "absent_code_chain")
_MORE: tuple[dict[str, Any], ...] = (
    {"gaps": "2"},
    {"distractors": 0, "gaps": "3"},
    {"distractors": 9, "hops": "2-8", "gaps": "4"},
)
VARIANTS: tuple[dict[str, Any], ...] = tuple(
    {"numbered": numbered, **more} for numbered, more in product((False, True), _MORE)
)


def judge(haystacks: Haystacks, tasks: tuple[str, ...], index: int, length: int) -> tuple[Sample, list[str]]:
    """Return the `index`-th sample of the run, and what is wrong with it."""
    variant = haystacks.variant(replace(haystacks.options, **VARIANTS[index // len(tasks) % len(VARIANTS)]))
    task, split = tasks[index % len(tasks)], "eval" if index % 5 == 0 else "train"
    # Paragraphs to put back stand in the question too.
    sample = variant.sample(index, split, task, 2 * length if task == "reconstruct" else length)
    return sample, faults(sample)


def main(
    samples: Annotated[int, typer.Option(help="Samples, tasks and variants in turn.", min=1)] = 100_000,
    length: Annotated[int, typer.Option(help="Tokens of each; twice as many of reconstruct.", min=1024)] = 2048,
    corpus: Annotated[str, typer.Option(help="A folder of text to ask about; prose when left out.")] = "",
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
    seconds: Annotated[float, typer.Option(help="Stop after so long; 0 is never.", min=0)] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers there.")] = None,
) -> None:
    """Print, task by task, how many samples are sound. Exits with 1 if one is not."""
    from benchmarks.reference_tokenizers import load

    own: dict[str, Any] = {"filler": "folder", "filler_path": corpus} if corpus else {}
    tasks = TEXT if corpus else (*TEXT, *CODE)
    haystacks = Haystacks(load(tokenizer), Options(pool_tokens=65_536, seeds_per_pool=8192, **own))
    rows: dict[str, Counter] = {task: Counter() for task in tasks}
    first_faults: dict[str, str] = {}
    started = time.perf_counter()
    with tqdm(range(samples), unit="sample", mininterval=1) as bar:
        for index in bar:
            sample, wrong = judge(haystacks, tasks, index, length)
            row = rows[sample.recipe["task"]]
            row["samples"] += 1
            row["faults" if wrong else "absent" if sample.answer.kind == "absent" else "unique"] += 1
            for fault in wrong:
                first_faults.setdefault(f"{sample.recipe['task']}: {fault}", f"index {index}")
            if seconds and time.perf_counter() - started > seconds:
                break
    taken = time.perf_counter() - started
    total = sum(rows.values(), Counter())
    columns = ("samples", "unique", "absent", "faults")
    table = Table("task", "samples", "unique", "rightly absent", "faults")
    for task, row in [*rows.items(), ("all", total)]:
        table.add_row(task, *(f"{row[c]:,}" for c in columns))
    Console(width=100).print(table)
    print(f"{total['samples'] / taken:.0f} samples/s, made and solved, in {taken:.0f} s")
    for fault, where in first_faults.items():
        print(f"fault  {fault} ({where})")
    if json_file:
        counts = {task: {c: row[c] for c in columns} for task, row in [*rows.items(), ("all", total)]}
        result = {"length": length, "corpus": corpus, "seconds": taken, "first_faults": first_faults, "tasks": counts}
        json_file.write_text(json.dumps(result, indent=1))
    if total["faults"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
