"""From judged units to rows on the disk: counting, the search for near-duplicates, packing, shards, and a state to resume.

builder = Builder(length, limit, NearDuplicates(0.8, 262_144))
write_shard(out, builder.tally.rows, builder.rows(units)); builder.save(state)
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longthread.files import JsonObject, replacing
from trainer_configs.longlora.data.near_duplicates import PERMUTATIONS, NearDuplicates
from trainer_configs.longlora.data.packing import Document, Packer, Row

STATE, SIGNATURES = "state.npz", "signatures.bin"
ROW_GROUP = 1 << 20  # tokens that are turned into columns at a time


@dataclass
class Tally:
    """Counts that add up: every unit that is read is kept or rejected for one reason, and so are its tokens."""

    rows: int = 0
    units: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_tokens: Counter[str] = field(default_factory=Counter)
    unit_tokens: int = 0  # of the units kept
    left_over_tokens: int = 0  # of units kept, that did not fill a row
    cut_rows: int = 0  # that end within a sentence
    pieces: int = 0  # of documents, in all rows
    overlaps: int = 0
    overlap_tokens: int = 0
    overlap_min: int = 0
    overlap_max: int = 0

    def reject(self, reason: str, tokens: int) -> None:
        """Count a rejected unit."""
        self.rejected[reason] += 1
        self.rejected_tokens[reason] += tokens

    def add_row(self, row: Row) -> None:
        """Count a finished row."""
        self.rows += 1
        self.cut_rows += row.cut
        self.pieces += len(row.starts)

    def add_overlap(self, tokens: int) -> None:
        """Count the tokens that two windows share."""
        self.overlap_min = min(tokens, self.overlap_min) if self.overlaps else tokens
        self.overlap_max = max(tokens, self.overlap_max)
        self.overlap_tokens += tokens
        self.overlaps += 1

    def check(self, length: int, waiting: int = 0) -> None:
        """Assert that the counts add up, where `waiting` tokens are not yet in a row."""
        assert self.units == self.kept + sum(self.rejected.values()), self
        assert self.unit_tokens == self.rows * length + self.left_over_tokens + waiting, self


class Builder:
    """Turns units (documents, windows, questions) into rows, and keeps the state of a run between two chunks."""

    def __init__(self, length: int, limit: int, index: NearDuplicates) -> None:
        self.length, self.limit, self.index = length, limit, index
        self.tally = Tally()
        self.packer = Packer(length)
        self.items = 0  # of the source, finished
        self.remembered: list[bytes] = []  # signatures of this chunk
        self.indexed = 0  # signatures of all chunks before

    @property
    def full(self) -> bool:
        """Return True once as many rows are made as the limit allows."""
        return 0 < self.limit <= self.tally.rows

    def rows(self, units: Iterable[JsonObject]) -> Iterator[Row]:
        """Yield the rows that these units complete. Units that follow once the limit is reached are not read."""
        for unit in units:
            if self.full:
                return
            tally = self.tally
            tally.units += 1
            if unit["shared"] >= 0:
                tally.add_overlap(unit["shared"])
            if reason := unit["reason"] or self._duplicate(unit["signature"]):
                tally.reject(reason, unit["tokens"])
                continue
            tally.kept += 1
            tally.unit_tokens += unit["tokens"]
            ids, cuts = (np.frombuffer(unit[name], np.int32) for name in ("ids", "cuts"))
            if len(cuts):
                self.packer.push(Document(ids, cuts, tally.units, len(ids)))
                yield from self._packed(final=False)
            else:
                yield self._counted(Row(ids, np.zeros(1, np.int32), unit["cut"]))

    def finish(self) -> Iterator[Row]:
        """Yield the last rows, and count what is left over.

        Documents of which nothing is in a row count as rejected; of documents already begun, the tokens left count.
        """
        if not self.full:
            yield from self._packed(final=True)
        waiting: Counter[int] = Counter()
        totals = {}
        for document in self.waiting():
            waiting[document.number] += len(document)
            totals[document.number] = document.total
        for number, tokens in waiting.items():
            if tokens == totals[number]:
                self.tally.kept -= 1
                self.tally.unit_tokens -= tokens
                self.tally.reject("left_over", tokens)
            else:
                self.tally.left_over_tokens += tokens
        self.tally.check(self.length)

    def waiting(self) -> list[Document]:
        """Return the documents, and rests of documents, that are in no row yet."""
        return [*self.packer.reserve, *self.packer.queue]

    def _packed(self, final: bool) -> Iterator[Row]:
        for row in self.packer.rows(final):
            yield self._counted(row)
            if self.full:
                return

    def _counted(self, row: Row) -> Row:
        assert len(row.ids) == self.length, (len(row.ids), self.length)
        self.tally.add_row(row)
        return row

    def _duplicate(self, signature: bytes) -> str:
        if not signature:
            return ""
        if self.index.seen(np.frombuffer(signature, np.uint16)):
            return "near_duplicate"
        self.remembered.append(signature)
        return ""

    # State on disk: numbers and arrays, nothing pickled. Signatures are appended to a log; the state says how much of it
    # counts, as it says how many shards do.

    def save(self, folder: Path) -> None:
        """Write the state to the folder, so that a run that is killed resumes from it."""
        with (folder / SIGNATURES).open("ab") as log:
            log.write(b"".join(self.remembered))
            log.flush()
            os.fsync(log.fileno())
        self.indexed += len(self.remembered)
        self.remembered = []
        waiting = self.waiting()
        self.tally.check(self.length, sum(map(len, waiting)))
        numbers = {
            "items": self.items,
            "indexed": self.indexed,
            "tally": vars(self.tally),
            "reserve": len(self.packer.reserve),
            "documents": [[len(d.ids), len(d.cuts), d.number, d.total] for d in waiting],
        }
        none = np.zeros(0, np.int32)
        with replacing(folder / STATE) as file:
            np.savez(
                file,
                numbers=np.frombuffer(json.dumps(numbers).encode(), np.uint8),
                ids=np.concatenate([none, *(d.ids for d in waiting)]),
                cuts=np.concatenate([none, *(d.cuts for d in waiting)]),
            )

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote to the folder."""
        with np.load(folder / STATE, allow_pickle=False) as state:
            numbers, ids, cuts = json.loads(state["numbers"].tobytes()), state["ids"], state["cuts"]
        self.items, self.indexed = numbers["items"], numbers["indexed"]
        self.tally = Tally(**numbers["tally"])
        self.tally.rejected, self.tally.rejected_tokens = (
            Counter(numbers["tally"][name]) for name in ("rejected", "rejected_tokens")
        )
        documents = []
        for tokens, count, number, total in numbers["documents"]:
            documents.append(Document(ids[:tokens], cuts[:count], number, total))
            ids, cuts = ids[tokens:], cuts[count:]
        self.packer.reserve = documents[: numbers["reserve"]]
        self.packer.queue.extend(documents[numbers["reserve"] :])
        self.packer.total = sum(map(len, documents))
        size = 2 * PERMUTATIONS
        with (folder / SIGNATURES).open("r+b") as log:
            log.truncate(self.indexed * size)
            while signature := log.read(size):
                self.index.add(np.frombuffer(signature, np.uint16))


