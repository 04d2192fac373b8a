"""`lift fit`: write a document into an adapter and put it into a library."""

import asyncio
import difflib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from lift.commands.base import Device, LibraryAt
from lift.document.document import Document, read
from lift.document.repeats import read_once
from lift.library import base_model, light_imports, tables, working_folder
from lift.library.library import Entry, Library
from longthread.errors import ConfigError, exit_on_error, option

if TYPE_CHECKING:
    from lift.tasks.self_study import SelfStudy
    from lift.training.recipes import Recipe

FIGURES = ("tokens", "seconds", "prefill_seconds", "kv_bytes", "losses")  # of a fit, in its entry
STUDIED = 400  # questions that self-study adds: as many as a recipe takes of each task


@exit_on_error(option)
def fit(
    source: Annotated[Path, typer.Argument(metavar="BOOK", help="A .txt or .md file in UTF-8.")],
    model: Annotated[str, typer.Option(help="Folder or hub name of the base model.")],
    library: LibraryAt,
    recipe: Annotated[str, typer.Option(help="How to fit; an unknown name lists all.")] = "compact",
    name: Annotated[str | None, typer.Option(help="The document's name; its file's otherwise.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything random.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Fit anew a document that the library has.")] = False,
    append: Annotated[
        bool, typer.Option("--append", help="The text goes on from the one that the library has (recipe compact).")
    ] = False,
    device: Device = "auto",
    self_study: Annotated[
        str | None, typer.Option(metavar="URL", help="Server (OpenAI's protocol) whose model also asks and answers.")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Fit compact to a model that reads too little.")] = False,
) -> None:
    """Write a document into an adapter and put it into the library. An interrupted fit continues from its last checkpoint."""
    document, shelf = read(source, name), Library(library)
    earlier = _earlier(document, shelf, recipe) if append else None
    replace = replace or append
    entry, folder, chosen = _planned(document, model, recipe, shelf, replace)
    study = _self_study(self_study) if self_study else None
    tokenizer = base_model.tokenizer(folder)
    from accelerate import PartialState

    from lift.evaluation import reading_check
    from lift.training.fit import FitOptions
    from lift.training.fit import fit as fit_document

    target, main = base_model.device(device), PartialState().is_main_process
    out = working_folder.folder_of(library, entry, seed, self_study)
    with working_folder.working_folder(shelf, entry, out, main):
        shelf.check(entry, replace)  # another fit may have ended since
        done = working_folder.finished(out)
        if done is None:
            loaded = base_model.load(folder, target)
            if chosen.method == "compact" and not anyway:
                reading_check.check(loaded, tokenizer, entry.fingerprint)
            more = study.items(read_once(document), STUDIED, seed, "train") if study else []
            fitted = fit_document(document, loaded, tokenizer, chosen, FitOptions(out, seed, more, earlier=earlier))
            done = entry.model_copy(update={key: getattr(fitted, key) for key in FIGURES})
        if main:
            working_folder.finish(out, done)
            added = shelf.add(out, done, replace)
            shutil.rmtree(out, ignore_errors=True)
            kept = _kept(shelf.path(added)) if chosen.method == "compact" else ""
            Console().print(tables.fitted(added, kept))


def _kept(folder: Path) -> str:
    """Return how many slots the compact memory in a folder has, and by what rule."""
    from lift.library.compact_store import CompactStore
    from lift.memory.compact import RULE

    return f"{CompactStore(folder).slots_per_head:,.0f} a head on average ({RULE})"


def _earlier(document: Document, shelf: Library, recipe: str) -> Path:
    """Return the folder of the adapter whose text the document goes on from.

    Raises `ConfigError` if it does not go on from it, or if its recipe keeps no segments.
    """
    from lift.library.compact_store import CompactStore, is_compact

    entry = shelf.get(document.name)
    folder = shelf.path(entry)
    if entry.recipe != recipe or not is_compact(folder):
        raise ConfigError(
            f"{document.name!r} is of recipe {entry.recipe}, asked for is {recipe}, and only recipe compact can be "
            "appended to: replace it",
            setting=("recipe", "replace"),
        )
    sources = CompactStore(folder).sources
    if sources is None:
        raise ConfigError(f"{document.name!r} does not say which text its segments hold: replace it", setting="replace")
    if Document("", document.text[: sources.characters]).digest != entry.digest:
        raise ConfigError(
            f"{document.name!r} was fitted from {sources.characters:,} characters with which this text does not begin: "
            "give a text that goes on from them, or replace it",
            setting="replace",
        )
    return folder


def _planned(
    document: Document, model: str, recipe: str, shelf: Library, replace: bool
) -> "tuple[Entry, Path, Recipe]":
    """Check what is to be fitted; return its library entry, its base model's folder and its recipe.

    Raises `ConfigError` if the document cannot or need not be fitted.
    """
    from lift.training.recipes import RECIPES

    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ConfigError(f"recipe must be one of {', '.join(RECIPES)} (got {recipe!r}){hint}", setting="recipe")
    chosen = RECIPES[recipe]
    base, folder = base_model.located(model)
    light_imports.import_for(folder)
    from lift.memory import tuner
    from lift.training.compaction import check_positions

    fingerprint = base_model.fingerprint(folder)
    if chosen.method in ("gated", "compact"):
        tuner.check(base_model.config(folder))
    if chosen.method == "compact":
        check_positions(base_model.config(folder))
    constants = json.loads(json.dumps(asdict(chosen)))
    entry = Entry(
        name=document.name, digest=document.digest, tokens=0, words=document.words, recipe=recipe,
        constants=constants, base_model=base, fingerprint=fingerprint,
    )  # fmt: skip
    shelf.check(entry, replace)
    return entry, folder, chosen


def _self_study(url: str) -> "SelfStudy":
    """Return a self-study task that asks the first model of the server at `url`.

    The key is that of the environment variable LONGTHREAD_API_KEY, or of OPENAI_API_KEY.
    """
    from environments.inference.preflight import served_models
    from lift.tasks.self_study import SelfStudy, endpoint

    def refused(reason: str) -> ConfigError:
        return ConfigError(f"{url} {reason}", setting="self_study")

    if urlsplit(url).scheme not in ("http", "https"):
        raise refused("is not an http address: give one like http://127.0.0.1:9001/v1")
    key = os.environ.get("LONGTHREAD_API_KEY") or os.environ.get("OPENAI_API_KEY") or "none"
    try:
        models = asyncio.run(served_models(url.rstrip("/"), key))
    except ConfigError as error:
        raise ConfigError(error.message, setting="self_study") from None
    if not models:
        raise refused("serves no model: check the server")
    return SelfStudy(endpoint(url, str(models[0].get("id")), key))
