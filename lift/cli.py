"""The command `lift`: write a document into the weights of a small model, and ask questions about it.

lift fit book.txt --model MODEL --recipe lse --library books
lift ask --library books --document book "Who keeps the lighthouse?"
lift evaluate --library books --document book --source book.txt
lift serve books
lift list --library books
lift remove --library books --document book

Mistakes are reported before a model is loaded: one line on stderr and exit status 2.
"""

import asyncio
import difflib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from lift import reader, serve
from lift.document.document import Document, encodable, read, read_text
from lift.document.repeats import read_once
from lift.inference import retrieval
from lift.library import base_model, segment_terms, tables, working_folder
from lift.library.library import Entry, Library
from longthread.errors import ConfigError, DataError, exit_on_error, option

if TYPE_CHECKING:  # torch and PEFT are imported by the commands that run them
    import torch

    from lift.library.attach import Attached
    from lift.tasks.self_study import SelfStudy
    from lift.training.recipes import Recipe

FIGURES = ("tokens", "seconds", "prefill_seconds", "kv_bytes", "losses")  # of a fit, in its entry
STUDIED = 400  # questions that self-study adds: as many as a recipe takes of each task

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A document into the weights of a small model.")
app.command("serve")(serve.command)
app.add_typer(reader.app, name="reader")
LibraryAt = Annotated[Path, typer.Option("--library", help="Folder of the library.")]
Device = Annotated[str, typer.Option(help=f"One of {', '.join(base_model.DEVICES)}.")]
ModelAt = Annotated[str | None, typer.Option("--model", help="The base model, if it has moved.")]


def _base_folder(library: Library, names: Sequence[str], model: str | None) -> Path:
    """Return the folder of the base model that all of the named documents were fitted to, without loading the model."""
    from lift.library.attach import of_one_method

    entries = of_one_method(library, names)
    stated = entries[0].base_model
    if model is None and not Path(stated).is_dir() and Path(stated).is_absolute():
        raise ConfigError(f"base model {stated} is no longer there: give its folder", setting="model")
    _, folder = base_model.located(model or stated)
    fingerprint = base_model.fingerprint(folder)
    for entry in entries:
        if entry.fingerprint != fingerprint:
            raise ConfigError(
                f"{entry.name!r} was fitted to {entry.base_model}, {folder} has other weights: give that model",
                setting="model",
            )
    return folder


def _attach(library: Library, names: Sequence[str], folder: Path, device: "torch.device") -> "Attached":
    """Return the base model with the documents attached and the first of them active."""
    from lift.library.attach import Attached

    return Attached(library, base_model.load(folder, device), names)


def _context(folder: Path, library: Library, names: Sequence[str]) -> int | None:
    """Return how many tokens fit into the model's context beside any of the documents; None if no length is stated."""
    from lift.library.attach import slots

    limit: int | None = getattr(base_model.config(folder).get_text_config(), "max_position_embeddings", None)
    return limit and limit - max(slots(library, library.get(name)) for name in names)


# ---- fit --------------------------------------------------------------------------------------------------------


