"""Read a text that stands twice once: leave out the passages of a document that stood in it before, word for word.

A file may hold the same text again (joined twice, exported twice, headers of every page). Trained on as it is, the passage
counts double, and no sentence of it stands once, so no gap, order or continuation could be asked for.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

from lift.document.document import Document

LEAST = 80  # bytes of a passage in UTF-8, some 14 words: a shorter line may well be said again


@lru_cache(maxsize=8)
def read_once(document: Document) -> Document:
    """Return the document without the passages that stood before; the document itself where there are none."""
    if not repeated(document):
        return document
    return Document(document.name, "".join(document.text[start:end] for start, end in _kept(document)).rstrip())


def places_in_text(document: Document, places: Sequence[int]) -> "array[int]":
    """Return where the characters at `places` of what is read once stand in the document itself."""
    if not repeated(document):
        return array("i", places)
    kept = _kept(document)
    read = [0]  # characters before each stretch
    for start, end in kept:
        read.append(read[-1] + end - start)
    at = (min(bisect_right(read, place), len(kept)) - 1 for place in places)
    return array("i", (kept[i][0] + place - read[i] for i, place in zip(at, places, strict=True)))


def _kept(document: Document) -> list[tuple[int, int]]:
    """Return the characters of each sentence that is read, with the white space behind it."""
    again, sentences = repeated(document), document.sentences
    starts = [0, *(start for start, _ in sentences[1:]), len(document.text)]
    return [(starts[at], starts[at + 1]) for at in range(len(sentences)) if at not in again]


@lru_cache(maxsize=8)
def repeated(document: Document) -> frozenset[int]:
    """Return the numbers of the sentences that belong to a passage which stood before.

    A passage is a run of whole sentences of at least `LEAST` bytes, the same words in the same order.
    """
    quotes = [document.quote(span) for span in document.sentences]
    first: dict[tuple[str, ...], int] = {}  # where each shortest passage was met first
    again: set[int] = set()
    at = 0
    while at < len(quotes):
        passage = tuple(_shortest(quotes, at))
        before = first.setdefault(passage, at) if passage else at
        run = 0
        while before < at and at + run < len(quotes) and quotes[before + run] == quotes[at + run]:
            run += 1
        again.update(range(at, at + run))
        at += max(1, run)
    return frozenset(again)


def _shortest(quotes: list[str], at: int) -> Iterator[str]:
    """Yield the sentences from one on that make a passage together; none where the text ends before."""
    size, end = 0, at
    while size < LEAST and end < len(quotes):
        size += len(quotes[end].encode())
        end += 1
    if size >= LEAST:
        yield from quotes[at:end]
