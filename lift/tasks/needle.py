"""One fact: what is the password of X?"""

from dataclasses import dataclass
from itertools import islice

from lift.document.document import Document
from lift.tasks import wordings
from lift.tasks.items import Item, capital, draws, rotate
from lift.tasks.reading import read


@dataclass(frozen=True)
class Needle:
    kind: str = "needle"

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        rng = draws(self.kind, document, seed, split)
        most = max(len(table.of(split)) for table in wordings.FACTS.values())
        made = []
        for fact, turn in rotate(read(document).facts, most, rng):
            asked = wordings.FACTS[fact.name].of(split, wordings.described(fact.subject))
            if turn < len(asked):
                question = capital(asked[turn].format(e=fact.subject))
                made.append(Item(self.kind, question, fact.value, (fact.span,)))
        return list(islice(made, n))
