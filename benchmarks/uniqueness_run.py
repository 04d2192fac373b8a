"""Makes samples of tasks and options in turn, has a solver judge each, and prints how many are sound."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from environments.haystack.layout import LayoutError
from environments.haystack.sample import Haystacks, Options, Sample

SEEDS_PER_POOL = 8192  # a pool and its decoys take seconds to write
_MORE: tuple[dict[str, Any], ...] = (
    {},
    {"distractors": 0},
    {"distractors": 6, "hops": "2-5", "versions": "2-4", "decoys": 2},
    {"distractors": 1, "decoys": 0, "hops": "2-8", "versions": "2-12", "matches": "2-16", "min_span": 0.6},
)
VARIANTS: tuple[dict[str, Any], ...] = tuple(
    {"lexical_gap": gap, "numbered": numbered, **more}
    for gap, numbered, more in product((False, True), (False, True), _MORE)
)
Faults = Callable[[Sample, bool], list[str]]  # of a sample, with a lexical gap or without


class Limits(NamedTuple):
    """How many samples of how many tokens to judge, from which index on, and for how long; 0 seconds is no limit."""

    samples: int
    length: int
    seed: int = 0
    seconds: float = 0


def judge(
    haystacks: Haystacks, index: int, length: int, tasks: Sequence[str], faults: Faults
) -> tuple[Sample, list[str]]:
    """The `index`-th sample of the run, and what is wrong with it."""
    number = index // len(tasks) % len(VARIANTS)
    variant = haystacks.variant(replace(haystacks.options, **VARIANTS[number]))
    request = index, "eval" if index % 5 == 0 else "train", tasks[index % len(tasks)]
    try:
        sample = variant.sample(*request, length)
    except LayoutError:  # few, of the largest variants
        sample = variant.sample(*request, 2 * length)
    return sample, faults(sample, VARIANTS[number]["lexical_gap"])


def run(tasks: Sequence[str], faults: Faults, limits: Limits, tokenizer: str, json_file: Path | None) -> bool:
    """Print, task by task, how many samples are sound; True if all are."""
    from benchmarks.reference_tokenizers import load

    pool_tokens = max(65_536, 4 * limits.length)
    haystacks = Haystacks(load(tokenizer), Options(pool_tokens=pool_tokens, seeds_per_pool=SEEDS_PER_POOL))
    return report(tasks, lambda index: judge(haystacks, index, limits.length, tasks, faults), limits, json_file)


def report(
    tasks: Sequence[str],
    judged: Callable[[int], tuple[Sample, list[str]]],
    limits: Limits,
    json_file: Path | None,
    **settings: str,
) -> bool:
    """Judge samples by their index and print, task by task, how many are sound; True if all are.

    `settings` are written beside the numbers.
    """
    rows: dict[str, Counter] = {task: Counter() for task in tasks}
    first_faults: dict[str, str] = {}
    started = time.perf_counter()
    with tqdm(range(limits.seed, limits.seed + limits.samples), unit="sample", mininterval=1) as bar:
        for index in bar:
            sample, wrong = judged(index)
            row = rows[sample.recipe["task"]]
            row["samples"] += 1
            row["faults" if wrong else "absent" if sample.answer.kind == "absent" else "unique"] += 1
            for fault in wrong:
                first_faults.setdefault(f"{sample.recipe['task']}: {fault}", f"index {index}")
            if limits.seconds and time.perf_counter() - started > limits.seconds:
                break
    taken = time.perf_counter() - started
    total = sum(rows.values(), Counter())
    columns = ("samples", "unique", "absent", "faults")
    table = Table("task", "samples", "unique", "rightly absent", "faults")
    for task, row in [*rows.items(), ("all", total)]:
        table.add_row(task, *(f"{row[c]:,}" for c in columns))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{total['samples'] / taken:.0f} samples/s of {limits.length} tokens, made and solved, in {taken:.0f} s"
    )
    for fault, where in first_faults.items():
        console.print(f"fault  {fault} ({where})")
    if json_file:
        about = {"length": limits.length, "seed": limits.seed, **settings}
        result = {**about, "seconds": taken, "first_faults": first_faults}
        counts = {task: {c: row[c] for c in columns} for task, row in [*rows.items(), ("all", total)]}
        json_file.write_text(json.dumps({**result, "tasks": counts}, indent=1))
    return not total["faults"]
