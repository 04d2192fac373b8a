"""Pretraining rows of an exact token length, from any corpus or from the environments, checked as they are made.

    longthread longlora data books/ rows --tokenizer MODEL --length 32768            # join; --mode window --overlap 1024
    longthread longlora data prose rows --tokenizer MODEL --length 32768 --limit 500
    python -m trainer_configs.longlora.data ...                                      # the same

OUT/data/train-*.parquet is what Axolotl takes for tokenised rows: input_ids, attention_mask, labels; position_ids restart
at 0 with every document, which is where the packer's boundaries come from; `length` keeps Axolotl from guessing it off
the last position. Every document (or window) read is kept or counted under one reason. Work goes in chunks: one is read,
prepared by `num_proc` processes of `Dataset.map`, packed, written as one shard, and then the state is saved. So memory
holds a chunk, the rows do not depend on `num_proc`, and a killed run goes on at its last chunk to the same bytes.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from trainer_configs.longlora.data.packing import LOOKAHEAD
from trainer_configs.longlora.data.prepare import (
    CHARS_PER_TOKEN,
    FIELDS,
    GENERATED,
    DataError,
    Job,
    Source,
    load_encoder,
    prepare,
)
from trainer_configs.longlora.data.quality import LANGUAGES, Checks, NearDuplicates
from trainer_configs.longlora.data.shards import STATE, Builder, replacing, write_shard

VERSION = 1  # of the rows: raised whenever the same command would write others
LENGTHS = (16, 1 << 22)  # of a row. Not the tokenizer's model_max_length: going beyond that is what LongLoRA is for
CHUNK_CHARS, CHUNK_ITEMS = 8_000_000, 4096  # a chunk ends at either
REASONS = ("too_short", "truncated", "markup", "language", "repeated", "near_duplicate", "no_exact_fit", "left_over")
STATS = "stats.json"


@dataclass(frozen=True)
class Settings:
    """One run. All but `num_proc` decide what is written."""

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
        slack = max(0, self.length - self.overlap) // 2  # so every window brings half its step in new text
        name = self.source.name if self.source.generated else ""
        return Job(name, self.tokenizer, self.length, self.mode, self.overlap, slack, self.seed, self.checks)

    def config(self) -> dict[str, Any]:
        """What a run on the same folder must agree in."""
        settings = asdict(self)
        for name in ("out", "num_proc", "tokenizer"):
            del settings[name]
        files = self.source.fingerprint()
        return {"version": VERSION, "tokenizer": load_encoder(self.tokenizer).fingerprint, "files": files, **settings}


def check(settings: Settings) -> None:
    """Raises `DataError` for what cannot work, before any work is done."""
    low, high = LENGTHS
    checks, name = settings.checks, settings.source.name
    if not low <= settings.length <= high:
        raise DataError(f"length {settings.length} must lie between {low} and {high} tokens: set --length")
    if settings.mode not in ("join", "window"):
        raise DataError(f"mode {settings.mode!r} is none of join, window: set --mode")
    if not 0 <= settings.overlap < settings.length:
        raise DataError(f"overlap {settings.overlap} must be at least 0 and below the length {settings.length}")
    if settings.overlap and settings.mode == "join":
        raise DataError(f"overlap {settings.overlap} has no meaning in mode join: leave it out, or use --mode window")
    shared = (settings.overlap + settings.job().slack) / (2 * settings.length - settings.overlap - settings.job().slack)
    if checks.near_duplicate and settings.mode == "window" and shared >= checks.near_duplicate:
        raise DataError(
            f"overlap {settings.overlap} would make a window a near-duplicate of the one before (similarity up to "
            f"{shared:.2f}, limit {checks.near_duplicate}): lower --overlap, or raise --near-duplicate"
        )
    for option in ("min_share", "max_markup", "min_language", "max_repeated", "near_duplicate"):
        if not 0 <= (value := getattr(checks, option)) <= 1:
            raise DataError(f"{option} {value} must lie between 0 and 1: set --{option.replace('_', '-')}")
    if checks.language not in LANGUAGES:
        raise DataError(f"language {checks.language!r} is none of {', '.join(LANGUAGES)}: set --language")
    for option, least in (("limit", 0), ("num_proc", 1), ("remember", 2), ("chunk_chars", 1)):
        if (value := getattr(settings, option)) < least:
            raise DataError(f"{option} {value} must be at least {least}: set --{option.replace('_', '-')}")
    if name in GENERATED and not settings.limit:
        raise DataError(f"source {name} is endless: give --limit, the number of rows")
    if name == "needles" and settings.mode == "window":
        raise DataError("source needles gives one question a row, which cannot be windowed: use --mode join")
    load_encoder(settings.tokenizer)
    settings.source.check()


# ---- the run ----------------------------------------------------------------------------------------------------


def next_chunk(items: Iterator[Any], settings: Settings, rows: int) -> list[Any]:
    """The next items, about so many characters; where a chunk ends does not depend on the number of processes."""
    most = CHUNK_ITEMS
    if settings.source.generated:  # `rows` are there already: no more than the others need
        most = min(most, (settings.limit - rows) * (2 if settings.source.name == "prose" else 3) // 3 + LOOKAHEAD)
    chunk: list[Any] = []
    size = 0
    for item in islice(items, most):
        chunk.append(item)
        size += len(item) if isinstance(item, str) else settings.length * CHARS_PER_TOKEN
        if size >= settings.chunk_chars:
            break
    return chunk


def prepared(chunk: list[Any], job: Job, num_proc: int) -> Iterator[dict[str, Any]]:
    """Units of the chunk's items, in order, made by `num_proc` processes."""
    import datasets

    binary = ("ids", "cuts", "signature")
    kinds = {"reason": "string", "cut": "bool"} | dict.fromkeys(binary, "large_binary")
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


