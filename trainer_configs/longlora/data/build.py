"""Pretraining rows of an exact token length, from any corpus or from the environments, checked as they are made.

    longthread longlora data books/ rows --tokenizer MODEL --length 32768            # join; --mode window --overlap 1024
    longthread longlora data prose rows --tokenizer MODEL --length 32768 --limit 500
    python -m trainer_configs.longlora.data ...                                      # the same

OUT/data/train-*.parquet holds tokenised rows: input_ids, labels, position_ids, length. position_ids restart at 0 with every
document, which is how documents are told apart. An attention_mask of ones would switch that off in transformers, so there is
none; Axolotl reads the rows by `type: trainer_configs.longlora.rows`. `length` keeps it from guessing it off the last
position. Every document (or window) that is read is kept, or rejected and counted under one reason.

Work goes in chunks: one is read, prepared by `num_proc` processes of `Dataset.map`, packed, written as one shard, and then
the state is saved. So memory holds a chunk, the rows do not depend on `num_proc`, and a killed run resumes at its last
chunk and writes the same bytes.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from longthread.errors import ConfigError
from longthread.files import JsonObject, write_json
from trainer_configs.longlora.data.encoder import load_encoder
from trainer_configs.longlora.data.near_duplicates import NearDuplicates
from trainer_configs.longlora.data.packing import LOOKAHEAD
from trainer_configs.longlora.data.prepare import FIELDS, Job, prepare
from trainer_configs.longlora.data.quality import LANGUAGES, Checks
from trainer_configs.longlora.data.run_folder import STATS, Run, begin, check_same, full_disk_explained, shards
from trainer_configs.longlora.data.shards import STATE, Builder, write_shard
from trainer_configs.longlora.data.sources import GENERATED, Source

VERSION = 2  # of the rows: raised whenever the same command would write others
MASKED = 1  # the version whose rows are the same but for an attention_mask of ones
CHUNK_CHARS, CHUNK_ITEMS = 8_000_000, 4096  # a chunk ends at either
CHARS_PER_TOKEN = 4  # only to plan sizes

# Least and greatest values. A length may exceed the tokenizer's model_max_length: LongLoRA is for that.
LIMITS: dict[str, tuple[float, float | None]] = {"length": (16, 1 << 22), "limit": (0, None), "num_proc": (1, None)}
LIMITS |= {"remember": (2, None), "chunk_chars": (1, None)}
SHARES = ("min_share", "max_markup", "min_language", "max_repeated", "near_duplicate")  # of `Checks`, 0 to 1


@dataclass(frozen=True)
class Settings:
    """The settings of one run. All but `num_proc` decide what is written."""

    source: Source
    out: Path
    tokenizer: str
    length: int
    mode: str = "join"
    overlap: int = 0
    limit: int = 0  # rows; 0: all
    seed: int = 0
    remember: int = 262_144  # units, in 512 bytes each, that near-duplicates are looked for among
    checks: Checks = field(default_factory=Checks)
    num_proc: int = 2
    chunk_chars: int = CHUNK_CHARS

    def job(self) -> Job:
        """Return the settings that a worker process needs."""
        slack = max(0, self.length - self.overlap) // 2  # so every window brings half its step in new text
        name = self.source.name if self.source.generated else ""
        return Job(name, self.tokenizer, self.length, self.mode, self.overlap, slack, self.seed, self.checks)

    def run(self) -> Run:
        """Return the settings as JSON values, with the version and the fingerprints of tokenizer and files."""
        settings = asdict(self)
        for name in ("out", "num_proc", "tokenizer"):
            del settings[name]
        files = self.source.fingerprint()
        run = {"version": VERSION, "tokenizer": load_encoder(self.tokenizer).fingerprint, "files": files, **settings}
        as_json: Run = json.loads(json.dumps(run))
        return as_json


def check(settings: Settings) -> None:
    """Raise `ConfigError` for settings that cannot work, before any work is done."""
    for name, (low, high) in LIMITS.items():
        _check_within(name, getattr(settings, name), low, high)
    for name in SHARES:
        _check_within(name, getattr(settings.checks, name), 0, 1)
    _check_choice("mode", settings.mode, ("join", "window"))
    _check_choice("language", settings.checks.language, LANGUAGES)
    _check_overlap(settings)
    name = settings.source.name
    if name in GENERATED and not settings.limit:
        raise ConfigError(f"source {name} is endless: give the number of rows", setting="limit")
    if name == "needles" and settings.mode == "window":
        raise ConfigError("source needles gives one question a row, which cannot be windowed: use join", setting="mode")
    load_encoder(settings.tokenizer)
    settings.source.check()


def _check_within(name: str, value: float, low: float, high: float | None) -> None:
    if high is None and value < low:
        raise ConfigError(f"{name} {value} must be at least {low}", setting=name)
    if high is not None and not low <= value <= high:
        raise ConfigError(f"{name} {value} must lie between {low} and {high}", setting=name)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)} (got {value!r})", setting=name)


def _check_overlap(settings: Settings) -> None:
    overlap, length, limit = settings.overlap, settings.length, settings.checks.near_duplicate
    if not 0 <= overlap < length:
        raise ConfigError(f"overlap {overlap} must be at least 0 and below the length {length}", setting="overlap")
    if settings.mode == "join":
        if overlap:
            raise ConfigError(
                f"overlap {overlap} has no meaning in mode join: leave it out, or use window", setting="mode"
            )
        return
    most = overlap + settings.job().slack
    if limit and (shared := most / (2 * length - most)) >= limit:
        raise ConfigError(
            f"overlap {overlap} would make a window a near-duplicate of the one before (similarity up to {shared:.2f}, "
            f"limit {limit}): lower the overlap, or raise the limit",
            setting=("overlap", "near_duplicate"),
        )


# ---- the run ----------------------------------------------------------------------------------------------------


def build(settings: Settings, progress: bool = False) -> tuple[JsonObject, int]:
    """Write the rows, or resume where a run was killed. Raises `ConfigError`, or `RunError` for a full disk.

    Returns the content of `stats.json`, and how many rows this call wrote.
    """
    check(settings)
    state, run = settings.out / ".state", settings.run()
    if (finished := _finished(settings.out, run)) is not None:
        shutil.rmtree(state, ignore_errors=True)  # left if the run was killed as its last act
        return finished, 0
    builder = Builder(
        settings.length, settings.limit, NearDuplicates(settings.checks.near_duplicate, settings.remember)
    )
    with full_disk_explained(settings.out):
        begin(settings.out, state, run)
        if (state / STATE).exists():
            builder.load(state)
        else:
            builder.save(state)
        before = builder.tally.rows
        for shard in shards(settings.out):  # of an unfinished chunk, which will be written anew
            if int(shard.stem.rsplit("-", 1)[1]) >= before:
                shard.unlink()
        with _bar(settings, before, progress) as bar:
            _write_rows(builder, settings, state, bar)
        stats = {"config": run, "finished": True, **vars(builder.tally)}
        write_json(settings.out / STATS, stats)
    shutil.rmtree(state)
    return stats, builder.tally.rows - before


def _write_rows(builder: Builder, settings: Settings, state: Path, bar: tqdm) -> None:
    job, out = settings.job(), settings.out
    load_encoder(settings.tokenizer)  # before the fork: workers inherit it
    items = settings.source.items(builder.items)
    while not builder.full and (chunk := next_chunk(items, settings, builder.tally.rows)):
        rows = write_shard(out, builder.tally.rows, builder.rows(prepared(chunk, job, settings.num_proc)))
        builder.items += len(chunk)
        builder.save(state)
        bar.update(rows * settings.length)
        bar.set_postfix(rows=builder.tally.rows, kept=builder.tally.kept, rejected=builder.tally.rejected.total())
    bar.update(write_shard(out, builder.tally.rows, builder.finish()) * settings.length)


def next_chunk(items: Iterator[str | int], settings: Settings, rows: int) -> list[str | int]:
    """Return the next items of the source, of about `chunk_chars` characters together.

    Where a chunk ends does not depend on the number of processes. `rows` is how many are already written. Of generated
    documents no more are made than the missing rows need.
    """
    most = CHUNK_ITEMS
    if settings.source.generated:
        most = min(most, (settings.limit - rows) * (2 if settings.source.name == "prose" else 3) // 3 + LOOKAHEAD)
    chunk: list[str | int] = []
    size = 0
    for item in islice(items, most):
        chunk.append(item)
        size += len(item) if isinstance(item, str) else settings.length * CHARS_PER_TOKEN
        if size >= settings.chunk_chars:
            break
    return chunk


def prepared(chunk: list[str | int], job: Job, num_proc: int) -> Iterator[JsonObject]:
    """Yield the units made of the chunk's items, in order, by `num_proc` processes."""
    import datasets

    kinds = {"reason": "string", "cut": "bool"} | dict.fromkeys(("ids", "cuts", "signature"), "large_binary")
    features = datasets.Features({name: datasets.Value(kinds.get(name, "int64")) for name in FIELDS})
    processes = min(num_proc, len(chunk))
    units = datasets.Dataset.from_dict({"item": chunk}).map(
        prepare,
        batched=True,
        batch_size=max(1, min(64, len(chunk) // (4 * processes))),
        fn_kwargs={"job": job},
        num_proc=processes if processes > 1 else None,
        remove_columns=["item"],
        features=features,
        keep_in_memory=True,
        load_from_cache_file=False,
        new_fingerprint="longthread",  # or the text would be hashed for a cache that is not used
    )
    for batch in units.data.to_batches(max_chunksize=16):
        yield from batch.to_pylist()


@contextmanager
def _bar(settings: Settings, rows: int, progress: bool) -> Iterator[tqdm]:
    """Show a bar over all tokens, in place of those of `datasets`."""
    import datasets

    were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    total, done = settings.limit * settings.length or None, rows * settings.length
    try:
        with tqdm(total=total, initial=done, unit="tok", unit_scale=True, desc="rows", disable=not progress) as bar:
            yield bar
    finally:
        if were_on:
            datasets.enable_progress_bars()


# ---- files ------------------------------------------------------------------------------------------------------


def _finished(out: Path, run: Run) -> JsonObject | None:
    """Return the statistics if this very run is finished, else None.

    Raises `ConfigError` if the folder holds another finished run.
    """
    if (out / STATS).is_file():
        stats: JsonObject = json.loads((out / STATS).read_text())
        stored = stats.get("config", {})
        check_same(out, stored | {"version": VERSION} if stored.get("version") == MASKED else stored, run)
        return stats
    return None
