"""Ways of answering by a rule, honest ones and adversaries: functions (sample, rng) -> completion that see the text alone."""

import re
from collections.abc import Callable
from functools import cache
from random import Random

from environments.haystack.facts import BY_KIND, VALUE_KINDS, parse
from environments.haystack.sample import Sample
from environments.haystack.tasks.task import NONE

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
    """The numbers of all passages."""
    return [int(n) for n in re.findall(r"(?:^|\n\n)\[(\d+)\] ", sample.messages[0]["content"])]


def passages_of(sample: Sample, values: list[str]) -> list[int]:
    """The passages in which the values stand."""
    return sorted({needle.passage for needle in sample.needles if any(value in needle.text for value in values)})


@cache
def ten_thousand_of(kind: str) -> list[str]:
    """Values of one kind, drawn at random."""
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