# ---- files ------------------------------------------------------------------------------------------------------


def write_shard(out: Path, first: int, rows: Iterable[Row]) -> int:
    """Write rows as `train-<number of its first row>.parquet`, completely or not at all, and return how many.

    Without rows there is no file. Types are those that `datasets` itself gives to tokenised columns. There is no
    attention_mask: beside one transformers does not look at positions, and documents would see each other.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"input_ids": pa.int32(), "labels": pa.int64(), "position_ids": pa.int64()}
    schema = pa.schema([*((name, pa.list_(kind)) for name, kind in kinds.items()), ("length", pa.int64())])
    waiting = iter(rows)
    head = next(waiting, None)
    if head is None:
        return 0
    count, block = 0, [head]
    with (
        replacing(out / "data" / f"train-{first:09d}.parquet") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        while block:
            while sum(len(row.ids) for row in block) < ROW_GROUP and (row := next(waiting, None)) is not None:
                block.append(row)
            arrays = {name: pa.array([_column(row, name) for row in block], schema.field(name).type) for name in kinds}
            writer.write_table(pa.table({**arrays, "length": [len(row.ids) for row in block]}, schema=schema))
            count, block = count + len(block), []
            if (row := next(waiting, None)) is not None:
                block = [row]
    return count


def _column(row: Row, name: str) -> np.ndarray:
    return row.position_ids if name == "position_ids" else row.ids
