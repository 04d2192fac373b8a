"""What the commands of `lift` share: options, the base model of documents, and the documents attached to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift.document.document import Document, read
from lift.library import base_model, light_imports
from lift.library.library import Library
from longthread.errors import ConfigError

if TYPE_CHECKING:  # torch and PEFT are imported by the commands that run them
    import torch

    from lift.library.attach import Attached

LibraryAt = Annotated[Path, typer.Option("--library", help="Folder of the library.")]
Device = Annotated[str, typer.Option(help=f"One of {', '.join(base_model.DEVICES)}.")]
ModelAt = Annotated[str | None, typer.Option("--model", help="The base model, if it has moved.")]


def fitted_text(library: Library, name: str, source: Path) -> Document:
    """Return the text of a document of the library. Raises `DataError`, and `ConfigError` for a file of another text."""
    text = read(source, name)
    if text.digest != library.get(name).digest:
        raise ConfigError(f"{source} is not the text that {name!r} was fitted from: give that file", setting="source")
    return text


def base_folder(library: Library, names: Sequence[str], model: str | None) -> Path:
    """Return the folder of the base model that all of the named documents were fitted to, without loading the model."""
    stated = library.get(names[0]).base_model
    if model is None and not Path(stated).is_dir() and Path(stated).is_absolute():
        raise ConfigError(f"base model {stated} is no longer there: give its folder", setting="model")
    _, folder = base_model.located(model or stated)
    light_imports.import_for(folder)
    from lift.library.attach import of_one_method

    fingerprint = base_model.fingerprint(folder)
    for entry in of_one_method(library, names):
        if entry.fingerprint != fingerprint:
            raise ConfigError(
                f"{entry.name!r} was fitted to {entry.base_model}, {folder} has other weights: give that model",
                setting="model",
            )
    return folder


def attach(
    library: Library, names: Sequence[str], folder: Path, device: "torch.device", closed: bool = False
) -> "Attached":
    """Return the base model with the documents attached and the first of them active."""
    from lift.library.attach import LOADED, Attached

    with light_imports.loading(folder):
        return Attached(library, base_model.load(folder, device), names, LOADED, closed)


def context(folder: Path, library: Library, names: Sequence[str]) -> int | None:
    """Return how many tokens fit into the model's context beside any of the documents; None if no length is stated."""
    from lift.library.attach import slots

    limit: int | None = getattr(base_model.config(folder).get_text_config(), "max_position_embeddings", None)
    return limit and limit - max(slots(library, library.get(name)) for name in names)
