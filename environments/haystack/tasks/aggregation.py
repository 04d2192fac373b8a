"""Aggregation: a ledger fills the whole text, and no line of it can be left out (as in Oolong, arXiv 2511.02817).

    On 3 May 1874 Stask Nekim brought in 37 sacks of wool.

Asked is, by the option `aggregate_ask`: the `count` of a person's or a good's deliveries, the person or the good with the
`most`, the `total` of a person's sacks, who was the `first` or the `last` to bring a good, and how the counts of two people
`compare`. Days without a delivery close the text; they change no answer.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

import numpy as np

from environments.haystack.facts import draw_entity
from environments.haystack.layout import LayoutError
from environments.haystack.listing import Items, Listing, random_state
from environments.haystack.options import AGGREGATE_ASKS, ANY
from environments.haystack.tasks.linked_wordings import spell
from environments.haystack.tasks.task import Answer, Draw, Quiz
from environments.haystack.tasks.words import whole_text
from environments.haystack.tokens import Tokens

GOODS = ("barley", "cheese", "coal", "copper", "flour", "salt", "sugar", "timber", "wool")
PEOPLE, MOST_SACKS = 12, 99
EPOCH = date(1500, 1, 1)
IDLE, IDLE_DAYS = (
    ("On {d} nothing came in.", "On {d} it rained, and nothing came in.", "On {d} the gate stayed shut.",
     "On {d} fog lay over the road, and no cart came through.", "On {d} all the town was at the fair."),
    240,
)  # fmt: skip
A_PARAGRAPH = 8  # lines
FEWEST = 8  # deliveries in a text
ABSENT_ASKS = ("count", "total", "first", "last")  # those that ask about one person or one good


class Ledger(Items):
    """Deliveries, and behind them days without one. Columns of the deliveries, int64: `person`, `good`, `sacks`, `day`."""

    def __init__(self, tokens: Tokens, split: str, number: int, at_least: int):
        rng = Random(f"ledger {split} {number}")
        people: dict[str, None] = {}
        while len(people) < PEOPLE:
            people.setdefault(draw_entity(split, False, rng).told)
        self.people = list(people)
        lines = [
            _delivery(self.people[i % PEOPLE], GOODS[i % len(GOODS)], 1 + i % MOST_SACKS, EPOCH) for i in range(99)
        ]
        self.deliveries = int(at_least / float(np.mean(tokens.mid(lines)))) + FEWEST
        drawn = [
            (rng.randrange(PEOPLE), rng.randrange(len(GOODS)), rng.randint(1, MOST_SACKS))
            for _ in range(self.deliveries)
        ]
        self.person, self.good, self.sacks = np.array(drawn, dtype=np.int64).T
        days = rng.sample(range(max(400 * 365, 2 * self.deliveries)), self.deliveries + IDLE_DAYS)
        self.day = np.array(days[: self.deliveries], dtype=np.int64)
        dates = [EPOCH + timedelta(days=day) for day in days]
        lines = [
            _delivery(self.people[person], GOODS[good], sacks, day)
            for (person, good, sacks), day in zip(drawn, dates, strict=False)
        ]
        lines += [rng.choice(IDLE).format(d=spell(day)) for day in dates[self.deliveries :]]
        super().__init__(tokens, lines, A_PARAGRAPH)


def _delivery(person: str, good: str, sacks: int, day: date) -> str:
    return f"On {spell(day)} {person} brought in {sacks} {'sack' if sacks == 1 else 'sacks'} of {good}."


@dataclass(frozen=True)
class Question:
    """What is asked: `people` and `goods` are the numbers of those whom the question names."""

    ask: str
    text: str
    value_kind: str
    people: tuple[int, ...] = ()
    goods: tuple[int, ...] = ()


def aggregation(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about all lines of a ledger; absent: about a person or a good that stands in none of them.

    Raises `LayoutError` where there is no room for `FEWEST` deliveries.
    """
    ledger = draw.items
    assert isinstance(ledger, Ledger)
    asks = tuple(ask for ask in AGGREGATE_ASKS if draw.options.aggregate_ask in (ANY, ask))
    if absent:
        asks = tuple(ask for ask in asks if ask in ABSENT_ASKS) or ABSENT_ASKS
    question = _question(draw.rng.choice(asks), ledger, draw.rng)
    items, room = whole_text(draw, "aggregation", question.text, several=False)
    lines = _drawn(ledger, question, items.for_facts(room), absent, draw.rng)
    lines, value = _settled(ledger, question, lines)
    answer = Answer("absent", (), question.value_kind) if absent else Answer("one", (value,), question.value_kind)
    idle = ledger.deliveries + random_state(draw.rng).permutation(IDLE_DAYS)
    return Quiz((), answer.values, question.text, answer, listing=Listing(ledger, lines, idle))


