"""Ask which of two sentences comes first in the text.

The answer is the opening words of that sentence, or "first" or "second", each half of the time.
"""

from collections import Counter
from collections.abc import Iterator
from random import Random

from environments.haystack.facts import in_split
from environments.haystack.question_wordings import Wordings
from lift.document.document import Document
from lift.document.repeats import repeated
from lift.tasks.items import Item, Task

LEAST_WORDS = 6
QUOTED = 16  # words of each sentence that the question shows
OPENING = 4  # words of it that the answer gives
TRIES = 20  # draws for each item asked for
NAMED = Wordings(
    ("Which sentence comes earlier in {d}, the first or the second? First: “{a}” Second: “{b}”",
     "Two sentences of {d}. First: “{a}” Second: “{b}” Say which of them the text has earlier: first or second."),
    ("First: “{a}” Second: “{b}” Reading {d} from its beginning, does one meet the first or the second before?",
     "{d} has both of these. First: “{a}” Second: “{b}” The one nearer to the beginning is the"),
)  # fmt: skip
QUOTING = Wordings(
    ("Which of these does {d} say earlier, “{a}” or “{b}”? Give its first {w} words.",
     "With which {w} words begins the sentence that comes earlier in {d}: “{a}” or “{b}”?"),
    ("“{a}” and “{b}” both stand in {d}. Quote the opening {w} words of the one that is read before the other.",
     "Begin, with {w} words, whichever of these {d} has nearer to its start: “{a}” or “{b}”."),
)  # fmt: skip


class Order(Task):
    """Makes questions about the order of two sentences. Each pair of sentences belongs to one split."""

    kind = "order"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield questions that quote two sentences of the document and ask which comes first."""
        places = telling(document)
        pairs: set[tuple[int, int]] = set()
        for _ in range(TRIES * n if len(places) > 1 else 0):
            early, late = sorted(rng.sample(places, 2))
            words = [document.quote(document.sentences[at]).split() for at in (early, late)]
            if (early, late) in pairs or not in_split(f"{words}", split):
                continue
            swapped, quoting = len(pairs) % 2, len(pairs) // 2 % 2
            first, second = (" ".join(word[:QUOTED]) for word in words[:: -1 if swapped else 1])
            answer = " ".join(words[0][:OPENING]) if quoting else ("first", "second")[swapped]
            wording = rng.choice((QUOTING if quoting else NAMED).of(split))
            question = wording.format(d=document.name, a=first, b=second, w=OPENING)
            pairs.add((early, late))
            yield Item(self.kind, question, answer, (document.sentences[early], document.sentences[late]))


def telling(document: Document) -> list[int]:
    """Return the numbers of sentences with at least `LEAST_WORDS` words that begin like no other sentence; repeats aside."""
    again = repeated(document)
    words = {at: document.quote(span).split() for at, span in enumerate(document.sentences) if at not in again}
    openings = Counter(tuple(word[:OPENING]) for word in words.values())
    return [at for at, word in words.items() if len(word) >= LEAST_WORDS and openings[tuple(word[:OPENING])] == 1]
