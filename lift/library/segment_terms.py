"""The words of each segment of a document, by which the segments that a question is about are found: segments.json.

Counts of words, in no order: the text itself is not kept.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from environments.retrieval.ranking import TermIndex, highest
from environments.retrieval.terms import terms
from lift.library.files import SEGMENTS
from longthread.errors import DataError
from longthread.files import write_json

OPENED = 3  # segments of a document, at a question
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
    return sorted(TermIndex(_stored(folder)).best(question, most))


def ranking(folder: Path, question: str) -> list[int]:
    """Return the numbers of the segments of a document that share a word with the question, the best by BM25 first.

    Raises `DataError` if the file is damaged.
    """
    scores = TermIndex(_stored(folder)).scores(question)
    return [segment for segment in highest(scores, len(scores)) if scores[segment] > 0]


def _stored(folder: Path) -> list[list[str]]:
    path = folder / SEGMENTS
    try:
        stored = _STORED.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: fit the document again", setting="replace") from None
    return [list(Counter(words).elements()) for words in stored]
