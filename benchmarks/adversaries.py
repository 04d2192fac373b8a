"""What gaming the reward earns: one table of strategies and tasks, to read beside `environments/rollouts/scoring.py`.

    python -m benchmarks.adversaries [--samples 200] [--json out.json]

All strategies answer the same samples, with numbered passages (where evidence is asked for too) and without, and those
that need no tags also in the format "plain". "candidate" is
honest guessing: it finds the facts of the kind that is asked for and draws among them as many as are right. No adversary
may earn more over the mix, and in a single task only where `WINS` says why. Below stands the same for linked needles, where
guessing looks up what the question names (`linked_guess`), for questions about the text itself and code, where it draws
among what stands where the answer may stand (`text_guess`), and for tasks about the whole text (`whole_guess`).
"""

import json
import re
from pathlib import Path
from random import Random
from statistics import mean
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.linked_strategies import LINKED_ADVERSARIES, LINKED_HONEST
from benchmarks.strategies import ADVERSARIES, HONEST, PLAIN_ADVERSARIES, Strategy
from benchmarks.text_strategies import TEXT_ADVERSARIES, TEXT_HONEST
from benchmarks.whole_text_strategies import WHOLE_ADVERSARIES, WHOLE_HONEST
from environments.haystack.sample import Haystacks, Options, Sample
from environments.haystack.tasks import absent_twin
from environments.rollouts.scoring import score

TASKS = ("single", "multi_key", "multi_value", "multi_query")
LINKED_TASKS = (
    "chain", "update", "find_all", "count", "order", "join", "graph", "hidden_question", "turns", "sessions",
)  # fmt: skip
TEXT_TASKS = ("cloze", "entity", "reconstruct", "code_constant", "code_chain")
WHOLE_TASKS = ("variable_tracking", "common_words", "frequent_words", "aggregation")
TWINS = {"variable_tracking": "absent_variable_tracking", "aggregation": "absent_aggregation"}
ABSENT = 0.15  # share of the mix whose fact is not in the text
LENGTH = 2048
DISTRACTORS = 3


def draw_samples(haystacks: Haystacks, n: int) -> dict[str, list[Sample]]:
    """The standard mix: `n` samples of four tasks in turn, of which a share asks for what is not there."""
    rng = Random(0)
    drawn: dict[str, list[Sample]] = {task: [] for task in (*TASKS, "absent")}
    for seed in range(n):
        task = "absent" if rng.random() < ABSENT else TASKS[seed % len(TASKS)]
        drawn[task].append(haystacks.sample(seed, "train", task, LENGTH))
    return drawn


def draw_linked(haystacks: Haystacks, n: int, tasks: tuple[str, ...] = LINKED_TASKS) -> dict[str, list[Sample]]:
    """The linked mix, or that of other tasks: in turn, of which a share asks for what is not there."""
    rng = Random(0)
    drawn: dict[str, list[Sample]] = {task: [] for task in (*tasks, "absent")}
    for seed in range(n):
        task = tasks[seed % len(tasks)]
        twin = absent_twin(task)
        absent = rng.random() < ABSENT and twin != "absent"
        length = LENGTH if task != "reconstruct" else 3 * LENGTH  # whose paragraphs stand in the question too
        drawn["absent" if absent else task].append(haystacks.sample(seed, "train", twin if absent else task, length))
    return drawn


def draw_whole(haystacks: Haystacks, n: int) -> dict[str, list[Sample]]:
    """The mix of tasks about the whole text: four in turn, of which a share asks for what is not there."""
    rng = Random(0)
    drawn: dict[str, list[Sample]] = {task: [] for task in (*WHOLE_TASKS, "absent")}
    for seed in range(n):
        task = WHOLE_TASKS[seed % len(WHOLE_TASKS)]
        # Two of the four always have an answer.
        absent = rng.random() < 2 * ABSENT and task in TWINS
        drawn["absent" if absent else task].append(
            haystacks.sample(seed, "train", TWINS[task] if absent else task, LENGTH)
        )
    return drawn


def earned(strategy: Strategy, sample: Sample, rng: Random) -> float:
    """The score of the strategy's reply."""
    options = sample.recipe["options"]
    evidence = sample.evidence if options["numbered"] else None
    reply = strategy(sample, rng)
    if options["answer_format"] == "plain":
        reply = re.sub("</?answer>", "", reply)
    return score(reply, sample.answer, options["answer_format"], evidence).score


def scores_of(strategy: Strategy, samples: dict[str, list[Sample]], draws: int = 1) -> dict[str, list[float]]:
    """The score of each sample, by task and over the mix; the mean of `draws` replies."""
    rng = Random(1)
    scores = {
        task: [mean(earned(strategy, sample, rng) for _ in range(draws)) for sample in drawn]
        for task, drawn in samples.items()
    }
    return scores | {"mix": [value for each in scores.values() for value in each]}


def measure(
    samples: dict[str, list[Sample]], strategies: tuple[Strategy, ...] = (*HONEST, *ADVERSARIES)
) -> dict[str, dict[str, float]]:
    """Mean score by strategy and task, and over the mix."""
    return {
        strategy.__name__: {task: mean(each) for task, each in scores_of(strategy, samples).items() if each}
        for strategy in strategies
    }


def to_markdown(table: dict[str, dict[str, float]], title: str) -> str:
    """The table, a row for each strategy."""
    columns = list(next(iter(table.values())))
    lines = [f"**{title}**", "", f"| strategy | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{row[c]:.3f}' for c in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


def main(
    samples: Annotated[int, typer.Option(help="Samples of the mix.", min=20)] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers there.")] = None,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
) -> None:
    """Print what each strategy earns: with evidence and without, and in the format "plain"."""
    from benchmarks.reference_tokenizers import load

    loaded = load(tokenizer)
    console = Console()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for numbered in (False, True):
        options = Options(distractors=DISTRACTORS, numbered=numbered, pool_tokens=32_768)
        title = f"{samples} samples of {LENGTH} tokens, " + ("with evidence" if numbered else "answer only")
        mode, haystacks = "evidence" if numbered else "answer", Haystacks(loaded, options)
        results[mode] = measure(draw_samples(haystacks, samples))
        linked = (*LINKED_HONEST, *LINKED_ADVERSARIES)
        results[f"linked_{mode}"] = measure(draw_linked(haystacks, samples), linked)
        results[f"text_{mode}"] = measure(
            draw_linked(haystacks, samples, TEXT_TASKS), (*TEXT_HONEST, *TEXT_ADVERSARIES)
        )
        for name, what in ((mode, ""), (f"linked_{mode}", "linked, "), (f"text_{mode}", "the text itself and code, ")):
            text = to_markdown(results[name], f"{what}{title}")
            console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
            console.print()
    whole = Haystacks(loaded, Options(distractors=DISTRACTORS, pool_tokens=32_768))
    results["whole_text"] = measure(draw_whole(whole, samples), (*WHOLE_HONEST, *WHOLE_ADVERSARIES))
    text = to_markdown(results["whole_text"], f"whole text, {samples} samples of {LENGTH} tokens")
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    console.print()
    plain = Haystacks(loaded, Options(distractors=DISTRACTORS, answer_format="plain", pool_tokens=32_768))
    results["plain"] = measure(draw_samples(plain, samples), (*HONEST, *PLAIN_ADVERSARIES))
    text = to_markdown(results["plain"], f"{samples} samples of {LENGTH} tokens, format plain")
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file:
        json_file.write_text(json.dumps({"samples": samples, "length": LENGTH, **results}, indent=1))


if __name__ == "__main__":
    typer.run(main)
