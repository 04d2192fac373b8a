"""Ask for words left out of a sentence: a name, a number or a date that the rest of the sentence determines."""

import re
from collections import defaultdict
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from environments.haystack.question_wordings import Wordings
from lift.document.document import Document, Span
from lift.document.repeats import repeated
from lift.tasks.items import Item, Task, rotate, sentences_of
from lift.tasks.reading import names

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


class Gap(NamedTuple):
    """A sentence with a gap: the sentence's number, its text with `GAP` in it, and the character span left out."""

    sentence: int
    text: str
    span: Span


class Cloze(Task):
    """Makes questions for words left out of a sentence.

    Every sentence gets one gap before any gets a second, so that coverage is even.
    """

    kind = "cloze"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield questions that show a sentence with a gap and ask for the missing words."""
        phrases = ASKED.of(split)
        of_sentence: dict[int, list[Gap]] = defaultdict(list)
        for gap in gaps(document):
            of_sentence[gap.sentence].append(gap)
        for inside in of_sentence.values():
            rng.shuffle(inside)
        for depth in range(max(map(len, of_sentence.values()), default=0)):
            deep = [inside[depth] for inside in of_sentence.values() if len(inside) > depth]
            for gap, turn in rotate(deep, len(phrases), rng):
                question = phrases[turn].format(d=document.name, g=GAP, s=gap.text)
                yield Item(self.kind, question, document.quote(gap.span), (document.sentences[gap.sentence],))


def gaps(document: Document) -> list[Gap]:
    """Return the gaps, in all sentences, that only one answer fits: each hides a name, a number or a date.

    Skips spans whose words occur twice in the sentence, and sentences that differ only in the gap. A sentence that occurs
    twice is asked about once, where it stands first.
    """
    found, repeats = [], repeated(document)
    figures = _figures(document.text)
    months = {at for a, b in figures for at in range(a, b)}  # "June" is not a name inside "4 June"
    for span in sorted({span for _, span in names(document) if span[0] not in months} | figures):
        touched = sentences_of(document, span)
        if len(touched) != 1 or touched[0] in repeats:
            continue
        start, end = document.sentences[touched[0]]
        hidden = document.text[span[0] : span[1]]
        rest = document.text[start : span[0]] + GAP + document.text[span[1] : end]
        again = re.search(rf"(?<!\w){re.escape(hidden)}(?!\w)", rest)
        if LEAST_WORDS <= len(rest.split()) <= MOST_WORDS and not again:
            found.append(Gap(touched[0], " ".join(rest.split()), span))
    answers: dict[str, set[str]] = defaultdict(set)
    for gap in found:
        answers[gap.text].add(document.quote(gap.span))
    first = {gap.text: gap for gap in reversed(found)}
    return [gap for gap in found if len(answers[gap.text]) == 1 and first[gap.text] is gap]


def _figures(text: str) -> set[Span]:
    """Return the character spans of dates and numbers."""
    dates = [match.span() for match in DATE.finditer(text)]
    numbers = (match.span() for match in NUMBER.finditer(text))
    inside = (span for span in numbers if not any(a <= span[0] and span[1] <= b for a, b in dates))
    return {*dates, *inside}