def build(settings: Settings, progress: bool = False) -> tuple[dict[str, Any], int]:
    """Writes the rows, or goes on where a run was killed. Raises `DataError`.

    Returns the content of `stats.json`, and how many rows this call wrote.
    """
    import datasets

    check(settings)
    state = settings.out / ".state"
    config = json.loads(json.dumps(settings.config()))
    if (done := _finished(settings.out, config)) is not None:
        shutil.rmtree(state, ignore_errors=True)  # left if the run was killed as its last act
        return done, 0
    index = NearDuplicates(settings.checks.near_duplicate, settings.remember)
    builder = Builder(settings.length, settings.limit, index)
    with _disk(settings.out):
        _begin(settings.out, state, config)
        if (state / STATE).exists():
            builder.load(state)
        else:
            builder.save(state)
        before = builder.tally.rows
        for shard in _shards(settings.out):  # of a chunk that was not finished: it will be written anew
            if int(shard.stem.rsplit("-", 1)[1]) >= builder.tally.rows:
                shard.unlink()
        bars = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            with tqdm(
                total=settings.limit * settings.length or None,
                initial=builder.tally.rows * settings.length,
                unit="tok",
                unit_scale=True,
                desc="rows",
                disable=not progress,
            ) as bar:
                _run(builder, settings, state, bar)
        finally:
            if bars:
                datasets.enable_progress_bars()
        stats = {"config": config, "finished": True, **vars(builder.tally)}
        with replacing(settings.out / STATS) as path:
            path.write_text(json.dumps(stats, indent=2))
    shutil.rmtree(state)
    return stats, builder.tally.rows - before


def _run(builder: Builder, settings: Settings, state: Path, bar: Any) -> None:
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


# ---- files ------------------------------------------------------------------------------------------------------


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise DataError(
            f"cannot write to {out}: {os.strerror(error.errno)}; the {len(_shards(out))} shards there are whole: "
            "make room and run the same command, which goes on behind them"
        ) from None


def _shards(out: Path) -> list[Path]:
    return sorted((out / "data").glob("train-*.parquet"))


