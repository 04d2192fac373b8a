"""Ask for the person of a fact: whose password is V? A model that learned one direction does not know the other."""

from collections import Counter
from collections.abc import Iterator
from random import Random

from environments.haystack import question_wordings as wordings
from environments.haystack.wording import sentence
from lift.document.document import Document
from lift.tasks.items import Item, Task, rotate
from lift.tasks.reading import read_statements


class Reverse(Task):
    """Makes questions for the person of a fact, for every fact whose value no other person has."""

    kind = "reverse"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield questions that name the value of a fact and ask whose it is."""
        facts = read_statements(document).facts
        holders = Counter((fact.name, fact.value) for fact in facts)
        single = [fact for fact in facts if holders[fact.name, fact.value] == 1]
        rounds = min(len(table.of(split)) for table in wordings.REVERSED.values())
        for fact, turn in rotate(single, rounds, rng):
            question = sentence(wordings.REVERSED[fact.name].of(split)[turn], v=fact.value)
            yield Item(self.kind, question, fact.subject, (fact.span,))
