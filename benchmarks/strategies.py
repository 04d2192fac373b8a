"""Ways of answering by a rule, honest ones and adversaries: functions (sample, rng) -> completion that see the text alone."""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from random import Random

from environments.haystack.facts import BY_KIND, VALUE_KINDS, parse
from environments.haystack.sample import Sample
from environments.haystack.tasks.task import NONE

# ---- what a strategy can see ----


def stated(sample: Sample) -> list[str]:
    """The values of the asked relation, in the order of the text."""
    text = sample.messages[0]["content"]
    relation = BY_KIND[sample.answer.value_kind].name
    values = {value for _, name, value in _facts_in(text) if name == relation}
    return sorted(values, key=text.index)


@lru_cache(maxsize=4096)  # every strategy reads every sample, in several draws
def _facts_in(text: str) -> list[tuple[str, str, str]]:
    return parse(text)


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
    return reply(sample, guess(sample, rng))


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


# ---- adversaries of what reading forgives: typography, lists in prose, denials, thinking ----

HYPHEN, NARROW_SPACE, ZERO_WIDTH = "\u2011", "\u202f", "\u200b"
OPENINGS = (
    "<think>", "<thinking>", "<thought>", "<reasoning>", "<seed:think>", "[THINK]", "◁think▷", "<|START_THINKING|>",
    "<|channel|>analysis<|message|>", "analysis", "<|channel>thought\n",
)  # fmt: skip


def tagged(sample: Sample, text: str) -> str:
    """A reply whose answer region is the text as it is; cites every passage with a fact of the asked relation."""
    return reply(sample, [text], passages_of(sample, stated(sample)))


def disguised(value: str) -> str:
    """The value in the typography of current models."""
    return value.upper().replace("-", HYPHEN).replace(" ", NARROW_SPACE)


def right_disguised(sample: Sample, rng: Random) -> str:
    """The right answer as a numbered list in the typography of current models: the ceiling again."""
    lines = [f"{n}. **{disguised(value)}**" for n, value in enumerate(sample.answer.values, 1)]
    return reply(sample, ["\n".join(lines) or NONE], sorted(sample.evidence))


def dump_in_prose(sample: Sample, rng: Random) -> str:
    """Every value that the text states, as "a, b and c"."""
    values = stated(sample)
    return tagged(sample, f"{', '.join(values[:-1])} and {values[-1]}")


def dump_numbered(sample: Sample, rng: Random) -> str:
    """Every value as a numbered list, disguised."""
    return tagged(sample, "\n".join(f"{n}. {disguised(value)}" for n, value in enumerate(stated(sample), 1)))


def dump_glued(sample: Sample, rng: Random) -> str:
    """Every value, with characters between them that are not drawn."""
    return tagged(sample, ZERO_WIDTH.join(stated(sample)))


def dump_run_together(sample: Sample, rng: Random) -> str:
    """Every value in lower case, with blanks alone between them."""
    return tagged(sample, " ".join(stated(sample)).lower())


def dump_in_a_box(sample: Sample, rng: Random) -> str:
    """Every value in a box of its own."""
    return tagged(sample, " ".join(rf"\boxed{{{value}}}" for value in stated(sample)))


def wrong_typography(sample: Sample, rng: Random) -> str:
    """The right values with marks that say something else: blanks for dashes, dashes for blanks, odd thousands."""
    change = str.maketrans({"-": " ", " ": "-"})
    values = sample.answer.values or stated(sample)
    return reply(sample, [f"{v[:2]},{v[2:5]},{v[5:]}" if v.isdigit() else v.translate(change) for v in values])


def deny_and_guess(sample: Sample, rng: Random) -> str:
    """A denial that names a guess, to be right either way."""
    return tagged(sample, f"The text does not mention it, unless it is {' and '.join(guess(sample, rng))}")


def guess_and_deny(sample: Sample, rng: Random) -> str:
    """A guess, and a denial as a value of its own."""
    return reply(sample, [*guess(sample, rng), "not mentioned"])


def cut_thinking(sample: Sample, rng: Random) -> str:
    """The right answer as a draft in thinking that never ends."""
    return f"{rng.choice(OPENINGS)}I could say {right(sample, rng)}, but first"


def nested_thinking(sample: Sample, rng: Random) -> str:
    """The same, with thinking of another kind that ends before it."""
    return f"<thinking>First <think>so</think> I could say {right(sample, rng)}, but first"


def drafts(sample: Sample, rng: Random) -> str:
    """Every value as a draft in thinking of its own, and no answer."""
    return "".join(f"<think>{reply(sample, [value])}</think>" for value in stated(sample))


def guess(sample: Sample, rng: Random) -> list[str]:
    """Values drawn at random from those the text states, as many as the question wants."""
    values = stated(sample)
    return rng.sample(values, min(wanted(sample), len(values)))


Strategy = Callable[[Sample, Random], str]
HONEST: tuple[Strategy, ...] = (right, right_disguised, candidate)
ADVERSARIES: tuple[Strategy, ...] = (
    dump_all, echo_question, inside_longer, prefix, abstain, first_needle, one_value, empty, two_regions, ten_thousand,
    nested, think_only, untagged, value_and_none, repeat, all_evidence, evidence_only, needles_evidence,
    dump_in_prose, dump_numbered, dump_glued, dump_run_together, dump_in_a_box, wrong_typography, deny_and_guess,
    guess_and_deny, cut_thinking, nested_thinking, drafts,
)  # fmt: skip
# Those that also say something where the reply has no tags.
PLAIN_ADVERSARIES: tuple[Strategy, ...] = (
    dump_all, echo_question, inside_longer, prefix, abstain, first_needle, one_value, empty, ten_thousand, think_only,
    value_and_none, repeat, dump_in_prose, dump_numbered, dump_glued, dump_run_together, dump_in_a_box, wrong_typography,
    deny_and_guess, guess_and_deny, cut_thinking, nested_thinking, drafts,
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
    ("dump_in_prose", "multi_value"): "the same",
    ("dump_numbered", "multi_value"): "the same",
}
