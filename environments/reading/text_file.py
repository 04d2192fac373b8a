"""The haystack of a sample as a file to look things up in: numbered passages, to be searched and read.

`search` ranks passages by BM25 (`environments.retrieval`) and shows the best sentence of each; `read` gives
passages by number. What they return costs tokens, which `tools.py` counts.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Self

from environments.haystack.sample import Sample
from environments.haystack.tokens import BREAK, Tokens
from environments.retrieval.ranking import TermIndex
from environments.retrieval.terms import first_place, terms

QUESTION = f"{BREAK}Question: "  # begins what stands behind the haystack
SNIPPET = 300  # characters of a sentence that a search shows
_NUMBER = re.compile(r"\[(\d+)\] ")
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")


class Passage(NamedTuple):
    """A passage, or a sentence of it, with the passage's number from 1."""

    number: int
    text: str


class TextFile:
    """The haystack of a sample. Its passages are those of the sample where that numbers them, else its paragraphs."""

    def __init__(self, content: str, numbered: bool):
        """`content` is a sample's message, `numbered` the sample's option."""
        end = content.rindex(QUESTION)
        _, _, self.text = content[:end].partition(BREAK)
        self.question = content[end:].strip()
        self.passages = list(_passages(self.text, numbered))

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """Return the file of a sample."""
        return cls(sample.messages[0]["content"], sample.recipe["options"]["numbered"])

    def count(self, tokens: Tokens) -> int:
        """Return how many tokens the whole text has."""
        return len(tokens.encode(self.text))

    def read(self, first: int, last: int) -> list[Passage]:
        """Return the passages with the numbers from `first` to `last`, both included."""
        return [Passage(n, self.passages[n - 1]) for n in range(max(first, 1), min(last, len(self.passages)) + 1)]

    def search(self, query: str, k: int) -> list[Passage]:
        """Return the `k` passages that rank highest for the query, best first: the best sentence of each.

        Passages that share no word with the query are left out. Of two that rank equal, the earlier comes first.
        """
        scores = self.ranks(query)
        best = sorted((number for number, score in scores.items() if score > 0), key=lambda n: (-scores[n], n))[:k]
        wanted = set(terms(query))
        return [Passage(number, _best_sentence(self.passages[number - 1], wanted)) for number in best]

    def ranks(self, query: str) -> dict[int, float]:
        """Return the BM25 score of each passage, by number."""
        return {number: float(score) for number, score in enumerate(self._index.scores(query), 1)}

    @cached_property
    def _index(self) -> TermIndex:
        return TermIndex([terms(passage) for passage in self.passages])


def _passages(text: str, numbered: bool) -> Iterator[str]:
    """Yield the passages without their numbers. A paragraph that has no number, or not the next one, goes on with the last
    passage."""
    paragraphs = text.split(BREAK)
    if not numbered:
        yield from paragraphs
        return
    passage: list[str] = []
    next_number = 1
    for paragraph in paragraphs:
        mark = _NUMBER.match(paragraph)
        if mark and int(mark[1]) == next_number:
            if passage:
                yield BREAK.join(passage)
            passage, next_number = [paragraph[mark.end() :]], next_number + 1
        else:
            passage.append(paragraph)
    yield BREAK.join(passage)


def _best_sentence(passage: str, wanted: set[str]) -> str:
    """Return the sentence that holds the most of the wanted words, cut to `SNIPPET` characters around the first of them."""
    sentence = max(_SENTENCE_END.split(passage), key=lambda sentence: len(wanted & set(terms(sentence))))
    if len(sentence) <= SNIPPET:
        return sentence
    start = max(0, first_place(sentence, wanted) - SNIPPET // 3)
    return ("\u2026" if start else "") + sentence[start : start + SNIPPET] + "\u2026"


def join(passages: Sequence[Passage]) -> str:
    """Return passages as the tools show them: each with its number before it, a blank line between two."""
    return BREAK.join(f"[{number}] {text}" for number, text in passages)
