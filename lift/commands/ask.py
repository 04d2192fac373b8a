"""`lift ask`: ask about documents that a model remembers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lift.commands.base import Device, LibraryAt, ModelAt, attach, base_folder, context
from lift.document.document import encodable, read_text
from lift.inference import retrieval
from lift.library import base_model, segment_terms, tables
from lift.library.library import Library
from longthread.errors import ConfigError, exit_on_error, option

OPENED = 3  # segments of a document, at a question


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
    target, folder = base_model.device(device), base_folder(shelf, names, model)
    tokenizer = base_model.tokenizer(folder)
    from lift.inference.generate import NEW_TOKENS, answers, chat

    prompts = {name: chat(tokenizer, name, question, "\n\n".join(before)) for name in names}
    limit, longest = context(folder, shelf, names), max(map(len, prompts.values()))
    if limit and longest + NEW_TOKENS > limit:
        given = tuple(name for name, on in (("window", window), ("retrieve", retrieve)) if on)
        raise ConfigError(
            f"the prompt has {longest:,} tokens and the reply up to {NEW_TOKENS}, the model reads {limit:,}: "
            f"shorten {'the text before the question' if given else 'the question'}",
            setting=given,
        )
    segments = {name: segment_terms.best(shelf.path(shelf.get(name)), question, OPENED) for name in names}
    attached = attach(shelf, names, folder, target)
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
