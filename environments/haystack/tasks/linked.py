"""Tasks whose needles belong together: a graph of facts, asked as a whole.

    chain     A -> B -> C ... -> value: the question names the head and the kinds of the links
    update    one key, several dated values: the latest, the one on a date, or how many
    find_all  everyone who meets a condition
    count     how many meet it
    order     who met it, in order of time
    join      the value of the one person who meets a condition: two facts stated far apart

Each has an `absent_` twin whose answer is not in the text: a cut chain, a key never stated, a condition nobody meets.
Around them stand near-duplicates of what is asked for ("distractor") and chains of other people ("decoy", `decoys.py`).
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random

from environments.haystack.facts import PLACES, RELATION, RELATIONS, Entity, Fact, Relation, ask, state
from environments.haystack.options import ANY, UPDATE_ASKS
from environments.haystack.tasks.linked_wordings import (
    ARRIVAL,
    CHANGE,
    CHANGES,
    EVENTS,
    LINKS,
    Event,
    Link,
    draw_days,
    spell,
)
from environments.haystack.tasks.task import Draw, Needles, Quiz, answer_or_none
from environments.haystack.wording import capitalised, sentence

LAST_FOR = 10_000  # days within which the last of several values may still be asked for
DETOURS = 4  # chains that begin like the one asked for and part from it by another kind of link

Place = tuple[str, str]  # as the text names it, and as the question does


# ---- chain ----


@dataclass(frozen=True, slots=True)
class Edge:
    """A fact of the graph, from a person to another or to a value, with the template that words it."""

    template: str
    start: Entity
    end: str
    role: str

    @property
    def needle(self) -> tuple[str, str]:
        """The fact as a sentence, with its role."""
        return sentence(self.template, e=self.start.told, v=self.end), self.role


@dataclass(frozen=True)
class Route:
    """The chain asked for: `kinds[i]` leads from `people[i]` to the next one; the last kind, a relation, to the value."""

    people: list[Entity]
    kinds: list[Link | Relation]

    def edges(
        self, people: list[Entity], kinds: list[Link | Relation], value: str, role: str, rng: Random
    ) -> list[Edge]:
        """Return an edge from each of these people to the next, and from the last to the value, each of its kind."""
        ends = [*(person.told for person in people[1:]), value]
        return [Edge(rng.choice(k.told), a, b, role) for k, a, b in zip(kinds, people, ends, strict=True)]


def chain(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for a value several people away from the one named; absent: one fact between is missing."""
    rng, hops, twins = draw.rng, draw.number("hops"), draw.options.distractors
    people = [draw.person() for _ in range(hops)]
    # Two mutual links in a row lead back too, to someone without the value; recipes in people's files keep such chains.
    links = [rng.choice(LINKS) for _ in range(hops - 1)]
    relation = draw.relation([r.name for r in RELATIONS])
    values = draw.values(relation, 1 + twins + DETOURS)
    route = Route(people, [*links, RELATION[relation]])

    *path, last = route.edges(people, route.kinds, values[0], "link", rng)
    path.append(replace(last, role="answer"))
    unreachable: list[Edge] = []
    if absent:
        cut = rng.randrange(hops)
        # What stands behind the cut cannot be reached from the head, so no answer rests on it.
        unreachable = [replace(edge, role="distractor") for edge in path[cut + 1 :]]
        del path[cut:]
    edges = [*path, *unreachable, *_twins(draw, route, values[1 : 1 + twins])]
    if twins:
        edges += _detours(draw, route, values[1 + twins :])

    words = [f"Start with {people[0].asked}."]
    words += [f"Go to {(link.asked_gap if draw.gap else link.asked).format(x='that person')}." for link in links]
    words.append(ask("the person you have come to", relation, draw.gap))
    answer = answer_or_none(absent, "one", values[:1], RELATION[relation].kind, [person.told for person in people[1:]])
    return Quiz(tuple(edge.needle for edge in edges), tuple(values), " ".join(words), answer, hops)


