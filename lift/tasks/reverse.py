"""A fact backwards: whose password is V? A model that learned one direction does not know the other."""

from collections import Counter
from dataclasses import dataclass

from lift.document.document import Document
from lift.tasks import wordings
from lift.tasks.items import Item, capital, draws, rotate
from lift.tasks.reading import read


@dataclass(frozen=True)
class Reverse:
    kind: str = "reverse"

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        rng = draws(self.kind, document, seed, split)
        facts = read(document).facts
        holders = Counter((fact.name, fact.value) for fact in facts)
        single = [fact for fact in facts if holders[fact.name, fact.value] == 1]
        rounds = min(len(table.of(split)) for table in wordings.REVERSED.values())
        return [
            Item(self.kind, capital(wordings.REVERSED[fact.name].of(split)[turn].format(v=fact.value)), fact.subject,
                 (fact.span,))
            for _, (fact, turn) in zip(range(n), rotate(single, rounds, rng), strict=False)
        ]  # fmt: skip