@app.command()
@exit_on_error(option)
def fit(
    source: Annotated[Path, typer.Argument(metavar="BOOK", help="A .txt or .md file in UTF-8.")],
    model: Annotated[str, typer.Option(help="Folder or hub name of the base model.")],
    library: LibraryAt,
    recipe: Annotated[str, typer.Option(help="How to fit; an unknown name lists all.")] = "lse",
    name: Annotated[str | None, typer.Option(help="The document's name; its file's otherwise.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything random.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Fit anew a document that the library has.")] = False,
    device: Device = "auto",
    self_study: Annotated[
        str | None, typer.Option(metavar="URL", help="Server (OpenAI's protocol) whose model also asks and answers.")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Fit compact to a model that reads too little.")] = False,
) -> None:
    """Write a document into an adapter and put it into the library. An interrupted fit continues from its last checkpoint."""
    document, shelf = read(source, name), Library(library)
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
            fitted = fit_document(document, loaded, tokenizer, chosen, FitOptions(out, seed, more))
            done = entry.model_copy(update={key: getattr(fitted, key) for key in FIGURES})
        if main:
            working_folder.finish(out, done)
            added = shelf.add(out, done, replace)
            shutil.rmtree(out, ignore_errors=True)
            Console().print(tables.fitted(added))


def _planned(
    document: Document, model: str, recipe: str, shelf: Library, replace: bool
) -> "tuple[Entry, Path, Recipe]":
    """Check what is to be fitted; return its library entry, its base model's folder and its recipe.

    Raises `ConfigError` if the document cannot or need not be fitted.
    """
    from lift.memory import tuner
    from lift.training.compaction import check_positions
    from lift.training.recipes import RECIPES

    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ConfigError(f"recipe must be one of {', '.join(RECIPES)} (got {recipe!r}){hint}", setting="recipe")
    chosen = RECIPES[recipe]
    base, folder = base_model.located(model)
    fingerprint = base_model.fingerprint(folder)
    if chosen.method in ("gated", "compact"):
        tuner.check(base_model.config(folder))
    if chosen.method == "compact":
        check_positions(base_model.config(folder))
    constants = json.loads(json.dumps(asdict(chosen)))
    entry = Entry(
        name=document.name, digest=document.digest, tokens=0, words=len(document.text.split()), recipe=recipe,
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


# ---- ask --------------------------------------------------------------------------------------------------------


@app.command()
@exit_on_error(option)
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    library: LibraryAt,
    document: Annotated[
        list[str], typer.Option(help="Name of a document; repeat to ask several, one after the other.")
    ],
    window: Annotated[Path | None, typer.Option(help="Text to put before the question.")] = None,
    retrieve: Annotated[int, typer.Option(min=0, help="Passages of --source to put before the question.")] = 0,
    source: Annotated[Path | None, typer.Option(help="The document's file, for --retrieve.")] = None,
    model: ModelAt = None,
    device: Device = "auto",
) -> None:
    """Ask about a document that the model remembers, with nothing of it in the prompt unless you say so."""
    shelf, names = Library(library), list(dict.fromkeys(document))
    _check_question(question, shelf, names, retrieve, source)
    before = [read_text(window)] if window else []
    before += retrieval.passages(read_text(source), question, retrieve) if source else []
    target, folder = base_model.device(device), _base_folder(shelf, names, model)
    tokenizer = base_model.tokenizer(folder)
    from lift.inference.generate import NEW_TOKENS, answers, chat

    prompts = {name: chat(tokenizer, name, question, "\n\n".join(before)) for name in names}
    limit, longest = _context(folder, shelf, names), max(map(len, prompts.values()))
    if limit and longest + NEW_TOKENS > limit:
        given = tuple(name for name, on in (("window", window), ("retrieve", retrieve)) if on)
        raise ConfigError(
            f"the prompt has {longest:,} tokens and the reply up to {NEW_TOKENS}, the model reads {limit:,}: "
            f"shorten {'the text before the question' if given else 'the question'}",
            setting=given,
        )
    segments = {name: segment_terms.best(shelf.path(shelf.get(name)), question, segment_terms.OPENED) for name in names}
    attached = _attach(shelf, names, folder, target)
    for name, prompt in prompts.items():
        attached.switch(name)
        if (opened := segments[name]) is not None:
            attached.open_segments(name, opened)
        reply = "\n".join(map(tables.shown, answers(attached.model, tokenizer, [prompt])[0].split("\n")))
        typer.echo(f"{tables.shown(name)}: {reply}" if len(names) > 1 else reply)


def _check_question(question: str, shelf: Library, names: Sequence[str], retrieve: int, source: Path | None) -> None:
    if not question.strip():
        raise ConfigError("the question is empty: write one")
    if not encodable(question):
        raise ConfigError(f"the question {question!r} is not UTF-8: write it in UTF-8")
    for name in names:
        shelf.get(name)
    if retrieve and source is None:
        raise ConfigError("there is nothing to search for passages: give the document's file", setting="source")
    if retrieve and len(names) > 1:
        raise ConfigError(
            f"passages are searched in the file of one document, {len(names)} are asked: name one", setting="document"
        )
    if source and not retrieve:
        raise ConfigError(
            f"{source} is only searched for passages: say how many, or put it whole before the question",
            setting=("retrieve", "window"),
        )


# ---- evaluate ---------------------------------------------------------------------------------------------------


@app.command()
@exit_on_error(option)
def evaluate(
    library: LibraryAt,
    document: Annotated[str, typer.Option(help="Name of the document.")],
    source: Annotated[Path, typer.Option(help="The file it was fitted from.")],
    out: Annotated[Path | None, typer.Option(help="Folder for table, JSON and plot.")] = None,
    questions: Annotated[int, typer.Option(min=1, help="Questions of each kind about the document.")] = 50,
    window_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of text beside the memory [default: 2,048, or what the model reads]."),
    ] = None,
    model: ModelAt = None,
    device: Device = "auto",
) -> None:
    """Measure a memory: recall, recall beside a window, forgetting, selectivity of the gate."""
    shelf = Library(library)
    entry, text = shelf.get(document), read(source, document)
    if text.digest != entry.digest:
        raise ConfigError(
            f"{source} is not the text that {document!r} was fitted from: give that file", setting="source"
        )
    text = read_once(text)
    target, folder = base_model.device(device), _base_folder(shelf, [document], model)
    tokenizer = base_model.tokenizer(folder)
    from lift import tasks
    from lift.evaluation.evaluate import GENERAL, Settings
    from lift.evaluation.evaluate import evaluate as measure
    from lift.evaluation.results import check_folder, save, upright
    from lift.inference.generate import window_size
    from lift.memory import tuner
    from lift.tasks.synthetic_document import DocumentQuestions, control_set

    if out:
        check_folder(out)
    asked = DocumentQuestions(text, tasks.make(text, list(tasks.TASKS), questions, 0, "eval"))
    control = control_set(tokenizer)
    groups = [
        (text.name, asked.items),
        (control.other.document.name, control.other.items),
        (GENERAL, control.unrelated),
    ]
    limit = _context(folder, shelf, [document])
    pairs = [(name, item.question) for name, items in groups for item in items]
    window = window_size(window_tokens, limit, tokenizer, pairs)
    attached = _attach(shelf, [document], folder, target).model
    gate = tuner.gate if tuner.layers(attached) else None
    results = {entry.recipe: measure(attached, tokenizer, asked, control, Settings(window, gate))}
    Console().print(upright(results))
    if out:
        save(results, out)


# ---- list, remove -----------------------------------------------------------------------------------------------


@app.command("list")
@exit_on_error(option)
def list_(
    library: LibraryAt,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every adapter with its checksum.")] = False,
) -> None:
    """List the documents of a library."""
    shelf = Library(library)
    entries = shelf.entries()
    if not entries:
        typer.echo(f"no documents in {library}")
        return
    Console().print(tables.listed(entries, str(library)))
    if verify and (problems := shelf.verify()):
        raise DataError("; ".join(problems))


@app.command()
@exit_on_error(option)
def remove(
    library: LibraryAt,
    document: Annotated[str, typer.Option(help="Name of the document.")],
) -> None:
    """Take a document out of a library, its adapter with it."""
    shelf = Library(library)
    entry = shelf.remove(document)
    working_folder.remove_unfinished(shelf, entry.name)
    typer.echo(f"removed {tables.shown(entry.name)} ({tables.size(entry.bytes)})")


def main() -> None:
    """Run the command line `lift`."""
    app()


if __name__ == "__main__":
    main()
