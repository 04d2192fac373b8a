"""Retrieval beside the memory: the passages of a document that BM25 ranks highest for a question."""

from environments.retrieval.chunking import semantic_chunks
from environments.retrieval.ranking import TermIndex
from environments.retrieval.terms import terms, word_offsets
from lift.document.document import Document
from lift.document.repeats import read_once
from longthread.errors import ConfigError

PASSAGE_WORDS = 200


def passages(text: str, question: str, k: int) -> list[str]:
    """Return the `k` passages of at most 200 words that BM25 ranks highest for the question, in the order of the text.

    A passage that stands twice is given once. Raises `ConfigError` where bm25s is not installed, or the text has no words.
    """
    text = read_once(Document("", text)).text
    chunks = semantic_chunks(text, word_offsets(text), PASSAGE_WORDS)
    of_chunks = [terms(chunk.text) for chunk in chunks]
    if not any(of_chunks):
        raise ConfigError("the text has no words to search: give the document's file", setting="source")
    return [chunks[i].text.strip() for i in sorted(TermIndex(of_chunks).best(question, k))]
