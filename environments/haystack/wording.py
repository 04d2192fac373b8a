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
