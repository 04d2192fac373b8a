"""Ask for one fact: what is the password of X?"""

from collections.abc import Iterator
from random import Random

from environments.haystack import question_wordings as wordings
from environments.haystack.wording import sentence
from lift.document.document import Document
from lift.tasks.items import Item, Task, rotate
from lift.tasks.reading import read_statements


class Needle(Task):
    """Makes questions for every fact that the document states.

    All wordings of a fact are used before one comes twice.
    """

    kind = "needle"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield questions that each ask for the value of one stated fact."""
        rounds = max(len(table.of(split)) for table in wordings.FACTS.values())
        for fact, turn in rotate(read_statements(document).facts, rounds, rng):
            phrases = wordings.FACTS[fact.name].of(split, wordings.described(fact.subject))
            if turn < len(phrases):
                yield Item(self.kind, sentence(phrases[turn], e=fact.subject), fact.value, (fact.span,))
