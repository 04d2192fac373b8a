"""The command `lift serve`: an OpenAI-compatible server in which every document of a library is a model beside the base's.

    lift serve memories --port 9001
    curl 127.0.0.1:9001/v1/chat/completions -d '{"model": "book", "messages": [{"role": "user", "content": "…"}]}'

Messages are sent to the model as they are. The frame in which `lift ask` puts a question is never added: /v1/models states
it for each document, and a client that wants it writes it.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lift.library import base_model, light_imports
from lift.library.library import Entry, Library, suggestion
from longthread.errors import ConfigError, exit_on_error, option
from longthread.language_model import CausalLM

if TYPE_CHECKING:  # torch and PEFT are imported when the model is
    from environments.inference.embedded.server import EmbeddedServer


def server(
    library: Library, documents: Sequence[str] = (), model: str | None = None, port: int = 0, max_batch: int = 8
) -> "EmbeddedServer":
    """Return the server of a library's documents, or of those named, on loopback; nothing is loaded before it starts.

    `model`: folder or name of the base model, when it has moved. Where a document has the base model's name, the base is
    served as "NAME (base)". Raises `ConfigError` or `DataError` for what cannot be served.
    """
    entries = _served(library, documents)
    stated = entries[0].base_model
    if model is None and Path(stated).is_absolute() and not Path(stated).is_dir():
        raise ConfigError(f"base model {stated} is no longer there: give its folder", setting="model")
    _, folder = base_model.located(model or stated)
    light_imports.import_for(folder)
    from environments.inference.embedded.server import EmbeddedServer
    from lift.inference.served_documents import ServedDocuments, served_method

    served_method(library, entries)
    base_name = Path(stated).name
    if base_name in (entry.name for entry in entries):
        base_name = f"{base_name} (base)"
    if base_model.fingerprint(folder) != entries[0].fingerprint:
        raise ConfigError(
            f"the documents of {library.folder} were fitted to {stated}, {folder} has other weights: give that model",
            setting="model",
        )
    return EmbeddedServer(
        folder, port=port, max_batch=max_batch, model_name=base_name,
        make_variants=lambda loaded: ServedDocuments(library, cast(CausalLM, loaded), base_name, list(documents) or None),
    )  # fmt: skip


def _served(library: Library, documents: Sequence[str]) -> list[Entry]:
    """Return the entries to serve. Raises `ConfigError` if there is none, or not all are of one base model."""
    entries = library.entries()
    if not entries:
        raise ConfigError(f"no documents in {library.folder}: write one into it with lift fit")
    by_name = {entry.name: entry for entry in entries}
    if unknown := [name for name in documents if name not in by_name]:
        raise ConfigError(
            f"no document {unknown[0]!r} in {library.folder}: {suggestion(unknown[0], list(by_name))}",
            setting="document",
        )
    entries = [by_name[name] for name in dict.fromkeys(documents)] or entries
    bases = {entry.fingerprint: entry for entry in entries}
    if len(bases) > 1:
        one, other = list(bases.values())[:2]
        raise ConfigError(
            f"{library.folder} has documents of {len(bases)} base models ({one.name!r} of {one.base_model}, {other.name!r} "
            f"of {other.base_model}): name documents of one",
            setting="document",
        )
    return entries


def command(
    library: Annotated[Path, typer.Argument(metavar="LIBRARY", help="Folder of the library.")],
    document: Annotated[
        list[str] | None, typer.Option(help="Name of a document to serve; repeat for several.", show_default="all")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The base model, if it has moved.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 9001,
    max_batch: Annotated[int, typer.Option(min=1, help="Requests decoded together.")] = 8,
) -> None:
    """Serve a library on this machine: each document is a model beside the base model, in the OpenAI API."""
    with exit_on_error(option):
        made = server(Library(library), document or (), model, port, max_batch)
        from environments.inference.embedded.command import serve

        asyncio.run(serve(made))
