"""Whether each question about the text itself, or about code, has just one answer: 100,000 samples, solved from text alone.

    python -m benchmarks.text_uniqueness [--samples 100000] [--length 4096] [--json out.json]
    python -m benchmarks.text_uniqueness --samples 20000 --corpus novels/    # questions about a folder of one's own

The solver (`text_solver.py`) reads prompt and question and shares no code with the tasks. Of absent twins it finds nothing.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import uniqueness_run
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


def judge(haystacks: Haystacks, tasks: tuple[str, ...], length: int, index: int) -> tuple[Sample, list[str]]:
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
    limits = uniqueness_run.Limits(samples, length, seconds=seconds)
    judged = partial(judge, haystacks, tasks, length)
    if not uniqueness_run.report(tasks, judged, limits, json_file, corpus=corpus):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