def _finished(out: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The statistics if this very run is done; raises `DataError` if the folder holds anything else that is finished."""
    if (out / STATS).is_file():
        stats: dict[str, Any] = json.loads((out / STATS).read_text())
        _agree(out, stats.get("config", {}), config)
        return stats
    return None


def _begin(out: Path, state: Path, config: dict[str, Any]) -> None:
    if (state / "config.json").is_file():
        _agree(out, json.loads((state / "config.json").read_text()), config)
        return
    if out.exists() and (not out.is_dir() or any(path.name != ".state" for path in out.iterdir())):
        raise DataError(f"{out} exists and holds something else: give a new or empty folder")
    with replacing(state / "config.json") as path:
        path.write_text(json.dumps(config))


def _agree(out: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    if different := sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name)):
        name = different[0]
        was, now = (json.dumps(c.get(name))[:80] for c in (there, wanted))
        raise DataError(
            f"{out} holds a run with another {name} ({was}, not {now}): give another folder, or delete this one"
        )


# ---- the command ------------------------------------------------------------------------------------------------


def table(stats: dict[str, Any], speed: float = 0.0) -> Table:
    """Kept and rejected by reason, with counts and shares; `speed` in tokens a second."""
    length, rows = stats["config"]["length"], stats["rows"]
    unit = {"join": "documents", "window": "windows"}[stats["config"]["mode"]]
    grid = Table(unit, "count", "share", "tokens", title=f"{rows:,} rows of {length:,} tokens")
    lines = [("kept", stats["kept"], stats["unit_tokens"])]
    lines += [(reason, stats["rejected"].get(reason, 0), stats["rejected_tokens"].get(reason, 0)) for reason in REASONS]
    for name, count, tokens in lines:
        if count or name not in ("no_exact_fit", "left_over"):
            grid.add_row(name, f"{count:,}", f"{count / max(1, stats['units']):.1%}", f"{tokens:,}")
    grid.add_section()
    grid.add_row(
        "read", f"{stats['units']:,}", "", f"{stats['unit_tokens'] + sum(stats['rejected_tokens'].values()):,}"
    )
    notes = [
        f"{stats['cut_rows']:,} rows end within a sentence",
        f"{stats['pieces'] / max(1, rows):.1f} documents a row",
    ]
    if stats["left_over_tokens"]:
        notes.append(f"{stats['left_over_tokens']:,} tokens did not fill a row")
    if stats["overlaps"]:
        mean = stats["overlap_tokens"] / stats["overlaps"]
        notes.append(f"overlap {stats['overlap_min']:,} to {stats['overlap_max']:,} tokens, mean {mean:,.0f}")
    if speed:
        notes.append(f"{speed:,.0f} tokens/s")
    grid.caption = "; ".join(notes)
    return grid


app = typer.Typer(no_args_is_help=True, add_completion=False, help="LongLoRA: data, training, measurement.")
DEFAULT = Checks()


@app.command()
def data(
    source: Annotated[
        str, typer.Argument(help="Folder or file of .txt/.md, .jsonl/.parquet/.csv, a dataset's name, prose, needles.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the rows: new, or of the same command.")],
    tokenizer: Annotated[str, typer.Option(help="Folder or name of the model's tokenizer.")],
    length: Annotated[int, typer.Option(help="Tokens of every row.")] = 32_768,
    mode: Annotated[str, typer.Option(help="join documents to length, or window long ones.")] = "join",
    overlap: Annotated[int, typer.Option(help="Tokens that consecutive windows share at least.")] = 0,
    limit: Annotated[int, typer.Option(help="Rows to write; 0: all.")] = 0,
    num_proc: Annotated[int, typer.Option(help="Processes that tokenise and check.")] = 2,
    column: Annotated[str, typer.Option(help="Column of a dataset that holds the text.")] = "text",
    split: Annotated[str, typer.Option(help="Split of a dataset.")] = "train",
    seed: Annotated[int, typer.Option(help="Of prose and needles.")] = 0,
    min_share: Annotated[
        float, typer.Option(help="too_short: a document under this share of the length.")
    ] = DEFAULT.min_share,
    truncated: Annotated[bool, typer.Option(help="Turn away what breaks off within a sentence.")] = True,
    max_markup: Annotated[float, typer.Option(help="markup: share of characters; 1: off.")] = DEFAULT.max_markup,
    language: Annotated[str, typer.Option(help=f"One of {', '.join(LANGUAGES)}.")] = DEFAULT.language,
    min_language: Annotated[
        float, typer.Option(help="language: share of function words, or letters.")
    ] = DEFAULT.min_language,
    max_repeated: Annotated[
        float, typer.Option(help="repeated: share of 8-token runs; 1: off.")
    ] = DEFAULT.max_repeated,
    near_duplicate: Annotated[float, typer.Option(help="Jaccard similarity; 0: off.")] = DEFAULT.near_duplicate,
    remember: Annotated[int, typer.Option(help="Units to find near-duplicates among, 512 bytes each.")] = 262_144,
) -> None:
    """Pretraining rows of an exact token length for Axolotl; what is unfit is counted by reason."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes are what is parallel here
    checks = Checks(min_share, truncated, max_markup, language, min_language, max_repeated, near_duplicate)
    place = Source(source, column, split)
    settings = Settings(place, out, tokenizer, length, mode, overlap, limit, seed, remember, checks, num_proc)
    started = time.perf_counter()
    try:
        stats, made = build(settings, progress=True)
    except DataError as error:
        raise SystemExit(f"error: {error}") from None
    Console().print(table(stats, made * length / (time.perf_counter() - started)))
    print(f"{'written' if made else 'already there'}: {out}/data; for Axolotl:")
    print(f"  datasets: [{{path: {out}, type: ''}}]\n  sequence_len: {length}\n  sample_packing: false")


@app.callback()
def main() -> None:
    """LongLoRA: data."""
