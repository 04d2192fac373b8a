"""Variable tracking: assignments in chains, one of which leads to the number that is asked for (RULER, arXiv 2404.06654).

Each chain begins with a number, "VAR XKQPA = 12345.", and hands it on, "VAR BNDTE = VAR XKQPA.". The other chains are as
long, hold numbers that differ in one digit, and their variables differ by one letter from those that are asked for.
"""

from collections.abc import Callable, Sequence
from random import Random
from string import ascii_uppercase, digits

from environments.haystack.facts import first_drawn, in_split
from environments.haystack.options import refuse_lexical_gap
from environments.haystack.tasks.task import Answer, Draw, Quiz

LETTERS, DIGITS = 5, 6


def variable_tracking(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for all variables that hold a number; absent: for a number that no variable holds.

    `hops` is the number of variables in a chain, `distractors` that of the other chains.
    """
    refuse_lexical_gap(draw.options, "variable_tracking", "the question names the number itself")
    hops = draw.number("hops")
    names = _Names(draw)
    asked = [names.new() for _ in range(hops)]
    number = names.number()
    chains = [([names.like(name) for name in asked], names.number(number)) for _ in range(draw.options.distractors)]
    needles = [] if absent else [(text, "answer") for text in _assignments(asked, number)]
    needles += [(text, "distractor") for variables, value in chains for text in _assignments(variables, value)]
    values = (*asked, number, *(name for variables, value in chains for name in (*variables, value)))
    answer = Answer("absent", (), "variables") if absent else Answer("set", tuple(asked), "variables")
    question = (
        f"Which variables hold the number {number}, be it assigned to them or to a variable from which they take it, over "
        "however many steps? Name all of them."
    )
    return Quiz(tuple(needles), values, question, answer, hops, several=True, passed="")


def _assignments(variables: Sequence[str], number: str) -> list[str]:
    sources = [number, *(f"VAR {name}" for name in variables)]
    return [f"VAR {name} = {source}." for name, source in zip(variables, sources, strict=False)]


class _Names:
    """Draws variables and numbers of one quiz, no two the same."""

    def __init__(self, draw: Draw):
        self._rng, self._split, self._used = draw.rng, draw.split, draw.used

    def new(self) -> str:
        """Draw a variable."""
        return self._first(lambda: "".join(self._rng.choices(ascii_uppercase, k=LETTERS)))

    def like(self, name: str) -> str:
        """Draw a variable one letter from this one; where all of those are taken, one letter from one of them."""
        for _ in range(LETTERS * len(ascii_uppercase)):
            near = _altered(name, ascii_uppercase, self._rng)
            if self._is_new(near):
                self._used.add(near)
                return near
            name = near if self._rng.random() < 0.1 else name
        return self.new()

    def number(self, like: str = "") -> str:
        """Draw a number; one digit from another where there is one that is not taken."""
        for _ in range(LETTERS * len(digits) if like else 0):
            near = like[0] + _altered(like[1:], digits, self._rng)
            if self._is_new(near):
                self._used.add(near)
                return near
        return self._first(lambda: str(self._rng.randrange(10 ** (DIGITS - 1), 10**DIGITS)))

    def _first(self, drawn: Callable[[], str]) -> str:
        found = first_drawn(drawn, self._is_new, f"a variable or number in {self._split}")
        self._used.add(found)
        return found

    def _is_new(self, text: str) -> bool:
        return text not in self._used and in_split(text, self._split)


def _altered(text: str, letters: str, rng: Random) -> str:
    i = rng.randrange(len(text))
    return text[:i] + rng.choice([letter for letter in letters if letter != text[i]]) + text[i + 1 :]
