"""The strategies for questions about the text itself and about code: a reader who looks beside what the question quotes."""

import re
from random import Random

from benchmarks.strategies import Strategy, abstain, echo_question, empty, passages, reply
from benchmarks.text_solver import CALL, CLOZE, ENTITY, text_of
from environments.haystack.facts import VALUE_KINDS
from environments.haystack.sample import Sample
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import NONE

WORD = re.compile(r"[^\W_]{4,}")


def candidates(sample: Sample) -> list[str]:
    """What the answer may be, in the order of the text, for a reader who looks at the words next to it alone."""
    text, task = text_of(sample), TASKS[sample.recipe["task"]].question
    if task == "reconstruct":
        return [str(n) for n in range(1, sample.question.count("\n"))]
    if match := CLOZE.fullmatch(sample.question):
        before = match[1].split()[-1:]
        found = re.findall(rf"(?<!\S){re.escape(before[0])} ({WORD.pattern})", text) if before else []
        return list(dict.fromkeys(found or WORD.findall(text)))
    if match := ENTITY.fullmatch(sample.question):
        what = r"\d{2,}" if match[2] == "number" else r"(?<=[a-z,] )[A-Z][^\W_]+"
        return list(dict.fromkeys(re.findall(what, text))) or [NONE]
    pattern = VALUE_KINDS[sample.answer.value_kind].pattern
    return list(dict.fromkeys(match.group() for match in pattern.finditer(text))) or [NONE]


def text_right(sample: Sample, rng: Random) -> str:
    """The right answer: the ceiling."""
    return reply(sample, list(sample.answer.values) or [NONE], sorted(sample.evidence))


def _guess(sample: Sample, rng: Random) -> list[str]:
    values = candidates(sample)
    return rng.sample(values, len(values)) if sample.answer.value_kind == "count" else rng.sample(values, 1)


def text_guess(sample: Sample, rng: Random) -> str:
    """Honest guessing: draws among what stands where the answer may stand; of paragraphs, an order at random."""
    return reply(sample, _guess(sample, rng))


def dump_candidates(sample: Sample, rng: Random) -> str:
    """Everything that the answer may be; of paragraphs, each number twice."""
    values = candidates(sample)
    return reply(sample, values * 2 if sample.answer.value_kind == "count" else values)


def dump_in_a_sentence(sample: Sample, rng: Random) -> str:
    """The same between blanks alone."""
    return reply(sample, [" ".join(candidates(sample))])


def dump_every_word(sample: Sample, rng: Random) -> str:
    """Every word of the text."""
    return reply(sample, WORD.findall(text_of(sample)))


def whole_sentence(sample: Sample, rng: Random) -> str:
    """The sentence or the lines that hold the answer, instead of it."""
    return reply(sample, [needle.text for needle in sample.needles if needle.role == "answer"] or [NONE])


def quoted_words(sample: Sample, rng: Random) -> str:
    """A word that the question quotes; of code, the name it asks for."""
    match = CALL.fullmatch(sample.question)
    return reply(sample, [match[1] or match[2]] if match else WORD.findall(sample.question)[-1:])


def first_candidate(sample: Sample, rng: Random) -> str:
    """The first in the text of what the answer may be."""
    return reply(sample, candidates(sample)[:1])


def last_candidate(sample: Sample, rng: Random) -> str:
    """The last in the text."""
    return reply(sample, candidates(sample)[-1:])


def as_listed(sample: Sample, rng: Random) -> str:
    """Paragraphs in the order of the list."""
    return reply(sample, candidates(sample) if sample.answer.value_kind == "count" else [NONE])


def one_number_for_all(sample: Sample, rng: Random) -> str:
    """The first paragraph in every gap."""
    values = candidates(sample)
    return reply(sample, values[:1] * len(values) if sample.answer.value_kind == "count" else [NONE])


def guess_and_none(sample: Sample, rng: Random) -> str:
    """A guess and "none", to be right either way."""
    return reply(sample, [*_guess(sample, rng), NONE])


def guess_citing_all(sample: Sample, rng: Random) -> str:
    """A guess that cites every passage."""
    return reply(sample, _guess(sample, rng), passages(sample))


TEXT_HONEST: tuple[Strategy, ...] = (text_right, text_guess)
TEXT_ADVERSARIES: tuple[Strategy, ...] = (
    dump_candidates, dump_in_a_sentence, dump_every_word, whole_sentence, quoted_words, first_candidate, last_candidate,
    as_listed, one_number_for_all, guess_and_none, guess_citing_all, echo_question, abstain, empty,
)  # fmt: skip
