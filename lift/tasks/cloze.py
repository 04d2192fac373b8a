"""A gap in a sentence of the text: a name, a number or a date that the rest of the sentence determines."""

import re
from collections import defaultdict
from dataclasses import dataclass

from lift.document.document import Document
from lift.tasks.items import Item, draws, rotate, sentences_of, shown
from lift.tasks.reading import Span, names
from lift.tasks.wordings import Wordings

GAP = "____"
LEAST_WORDS, MOST_WORDS = 6, 60  # of the sentence: shorter ones do not say which they are, longer ones fill the prompt
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
DATE = re.compile(rf"(?<!\w)(?:{_DAY}\s(?:of\s)?(?:{_MONTH})|(?:{_MONTH})\s{_DAY}(?!\d))(?:,?\s\d{{4}})?(?!\w)")
NUMBER = re.compile(r"(?<![\w.,:/-])\d+(?:[.,:]\d+)*(?![\w/-])")
ASKED = Wordings(
    ("In {d}, complete: {s}", "Fill the gap in this sentence of {d}: {s}",
     "What stands in place of {g} in {d}? {s}", "A sentence of {d} with a gap: {s} The missing words are"),
    ("{s} Which words of {d} were left out here?", "Restore what is hidden in this line from {d}: {s}"),
)  # fmt: skip


@dataclass(frozen=True)
class Cloze:
    kind: str = "cloze"

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        rng = draws(self.kind, document, seed, split)
        asked = ASKED.of(split)
        by_sentence: dict[int, list[tuple[str, Span]]] = defaultdict(list)
        for sentence, question, span in gaps(document):
            by_sentence[sentence].append((question, span))
        for inside in by_sentence.values():
            rng.shuffle(inside)
        made = []
        # A second gap of a sentence comes after the first of every other one: coverage is even.
        for depth in range(max(map(len, by_sentence.values()), default=0)):
            deep = [at for at, inside in by_sentence.items() if len(inside) > depth]
            for at, turn in rotate(deep, len(asked), rng):
                question, span = by_sentence[at][depth]
                wording = asked[turn].format(d=document.name, g=GAP, s=question)
                made.append(Item(self.kind, wording, shown(document, span), (document.sentences[at],)))
                if len(made) == n:
                    return made
        return made[:n]


def gaps(document: Document) -> list[tuple[int, str, Span]]:
    """(sentence number, the sentence with the gap, the span left out), where only one answer fits.

    Left out are spans whose words stand in the sentence a second time, and sentences that come again, or that differ
    only in what the gap hides.
    """
    found = []
    figures = _figures(document.text)
    months = {at for a, b in figures for at in range(a, b)}  # "June" is no name inside "4 June"
    for span in sorted({span for _, span in names(document) if span[0] not in months} | figures):
        touched = sentences_of(document, span)
        if len(touched) != 1:
            continue
        start, end = document.sentences[touched[0]]
        hidden = document.text[span[0] : span[1]]
        rest = document.text[start : span[0]] + GAP + document.text[span[1] : end]
        again = re.search(rf"(?<!\w){re.escape(hidden)}(?!\w)", rest)
        if LEAST_WORDS <= len(rest.split()) <= MOST_WORDS and not again:
            found.append((touched[0], " ".join(rest.split()), span))
    times: dict[str, int] = defaultdict(int)
    for _, question, _ in found:
        times[question] += 1
    return [gap for gap in found if times[gap[1]] == 1]


def _figures(text: str) -> set[Span]:
    dates = [match.span() for match in DATE.finditer(text)]
    numbers = (match.span() for match in NUMBER.finditer(text))
    inside = (span for span in numbers if not any(a <= span[0] and span[1] <= b for a, b in dates))
    return {*dates, *inside}
