"""The words of each segment of a document, by which the segments that a question is about are found: segments.json.

Counts of words, in no order: the text itself is not kept.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from environments.retrieval.ranking import TermIndex, highest
from environments.retrieval.terms import terms
from lift.library.files import SEGMENTS
from longthread.errors import DataError
from longthread.files import write_json

OPENED = 3  # segments of a document, at a question
KEPT = 64  # documents whose index stays in memory: to build that of a million tokens takes as long as a reply
_STORED = TypeAdapter(list[dict[str, int]])


def write(folder: Path, texts: Iterable[str]) -> None:
    """Write the words of all segments of a document into the folder of its adapter."""
    write_json(folder / SEGMENTS, [Counter(terms(text)) for text in texts])


def best(folder: Path, question: str, most: int) -> list[int] | None:
    """Return the numbers of the `most` segments that BM25 ranks highest for the question, in the order of the text.

    None for a document of one segment, which has no such file. Raises `DataError` if the file is damaged.
    """
    if not (folder / SEGMENTS).is_file():
        return None
    return sorted(_index(folder).best(question, most))


def scores(folder: Path, question: str) -> np.ndarray:
    """Return the BM25 score of each segment of a document with several: 0 for one that shares no word with the question.

    Raises `DataError` if the file is damaged.
    """
    return _index(folder).scores(question)


def ranking(folder: Path, question: str) -> list[int]:
    """Return the numbers of the segments of a document that share a word with the question, the best by BM25 first.

    Raises `DataError` if the file is damaged.
    """
    found = scores(folder, question)
    return [segment for segment in highest(found, len(found)) if found[segment] > 0]


def _index(folder: Path) -> TermIndex:
    """Return the index of a document's segments, made once for each state of its file."""
    path = folder / SEGMENTS
    try:
        stated = path.stat()
        return _made(path, stated.st_mtime_ns, stated.st_size, stated.st_ino)
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: fit the document again", setting="replace") from None


@lru_cache(maxsize=KEPT)
def _made(path: Path, *state: int) -> TermIndex:
    stored = _STORED.validate_json(path.read_bytes(), strict=True)
    return TermIndex([list(Counter(words).elements()) for words in stored])
