"""Chunks on disk, for corpora beyond what memory holds: LanceDB, embedded, behind the same two methods as every ranking.

With an embedder a store ranks by vectors, without one by LanceDB's full-text search (BM25) over the same `terms` as in
memory. What a store was made with stands beside its table; opening it with another embedding model is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from environments.retrieval.chunking import Chunk
from environments.retrieval.dense import Embedder, EmbeddingIdentity
from environments.retrieval.ranking import Hit
from environments.retrieval.terms import terms
from longthread.errors import ConfigError, DataError
from longthread.files import write_json

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "chunks"
STORE = "store.json"
FRESH = 20_000  # chunks that are searched one by one, without an index, until they are put into it
REFINED = 30  # candidates of the index, for each chunk wanted, whose exact cosines are taken


@dataclass(frozen=True)
class _Made:
    """What a store was made with: the format of its table and its embedding model, if any."""

    format: int
    embedding: EmbeddingIdentity | None


_STORED = TypeAdapter(_Made)


class LanceStore:
    """A folder of chunks, ranked by vectors of `embedder`, or by their terms without one."""

    def __init__(self, folder: Path, embedder: Embedder | None = None):
        """Open the store of a folder, or make it. Raises `ConfigError`, also for a store of another embedding model."""
        try:
            import lancedb
        except ImportError:
            raise ConfigError("a store on disk needs lancedb: pip install lancedb") from None
        self.folder, self.embedder = folder, embedder
        identity = embedder.identity() if embedder else None
        path = folder / STORE
        if path.exists():
            _check_made(path, identity)
        elif folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not a store and not empty: give another folder")
        else:
            write_json(path, _STORED.dump_python(_Made(1, identity), mode="json"), indent=None)
        self._dimension = identity.dimension if identity else 0
        self._column = "vector" if identity else "terms"
        database = lancedb.connect(folder)
        self._table: Any = database.create_table(TABLE, schema=self._schema(), exist_ok=True)
        self._size: int | None = None  # chunks, once the index was looked after: to ask about it takes 7 ms each time

    @property
    def stored_bytes(self) -> int:
        """Bytes of the files in the store's folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks to the store."""
        import pyarrow as pa

        if not chunks:
            return
        self._size = None
        texts = [chunk.text for chunk in chunks]
        columns: dict[str, object] = {
            "text": texts,
            "start": [chunk.start for chunk in chunks],
            "end": [chunk.end for chunk in chunks],
            "tokens": [chunk.tokens for chunk in chunks],
            "document": [chunk.document for chunk in chunks],
        }
        if self.embedder:
            values = pa.array(self.embedder.documents(texts).ravel())
            columns["vector"] = pa.FixedSizeListArray.from_arrays(values, self._dimension)
        else:
            columns["terms"] = [" ".join(terms(text)) for text in texts]
        self._table.add(pa.table(columns, schema=self._schema()))

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the at most `k` chunks that rank highest for the question, best first."""
        asked = terms(question)
        if k < 1 or not (self.embedder or asked) or not self._index():
            return []
        if self.embedder:
            query = self._table.search(self.embedder.question(question), vector_column_name="vector")
            rows = query.distance_type("cosine").refine_factor(REFINED).limit(k).to_arrow().to_pylist()
            return [Hit(_chunk(row), 1 - row["_distance"]) for row in rows]
        query = self._table.search(" ".join(asked), query_type="fts", fts_columns="terms")
        rows = query.limit(k).to_arrow().to_pylist()
        return [Hit(_chunk(row), row["_score"]) for row in rows]

    def _index(self) -> int:
        """Put chunks into the index where many are not yet in it. Returns the number of chunks."""
        from lancedb.index import FTS, IvfPq

        if self._size is not None:
            return self._size
        size = self._table.count_rows()
        made = {column: index.name for index in self._table.list_indices() for column in index.columns}
        if self._column in made:
            if self._table.index_stats(made[self._column]).num_unindexed_rows > FRESH:
                self._table.optimize()
        elif self.embedder and size > FRESH:
            self._table.create_index("vector", config=IvfPq(distance_type="cosine"))
        elif not self.embedder and size:
            as_they_are = FTS(
                base_tokenizer="whitespace",
                max_token_length=None,
                lower_case=False,
                stem=False,
                remove_stop_words=False,
                ascii_folding=False,
            )
            self._table.create_index("terms", config=as_they_are)
        self._size = size
        return size

    def _schema(self) -> "pa.Schema":
        import pyarrow as pa

        fields = [(name, pa.string()) for name in ("text", "document")]
        fields += [(name, pa.int64()) for name in ("start", "end", "tokens")]
        ranked = pa.list_(pa.float32(), self._dimension) if self.embedder else pa.string()
        return pa.schema([*fields, (self._column, ranked)])


def _chunk(row: dict[str, Any]) -> Chunk:
    return Chunk(row["text"], row["start"], row["end"], row["tokens"], row["document"])


def _check_made(path: Path, identity: EmbeddingIdentity | None) -> None:
    """Raise `ConfigError` where a store was not made with this embedding model."""
    try:
        made = _STORED.validate_json(path.read_bytes()).embedding
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: make the store again in another folder") from None
    if made is None and identity is None:
        return
    if made is None or identity is None or not made.matches(identity):
        was, given = (
            f"embedding model {i.name!r} ({i.dimension} dimensions)" if i else "no embedding model"
            for i in (made, identity)
        )
        raise ConfigError(f"the store at {path.parent} was made with {was}, not {given}: give that, or another folder")
