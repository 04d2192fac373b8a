"""Wordings of what is said in chats: pieces to be copied, facts told and taken back, headings of sessions.

As in `linked_wordings.py`, each is worded for the text and for the question, with the text's words and without (`gap`).
"""

import re
from dataclasses import dataclass
from random import Random

from environments.haystack.facts import WORDS, first_drawn, in_split

# ---- turns ----


@dataclass(frozen=True)
class Form:
    """A kind of piece that people say: how the text and the question call it (one, several), and its sentences."""

    told: str
    asked: tuple[str, str]  # several, with the needle's words and without
    lines: tuple[str, ...]  # {a} to {d} are words; a piece has two of them


FORMS = (
    Form("toast", ("toasts", "words spoken over a raised glass"), (
        "May the {a} never lack its {b}, nor the {c} its {d}.", "Here is to the {a} and the {b}, to the {c} and the {d}.",
        "Let the {a} outlast the {b}, and let nobody trade the {c} for the {d}.")),
    Form("riddle", ("riddles", "puzzles set in words"), (
        "Without a {a} it carries a {b}, without a {c} it opens a {d}.",
        "It has a {a} but no {b}, and it feeds a {c} from a {d}.",
        "What the {a} gives to the {b} it takes from the {c} and hides in a {d}.")),
    Form("vow", ("vows", "solemn promises"), (
        "Never again shall a {a} stand where the {b} stood, nor a {c} upon the {d}.",
        "Each year a {a} and a {b} shall be laid beside the {c} and the {d}.",
        "Before the {a} falls, the {b} and the {c} shall come back with the {d}.")),
    Form("warning", ("warnings", "words of caution"), (
        "Do not take the {a} for a {b}, and keep the {c} away from the {d}.",
        "Where the {a} meets the {b}, no {c} is safe and no {d} is dry.",
        "A {a} left by the {b} has cost more than one {c} and one {d}.")),
    Form("boast", ("boasts", "pieces of bragging"), (
        "With one {a} and half a {b} a whole {c} was lifted over the {d}.",
        "No other {a} has gone as far as this {b} did with a {c} and a {d}.",
        "For a {a} the {b} was crossed in one night, with a {c} and a {d} on board.")),
    Form("wish", ("wishes", "hopes put into words"), (
        "If only there were a {a} for each {b}, and a {c} for each {d}.",
        "One {a} more, one {b} less, and the {c} would match the {d}.",
        "That the {a} and the {b} may be as near as the {c} and the {d}.")),
)  # fmt: skip
TURN = "{s}: A {form} about the {p}! {piece}"
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
).split()


ARTICLE = re.compile(r"(?<=\b[Aa])(?= [aeiou])")


def ordinal(n: int) -> str:
    """Return "first", "second", …; from 21 on "21st", …"""
    if n <= len(ORDINALS):
        return ORDINALS[n - 1]
    return f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def draw_piece(form: Form, split: str, rng: Random) -> str:
    """Draw a piece of that form: two sentences with eight words of their own, more than 2^60 in each split."""

    def draw() -> str:
        words = rng.sample(WORDS, 8)
        lines = rng.sample(form.lines, 2)
        slots = dict(zip("abcd", words[:4], strict=True)), dict(zip("abcd", words[4:], strict=True))
        return ARTICLE.sub("n", " ".join(line.format(**slot) for line, slot in zip(lines, slots, strict=True)))

    return first_drawn(draw, lambda piece: in_split(piece, split), f"a {form.told} in {split}")


# ---- sessions ----

HEADING = "Session {n} of the chat, held on {d}."
TOLD = {
    "combination": ("{s}: From today on the combination that {e} uses for the safe is {v}.",
                    "{s}: The safe of {e} now yields to the combination {v}."),
    "password": ("{s}: From today on {e} answers to the password {v}.", "{s}: The password of {e} is now {v}."),
    "registration": ("{s}: From today on {e} holds the registration number {v}.",
                     "{s}: The registration number of {e} is now {v}."),
    "heir": ("{s}: From today on the will of {e} names as heir {v}.", "{s}: The heir of {e} is now {v}."),
}  # fmt: skip
FORGOTTEN = {
    "combination": "{s}: Please forget the combination of {e} for the safe, it has been given up.",
    "password": "{s}: Please forget the password of {e}, it has been given up.",
    "registration": "{s}: Please forget the registration number of {e}, it has been given up.",
    "heir": "{s}: Please forget the heir of {e}, the will has been torn up.",
}
NOUNS = {
    "combination": ("the combination that {e} uses for the safe", "the series of digits dialled by {e}"),
    "password": ("the password of {e}", "the secret phrase to be whispered to {e}"),
    "registration": ("the registration number of {e}", "the identifier under which one finds {e} in the rolls"),
    "heir": ("the heir of {e}", "the one to inherit the estate of {e}"),
}
CURRENT = ("According to the chat as a whole, what is {noun}?", "All in all, what is {noun} at the end?")
THEN = (
    "According to the chat up to the end of {when}, what was {noun}?",
    "Counting nothing after {when}, what was {noun}?",
)
CAVEAT = (
    "What people asked to forget, and did not tell anew by then, no longer counts.",
    "What was withdrawn, and not stated anew by then, does not count.",
)
