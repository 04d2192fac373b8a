"""Tasks whose needles belong together: a fact graph, asked as a whole.

    chain     A -> B -> C ... -> value: the question names the head and the kinds of the links
    update    one key, several dated values: the latest, the one on a date, or how many
    find_all  everyone who meets a condition
    count     how many meet it
    order     who met it, in order of time
    join      the value of the one person who meets a condition: two facts stated far apart

Each has an `absent_` twin whose answer is not in the text: a cut chain, a key never stated, a condition nobody meets.
Around them stand near-duplicates of what is asked for ("distractor") and chains of other people ("decoy", `bank.py`).
To add a task, write a function from `Draw` to a `Quiz` and enter it in `LINKED`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random

from environments.haystack.facts import (
    PLACES,
    RELATION,
    RELATIONS,
    Entity,
    Fact,
    FactError,
    draw_entity,
    draw_values,
    near_duplicate,
    state,
)
from environments.haystack.tasks.independent import ANY_KIND, Answer, Quiz, QuizOptions
from environments.haystack.tasks.linked_wordings import (
    ARRIVAL,
    CHANGES,
    EVENTS,
    LINKS,
    Event,
    Link,
    draw_days,
    sentence,
    spell,
)

Needles = list[tuple[str, str]]
LAST_FOR = 10_000  # days within which the last of several values may still be asked for
PREFIX_DECOYS = 4  # chains that begin like the one asked for and part from it by another kind of link


@dataclass
class Draw:
    """What a task draws from. `taken` are the people of the decoys: nobody asked for may be one of them."""

    options: QuizOptions
    split: str
    rng: Random
    taken: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)

    @property
    def gap(self) -> bool:
        return self.options.lexical_gap

    def person(self, named: bool = False) -> Entity:
        """Someone new. `named`: by name even with a lexical gap, because the answer is who it is."""
        while True:
            entity = draw_entity(self.split, self.gap and not named, self.rng)
            if entity.told not in self.taken and entity.told not in self.used:
                self.used.add(entity.told)
                return entity

    def twin(self, entity: Entity) -> Entity:
        """Someone easily taken for `entity`, or for someone like it where all of those are taken."""
        near = entity
        while True:
            near = near_duplicate(near, self.split, self.rng)
            if near.told not in self.taken and near.told not in self.used:
                self.used.add(near.told)
                return near

    def values(self, relation: str, n: int) -> list[str]:
        """`n` new values, none a part of another."""
        return draw_values(RELATION[relation].kind, n, self.split, self.rng)

    def relation(self, names: Sequence[str]) -> str:
        """One of the relations, of the asked kind of value if there is such a one."""
        wanted = [n for n in names if self.options.value_kind in (ANY_KIND, RELATION[n].kind)]
        return self.rng.choice(wanted or list(names))

    def number(self, spec: str, low: int, high: int, name: str) -> int:
        return self.rng.randint(*number_range(spec, low, high, name))


def number_range(spec: str, low: int, high: int, name: str) -> tuple[int, int]:
    """The ends of a setting like "3" or "2-8". Raises `FactError` outside `low` to `high`."""
    match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", str(spec))
    if match is None:
        raise FactError(f"{name} {spec!r} must be a number or a range like {low}-{high}")
    least, most = int(match[1]), int(match[2] or match[1])
    if not low <= least <= most <= high:
        raise FactError(f"{name} {spec!r} is outside {low} to {high}")
    return least, most


def _link(link: Link, entity: Entity, target: Entity, rng: Random) -> str:
    return sentence(rng.choice(link.told), e=entity.told, v=target.told)


def _value(entity: Entity, relation: str, value: str, rng: Random) -> str:
    return state(Fact(entity, relation, value), False, rng)


# ---- chain ----


def chain(draw: Draw) -> Quiz:
    return _chain(draw, cut=False)


def absent_chain(draw: Draw) -> Quiz:
    return _chain(draw, cut=True)


def _chain(draw: Draw, cut: bool) -> Quiz:
    rng, hops = draw.rng, draw.number(draw.options.hops, 2, 8, "hops")
    people = [draw.person() for _ in range(hops)]
    links = [rng.choice(LINKS) for _ in range(hops - 1)]
    relation = draw.relation([r.name for r in RELATIONS])
    n_twins = draw.options.distractors
    values = draw.values(relation, 1 + n_twins + PREFIX_DECOYS)
    path: Needles = [(_link(link, a, b, rng), "link") for link, a, b in zip(links, people, people[1:], strict=False)]
    path.append((_value(people[-1], relation, values[0], rng), "answer"))
    others: Needles = []
    if cut:
        at = rng.randrange(len(path))
        # What stands behind the cut cannot be reached from the head, so no answer rests on it.
        others += [(text, "distractor") for text, _ in path[at + 1 :]]
        del path[at:]
    for i in range(n_twins):  # a twin of someone on the way leads elsewhere
        at = i % hops
        twin = draw.twin(people[at])
        if at < hops - 1:
            others.append((_link(links[at], twin, draw.person(), rng), "distractor"))
        else:
            others.append((_value(twin, relation, values[1 + i], rng), "distractor"))
    parted: set[tuple[int, str]] = set()  # no two edges of one kind may leave one person
    for i in range(min(PREFIX_DECOYS, hops - 1) if n_twins else 0):
        # The same beginning, parting by another kind of link, to the very end: only the kind tells them apart.
        at = rng.randrange(hops - 1)
        other = rng.choice([link for link in LINKS if link is not links[at]])
        if (at, other.name) in parted:
            continue
        parted.add((at, other.name))
        stray = [people[at], *(draw.person() for _ in range(hops - 1 - at))]
        tail = [other, *links[at + 1 :]]
        others += [(_link(k, a, b, rng), "decoy") for k, a, b in zip(tail, stray, stray[1:], strict=False)]
        others.append((_value(stray[-1], relation, values[1 + n_twins + i], rng), "decoy"))

    gap = draw.gap
    words = [f"Start with {people[0].asked}."]
    words += [f"Go to {(k.asked_gap if gap else k.asked).format(x='that person')}." for k in links]
    ask = RELATION[relation].asked_gap if gap else RELATION[relation].asked
    words.append(ask.format(e="the person you have come to", s="", is_="is"))
    steps = () if cut else tuple(person.told for person in people[1:])
    kind = RELATION[relation].kind
    answer = Answer("absent", (), kind) if cut else Answer("one", (values[0],), kind, steps)
    return Quiz((*path, *others), tuple(values), " ".join(words), answer, hops)


# ---- update ----


def update(draw: Draw) -> Quiz:
    return _update(draw, absent=False)


def absent_update(draw: Draw) -> Quiz:
    return _update(draw, absent=True)


def _update(draw: Draw, absent: bool) -> Quiz:
    rng, gap = draw.rng, draw.gap
    name = draw.relation([change.relation for change in CHANGES])
    change = next(c for c in CHANGES if c.relation == name)
    target = draw.person()
    versions = draw.number(draw.options.versions, 2, 16, "versions")
    ask = draw.options.update_ask if draw.options.update_ask != ANY_KIND else rng.choice(("current", "then", "times"))
    people = ([] if absent else [target]) + [draw.twin(target) for _ in range(draw.options.distractors or absent)]
    values = draw.values(name, versions * len(people))
    needles: Needles = []
    days = draw_days(versions, rng)
    right = {"current": versions - 1, "then": rng.randrange(versions), "times": None}[ask]
    for i, person in enumerate(people):
        mine = values[i * versions : (i + 1) * versions]
        dates = days if person is target else draw_days(versions, rng)
        for v, (day, value) in enumerate(zip(dates, mine, strict=True)):
            told = sentence(rng.choice(change.told), d=spell(day), e=person.told, v=value)
            role = "distractor" if person is not target else "answer" if right in (v, None) else "superseded"
            needles.append((told, role))
    asked_day = _day_within(days, right or 0, rng)
    wording = {"current": change.current, "then": change.then, "times": change.times}[ask][gap]
    question = wording.format(e=target.asked, d=spell(asked_day))
    kind = "count" if ask == "times" else RELATION[name].kind
    if absent:
        return Quiz(tuple(needles), tuple(values), question, Answer("absent", (), kind))
    value = str(versions) if right is None else values[right]
    return Quiz(tuple(needles), tuple(values), question, Answer("one", (value,), kind))


def _day_within(days: list[date], i: int, rng: Random) -> date:
    """A day after the `i`-th and before the next one; any, so that no day in the text is always the one before it."""
    rest = (days[i + 1] - days[i]).days - 1 if i + 1 < len(days) else LAST_FOR
    return days[i] + timedelta(days=rng.randint(1, rest))


# ---- conditions: find_all, count, order, join ----


def _crowd(draw: Draw, event: Event, place: tuple[str, str], n: int) -> tuple[list[Entity], Needles]:
    """`n` people who meet the condition, their needles, and people who nearly meet it: another place, another event."""
    rng = draw.rng
    people = [draw.person(named=True) for _ in range(n)]
    needles: Needles = [(sentence(rng.choice(event.told), e=p.told, p=place[0]), "answer") for p in people]
    for i in range(draw.options.distractors):
        stranger = draw.twin(people[i % n]) if people and i % 2 else draw.person(named=True)
        needles.append((_nearly(event, place, i, stranger, rng), "distractor"))
    return people, needles


def _nearly(event: Event, place: tuple[str, str], i: int, stranger: Entity, rng: Random) -> str:
    """The same at another place, or something else at the same place, in turn: neither alone tells the condition."""
    if i % 2:
        where, what = rng.choice([p for p in PLACES if p != place])[0], event
    else:
        where, what = place[0], rng.choice([e for e in EVENTS if e is not event])
    return sentence(rng.choice(what.told), e=stranger.told, p=where)


def _condition(draw: Draw) -> tuple[Event, tuple[str, str], str]:
    event, place = draw.rng.choice(EVENTS), draw.rng.choice(PLACES)
    return event, place, (event.asked_gap if draw.gap else event.asked).format(p=place[draw.gap])


def find_all(draw: Draw) -> Quiz:
    event, place, condition = _condition(draw)
    people, needles = _crowd(draw, event, place, draw.number(draw.options.matches, 2, 64, "matches"))
    names = tuple(p.told for p in people)
    question = f"{condition[0].upper()}{condition[1:]}? Name all of them."
    return Quiz(tuple(needles), names, question, Answer("set", names, "people"), several=True)


def absent_find_all(draw: Draw) -> Quiz:
    event, place, condition = _condition(draw)
    _, needles = _crowd(draw, event, place, 0)
    question = f"{condition[0].upper()}{condition[1:]}? Name all of them."
    return Quiz(tuple(needles), (), question, Answer("absent", (), "people"), several=True)


def count(draw: Draw) -> Quiz:
    event, place, condition = _condition(draw)
    people, needles = _crowd(draw, event, place, draw.number(draw.options.matches, 2, 64, "matches"))
    question = f"{condition[0].upper()}{condition[1:]}? Say only how many people."
    return Quiz(tuple(needles), tuple(p.told for p in people), question, Answer("one", (str(len(people)),), "count"))


def absent_count(draw: Draw) -> Quiz:
    event, place, condition = _condition(draw)
    _, needles = _crowd(draw, event, place, 0)
    question = f"{condition[0].upper()}{condition[1:]}? Say only how many people."
    return Quiz(tuple(needles), (), question, Answer("absent", (), "count"))


def order(draw: Draw) -> Quiz:
    return _order(draw, absent=False)


def absent_order(draw: Draw) -> Quiz:
    return _order(draw, absent=True)


def _order(draw: Draw, absent: bool) -> Quiz:
    rng, place = draw.rng, draw.rng.choice(PLACES)
    n = 0 if absent else draw.number(draw.options.matches, 2, 64, "matches")
    people = [draw.person(named=True) for _ in range(n)]
    strangers = [draw.person(named=True) for _ in range(draw.options.distractors or absent)]
    days = draw_days(n + len(strangers), rng)
    rng.shuffle(days)
    mine = sorted(days[:n])
    needles: Needles = []
    for i, (person, day) in enumerate(zip([*people, *strangers], [*mine, *days[n:]], strict=True)):
        where = place[0] if i < n else rng.choice([p for p in PLACES if p != place])[0]
        told = sentence(rng.choice(ARRIVAL.told), d=spell(day), e=person.told, p=where)
        needles.append((told, "answer" if i < n else "distractor"))
    condition = (ARRIVAL.asked_gap if draw.gap else ARRIVAL.asked).format(p=place[draw.gap])
    question = f"{condition[0].upper()}{condition[1:]}? List them by date, earliest first."
    names = tuple(p.told for p in people)
    if absent:
        return Quiz(tuple(needles), (), question, Answer("absent", (), "people"), several=True)
    kind = "partial_order" if draw.options.partial_order else "order"
    return Quiz(tuple(needles), names, question, Answer(kind, names, "people"), several=True)


def join(draw: Draw) -> Quiz:
    return _join(draw, absent=False)


def absent_join(draw: Draw) -> Quiz:
    return _join(draw, absent=True)


def _join(draw: Draw, absent: bool) -> Quiz:
    rng, gap = draw.rng, draw.gap
    event, place, condition = _condition(draw)
    relation = draw.relation([r.name for r in RELATIONS])
    person, others = draw.person(), [draw.person() for _ in range(draw.options.distractors or absent)]
    values = draw.values(relation, 1 + len(others))
    needles: Needles = [
        (sentence(rng.choice(event.told), e=person.told, p=place[0]), "link"),
        (_value(person, relation, values[0], rng), "answer"),
    ]
    if absent:
        needles = [needles[0]] if rng.random() < 0.5 else [(needles[1][0], "distractor")]
    for i, other in enumerate(others):  # others have values, and were elsewhere or did something else there
        needles.append((_nearly(event, place, i, other, rng), "distractor"))
        needles.append((_value(other, relation, values[1 + i], rng), "distractor"))
    ask = RELATION[relation].asked_gap if gap else RELATION[relation].asked
    question = f"Find the person {condition}. {ask.format(e='that person', s='', is_='is')}"
    kind = RELATION[relation].kind
    answer = Answer("absent", (), kind) if absent else Answer("one", (values[0],), kind, (person.told,))
    return Quiz(tuple(needles), tuple(values), question, answer, 2)


LINKED: dict[str, Callable[[Draw], Quiz]] = {
    "chain": chain,
    "update": update,
    "find_all": find_all,
    "count": count,
    "order": order,
    "join": join,
    "absent_chain": absent_chain,
    "absent_update": absent_update,
    "absent_find_all": absent_find_all,
    "absent_count": absent_count,
    "absent_order": absent_order,
    "absent_join": absent_join,
}
