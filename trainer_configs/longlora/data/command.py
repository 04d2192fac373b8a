"""`longthread longlora data`: the command line of data preparation, and the table that it prints."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import RunError, exit_on_error, option
from longthread.files import JsonObject
from trainer_configs.longlora.data.quality import LANGUAGES, Checks
from trainer_configs.longlora.row_files import ROWS

REASONS = ("too_short", "truncated", "markup", "language", "repeated", "near_duplicate", "no_exact_fit", "left_over")
UNITS = {"join": "documents", "window": "windows"}
DEFAULT = Checks()
Statistics = JsonObject  # the content of stats.json

app = App(no_args_is_help=True, help="LongLoRA: data, training, measurement.")


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
    truncated: Annotated[bool, typer.Option(help="Reject texts that break off within a sentence.")] = True,
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
    """Write pretraining rows of an exact token length for Axolotl; rejected texts are counted by reason."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes are parallel here
    started = time.perf_counter()
    with exit_on_error(option):
        from trainer_configs.longlora.data.build import MASKED, Settings, build
        from trainer_configs.longlora.data.sources import Source

        checks = Checks(min_share, truncated, max_markup, language, min_language, max_repeated, near_duplicate)
        place = Source(source, column, split)
        settings = Settings(place, out, tokenizer, length, mode, overlap, limit, seed, remember, checks, num_proc)
        stats, written = build(settings, progress=True)
    Console().print(table(stats, written * length / (time.perf_counter() - started)))
    with exit_on_error(option):
        if not stats["rows"]:
            raise RunError(f"no row of {length:,} tokens came out of {source}: give more text, or a check less (above)")
    print(f"{'written' if written else 'already there'}: {out}/data; for Axolotl:")
    if stats["config"]["version"] == MASKED:
        print("# rows of an earlier version, with a mask: trained without the plugin, their documents see each other")
    print(f"  datasets: [{{path: {out}, type: {ROWS}}}]\n  sequence_len: {length}\n  sample_packing: false")


def table(stats: Statistics, speed: float = 0.0) -> Table:
    """Return a table of the units kept and of those rejected for each reason, with counts, shares and tokens.

    `speed` is in tokens a second.
    """
    length, rows = stats["config"]["length"], stats["rows"]
    grid = Table(
        UNITS[stats["config"]["mode"]], "count", "share", "tokens", title=f"{counted(rows, 'row')} of {length:,} tokens"
    )
    lines = [("kept", stats["kept"], stats["unit_tokens"])]
    lines += [(reason, stats["rejected"].get(reason, 0), stats["rejected_tokens"].get(reason, 0)) for reason in REASONS]
    for name, count, tokens in lines:
        if count or name not in ("no_exact_fit", "left_over"):
            grid.add_row(name, f"{count:,}", f"{count / max(1, stats['units']):.1%}", f"{tokens:,}")
    grid.add_section()
    read = stats["unit_tokens"] + sum(stats["rejected_tokens"].values())
    grid.add_row("read", f"{stats['units']:,}", "", f"{read:,}")
    grid.caption = "; ".join(_notes(stats, speed))
    return grid


def _notes(stats: Statistics, speed: float) -> list[str]:
    notes = [
        f"{counted(stats['cut_rows'], 'row ends', 'rows end')} within a sentence",
        f"{stats['pieces'] / max(1, stats['rows']):.1f} documents a row",
    ]
    if stats["left_over_tokens"]:
        notes.append(f"{counted(stats['left_over_tokens'], 'token')} did not fill a row")
    if stats["overlaps"]:
        mean = stats["overlap_tokens"] / stats["overlaps"]
        notes.append(f"overlap {stats['overlap_min']:,} to {stats['overlap_max']:,} tokens, mean {mean:,.0f}")
    if speed:
        notes.append(f"{speed:,.0f} tokens/s")
    return notes


@app.callback()
def main() -> None:
    """LongLoRA: data."""
