"""The words of a document, by which a question that is about it is told from others, and its segments from each other.

segments.json holds counts of words, in no order, for each piece of each segment. The text itself is not kept, but what names
and numbers stand in it is: the file is as sensitive as the text.

A name is two rare words beside each other. So a piece matches a question by the rarest two words that are neighbours in the
question and both stand in the piece:

    match(question, piece) = max over neighbours a, b of idf(a) idf(b) / idf_1^2 - CHANCE log n,   at least 0
    idf(a) = log((N + 1) / (n_a + 1/2))                                                                                (1)

with N pieces in the document, of which n_a hold the word a, idf_1 that of a word in one of them, and n neighbours in the
question. The first term is 1 where both words stand there alone, in a text of any length, and near 0 where one is common; of
the many neighbours in a long question some match by chance. (Sums over all words, as BM25's, rise with its length.)
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from environments.retrieval.chunking import semantic_chunks
from environments.retrieval.ranking import TermIndex, highest
from environments.retrieval.terms import terms, word_offsets
from lift.library.files import SEGMENTS
from longthread.errors import DataError
from longthread.files import write_json

OPENED = 3  # segments of a document, at a question
KEPT = 64  # documents whose index stays in memory: to build that of a million tokens takes as long as a reply
CHANCE = 0.1  # of a match, for each e-fold of neighbours: a sentence of 27 words loses 0.1 more than a question of 9
PIECE = 64  # words, or letters of a script without blanks: two or three sentences
Piece = dict[str, int]
# A dict for a segment, of before there were pieces.
_STORED: TypeAdapter[list[list[Piece]] | list[Piece]] = TypeAdapter(list[list[Piece]] | list[Piece])


def write(folder: Path, texts: Iterable[str]) -> None:
    """Write the words of all segments of a document into the folder of its adapter."""
    write_json(folder / SEGMENTS, [[Counter(terms(piece)) for piece in _pieces(text)] for text in texts])


def _pieces(text: str) -> list[str]:
    return [chunk.text for chunk in semantic_chunks(text, word_offsets(text), PIECE)]


def best(folder: Path, question: str, most: int) -> list[int] | None:
    """Return the numbers of the `most` segments that BM25 ranks highest for the question, in the order of the text.

    None for a document of one segment. Raises `DataError` if its file is damaged.
    """
    if not (folder / SEGMENTS).is_file():
        return None
    words = _words(folder)
    return sorted(words.segments.best(question, most)) if words.segments.size > 1 else None


def matches(folder: Path, question: str) -> np.ndarray:
    """Return (1) of the best piece of each segment, from 0 for one that shares no two neighbours with the question to 1.

    Of a document that was fitted before there were pieces it is the BM25 score of each segment. Raises `DataError` if the
    file is damaged.
    """
    words = _words(folder)
    return words.segments.scores(question) if words.pieces is None else words.pieces.matches(question)


def ranking(folder: Path, question: str) -> list[int]:
    """Return the numbers of the segments of a document that share a word with the question, the best by BM25 first.

    Raises `DataError` if the file is damaged.
    """
    found = _words(folder).segments.scores(question)
    return [segment for segment in highest(found, len(found)) if found[segment] > 0]


class Pieces:
    """In which pieces of a document each word stands, given the words of the pieces of each segment."""

    def __init__(self, of_segments: Sequence[Sequence[Iterable[str]]]):
        """Index the pieces, in the order of the text."""
        holding: defaultdict[str, list[int]] = defaultdict(list)
        self._segment_of = np.array([at for at, pieces in enumerate(of_segments) for _ in pieces], np.int64)
        for number, words in enumerate(words for pieces in of_segments for words in pieces):
            for word in set(words):
                holding[word].append(number)
        self._holding = {word: np.array(numbers) for word, numbers in holding.items()}
        self._segments = len(of_segments)

    def matches(self, question: str) -> np.ndarray:
        """Return (1) of the best piece of each segment, (segments,)."""
        asked, found = terms(question), np.zeros(self._segments, np.float32)
        pairs = set(pairwise(asked)) or {(word, word) for word in asked}
        chance = CHANCE * math.log(max(1, len(pairs)))
        for pair in pairs:
            if not all(word in self._holding for word in pair):
                continue
            first, second = (self._holding[word] for word in pair)
            rarity = self._rarity(len(first)) * self._rarity(len(second))
            segments = self._segment_of[np.intersect1d(first, second, assume_unique=True)]
            found[segments] = np.maximum(found[segments], rarity - chance)
        return found

    def _rarity(self, pieces: int) -> float:
        """Return the idf of a word that stands in so many pieces, as a share of that of a word in one."""
        behind = len(self._segment_of) + 1
        return math.log(behind / (pieces + 0.5)) / math.log(behind / 1.5)


class _Words:
    """The words of a document as its file has them: those of its segments, and of their pieces where these are stored."""

    def __init__(self, stored: Sequence[Sequence[Mapping[str, int]] | Mapping[str, int]]):
        self._of_segments = [[segment] if isinstance(segment, Mapping) else segment for segment in stored]
        split = not any(isinstance(segment, Mapping) for segment in stored)
        self.pieces = Pieces(self._of_segments) if split else None

    @cached_property
    def segments(self) -> TermIndex:
        """BM25 over whole segments."""
        return TermIndex(
            [[word for piece in pieces for word in Counter(piece).elements()] for pieces in self._of_segments]
        )


def _words(folder: Path) -> _Words:
    """Return the words of a document, read once for each state of its file."""
    path = folder / SEGMENTS
    try:
        stated = path.stat()
        return _read(path, stated.st_mtime_ns, stated.st_size, stated.st_ino)
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: fit the document again", setting="replace") from None


@lru_cache(maxsize=KEPT)
def _read(path: Path, *state: int) -> _Words:
    return _Words(_STORED.validate_json(path.read_bytes(), strict=True))
