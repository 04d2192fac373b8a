"""Retrieval beside the memory: the passages of a document that BM25 ranks highest for a question."""

import re
from collections.abc import Sequence

from lift.document.document import Document
from lift.document.repeats import read_once
from longthread.errors import ConfigError

PASSAGE_WORDS = 200


def passages(text: str, question: str, k: int) -> list[str]:
    """Return the `k` passages of some 200 words that BM25 ranks highest for the question, in the order of the text.

    A passage that stands twice is given once. Raises `ConfigError` where bm25s is not installed, or the text has no words.
    """
    pieces = _pieces(read_once(Document("", text)))
    of_pieces = [terms(piece) for piece in pieces]
    if not any(of_pieces):
        raise ConfigError("the text has no words to search: give the document's file", setting="source")
    return [pieces[i] for i in ranked(of_pieces, question, k)]


def ranked(of_texts: Sequence[list[str]], question: str, k: int) -> list[int]:
    """Return the numbers of the `k` texts, given by their terms, that BM25 ranks highest for the question, in order."""
    return sorted(best_first(of_texts, question, k))


def best_first(of_texts: Sequence[list[str]], question: str, k: int) -> list[int]:
    """Return the numbers of the `k` texts that BM25 ranks highest for the question, the highest first."""
    try:
        import bm25s
    except ImportError:
        raise ConfigError("retrieval needs bm25s: pip install bm25s") from None
    index = bm25s.BM25()
    index.index(list(of_texts), show_progress=False)
    best, _ = index.retrieve([terms(question)], k=min(k, len(of_texts)), show_progress=False)
    numbers: list[int] = best[0].tolist()
    return numbers


def _pieces(document: Document) -> list[str]:
    """Cut a document into pieces of whole sentences, of at most `PASSAGE_WORDS` words unless one sentence is longer."""
    pieces, words = [""], 0
    for start, end in document.sentences:
        count = len(document.text[start:end].split())
        if words and words + count > PASSAGE_WORDS:
            pieces, words = [*pieces, ""], 0
        pieces[-1], words = f"{pieces[-1]} {document.text[start:end]}".strip(), words + count
    return pieces


def terms(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+", text.lower())