def _twins(draw: Draw, route: Route, values: list[str]) -> list[Edge]:
    """Return edges from near-duplicates of the people on the way to strangers or, at its end, to other values."""
    edges, hops = [], len(route.people)
    for i, value in enumerate(values):
        twin = draw.twin(route.people[i % hops])
        end = draw.person().told if i % hops < hops - 1 else value
        edges.append(Edge(draw.rng.choice(route.kinds[i % hops].told), twin, end, "distractor"))
    return edges


def _detours(draw: Draw, route: Route, values: list[str]) -> list[Edge]:
    """Return chains that leave the route by another kind of link, and go on by the route's kinds to another value.

    Only the kind tells them apart, so no two edges of one kind may leave one person.
    """
    edges: list[Edge] = []
    parted: set[tuple[int, str]] = set()
    hops = len(route.people)
    for value, _ in zip(values, range(hops - 1), strict=False):
        fork = draw.rng.randrange(hops - 1)
        other = draw.rng.choice([link for link in LINKS if link is not route.kinds[fork]])
        if (fork, other.name) in parted:
            continue
        parted.add((fork, other.name))
        people = [route.people[fork], *(draw.person() for _ in range(hops - 1 - fork))]
        edges += route.edges(people, [other, *route.kinds[fork + 1 :]], value, "decoy", draw.rng)
    return edges


# ---- update ----


