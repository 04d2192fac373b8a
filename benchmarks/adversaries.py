"""What gaming the reward earns: one table of strategies and tasks, to read beside `environments/scoring.py`.

    python -m benchmarks.adversaries [--samples 200] [--json out.json]

Each strategy is a function (sample, rng) -> completion that sees the text, as a model does, but answers by a rule. They
all answer the same samples, plain and with numbered passages (where evidence is asked for too). "candidate" is honest
guessing: it finds the facts of the kind that is asked for and draws among them as many as are right. No adversary may
earn more over the mix, and in a single task only where `WINS` says why. Below stands the same for linked needles, where
guessing looks up what the question names (`linked_guess`).
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
from environments.haystack.sample import Haystacks, Options, Sample, absent_twin
from environments.haystack.tasks.independent import NONE
from environments.haystack.tasks.linked_wordings import readers
from environments.rollouts.scoring import score

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


# ---- linked needles ----

LINKED_TASKS = ("chain", "update", "find_all", "count", "order", "join")
GUESSED = {"count": (2, 8), "times": (2, 5)}  # what the options allow; `draw_linked` leaves them at their defaults


@cache
def _readers() -> list[tuple[str, str, re.Pattern]]:
    return readers()


def linked_facts(sample: Sample) -> list[tuple[str, str, dict[str, str]]]:
    """(kind, name, slots) of every fact, in the order of the text: what a reader sees who follows none of them."""
    texts = sorted(
        [
            *((n.token_start, n.text) for n in sample.needles),
            *zip(sample.decoys.token_starts, sample.decoys.texts, strict=True),
        ],
    )
    found = []
    for _, text in texts:
        for kind, name, pattern in _readers():
            if match := pattern.fullmatch(text) or pattern.fullmatch(text[0].lower() + text[1:]):
                found.append((kind, name, match.groupdict()))
                break
    return found


def named_in(sample: Sample, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sample.question) is not None


def task_of(sample: Sample) -> str:
    return sample.recipe["task"].removeprefix("absent_")


def linked_candidates(sample: Sample) -> list[str]:
    """What the answer may be after looking up what the question names: a person, a place, an event."""
    facts, task = linked_facts(sample), task_of(sample)
    if task in ("find_all", "count", "order"):
        there = [slots["e"] for kind, _, slots in facts if kind == "event" and named_in(sample, slots["p"])]
        return list(dict.fromkeys(there))
    if task == "update":
        mine = [slots["v"] for kind, _, slots in facts if kind == "change" and named_in(sample, slots["e"])]
        return list(dict.fromkeys(mine or [slots["v"] for kind, _, slots in facts if kind == "change"]))
    relation = BY_KIND[sample.answer.value_kind].name
    values = {slots["e"]: slots["v"] for kind, name, slots in facts if (kind, name) == ("value", relation)}
    if task == "join":
        there = [slots["e"] for kind, _, slots in facts if kind == "event" and named_in(sample, slots["p"])]
        return [values[who] for who in there if who in values] or list(values.values())
    return list(values.values())


def everyone(sample: Sample) -> list[str]:
    """All people in the text."""
    return list(dict.fromkeys(slots[s] for kind, _, slots in linked_facts(sample) for s in "ev"
                              if s == "e" or kind == "link"))  # fmt: skip


def steps(people: list[str]) -> str:
    return f"<steps>{'; '.join(people)}</steps>\n"


def linked_right(sample: Sample, rng: Random) -> str:
    """The right answer: the ceiling."""
    return reply(sample, list(sample.answer.values) or [NONE], sorted(sample.evidence))


def _guess(sample: Sample, rng: Random) -> list[str]:
    if sample.answer.value_kind == "count":
        low, high = GUESSED["times" if task_of(sample) == "update" else "count"]
        return [str(rng.randint(low, high))]
    values = linked_candidates(sample) or [NONE]
    return rng.sample(values, min(wanted(sample), len(values)))


def linked_guess(sample: Sample, rng: Random) -> str:
    """Honest guessing: looks up what the question names, and draws among what is left, as many as the question wants."""
    return reply(sample, _guess(sample, rng))


def dump_candidates(sample: Sample, rng: Random) -> str:
    """Everything that the answer may be, in the order of the text."""
    return reply(sample, linked_candidates(sample))


def dump_people(sample: Sample, rng: Random) -> str:
    """Everyone in the text, as the answer and as steps."""
    return steps(everyone(sample)) + reply(sample, everyone(sample))


def head_as_step(sample: Sample, rng: Random) -> str:
    """Those whom the question names as steps, and a wrong answer."""
    return steps([who for who in everyone(sample) if named_in(sample, who)]) + reply(sample, ["wrong"])


def steps_dump(sample: Sample, rng: Random) -> str:
    """The right steps among everyone, and a wrong answer."""
    return steps([*sample.answer.steps, *everyone(sample)]) + reply(sample, ["wrong"])


def random_steps(sample: Sample, rng: Random) -> str:
    """As many people as there are steps, at random, and a wrong answer."""
    people = everyone(sample)
    return steps(rng.sample(people, min(max(len(sample.answer.steps), 1), len(people)))) + reply(sample, ["wrong"])


def every_number(sample: Sample, rng: Random) -> str:
    """All numbers from 0 to 64."""
    return reply(sample, [str(n) for n in range(65)])


def most_likely_number(sample: Sample, rng: Random) -> str:
    """Always 3, the number that most settings allow."""
    return reply(sample, ["3"])


def first_candidate(sample: Sample, rng: Random) -> str:
    """The first in the text of what the answer may be."""
    return reply(sample, linked_candidates(sample)[:1])


def last_candidate(sample: Sample, rng: Random) -> str:
    """The last in the text: the latest value, if text were time."""
    return reply(sample, linked_candidates(sample)[-1:])


def reading_order(sample: Sample, rng: Random) -> str:
    """As many as are wanted, in the order of the text instead of time."""
    return reply(sample, linked_candidates(sample)[: wanted(sample)])


def same_many_times(sample: Sample, rng: Random) -> str:
    """One guess, as often as values are wanted."""
    return reply(sample, (linked_candidates(sample) or [NONE])[:1] * wanted(sample))


def guess_and_none(sample: Sample, rng: Random) -> str:
    """A guess and "none", to be right either way."""
    return reply(sample, [*_guess(sample, rng), NONE])


def guess_citing_all(sample: Sample, rng: Random) -> str:
    """A guess that cites every passage."""
    return reply(sample, _guess(sample, rng), passages(sample))


LINKED_HONEST: tuple[Strategy, ...] = (linked_right, linked_guess)
LINKED_ADVERSARIES: tuple[Strategy, ...] = (
    dump_candidates, dump_people, echo_question, head_as_step, steps_dump, random_steps, abstain, every_number,
    most_likely_number, first_candidate, last_candidate, reading_order, same_many_times, guess_and_none, empty,
    guess_citing_all,
)  # fmt: skip


# ---- the measurement ----


def draw_samples(haystacks: Haystacks, n: int) -> dict[str, list[Sample]]:
    """The standard mix: `n` samples of four tasks in turn, of which a share asks for what is not there."""
    rng = Random(0)
    drawn: dict[str, list[Sample]] = {task: [] for task in (*TASKS, "absent")}
    for seed in range(n):
        task = "absent" if rng.random() < ABSENT else TASKS[seed % len(TASKS)]
        drawn[task].append(haystacks.sample(seed, "train", task, LENGTH))
    return drawn


def draw_linked(haystacks: Haystacks, n: int) -> dict[str, list[Sample]]:
    """The linked mix: six tasks in turn, of which a share asks for what is not there."""
    rng = Random(0)
    drawn: dict[str, list[Sample]] = {task: [] for task in (*LINKED_TASKS, "absent")}
    for seed in range(n):
        task = LINKED_TASKS[seed % len(LINKED_TASKS)]
        absent = rng.random() < ABSENT
        drawn["absent" if absent else task].append(
            haystacks.sample(seed, "train", absent_twin(task) if absent else task, LENGTH)
        )
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


def measure(
    samples: dict[str, list[Sample]], strategies: tuple[Strategy, ...] = (*HONEST, *ADVERSARIES)
) -> dict[str, dict[str, float]]:
    """Mean score by strategy and task, and over the mix."""
    return {
        strategy.__name__: {task: mean(each) for task, each in scores_of(strategy, samples).items() if each}
        for strategy in strategies
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
        mode, haystacks = "evidence" if numbered else "answer", Haystacks(loaded, options)
        results[mode] = measure(draw_samples(haystacks, samples))
        linked = (*LINKED_HONEST, *LINKED_ADVERSARIES)
        results[f"linked_{mode}"] = measure(draw_linked(haystacks, samples), linked)
        console = Console()
        for name in (mode, f"linked_{mode}"):
            text = to_markdown(results[name], f"{'linked, ' * (name != mode)}{title}")
            console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
            console.print()
    if json_file:
        json_file.write_text(json.dumps({"samples": samples, "length": LENGTH, **results}, indent=1))


if __name__ == "__main__":
    typer.run(main)
