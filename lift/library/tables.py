"""Documents of a library as tables for a terminal."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from lift.library.library import Entry
from longthread.counts import counted


def fitted(entry: Entry, kept: str = "") -> Table:
    """Return the table of a finished fit: its document, size, what a compact memory has `kept`, time and losses."""
    table = Table("", "", title=escape(shown(entry.name)), show_header=False)
    table.add_row("recipe", entry.recipe)
    table.add_row("document", f"{counted(entry.tokens, 'token')}, {counted(entry.words, 'word')}")
    ratio = f", {of_cache(entry)} its keys and values" if entry.kv_bytes else ""
    table.add_row("adapter", size(entry.bytes) + ratio)
    if kept:
        table.add_row("slots", kept)
    seconds = entry.seconds or 0.0
    times = f", {seconds / entry.prefill_seconds:,.1f} × prefill" if entry.prefill_seconds else ""
    table.add_row("time to fit", f"{seconds:,.1f} s{times}")
    for part, loss in entry.losses.items():
        table.add_row(escape(part), "not finite" if loss is None else f"{loss:.4f}")
    return table


def listed(entries: Sequence[Entry], title: str) -> Table:
    """Return a table called `title` with a row for each document. Takes at least one entry."""
    table = Table("document", "tokens", "recipe", "adapter", "of KV cache", "fit", "created", title=escape(title))
    for entry in entries:
        ratio = of_cache(entry).removesuffix(" of") if entry.kv_bytes else "-"
        seconds = f"{entry.seconds:,.1f} s" if entry.seconds is not None else "-"
        cells = (shown(entry.name), f"{entry.tokens:,}", entry.recipe, size(entry.bytes), ratio, seconds)
        table.add_row(*map(escape, (*cells, entry.created[:16].replace("T", " "))))
    table.caption = escape(f"base model {entries[0].base_model}")
    return table


def of_cache(entry: Entry) -> str:
    """Return an adapter's size relative to its document's keys and values: "1/N of", or "N ×" if it is larger."""
    ratio = (entry.kv_bytes or 0) / entry.bytes
    return f"1/{ratio:,.1f} of" if ratio >= 1 else f"{1 / ratio:,.1f} ×"


def size(count: float) -> str:
    """Return a number of bytes as text with its unit: B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def shown(line: str) -> str:
    """Return a name, or a line that a model wrote, with control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