def update(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about a value that changes with time: the latest, the one on a day, or how many there were.

    Absent: nothing is said of the person asked about, only of near-duplicates.
    """
    rng = draw.rng
    change = CHANGE[draw.relation([change.relation for change in CHANGES])]
    target = draw.person()
    versions = draw.number("versions")
    asked = draw.options.update_ask if draw.options.update_ask != ANY else rng.choice(UPDATE_ASKS)
    twins = [draw.twin(target) for _ in range(draw.options.distractors or absent)]
    people = twins if absent else [target, *twins]
    values = draw.values(change.relation, versions * len(people))
    days = draw_days(versions, rng)
    right = {"current": versions - 1, "then": rng.randrange(versions), "times": None}[asked]
    needles: Needles = []
    for i, person in enumerate(people):
        dates = days if person is target else draw_days(versions, rng)
        for version, day in enumerate(dates):
            value = values[i * versions + version]
            text = sentence(rng.choice(change.told), d=spell(day), e=person.told, v=value)
            role = "answer" if right in (version, None) else "superseded"
            needles.append((text, role if person is target else "distractor"))
    asked_day = _day_within(days, right or 0, rng)
    wording = {"current": change.current, "then": change.then, "times": change.times}[asked][draw.gap]
    question = wording.format(e=target.asked, d=spell(asked_day))
    kind = "count" if asked == "times" else RELATION[change.relation].kind
    value = str(versions) if right is None else values[right]
    return Quiz(tuple(needles), tuple(values), question, answer_or_none(absent, "one", [value], kind))


def _day_within(days: list[date], i: int, rng: Random) -> date:
    """Draw a day after day `i` and before the next one; any, so that no day in the text is always the one before it."""
    rest = (days[i + 1] - days[i]).days - 1 if i + 1 < len(days) else LAST_FOR
    return days[i] + timedelta(days=rng.randint(1, rest))


# ---- conditions: find_all, count, order, join ----


def _condition(draw: Draw) -> tuple[Event, Place, str]:
    event, place = draw.rng.choice(EVENTS), draw.rng.choice(PLACES)
    return event, place, (event.asked_gap if draw.gap else event.asked).format(p=place[draw.gap])


def _nearly(event: Event, place: Place, i: int, stranger: Entity, rng: Random) -> str:
    """Return a sentence about a stranger who nearly meets the condition, so that neither event nor place alone tells it.

    For odd `i` it is the same event at another place, for even `i` another event at the same place.
    """
    if i % 2:
        where, what = rng.choice([p for p in PLACES if p != place])[0], event
    else:
        where, what = place[0], rng.choice([e for e in EVENTS if e is not event])
    return sentence(rng.choice(what.told), e=stranger.told, p=where)


def _crowd(draw: Draw, absent: bool) -> tuple[list[str], Needles, str]:
    """Draw a condition, and return who meets it, the needles about them and about others, and the condition.

    Around them stand people who nearly meet it: at another place, or by another event.
    """
    rng, (event, place, condition) = draw.rng, _condition(draw)
    people = [draw.person(named=True) for _ in range(0 if absent else draw.number("matches"))]
    needles: Needles = [(sentence(rng.choice(event.told), e=p.told, p=place[0]), "answer") for p in people]
    for i in range(draw.options.distractors):
        stranger = draw.twin(people[i % len(people)]) if people and i % 2 else draw.person(named=True)
        needles.append((_nearly(event, place, i, stranger, rng), "distractor"))
    return [person.told for person in people], needles, capitalised(condition)


def find_all(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for everyone who meets a condition; absent: nobody does."""
    names, needles, condition = _crowd(draw, absent)
    answer = answer_or_none(absent, "set", names, "people")
    return Quiz(tuple(needles), tuple(names), f"{condition}? Name all of them.", answer, several=True)


def count(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks how many people meet a condition; absent: nobody does."""
    names, needles, condition = _crowd(draw, absent)
    answer = answer_or_none(absent, "one", [str(len(names))], "count")
    return Quiz(tuple(needles), tuple(names), f"{condition}? Say only how many people.", answer)


def order(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks who arrived at a place, in order of date; absent: nobody did."""
    rng, place = draw.rng, draw.rng.choice(PLACES)
    n = 0 if absent else draw.number("matches")
    people = [draw.person(named=True) for _ in range(n)]
    strangers = [draw.person(named=True) for _ in range(draw.options.distractors or absent)]
    days = draw_days(n + len(strangers), rng)
    rng.shuffle(days)
    needles: Needles = []
    for i, (person, day) in enumerate(zip([*people, *strangers], [*sorted(days[:n]), *days[n:]], strict=True)):
        where = place[0] if i < n else rng.choice([p for p in PLACES if p != place])[0]
        text = sentence(rng.choice(ARRIVAL.told), d=spell(day), e=person.told, p=where)
        needles.append((text, "answer" if i < n else "distractor"))
    condition = (ARRIVAL.asked_gap if draw.gap else ARRIVAL.asked).format(p=place[draw.gap])
    question = f"{capitalised(condition)}? List them by date, earliest first."
    names = tuple(person.told for person in people)
    answer = answer_or_none(absent, "partial_order" if draw.options.partial_order else "order", names, "people")
    return Quiz(tuple(needles), names, question, answer, several=True)


def join(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for the value of the one person who meets a condition.

    Absent: one of the two facts, the person's value or that they meet the condition, is missing.
    """
    rng, (event, place, condition) = draw.rng, _condition(draw)
    relation = draw.relation([r.name for r in RELATIONS])
    person, others = draw.person(), [draw.person() for _ in range(draw.options.distractors or absent)]
    values = draw.values(relation, 1 + len(others))
    met = sentence(rng.choice(event.told), e=person.told, p=place[0])
    has = state(Fact(person, relation, values[0]), False, rng)
    needles: Needles = [(met, "link"), (has, "answer")]
    if absent:
        needles = [(met, "link")] if rng.random() < 0.5 else [(has, "distractor")]
    for i, other in enumerate(others):  # others have values, and were elsewhere or did something else there
        needles.append((_nearly(event, place, i, other, rng), "distractor"))
        needles.append((state(Fact(other, relation, values[1 + i]), False, rng), "distractor"))
    question = f"Find the person {condition}. {ask('that person', relation, draw.gap)}"
    answer = answer_or_none(absent, "one", values[:1], RELATION[relation].kind, [person.told])
    return Quiz(tuple(needles), tuple(values), question, answer, 2)
