"""Questions that the document does not answer: the reply should be "none".

Half are about people of the document, of whom it does not state what is asked. Half are about other people, every second one
with a name similar to one in the document. Without them an adapter answers every question with something of the document.
"""

from collections.abc import Iterator
from random import Random

from environments.haystack import question_wordings as wordings
from environments.haystack.facts import Entity, draw_entity, near_duplicate
from lift.document.document import Document
from lift.tasks.items import NO_ANSWER, Item, Task
from lift.tasks.reading import Statements, names, read_statements


class Absent(Task):
    """Makes questions that the document does not answer, in turn about people of the document and about others."""

    kind = "absent"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield at most `n` questions of this split whose right answer is `NO_ANSWER`."""
        statements = read_statements(document)
        people = statements.people or sorted({name for name, _ in names(document)})
        known = list(unsaid(people, statements))
        rng.shuffle(known)
        outside = strangers(document, people, split, rng)
        asked = [pair for inside in known[: n // 2] for pair in (inside, next(outside))]
        asked += [next(outside)] * (n % 2)
        for person, name in asked:
            yield Item(self.kind, wordings.ask(person, name, split, rng), NO_ANSWER, ())


def unsaid(people: list[str], statements: Statements) -> Iterator[tuple[str, str]]:
    """Yield each pair (person, relation or link) of these people for which the document states nothing."""
    for person in people:
        for name in asked_for(statements):
            if (person, name) not in statements.stated:
                yield person, name


def asked_for(statements: Statements) -> list[str]:
    """Return the names of the relations to ask about, and of the links too if the document states any link.

    Without questions about links, the model would never learn to say that a link is not stated.
    """
    return [*wordings.FACTS, *(wordings.LINKS if statements.links else ())]


def strangers(document: Document, people: list[str], split: str, rng: Random) -> Iterator[tuple[str, str]]:
    """Yield endless pairs of a person who is not in the document and a relation or link to ask about."""
    statements = read_statements(document)
    known = set(people)
    gap = bool(people) and wordings.described(people[0])
    near = False
    while True:
        near = not near
        if near and statements.people:  # a name out of a novel has no near-duplicates of the invented kind
            person = rng.choice(statements.people)
            entity = near_duplicate(Entity(person, "" if wordings.described(person) else person), split, rng)
        else:
            entity = draw_entity(split, gap, rng)
        if entity.told not in known and entity.told not in document.text:
            known.add(entity.told)
            yield entity.told, rng.choice(asked_for(statements))
