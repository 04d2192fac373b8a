"""What the document does not say: the answer is "none".

Half are about people who are not in it (every other one a near-duplicate of somebody who is), half about people who are,
of whom it does not say this. Without them an adapter answers everything with something of the document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from environments.haystack.facts import Entity, draw_entity, near_duplicate
from lift.document.document import Document
from lift.tasks import wordings
from lift.tasks.items import NO_ANSWER, Item, capital, draws
from lift.tasks.reading import Reading, names, read


@dataclass(frozen=True)
class Absent:
    kind: str = "absent"

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        rng = draws(self.kind, document, seed, split)
        reading = read(document)
        people = reading.people or sorted({name for name, _ in names(document)})
        known = list(unsaid(people, reading))
        rng.shuffle(known)
        inside = known[: n // 2]
        outside = strangers(document, people, split, rng)
        asked = [pair for known_pair in inside for pair in (known_pair, next(outside))]
        asked += [next(outside)] * (n % 2)
        return [Item(self.kind, ask(person, name, split, rng), NO_ANSWER, ()) for person, name in asked]


def ask(person: str, name: str, split: str, rng: Random) -> str:
    """A question for a relation or a link, in the words that are used where there is an answer."""
    if name in wordings.LINKS:
        phrase = rng.choice(wordings.LINKS[name].of(split)).format(x=person)
        return capital(rng.choice(wordings.FRAMES.of(split)).format(np=phrase))
    return capital(rng.choice(wordings.FACTS[name].of(split, wordings.described(person))).format(e=person))


def unsaid(people: list[str], reading: Reading) -> Iterator[tuple[str, str]]:
    """(person, name) of everything that is not said of those people."""
    for person in people:
        for name in asked_for(reading):
            if (person, name) not in reading.stated:
                yield person, name


def asked_for(reading: Reading) -> list[str]:
    """The kinds of fact to ask for: links too where the document has any, or they would never be denied."""
    return [*wordings.FACTS, *(wordings.LINKS if reading.links else ())]


def strangers(document: Document, people: list[str], split: str, rng: Random) -> Iterator[tuple[str, str]]:
    """People who are not in the document, each with something to ask about them, without end."""
    reading = read(document)
    told = set(people)
    gap = bool(people) and wordings.described(people[0])
    near = False
    while True:
        near = not near
        if near and reading.people:  # a name out of a novel has no near-duplicates of the invented kind
            person = rng.choice(reading.people)
            entity = near_duplicate(Entity(person, "" if wordings.described(person) else person), split, rng)
        else:
            entity = draw_entity(split, gap, rng)
        if entity.told not in told and entity.told not in document.text:
            told.add(entity.told)
            yield entity.told, rng.choice(asked_for(reading))
