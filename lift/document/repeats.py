"""Read a text that stands twice once: leave out the passages of a document that stood in it before, word for word.

A file may hold the same text again (joined twice, exported twice, headers of every page). Trained on as it is, the passage
counts double, and no sentence of it stands once, so no gap, order or continuation could be asked for.
"""

from collections.abc import Iterator
from functools import lru_cache

from lift.document.document import Document

LEAST = 80  # bytes of a passage in UTF-8, some 14 words: a shorter line may well be said again


@lru_cache(maxsize=8)
def read_once(document: Document) -> Document:
    """Return the document without the passages that stood before; the document itself where there are none."""
    again = repeated(document)
    if not again:
        return document
    sentences = document.sentences
    starts = [0, *(start for start, _ in sentences[1:]), len(document.text)]  # each with the white space behind it
    kept = "".join(document.text[starts[at] : starts[at + 1]] for at in range(len(sentences)) if at not in again)
    return Document(document.name, kept.rstrip())


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