def _question(ask: str, ledger: Ledger, rng: Random) -> Question:
    """Draw a question of that sort about some people and goods of the ledger."""
    (one, other), good = rng.sample(range(PEOPLE), 2), rng.randrange(len(GOODS))
    name, by_person = ledger.people[one], rng.random() < 0.5
    if ask == "most" and by_person:
        return Question(ask, "Who brought something in on the most days?", "people")
    if ask == "most":
        return Question(ask, "Which of the goods was brought in on the most days? Say only what it is.", "goods")
    if ask == "count" and by_person:
        return Question(ask, f"On how many days did {name} bring something in? Say only the number.", "amount", (one,))
    if ask == "count":
        text = f"On how many days was {GOODS[good]} brought in, by whomever? Say only the number."
        return Question(ask, text, "amount", goods=(good,))
    if ask == "total":
        text = f"How many sacks did {name} bring in altogether, of all goods? Say only the number."
        return Question(ask, text, "amount", (one,))
    if ask == "compare":
        days = f"the number of days on which {name} brought something in"
        text = f"By how much does {days} differ from that of {ledger.people[other]}? Say only the number."
        return Question(ask, text, "amount", (one, other))
    which = "earliest" if ask == "first" else "latest"
    return Question(ask, f"By date, who brought in {GOODS[good]} on the {which} day?", "people", goods=(good,))


def _drawn(ledger: Ledger, question: Question, room: int, absent: bool, rng: Random) -> np.ndarray:
    """Draw deliveries for so many tokens, int64: some people and goods more often than others, those asked about at least
    once; absent: without those. Raises `LayoutError`."""
    weights = [np.array([rng.uniform(1, 3) for _ in range(n)]) for n in (PEOPLE, len(GOODS))]
    chances = weights[0][ledger.person] * weights[1][ledger.good]
    order = np.argsort(random_state(rng).random_sample(ledger.deliveries) / chances, kind="stable")
    asked = [ledger.person[order] == person for person in question.people]
    asked += [ledger.good[order] == good for good in question.goods]
    if absent:
        order = order[~np.logical_or.reduce(asked)]
    else:
        # Of two people who are compared, the first twice: a tie can then be broken by a line of the other.
        first = [np.flatnonzero(of)[: 2 if len(asked) == 2 and not i else 1] for i, of in enumerate(asked)]
        ahead = np.concatenate([*first, np.zeros(0, np.int64)]).astype(np.int64)
        order = np.concatenate([order[ahead], np.delete(order, ahead)])
    n = ledger.fitting(order, room)
    if n < FEWEST:
        raise LayoutError(
            f"a text of {room} tokens has no room for {FEWEST} lines of a ledger; ask for a longer prompt",
            setting="lengths",
        )
    return order[:n]


def _settled(ledger: Ledger, question: Question, lines: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the lines, without some that would leave two answers as good, and the answer."""
    if question.ask == "most":
        column = ledger.person if question.value_kind == "people" else ledger.good
        lines, winner = _one_ahead(column, lines)
        return lines, (ledger.people if question.value_kind == "people" else GOODS)[winner]
    if question.ask == "compare":
        one, other = (int((ledger.person[lines] == person).sum()) for person in question.people)
        if one == other:
            lines = np.delete(lines, np.flatnonzero(ledger.person[lines] == question.people[1])[-1])
        return lines, str(abs(one - other) or 1)
    column, number = (ledger.person, question.people) if question.people else (ledger.good, question.goods)
    of = lines[column[lines] == number[0]]
    if question.ask in ("count", "total"):
        return lines, str(len(of) if question.ask == "count" else int(ledger.sacks[of].sum()))
    if not len(of):  # absent
        return lines, ""
    best = (np.argmin if question.ask == "first" else np.argmax)(ledger.day[of])
    return lines, ledger.people[ledger.person[of[best]]]


def _one_ahead(column: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the lines, the last of every value as frequent as the first of the most frequent ones taken out, and that."""
    counts = np.bincount(column[lines])
    winner = int(counts.argmax())
    tied = [value for value in np.flatnonzero(counts == counts[winner]).tolist() if value != winner]
    return np.delete(lines, [np.flatnonzero(column[lines] == value)[-1] for value in tied]), winner
