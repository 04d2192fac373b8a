"""`lift`: a document into the weights of a small model, and questions to it.

lift fit book.txt --model MODEL --recipe lse --library books
lift ask --library books --document book "Who keeps the lighthouse?"
lift evaluate --library books --document book --source book.txt
lift list --library books
lift remove --library books --document book

All that can be refused is refused before a model is loaded: one line on stderr and exit status 2.
"""

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from lift import LiftError
from lift.document.document import Document, encodable, read, read_text
from lift.inference import retrieval
from lift.library import base_model, tables
from lift.library.library import Entry, Library, LibraryError

STUDIED = 400  # questions that self-study adds: as many as a recipe takes of each task

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A document into the weights of a small model.")
LibraryAt = Annotated[Path, typer.Option("--library", help="Folder of the library.")]
Device = Annotated[str, typer.Option(help=f"One of {', '.join(base_model.DEVICES)}.")]
ModelAt = Annotated[str | None, typer.Option("--model", help="The base model, if it is no longer where it was.")]


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except LiftError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _base(library: Library, names: Sequence[str], model: str | None) -> Path:
    """The folder of the model that all of the documents were fitted to, as far as it can be told without loading it."""
    from lift.library.attach import of_one_method

    entries = of_one_method(library, names)
    if model is None and not Path(entries[0].base_model).is_dir() and Path(entries[0].base_model).is_absolute():
        raise LiftError(f"base model {entries[0].base_model} is no longer there: give --model")
    _, folder = base_model.located(model or entries[0].base_model)
    mine = base_model.fingerprint(folder)
    for entry in entries:
        if entry.fingerprint != mine:
            raise LiftError(
                f"{entry.name!r} was fitted to {entry.base_model}, {folder} has other weights: give --model"
            )
    return folder


def _recalled(library: Library, names: Sequence[str], folder: Path, device: Any) -> Any:
    """The base model with the documents attached, the first on."""
    from lift.library.attach import Attached

    return Attached(library, base_model.load(folder, device), names)


def _context(folder: Path, library: Library, names: Sequence[str]) -> int | None:
    """Tokens that the model reads beside any of the documents, where its config says so."""
    from lift.library.attach import slots

    limit: int | None = getattr(base_model.config(folder).get_text_config(), "max_position_embeddings", None)
    return limit and limit - max(slots(library, library.get(name)) for name in names)


# ---- fit --------------------------------------------------------------------------------------------------------


@app.command()
def fit(
    source: Annotated[Path, typer.Argument(metavar="BOOK", help="A .txt or .md file in UTF-8.")],
    model: Annotated[str, typer.Option(help="Folder or hub name of the base model.")],
    library: LibraryAt,
    recipe: Annotated[str, typer.Option(help="How to fit; an unknown name lists them.")] = "lse",
    name: Annotated[
        str | None, typer.Option(help="What the document is to be called; the file's name otherwise.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of all that is drawn.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Fit a document anew that is there already.")] = False,
    device: Device = "auto",
    self_study: Annotated[
        str | None, typer.Option(metavar="URL", help="Server (OpenAI's protocol) whose model also asks and answers.")
    ] = None,
) -> None:
    """Write a document into an adapter and put it into the library. A fit that was ended goes on where it stood."""
    with _one_line():
        document, shelf = read(source, name), Library(library)
        entry, folder, steps = _planned(document, model, recipe, shelf, replace)
        study = _study(self_study) if self_study else None
        tokenizer = base_model.tokenizer(folder)
        from lift.training.fit import fit as fit_document

        target = base_model.device(device)
        more = study.items(document, STUDIED, seed, "train") if study else []
        fittings = f".fitting-{_short(entry.name)}-"  # of this document, by any recipe
        out = library / f"{fittings}{_short([entry.model_dump(), seed])}"  # the same for the same fit: it is resumed
        loaded = base_model.load(folder, target)
        fitted = fit_document(document, loaded, tokenizer, steps, out, seed=seed, more=more)
        figures = {key: getattr(fitted, key) for key in ("tokens", "seconds", "prefill_seconds", "kv_bytes", "losses")}
        from accelerate import PartialState

        if PartialState().is_main_process:
            kept = shelf.add(fitted.folder, entry.model_copy(update=figures), replace)
            for left in library.glob(f"{fittings}*"):
                shutil.rmtree(left, ignore_errors=True)
            Console().print(tables.fitted(kept))


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _planned(document: Document, model: str, recipe: str, shelf: Library, replace: bool) -> tuple[Entry, Path, Any]:
    """What is to be fitted and how; refused here if it cannot be, or need not."""
    from lift.memory import tuner
    from lift.training.recipes import RECIPES

    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else "set --recipe"
        raise LiftError(f"recipe {recipe!r} is none of {', '.join(RECIPES)}: {hint}")
    steps = RECIPES[recipe]
    base, folder = base_model.located(model)
    mine = base_model.fingerprint(folder)
    if steps.method == "gated":
        tuner.check(base_model.config(folder))
    constants = json.loads(json.dumps(asdict(steps)))
    entry = Entry(
        name=document.name, digest=document.digest, tokens=0, words=len(document.text.split()), recipe=recipe,
        constants=constants, base_model=base, fingerprint=mine,
    )  # fmt: skip
    shelf.check(entry, replace)
    return entry, folder, steps


