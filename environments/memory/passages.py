"""The passages of documents that are found for a question: chunks, cut and ranked once a document, and their cost."""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from environments.haystack.tokens import Tokens
from environments.memory.hybrid import Confirming, confirming
from environments.memory.questions import Document, Question
from environments.retrieval.chunking import Chunk, fixed_chunks, semantic_chunks
from environments.retrieval.dense import Dense, Embedder
from environments.retrieval.hops import search_in_hops
from environments.retrieval.lance_store import STORE, LanceStore
from environments.retrieval.ranking import BM25, Fused, Hit, StoredRanking
from longthread.files import write_json

KEPT = 8  # documents whose index stays in memory
COMPLETE = "complete.json"  # beside a document's store, once all of it is in it


class RetrievalSettings(Protocol):
    """The settings of an environment that are about retrieval; see `MemoryEnvConfig`."""

    passages: int
    chunk_tokens: int
    overlap: int
    chunking: str
    ranking: str
    search_hops: int
    embedding_model: str
    chunk_store: str


@dataclass(frozen=True)
class Index:
    """A document's passages, ready to be searched, and the bytes kept, the text's among them.

    `seconds`: to make it; None where it was on disk already.
    """

    ranking: StoredRanking
    seconds: float | None
    stored_bytes: int


class Passages:
    """Finds passages for questions. `embedder`: of rankings by embeddings."""

    def __init__(self, settings: RetrievalSettings, tokens: Tokens, embedder: Embedder | None = None):
        """Check an existing store of chunks. Raises `ConfigError` for one of another embedding model."""
        self.settings, self.tokens, self.embedder = settings, tokens, embedder
        self._indices: OrderedDict[str, Index] = OrderedDict()
        self._indexing = threading.Lock()
        if settings.chunk_store:
            for made in sorted(Path(settings.chunk_store).glob(f"*/{STORE}"))[:1]:
                LanceStore(made.parent, embedder)

    @classmethod
    def of(cls, settings: RetrievalSettings, tokens: Tokens) -> "Passages":
        """Return what the settings ask for. Raises `ConfigError`, also for an embedding model that cannot be loaded."""
        embedder = None if settings.ranking == "bm25" else Embedder.load(settings.embedding_model)
        return cls(settings, tokens, embedder)

    def find(self, question: Question, index: Index) -> list[Hit]:
        """Return the passages of a document's index for a question, best first."""
        settings = self.settings
        asked, k = question.sample.question, settings.passages
        if settings.search_hops:
            return search_in_hops(index.ranking, asked, k, settings.search_hops)
        return index.ranking.search(asked, k)

    def confirming(
        self, question: Question, index: Index, proposed: str, passed: Sequence[str] = ()
    ) -> Confirming | None:
        """Return what confirms a value that a memory proposes for a question (`hybrid.confirming`), or None."""
        return confirming(index.ranking, question.sample.question, proposed, self.settings.passages, passed)

    def index(self, document: Document) -> Index:
        """Return the index of a document, made where it is not among the last ones asked for."""
        with self._indexing:
            if document.digest not in self._indices:
                self._indices[document.digest] = self._made(document)
            self._indices.move_to_end(document.digest)
            while len(self._indices) > KEPT:
                self._indices.popitem(last=False)
            return self._indices[document.digest]

    def _made(self, document: Document) -> Index:
        started = time.monotonic()
        ranking, new = self._ranking(document)
        ranking.search("", 1)  # an index is built when it is first searched
        seconds = time.monotonic() - started if new else None
        text_bytes = 0 if self.settings.chunk_store else len(document.text.encode())  # a store has the text in it
        return Index(ranking, seconds, text_bytes + ranking.stored_bytes)

    def _ranking(self, document: Document) -> tuple[StoredRanking, bool]:
        """Return the document's passages in a ranking, and whether they were put there now."""
        if self.settings.chunk_store:
            return self._stored(document)
        ranking = _ranking(self.settings.ranking, self.embedder)
        ranking.add(self.chunks(document))
        return ranking, True

    def _stored(self, document: Document) -> tuple[LanceStore, bool]:
        """Return the document's store on disk, filled where it was not, or not completely."""
        s = self.settings
        cut = hashlib.sha256(json.dumps([document.digest, s.chunk_tokens, s.overlap, s.chunking]).encode()).hexdigest()
        number, folder = 0, Path(s.chunk_store) / cut[:16]
        while folder.exists() and not (folder.parent / f"{folder.name}.{COMPLETE}").exists():
            number += 1  # left over from a killed run
            folder = Path(s.chunk_store) / f"{cut[:16]}-{number}"
        filled = folder.exists()
        store = LanceStore(folder, self.embedder)
        if not filled:
            store.add(self.chunks(document))
            write_json(folder.parent / f"{folder.name}.{COMPLETE}", {"document": document.name})
        return store, not filled

    def chunks(self, document: Document) -> list[Chunk]:
        """Return the passages of a document."""
        offsets, size = self.tokens.offsets(document.text)[1], self.settings.chunk_tokens
        if self.settings.chunking == "semantic":
            return semantic_chunks(document.text, offsets, size, document.name)
        return fixed_chunks(document.text, offsets, size, self.settings.overlap, document.name)


def _ranking(name: str, embedder: Embedder | None) -> StoredRanking:
    if name == "bm25" or embedder is None:
        return BM25()
    return Dense(embedder) if name == "dense" else Fused([BM25(), Dense(embedder)])
