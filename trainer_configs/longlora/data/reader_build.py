"""Reader rows on the disk: shards made by several processes, each whole or not there, and a run that resumes.

    stats = build(Build(RowSettings(count=600), Path("rows"), tokenizer="MODEL", texts="novels/"))

OUT/data/train-*.parquet holds tokenised rows: input_ids, labels, attention_mask, position_ids, length. Each row depends on
its number and the settings alone, so neither the processes nor a kill change a byte. Rows of several documents must not be
packed with others: their positions say what sees what (`environments.datasets.reader_rows.encoding`).
"""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from environments.datasets.reader_rows.chats import WANTED, read_chats
from environments.datasets.reader_rows.encoding import IGNORED, Row
from environments.datasets.reader_rows.plan import RowPlan, RowSettings, plan
from environments.datasets.reader_rows.rows import POOL_ROWS, RowMaker
from environments.haystack.filler.files import table_files, text_files
from environments.haystack.tokens import load_tokenizer
from longthread.errors import ConfigError, RunError
from longthread.files import JsonObject, replacing, write_json
from trainer_configs.longlora.data.run_folder import STATS, Run, begin, check_same, full_disk_explained, shards

VERSION = 12  # of the rows: raised whenever the same command would write others
Totals = dict[str, dict[str, int]]  # by kind of row: how many rows, their tokens, and the tokens learnt


@dataclass(frozen=True)
class Build:
    """One run. All but `num_proc` decide what is written."""

    settings: RowSettings
    out: Path
    tokenizer: str
    texts: str = ""  # a folder of texts, "" for fiction alone
    chats: Path | None = None  # a file of conversations
    num_proc: int = 2

    def maker(self) -> RowMaker:
        """Load what rows are made of. Raises `ConfigError`."""
        try:
            tokenizer = load_tokenizer(self.tokenizer)
        except ConfigError as error:
            raise ConfigError(error.message, setting="tokenizer") from None
        chats = read_chats(self.chats) if self.chats else ()
        if self.chats and not chats:
            raise ConfigError(f"{self.chats} holds no conversations: {WANTED}", setting="chat_rows")
        return RowMaker(tokenizer, self.settings, self.texts, chats)

    def run(self, maker: RowMaker) -> Run:
        """Return the settings as JSON values, with the version and the fingerprints of tokenizer, texts and chats."""
        place = Path(self.texts)
        files = (table_files(place) or text_files(place)) if self.texts else []
        chats = hashlib.sha256(self.chats.read_bytes()).hexdigest()[:16] if self.chats else ""
        run = {
            "reader_rows": VERSION,
            "tokenizer": maker.tokens.fingerprint,
            "texts": [[file.name, file.stat().st_size] for file in files],
            "chats": chats,
            **asdict(self.settings),
        }
        as_json: Run = json.loads(json.dumps(run))
        return as_json


def build(job: Build, progress: bool = False) -> JsonObject:
    """Write the rows, or those that a killed run did not come to; return the content of `stats.json`.

    Raises `ConfigError`, or `RunError` for a full disk or a process that was killed.
    """
    job.settings.check()
    if job.num_proc < 1:
        raise ConfigError(f"num_proc must be at least 1 (got {job.num_proc})", setting="num_proc")
    maker = job.maker()
    run, state = job.run(maker), job.out / ".state"
    if (job.out / STATS).is_file():
        stats: JsonObject = json.loads((job.out / STATS).read_text())
        check_same(job.out, stats["config"], run)
        shutil.rmtree(state, ignore_errors=True)  # left if the run was killed as its last act
        return stats
    maker.check()
    rows = plan(job.settings)
    with full_disk_explained(job.out):
        begin(job.out, state, run)
        _write(job, maker, rows, progress)
        stats = {"config": run, "rows": totals(job.out, rows)}
        write_json(job.out / STATS, stats)
    shutil.rmtree(state)
    return stats


def _write(job: Build, maker: RowMaker, rows: Sequence[RowPlan], progress: bool) -> None:
    """Write the shards that are not there yet, of `POOL_ROWS` rows each."""
    there = set(shards(job.out))
    parts = [rows[start : start + POOL_ROWS] for start in range(0, len(rows), POOL_ROWS)]
    todo = [part for part in parts if _path(job.out, part) not in there]
    processes = min(job.num_proc, len(todo))
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(rows), unit="row", desc="rows", disable=not progress))
        bar.update(len(rows) - sum(map(len, todo)))
        done: Iterator[int]
        if processes <= 1:
            done = (write_shard(maker, job.out, part) for part in todo)
        else:
            # Forked, the processes share what is loaded; torch, which does not bear a fork, is not.
            context = multiprocessing.get_context("fork")
            pool = stack.enter_context(ProcessPoolExecutor(processes, context, _keep, (maker, job.out)))
            stack.callback(pool.shutdown, cancel_futures=True)
            done = pool.map(_write_kept, todo)
        try:
            for count in done:
                bar.update(count)
        except BrokenProcessPool:
            raise RunError(
                "a process was killed, perhaps for want of memory: run the same command with a smaller --num-proc, which "
                "goes on behind the shards that are there"
            ) from None


_kept: list[tuple[RowMaker, Path]] = []  # of this process


def _keep(maker: RowMaker, out: Path) -> None:
    _kept[:] = [(maker, out)]


def _write_kept(part: Sequence[RowPlan]) -> int:
    return write_shard(*_kept[0], part)


# ---- files ----


def _path(out: Path, part: Sequence[RowPlan]) -> Path:
    return out / "data" / f"train-{part[0].number:09d}.parquet"


def write_shard(maker: RowMaker, out: Path, part: Sequence[RowPlan]) -> int:
    """Make the rows and write them as one file; return how many."""
    write_rows([maker.row(row) for row in part], _path(out, part))
    return len(part)


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows as a parquet file, completely or not at all.

    Types are those of `longlora data`, so that both can be trained on together.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"input_ids": pa.int32(), "labels": pa.int64(), "attention_mask": pa.int8(), "position_ids": pa.int64()}
    columns = {name: pa.array([_column(row, name) for row in rows], pa.list_(kind)) for name, kind in kinds.items()}
    with replacing(path) as file:
        pq.write_table(pa.table({**columns, "length": [len(row) for row in rows]}), file, compression="zstd")


def _column(row: Row, name: str) -> np.ndarray:
    if name == "attention_mask":
        return np.ones(len(row), np.int8)
    column: np.ndarray = getattr(row, name)
    return column


def totals(out: Path, rows: Sequence[RowPlan]) -> Totals:
    """Count the rows in the shards, their tokens and the tokens learnt, by kind of row."""
    import pyarrow.parquet as pq

    counted: Totals = {}
    waiting = iter(rows)
    for shard in shards(out):
        labels = pq.read_table(shard, columns=["labels"]).column(0).combine_chunks()
        learnt = labels.values.to_numpy() != IGNORED
        for start, end in pairwise(labels.offsets.to_pylist()):
            of_kind = counted.setdefault(next(waiting).kind, dict.fromkeys(("rows", "tokens", "learnt"), 0))
            of_kind["rows"] += 1
            of_kind["tokens"] += end - start
            of_kind["learnt"] += int(learnt[start:end].sum())
    return counted
