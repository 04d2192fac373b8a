"""What comes after a given sentence: the text itself, asked for at any place."""

from collections import Counter
from dataclasses import dataclass

from lift.document.document import Document
from lift.tasks.items import Item, draws, rotate, shown
from lift.tasks.wordings import Wordings

LEAST_WORDS = 4  # of the given sentence: "She did not." is no place
MOST_WORDS = 40  # of the answer
QUOTED = 30  # words of the given sentence, its last ones
ASKED = Wordings(
    ("What comes right after this sentence in {d}? “{s}”", "Recite the sentence of {d} that follows “{s}”",
     "{d} goes on after “{s}” with", "Continue {d} by one sentence: “{s}”"),
    ("“{s}” What is the next sentence of {d}?", "Having read “{s}” in {d}, one reads as the next sentence"),
)  # fmt: skip


@dataclass(frozen=True)
class Recite:
    kind: str = "recite"

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        rng = draws(self.kind, document, seed, split)
        asked = ASKED.of(split)
        said = [shown(document, span) for span in document.sentences]
        given = [" ".join(sentence.split()[-QUOTED:]) for sentence in said]
        times = Counter(given)
        places = [
            at
            for at in range(len(said) - 1)
            if times[given[at]] == 1
            and len(given[at].split()) >= LEAST_WORDS
            and len(said[at + 1].split()) <= MOST_WORDS
        ]
        return [
            Item(
                self.kind, asked[turn].format(d=document.name, s=given[at]), said[at + 1], (document.sentences[at + 1],)
            )
            for _, (at, turn) in zip(range(n), rotate(places, len(asked), rng), strict=False)
        ]
