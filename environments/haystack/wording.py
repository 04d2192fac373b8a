"""Templates of sentences: filled with names and values, and read back out of a text."""

import re
from string import Formatter

# A whole name or description, even in "to the poet by the inn by the ...".
_NAME = r"(?:the [\w-]+ \w+ by the [\w' -]+?|(?!the )[\w' -]+?)"
# {e} an entity, {v} a value or another entity, {p} a place, {d} a date.
_SLOTS = {"e": _NAME, "v": r"[\w:-]+(?: [\w:,-]+)*?", "p": r"[\w' -]+?", "d": r"\d{1,2} [A-Z][a-z]+ \d{4}"}


def capitalised(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def sentence(template: str, **slots: str) -> str:
    """Return the template with its slots filled in and its first letter in upper case."""
    return capitalised(template.format(**slots))


def reader(template: str) -> re.Pattern[str]:
    """Return a pattern that finds sentences made from the template, with a named group for each slot.

    No template begins with a slot, so entities stand in running text as they were given.
    """
    parts = [
        re.escape(text) + (f"(?P<{slot}>{_SLOTS[slot]})" if slot else "")
        for text, slot, *_ in Formatter().parse(template)
    ]
    return re.compile("".join(parts))


# Words that replies use beside an answer: `rollouts/values.py` passes over them.
BESIDE_AN_ANSWER = frozenset(
    "a an the first second third next last finally it its he she they him them this that these those there here by of in on "
    "at for from with only both probably perhaps maybe mr mrs ms dr sure answer final my i you we do does did has have had "
    "no yes text question name names person people heir heirs".split()
)
# Words that cannot be an answer by themselves, because a reply of one of them may mean something else.
NEVER_ASKED = BESIDE_AN_ANSWER | frozenset(
    "none nothing nobody unknown unspecified null nil missing word blank and or but nor then also not who which because "
    "since as is are was were be named called to".split()
)
