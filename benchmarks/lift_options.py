"""Options that the commands of `benchmarks.lift` and `benchmarks.lift_together` share."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from longthread.errors import ConfigError

OUT = Annotated[Path, typer.Argument(help="Folder for adapters, results.json and pictures.")]
MODEL = Annotated[Path, typer.Option(help="Folder of the base model.")]
LENGTH = Annotated[int, typer.Option("--tokens", help="Length of a document.")]
LENGTHS = Annotated[str, typer.Option("--tokens", help="Lengths of the documents.")]
SEEDS = Annotated[str, typer.Option(help="Of documents and fits.")]
READER_AT = Annotated[
    Path | None, typer.Option("--reader", help="Another base model, which reads long texts: all is measured on it too.")
]
SECONDS = Annotated[float, typer.Option(help="Begin nothing after so many; the same command goes on later.")]
EACH = Annotated[int, typer.Option(min=1, help="Fits at a time on a GPU.")]


def known(what: str, names: list[str], of: Collection[str]) -> list[str]:
    """Return the names. Raises `ConfigError` for an unknown one."""
    if unknown := set(names) - set(of):
        raise ConfigError(f"{what} must be one of {', '.join(of)} (got {', '.join(map(repr, sorted(unknown)))})")
    return names


def numbers(setting: str, listed: str) -> list[int]:
    """Return the whole numbers of a list with commas. Raises `ConfigError`."""
    try:
        return [int(number) for number in listed.split(",")]
    except ValueError:
        raise ConfigError(f"{listed!r} are not whole numbers with commas between them", setting=setting) from None
