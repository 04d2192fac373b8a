"""Wordings of linked facts: person to person, person to place, and facts that change with time.

As in `facts.py`, every fact has templates to state it, a wording to ask for it with the same words, and one without
(`gap`). No template begins with `{e}`, so that people stand in the text just as they are named.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from environments.haystack.facts import RELATION
from environments.haystack.wording import reader


@dataclass(frozen=True)
class Link:
    """An edge from one person to another. `asked` and `asked_gap` name the target: "the person for whom {x} works".

    `mutual`: it holds the other way, too.
    """

    name: str
    told: tuple[str, ...]
    asked: str
    asked_gap: str
    mutual: bool = False


LINKS = (
    Link("tutor", ("The craft was taught to {e} by {v}.", "It was from {v} that {e} learned the craft."),
         "the person from whom {x} learned the craft", "the master whose apprentice was {x}"),
    Link("creditor", ("Some money is still owed by {e} to {v}.", "Every month {e} pays back a debt to {v}."),
         "the person to whom {x} still owes money", "the lender of {x}"),
    Link("neighbour", ("The garden next to that of {e} belongs to {v}.", "Next door to {e} lives {v}."),
         "the person who lives next door to {x}", "the neighbour of {x}", mutual=True),
    Link("employer", ("These days {e} takes orders from {v}.", "The wages of {e} are paid by {v}."),
         "the person who pays the wages of {x}", "the employer of {x}"),
    Link("letters", ("Every letter from {e} goes to {v}.", "Once a week {e} sends a letter to {v}."),
         "the person to whom {x} sends letters", "the correspondent of {x}"),
    Link("cousin", ("Through the mother {e} is a cousin of {v}.", "The only cousin of {e} is {v}."),
         "the cousin of {x}", "the relative of {x}", mutual=True),
    Link("landlord", ("The rent of {e} goes to {v}.", "For the lodgings {e} pays rent to {v}."),
         "the person to whom {x} pays rent", "the landlord of {x}"),
    Link("election", ("At the last election {e} lost to {v}.", "The vote for mayor went against {e} and for {v}."),
         "the person to whom {x} lost the election", "the victor over {x} at the polls"),
)  # fmt: skip
LINK = {link.name: link for link in LINKS}


@dataclass(frozen=True)
class Event:
    """Something a person did at a place. `{p}` is the place, `{d}` a date where there is one."""

    name: str
    told: tuple[str, ...]
    asked: str  # "who …", without the question mark, so that it can stand inside another question
    asked_gap: str


EVENTS = (
    Event("winter", ("All winter {e} stayed at the {p}.", "The winter found {e} staying at the {p}."),
          "who stayed at the {p} all winter", "who lodged near the {p} during the cold months"),
    Event("work", ("Since spring {e} has been employed at the {p}.", "In spring {e} was employed at the {p}."),
          "who has been employed at the {p} since spring", "who earns a living near the {p}"),
    Event("box", ("One night {e} buried a box at the {p}.", "It was {e} that buried a box at the {p}."),
          "who buried a box at the {p}", "who concealed a chest near the {p}"),
    Event("picture", ("In one week {e} painted a picture of the {p}.", "A picture of the {p} was painted by {e}."),
          "who painted a picture of the {p}", "who made a canvas that shows the {p}"),
    Event("asleep", ("By mistake {e} fell asleep at the {p}.", "Two travellers found {e} asleep at the {p}."),
          "who fell asleep at the {p}", "who dozed off near the {p}"),
    Event("watch", ("Every Sunday {e} keeps watch at the {p}.", "The watch at the {p} is kept by {e}."),
          "who keeps watch at the {p}", "who stands guard near the {p}"),
)  # fmt: skip
EVENT = {event.name: event for event in EVENTS}
ARRIVAL = Event(
    "arrival", ("On {d} the coach brought {e} to the {p}.", "The arrival of {e} at the {p} took place on {d}."),
    "who arrived at the {p}", "who turned up near the {p}",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A value that changes with time. `current`, `then` (at `{d}`) and `times` are questions for it, each as a pair:
    with the needle's words, and without them."""

    relation: str
    told: tuple[str, ...]
    current: tuple[str, str]
    then: tuple[str, str]
    times: tuple[str, str]


CHANGES = (
    Change(
        "combination",
        ("On {d} the combination that {e} uses for the safe became {v}.", "From {d} on {e} used the combination {v}."),
        ("What is the latest combination that {e} uses?", "Which digits does {e} dial nowadays?"),
        ("What was the combination that {e} used on {d}?", "Which digits did {e} dial as of {d}?"),
        ("How many combinations has {e} used?", "How many different series of digits did {e} dial?"),
    ),
    Change(
        "password",
        ("On {d} the password of {e} became {v}.", "From {d} on {e} answered to the password {v}."),
        ("What is the latest password of {e}?", "Which secret phrase must a visitor whisper to {e} nowadays?"),
        ("What was the password of {e} on {d}?", "Which secret phrase did visitors whisper to {e} as of {d}?"),
        ("How many passwords has {e} had?", "How many different secret phrases did visitors whisper to {e}?"),
    ),
    Change(
        "registration",
        ("On {d} the registration number of {e} became {v}.", "From {d} on {e} held the registration number {v}."),
        ("What is the latest registration number of {e}?", "Under which identifier is {e} listed nowadays?"),
        ("What was the registration number of {e} on {d}?", "Under which identifier was {e} listed as of {d}?"),
        ("How many registration numbers has {e} had?", "Under how many different identifiers was {e} listed?"),
    ),
    Change(
        "heir",
        ("On {d} the heir of {e} became {v}.", "From {d} on the will of {e} named as heir {v}."),
        ("Who is the latest heir of {e}?", "Who inherits the estate of {e} nowadays?"),
        ("Who was the heir of {e} on {d}?", "Who stood to inherit the estate of {e} as of {d}?"),
        ("How many heirs has {e} had?", "How many different people stood to inherit the estate of {e}?"),
    ),
)  # fmt: skip
CHANGE = {change.relation: change for change in CHANGES}


def draw_days(n: int, rng: Random) -> list[date]:
    """Draw `n` different days in rising order, at least two days apart, so that one lies between any two."""
    first = date(1500, 1, 1)
    return [first + timedelta(days=2 * d) for d in sorted(rng.sample(range(300 * 365 // 2), n))]


def spell(day: date) -> str:
    """Return the day as texts and questions write it: 3 May 1874."""
    return f"{day.day} {day:%B} {day.year}"


# ---- reading back ----


def readers() -> list[tuple[str, str, re.Pattern[str]]]:
    """Return (kind, name, pattern) for every template of links, events, changes and plain facts."""
    tables = [
        *(("link", link.name, told) for link in LINKS for told in link.told),
        *(("event", event.name, told) for event in (*EVENTS, ARRIVAL) for told in event.told),
        *(("change", change.relation, told) for change in CHANGES for told in change.told),
        *(("value", r.name, told) for r in RELATION.values() for told in r.told + r.told_one_of),
    ]
    return [(kind, name, reader(told)) for kind, name, told in tables]
