"""Readers that are installed on this machine: base models that were taught to read long texts, by name.

`lift reader install` puts them into `~/.cache/longthread/readers/NAME`: the merged model, and `reader.json`. A model option
takes them as "reader:NAME", or by the bare name where no folder is called so.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from environments.inference.embedded.demo_model import cache_dir
from longthread.errors import ConfigError, DataError

PREFIX = "reader:"
RECORD, MODEL = "reader.json", "model"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Reader(BaseModel):
    """The record of a reader. `base_model` is a folder or a hub name, `fingerprint` that of its weights.

    `moved` names for each tensor that is stored by its moved rows alone the tensor of the base that it starts from, `same`
    for a tensor that is not stored the one that it equals (a tied head, its embedding).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    base_model: str
    fingerprint: str
    moved: dict[str, str] = {}
    same: dict[str, str] = {}


def folder() -> Path:
    """Return the folder that holds all installed readers; it need not exist."""
    return cache_dir() / "readers"


def read_record(path: Path) -> Reader:
    """Return the record in a folder's `reader.json`. Raises `DataError`."""
    try:
        return Reader.model_validate_json((path / RECORD).read_bytes(), strict=True)
    except (OSError, ValidationError):
        raise DataError(f"{path} has no readable {RECORD} of format 1: pack the reader again") from None


def installed() -> list[Reader]:
    """Return all readers that are installed, by name."""
    return [read_record(path.parent) for path in sorted(folder().glob(f"*/{RECORD}"))]


def is_reader(folder: Path) -> bool:
    """Return whether the model in a folder is a reader, as `lift reader install` puts it there."""
    return folder.name == MODEL and (folder.parent / RECORD).is_file()


def check_name(name: str) -> str:
    """Return the name. Raises `ConfigError` for one that cannot be a folder's."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"a reader's name has letters, digits, '.', '_' and '-' (got {name!r}): give another", setting="name"
        )
    return name


def model_folder(model: str) -> Path | None:
    """Return the folder of the installed reader that `model` names, None if it names none.

    Raises `ConfigError` for "reader:NAME" that is not installed.
    """
    name = model.removeprefix(PREFIX)
    found = re.fullmatch(NAME, name) and (folder() / name / RECORD).is_file()
    if found:
        return folder() / name / MODEL
    if model.startswith(PREFIX):
        names = [reader.name for reader in installed()]
        there = f"it must be one of {', '.join(names)}" if names else "there is none, see lift reader install"
        raise ConfigError(f"no reader {name!r} is installed: {there}", setting="model")
    return None
