"""The words of a pool of filler: which stand in it once, which are names or numbers, and in which passages.

Questions about the text itself rest on it (`tasks/own_text.py`). A word stands between blanks, without the marks around it.
Where no blanks stand between words, it is as many letters in a row as `scripts.count_words` counts for one, from each letter.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from environments.haystack.filler.counted_passage import Passage, Span
from environments.haystack.filler.scripts import LONG, LONG_WORDS, SHORT, SHORT_WORDS
from environments.haystack.tokens import BREAK

FEW = 8  # passages: a word that stands in more of them identifies none
SHORTEST = 4  # letters of a word that may be asked for
TOKEN = re.compile(r"\S+")
MARKS = ".,;:!?\"'()[]"
NUMBER = re.compile(r"(?<![A-Za-z\d.,:/-])\d{2,}(?![A-Za-z\d]|[.,:/-]\d)")


class Place(NamedTuple):
    """Where a word stands: the index of its passage, and its characters there."""

    passage: int
    start: int
    end: int


class WordIndex:
    """The words of some passages, each counted in lower case.

    `rare`: the words that stand once. `entities`: the places of each name and number, but of no name that begins a sentence.
    """

    def __init__(self, passages: Sequence[Passage]):
        self.text = BREAK.join(p.text for p in passages).casefold()
        self.passages_of: dict[str, list[int]] = {}  # the first `FEW` + 1 of them
        counts: Counter[str] = Counter()
        first: dict[str, Place] = {}
        uncapitalised: set[str] = set()  # words that begin with a small letter somewhere
        named: dict[str, list[Place]] = {}
        for index, passage in enumerate(passages):
            starts = {start for start, _ in passage.sentences()}
            for start, end in words(passage.text):
                written = passage.text[start:end]
                word = written.casefold()
                counts[word] += 1
                where = self.passages_of.setdefault(word, [])
                if len(where) <= FEW and (not where or where[-1] != index):
                    where.append(index)
                first.setdefault(word, Place(index, start, end))
                if not written[0].isupper():
                    uncapitalised.add(word)
                elif written[1:].islower() and start not in starts:
                    named.setdefault(word, []).append(Place(index, start, end))
            for match in NUMBER.finditer(passage.text):
                named.setdefault(match.group(), []).append(Place(index, *match.span()))
        self.rare = [place for word, place in first.items() if counts[word] == 1 and _may_be_asked_for(word)]
        self.entities = [places for word, places in named.items() if word not in uncapitalised or word.isdecimal()]

    def stands_once(self, text: str) -> bool:
        """Return whether the text stands once among the passages, in any case, also as a part of a word."""
        text = text.casefold()
        start = self.text.find(text)
        return start >= 0 and self.text.find(text, start + 1) < 0


def words(text: str) -> Iterator[Span]:
    """Yield the characters of each word: letters, their marks and digits alone, so neither "mother-in-law" nor "3.14"."""
    for match in TOKEN.finditer(text):
        start, end = match.span()
        bare = match.group().strip(MARKS)
        if bare.isascii() and bare.isalnum():  # most words, at once
            start = text.index(bare, start)
            yield start, start + len(bare)
            continue
        if size := letters_of_a_word(bare):
            yield from ((start + a, start + b) for a, b in _windows(match.group(), size))
            continue
        while start < end and not _belongs(text[start]):
            start += 1
        while start < end and not _belongs(text[end - 1]):
            end -= 1
        if start < end and all(map(_belongs, text[start:end])):
            yield start, end


def letters_of_a_word(token: str) -> int:
    """Return how many letters are a word in the token's script; 0 where blanks stand between words."""
    if token.isascii():
        return 0
    return SHORT if SHORT_WORDS.search(token) else LONG if LONG_WORDS.search(token) else 0


def _may_be_asked_for(word: str) -> bool:
    return len(word) >= SHORTEST or letters_of_a_word(word) > 0


def _belongs(character: str) -> bool:
    """Return whether a character may be a part of a word: a letter, a mark on one, or a digit."""
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def _windows(token: str, size: int) -> Iterator[Span]:
    """Yield every `size` letters in a row, each letter with the marks on it."""
    starts: list[int] = []  # of the letters of this run, the end of the last one too
    for i, character in enumerate([*token, " "]):
        if unicodedata.category(character)[0] == "M" and starts:
            continue
        starts.append(i)
        if len(starts) > size:
            yield starts[-size - 1], i
        if not _belongs(character):
            starts = []