def _study(url: str) -> Any:
    """Asks the server's first model. A key is read from OPENAI_API_KEY."""
    import openai

    from lift.tasks.self_study import SelfStudy, endpoint

    if urlsplit(url).scheme not in ("http", "https"):
        raise LiftError(f"{url!r} is no http address: give --self-study one like http://127.0.0.1:8000/v1")
    key = os.environ.get("OPENAI_API_KEY") or "none"
    try:
        models = openai.OpenAI(base_url=url, api_key=key).models.list().data
    except openai.OpenAIError as error:
        raise LiftError(
            f"{url} does not answer ({type(error).__name__}): start the server or check --self-study"
        ) from None
    if not models:
        raise LiftError(f"{url} serves no model: check --self-study")
    return SelfStudy(endpoint(url, models[0].id, key))


# ---- ask --------------------------------------------------------------------------------------------------------


@app.command()
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
    with _one_line():
        if not question.strip():
            raise LiftError("the question is empty: write one")
        if not encodable(question):
            raise LiftError(f"the question {question!r} is not UTF-8: write it in UTF-8")
        shelf, names = Library(library), list(dict.fromkeys(document))
        for name in names:
            shelf.get(name)
        if retrieve and source is None:
            raise LiftError(f"--retrieve {retrieve} has nothing to search: give --source")
        if retrieve and len(names) > 1:
            raise LiftError(
                f"--retrieve searches the file of one document, {len(names)} are asked: give one --document"
            )
        if source and not retrieve:
            raise LiftError(f"--source {source} is only searched with --retrieve: give --retrieve 3, or --window")
        before = [read_text(window)] if window else []
        before += retrieval.passages(read_text(source), question, retrieve) if source else []
        target, folder = base_model.device(device), _base(shelf, names, model)
        tokenizer = base_model.tokenizer(folder)
        from lift.inference.generate import NEW_TOKENS, answers, chat

        prompts = {name: chat(tokenizer, name, question, "\n\n".join(before)) for name in names}
        limit, longest = _context(folder, shelf, names), max(map(len, prompts.values()))
        if limit and longest + NEW_TOKENS > limit:
            given = [name for name, on in (("--window", window), ("--retrieve", retrieve)) if on]
            raise LiftError(
                f"the prompt has {longest:,} tokens and the reply up to {NEW_TOKENS}, the model reads {limit:,}: "
                f"shorten {' or '.join(given) or 'the question'}"
            )
        recalled = _recalled(shelf, names, folder, target)
        for name, prompt in prompts.items():
            recalled.switch(name)
            reply = "\n".join(map(tables.shown, answers(recalled.model, tokenizer, [prompt])[0].split("\n")))
            typer.echo(f"{tables.shown(name)}: {reply}" if len(names) > 1 else reply)


# ---- evaluate ---------------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    library: LibraryAt,
    document: Annotated[str, typer.Option(help="Name of the document.")],
    source: Annotated[Path, typer.Option(help="The file it was fitted from.")],
    out: Annotated[Path | None, typer.Option(help="Folder for table, JSON and plot.")] = None,
    questions: Annotated[int, typer.Option(min=1, help="About the document, of each kind.")] = 50,
    window_tokens: Annotated[
        int | None,
        typer.Option(help="Of text beside the memory; 2,048, or what the model reads, where not given."),
    ] = None,
    model: ModelAt = None,
    device: Device = "auto",
) -> None:
    """What the memory gave and what it took: recall, recall beside a window, forgetting, selectivity of the gate."""
    with _one_line():
        shelf = Library(library)
        entry, text = shelf.get(document), read(source, document)
        if text.digest != entry.digest:
            raise LiftError(f"{source} is not the text that {document!r} was fitted from: give that file as --source")
        target, folder = base_model.device(device), _base(shelf, [document], model)
        tokenizer = base_model.tokenizer(folder)
        from lift import tasks
        from lift.evaluation.evaluate import GENERAL
        from lift.evaluation.evaluate import evaluate as measure
        from lift.evaluation.results import check_folder, save, upright
        from lift.inference.generate import window_size
        from lift.memory import tuner
        from lift.tasks import synthetic_document

        if out:
            check_folder(out)
        items = tasks.make(text, list(tasks.TASKS), questions, 0, "eval")
        against = synthetic_document.against(tokenizer)
        asked = [(text.name, items), (against["other"][0].name, against["other"][1]), (GENERAL, against["unrelated"])]
        window = window_size(window_tokens, _context(folder, shelf, [document]), tokenizer, asked)
        remembering = _recalled(shelf, [document], folder, target).model
        gate = tuner.gate if tuner.layers(remembering) else None
        found = {entry.recipe: measure(remembering, tokenizer, text, items, window_tokens=window, gate=gate, **against)}
        Console().print(upright(found))
        if out:
            save(found, out)


# ---- list, remove -----------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    library: LibraryAt,
    verify: Annotated[bool, typer.Option("--verify", help="Read every adapter and see that it is as added.")] = False,
) -> None:
    """The documents of a library."""
    with _one_line():
        shelf = Library(library)
        entries = shelf.entries()
        if not entries:
            typer.echo(f"no documents in {library}")
            return
        Console().print(tables.listed(entries, str(library)))
        if verify and (problems := shelf.verify()):
            raise LibraryError("; ".join(problems))


@app.command()
def remove(
    library: LibraryAt,
    document: Annotated[str, typer.Option(help="Name of the document.")],
) -> None:
    """Take a document out of a library, its adapter with it."""
    with _one_line():
        entry = Library(library).remove(document)
        typer.echo(f"removed {tables.shown(entry.name)} ({tables.size(entry.bytes)})")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
