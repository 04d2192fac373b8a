"""Retrieval beside the memory: the passages of a document that BM25 finds most like a question."""

import re

from lift import LiftError
from lift.document.document import Document

PASSAGE_WORDS = 200


def passages(text: str, question: str, k: int) -> list[str]:
    """The `k` passages of some 200 words that BM25 finds most like the question, in the order of the text."""
    try:
        import bm25s
    except ImportError:
        raise LiftError("--retrieve needs bm25s: pip install bm25s") from None
    document, pieces, words = Document("", text), [""], 0
    for start, end in document.sentences:
        count = len(text[start:end].split())
        if words and words + count > PASSAGE_WORDS:
            pieces, words = [*pieces, ""], 0
        pieces[-1], words = f"{pieces[-1]} {text[start:end]}".strip(), words + count
    terms = [_terms(piece) for piece in pieces]
    if not any(terms):
        raise LiftError("--source has no word to search: give the document's file")
    index = bm25s.BM25()
    index.index(terms, show_progress=False)
    best, _ = index.retrieve([_terms(question)], k=min(k, len(pieces)), show_progress=False)
    return [pieces[i] for i in sorted(best[0].tolist())]


def _terms(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
