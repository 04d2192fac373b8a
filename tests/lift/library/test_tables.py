"""Tables of documents: figures as a user reads them, and no name that writes on the terminal."""

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from lift.library.tables import fitted, listed, shown, size
from tests.lift.shelf import entry_for


def printed(table: Table) -> str:
    out = StringIO()
    Console(width=160, file=out).print(table)
    return out.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (3 * 2**19, "1.5 MiB"), (5000 * 2**30, "5,000.0 GiB")],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_what_is_not_known_is_left_out() -> None:
    entry = entry_for("f" * 64, bytes=2048)
    for text in (printed(fitted(entry)), printed(listed([entry], "books"))):
        assert "2.0 KiB" in text and "1/" not in text and "prefill" not in text
    known = entry.model_copy(update={"kv_bytes": 8192, "seconds": 6.0, "prefill_seconds": 2.0})
    assert "1/4.0 of its keys and values" in printed(fitted(known)) and "3.0 × prefill" in printed(fitted(known))
    short = known.model_copy(update={"kv_bytes": 512})
    assert "4.0 × its keys and values" in printed(fitted(short)) and "4.0 ×" in printed(listed([short], "books"))
    assert "1/4.0" in printed(listed([known], "books")) and "6.0 s" in printed(listed([known], "books"))


def test_a_name_is_text_and_no_command() -> None:
    name = "\x1b[2Jgone [bold]"
    entry = entry_for("f" * 64, name, base_model="[red]tiny", losses={"[b]": None}, bytes=1)
    assert shown("Війна і мир") == "Війна і мир" and "\x1b" not in shown(name)
    for text in (printed(fitted(entry)), printed(listed([entry], "[i]books"))):
        assert "\x1b" not in text and "\\x1b[2Jgone [bold]" in text
    assert "[red]tiny" in printed(listed([entry], "[i]books")) and "[i]books" in printed(listed([entry], "[i]books"))
