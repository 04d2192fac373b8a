"""The strategies for tasks about the whole text: a reader who opens it anywhere, and counts nothing."""

import re
from collections.abc import Sequence
from random import Random

from benchmarks.linked_strategies import task_of
from benchmarks.strategies import Strategy, abstain, echo_question, empty, reply, wanted
from environments.haystack.sample import Sample
from environments.haystack.tasks.task import NONE

FORMS = {
    "variables": r"VAR ([A-Z]{5})\b", "pairs": r"\b[a-z]+-[a-z]+\b", "codes": r"\b[^aeiouy\W]{6}\b",
    "people": r"\d{4} (\w+ \w+) brought", "goods": r"of ([a-z]+)\.", "amount": r"(\d+) sacks?\b",
}  # fmt: skip


def words_of(sample: Sample) -> list[str]:
    """Everything in the text that has the form of an answer, as often as it stands there, in order."""
    text = sample.messages[0]["content"].rsplit("\n\nQuestion: ", 1)[0]
    return re.findall(FORMS[sample.answer.value_kind], text)


def whole_right(sample: Sample, rng: Random) -> str:
    """The right answer: the ceiling."""
    return reply(sample, list(sample.answer.values) or [NONE])


def _drawn(words: Sequence[str], n: int, rng: Random) -> list[str]:
    """Draw different words, each as likely as it is frequent."""
    return list(dict.fromkeys(rng.sample(words, len(words))))[:n]


def _guess(sample: Sample, rng: Random) -> list[str]:
    if sample.answer.value_kind == "amount":  # about one in a dozen lines, or as many sacks as these hold
        lines = len(words_of(sample))
        often = rng.randint(max(1, lines // 18), max(1, lines // 8))
        return [str(often * 50 if "altogether" in sample.question else often)]
    return _drawn(words_of(sample), wanted(sample) if task_of(sample) != "variable_tracking" else 3, rng)


def whole_guess(sample: Sample, rng: Random) -> str:
    """Honest guessing: opens the text anywhere, as often as the question wants values."""
    return reply(sample, _guess(sample, rng))


def dump_text(sample: Sample, rng: Random) -> str:
    """Every value of the text, each once."""
    return reply(sample, list(dict.fromkeys(words_of(sample))))


def dump_as_it_stands(sample: Sample, rng: Random) -> str:
    """Every value of the text, as often as it stands there."""
    return reply(sample, words_of(sample))


def dump_in_prose(sample: Sample, rng: Random) -> str:
    """Every value of the text, as "a and b"."""
    return reply(sample, [" and ".join(dict.fromkeys(words_of(sample)))])


def first_words(sample: Sample, rng: Random) -> str:
    """The first values of the text, as many as are wanted."""
    return reply(sample, list(dict.fromkeys(words_of(sample)))[: wanted(sample)])


def one_word(sample: Sample, rng: Random) -> str:
    """One value, however many are wanted."""
    return reply(sample, rng.sample(words_of(sample), 1))


def same_word(sample: Sample, rng: Random) -> str:
    """One value, as often as values are wanted."""
    return reply(sample, rng.sample(words_of(sample), 1) * wanted(sample))


def twice_as_many(sample: Sample, rng: Random) -> str:
    """Twice as many values as are wanted."""
    return reply(sample, _drawn(words_of(sample), 2 * wanted(sample), rng))


def every_amount(sample: Sample, rng: Random) -> str:
    """All numbers from 0 to 999."""
    return reply(sample, [str(n) for n in range(1000)])


def most_likely_amount(sample: Sample, rng: Random) -> str:
    """Always 1, the likeliest difference of two counts in a short text."""
    return reply(sample, ["1"])


def zero(sample: Sample, rng: Random) -> str:
    """Always 0, which is right of whoever is in no line."""
    return reply(sample, ["0"])


def whole_guess_and_none(sample: Sample, rng: Random) -> str:
    """A guess and "none", to be right either way."""
    return reply(sample, [*_guess(sample, rng), NONE])


def deny_and_guess(sample: Sample, rng: Random) -> str:
    """A denial that names a guess."""
    return reply(sample, [f"The text does not say, unless it is {' and '.join(_guess(sample, rng))}"])


WHOLE_HONEST: tuple[Strategy, ...] = (whole_right, whole_guess)
WHOLE_ADVERSARIES: tuple[Strategy, ...] = (
    dump_text, dump_as_it_stands, dump_in_prose, first_words, one_word, same_word, twice_as_many, every_amount,
    most_likely_amount, zero, whole_guess_and_none, deny_and_guess, abstain, echo_question, empty,
)  # fmt: skip
