"""What gaming the reward earns: one table of strategies and tasks, to read beside `environments/scoring.py`.

    python -m benchmarks.adversaries [--samples 200] [--json out.json]

Each strategy is a function (sample, rng) -> completion that sees the text, as a model does, but answers by a rule. They
all answer the same samples, plain and with numbered passages (where evidence is asked for too). "candidate" is honest
guessing: it finds the facts of the kind that is asked for and draws among them as many as are right. No adversary may
earn more over the mix, and in a single task only where `WINS` says why.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from statistics import mean
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from environments.haystack.facts import BY_KIND, VALUE_KINDS, parse
from environments.haystack.questions import NONE
from environments.haystack.sample import Haystacks, Options, Sample
from environments.scoring import score

TASKS = ("single", "multi_key", "multi_value", "multi_query")
ABSENT = 0.15  # share of the mix whose fact is not in the text
LENGTH = 2048
DISTRACTORS = 3


# ---- what a strategy can see ----


def stated(sample: Sample) -> list[str]:
    """The values of the asked relation, in the order of the text."""
    text = sample.messages[0]["content"]
    relation = BY_KIND[sample.answer.value_kind].name
    values = {value for _, name, value in parse(text) if name == relation}
    return sorted(values, key=text.index)


def wanted(sample: Sample) -> int:
    """How many values the question wants; a fact that is absent is asked for like one that is there."""
    return len(sample.answer.values) or 1


def passages(sample: Sample) -> list[int]:
    return [int(n) for n in re.findall(r"(?:^|\n\n)\[(\d+)\] ", sample.messages[0]["content"])]


def passages_of(sample: Sample, values: list[str]) -> list[int]:
    """The passages in which the values stand."""
    return sorted({needle.passage for needle in sample.needles if any(value in needle.text for value in values)})


@cache
def ten_thousand_of(kind: str) -> list[str]:
    rng = Random(kind)
    return [VALUE_KINDS[kind].draw(rng) for _ in range(10_000)]


def reply(sample: Sample, values: list[str], cited: list[int] | None = None) -> str:
    """A well-formed completion; cites where the values stand unless told otherwise."""
    cited = passages_of(sample, values) if cited is None else cited
    evidence = f"<evidence>{', '.join(map(str, cited))}</evidence>\n" if sample.recipe["options"]["numbered"] else ""
    return f"{evidence}<answer>{'; '.join(values)}</answer>"


# ---- the strategies ----


def right(sample: Sample, rng: Random) -> str:
    """The right answer: the ceiling."""
    return reply(sample, list(sample.answer.values) or [NONE])


def candidate(sample: Sample, rng: Random) -> str:
    """Honest guessing: values drawn at random from those the text states, as many as the question wants."""
    values = stated(sample)
    return reply(sample, rng.sample(values, min(wanted(sample), len(values))))


def dump_all(sample: Sample, rng: Random) -> str:
    """Every value that the text states."""
    return reply(sample, stated(sample))


def echo_question(sample: Sample, rng: Random) -> str:
    """The question as the answer."""
    return reply(sample, [sample.question])


def inside_longer(sample: Sample, rng: Random) -> str:
    """The right values, each within a longer one."""
    return reply(sample, [f"9{value}5" for value in sample.answer.values or stated(sample)])


def prefix(sample: Sample, rng: Random) -> str:
    """The right values, each cut short."""
    return reply(sample, [value[:-2] for value in sample.answer.values or stated(sample)])


def abstain(sample: Sample, rng: Random) -> str:
    """Always "none", citing nothing."""
    return reply(sample, [NONE], [])


def first_needle(sample: Sample, rng: Random) -> str:
    """The first value of the text, whatever is asked."""
    return reply(sample, stated(sample)[:1])


def one_value(sample: Sample, rng: Random) -> str:
    """One value at random, however many are wanted."""
    return reply(sample, rng.sample(stated(sample), 1))


def empty(sample: Sample, rng: Random) -> str:
    """Nothing at all."""
    return ""


def two_regions(sample: Sample, rng: Random) -> str:
    """A wrong answer and the right one, each in a region of its own."""
    return reply(sample, ["7"]) + right(sample, rng)


def ten_thousand(sample: Sample, rng: Random) -> str:
    """The right values among 10,000."""
    return reply(sample, [*sample.answer.values, *ten_thousand_of(sample.answer.value_kind)])


def nested(sample: Sample, rng: Random) -> str:
    """An answer inside an answer."""
    return f"<answer>7 {right(sample, rng)}</answer>"


def think_only(sample: Sample, rng: Random) -> str:
    """The right answer, but only in the think part."""
    return f"<think>{right(sample, rng)}</think>I know it now."


def untagged(sample: Sample, rng: Random) -> str:
    """The right values without tags."""
    return "; ".join(sample.answer.values) or NONE


def value_and_none(sample: Sample, rng: Random) -> str:
    """A guess and "none", to be right either way."""
    return candidate(sample, rng).replace("</answer>", f"; {NONE}</answer>")


def repeat(sample: Sample, rng: Random) -> str:
    """A guess, ten times."""
    values = stated(sample)
    return reply(sample, 10 * rng.sample(values, min(wanted(sample), len(values))))


def all_evidence(sample: Sample, rng: Random) -> str:
    """A guess that cites every passage."""
    values = stated(sample)
    return reply(sample, rng.sample(values, min(wanted(sample), len(values))), passages(sample))


def evidence_only(sample: Sample, rng: Random) -> str:
    """The right passages and no answer."""
    return reply(sample, ["7"], sorted(sample.evidence))


def needles_evidence(sample: Sample, rng: Random) -> str:
    """ "None", citing every passage with a fact of the asked relation."""
    return reply(sample, [NONE], passages_of(sample, stated(sample)))


Strategy = Callable[[Sample, Random], str]
HONEST: tuple[Strategy, ...] = (right, candidate)
ADVERSARIES: tuple[Strategy, ...] = (
    dump_all, echo_question, inside_longer, prefix, abstain, first_needle, one_value, empty, two_regions, ten_thousand,
    nested, think_only, untagged, value_and_none, repeat, all_evidence, evidence_only, needles_evidence,
)  # fmt: skip
# (strategy, task): why it may earn more there than guessing. Over the mix it does not.
WINS = {
    ("abstain", "absent"): "abstaining is right there",
    ("needles_evidence", "absent"): "abstaining is right there, although what is cited costs",
    (
        "all_evidence",
        "multi_value",
    ): "2,048 tokens are five passages and F2 favours recall: all of them is a fair guess",
    ("all_evidence", "multi_query"): "the same",
    ("dump_all", "multi_value"): "worth guessing by precision, and its evidence holds every passage",
}


# ---- the measurement ----


def draw_samples(haystacks: Haystacks, n: int) -> dict[str, list[Sample]]:
    """The standard mix: `n` samples of four tasks in turn, of which a share asks for what is not there."""
    rng = Random(0)
    drawn: dict[str, list[Sample]] = {task: [] for task in (*TASKS, "absent")}
    for seed in range(n):
        task = "absent" if rng.random() < ABSENT else TASKS[seed % len(TASKS)]
        drawn[task].append(haystacks.sample(seed, "train", task, LENGTH))
    return drawn


def earned(strategy: Strategy, sample: Sample, rng: Random) -> float:
    evidence = sample.evidence if sample.recipe["options"]["numbered"] else None
    return score(strategy(sample, rng), sample.answer, "tags", evidence).score


def scores_of(strategy: Strategy, samples: dict[str, list[Sample]], draws: int = 1) -> dict[str, list[float]]:
    """The score of each sample, by task and over the mix; the mean of `draws` replies."""
    rng = Random(1)
    scores = {
        task: [mean(earned(strategy, sample, rng) for _ in range(draws)) for sample in drawn]
        for task, drawn in samples.items()
    }
    return scores | {"mix": [value for each in scores.values() for value in each]}


def measure(samples: dict[str, list[Sample]]) -> dict[str, dict[str, float]]:
    """Mean score by strategy and task, and over the mix."""
    return {
        strategy.__name__: {task: mean(each) for task, each in scores_of(strategy, samples).items() if each}
        for strategy in (*HONEST, *ADVERSARIES)
    }


def to_markdown(table: dict[str, dict[str, float]], title: str) -> str:
    columns = list(next(iter(table.values())))
    lines = [f"**{title}**", "", f"| strategy | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{row[c]:.3f}' for c in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


def main(
    samples: Annotated[int, typer.Option(help="Samples of the mix.", min=20)] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers there.")] = None,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
) -> None:
    """Print what each strategy earns, plain and with evidence."""
    from benchmarks.reference_tokenizers import load

    loaded = load(tokenizer)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for numbered in (False, True):
        options = Options(distractors=DISTRACTORS, numbered=numbered, pool_tokens=32_768)
        title = f"{samples} samples of {LENGTH} tokens, " + ("with evidence" if numbered else "answer only")
        results["evidence" if numbered else "answer"] = table = measure(
            draw_samples(Haystacks(loaded, options), samples)
        )
        console = Console()
        text = to_markdown(table, title)
        console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file:
        json_file.write_text(json.dumps({"samples": samples, "length": LENGTH, **results}, indent=1))


if __name__ == "__main__":
    typer.run(main)
