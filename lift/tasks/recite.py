"""Ask for the sentence that comes after a given one, anywhere in the document."""

from collections import Counter
from collections.abc import Iterator
from random import Random

from environments.haystack.question_wordings import Wordings
from lift.document.document import Document
from lift.document.repeats import repeated
from lift.tasks.items import Item, Task, rotate

LEAST_WORDS = 4  # of the given sentence: "She did not." does not identify a place
MOST_WORDS = 40  # of the answer
QUOTED = 30  # words of the given sentence, its last ones
ASKED = Wordings(
    ("What comes right after this sentence in {d}? “{s}”", "Recite the sentence of {d} that follows “{s}”",
     "{d} goes on after “{s}” with", "Continue {d} by one sentence: “{s}”"),
    ("“{s}” What is the next sentence of {d}?", "Having read “{s}” in {d}, one reads as the next sentence"),
)  # fmt: skip


class Recite(Task):
    """Makes questions for the sentence after a given one.

    The given one must stand once in the text, repeated passages aside, and not be too short.
    """

    kind = "recite"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield questions that quote a sentence and ask for the next one."""
        phrases = ASKED.of(split)
        again = repeated(document)
        spans = [span for at, span in enumerate(document.sentences) if at not in again]
        sentences = [document.quote(span) for span in spans]
        given = [" ".join(sentence.split()[-QUOTED:]) for sentence in sentences]
        times = Counter(given)
        places = [
            at
            for at in range(len(sentences) - 1)
            if times[given[at]] == 1
            and len(given[at].split()) >= LEAST_WORDS
            and len(sentences[at + 1].split()) <= MOST_WORDS
        ]
        for at, turn in rotate(places, len(phrases), rng):
            question = phrases[turn].format(d=document.name, s=given[at])
            yield Item(self.kind, question, sentences[at + 1], (spans[at + 1],))
