"""`lift ask`: ask about documents that a model remembers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift.commands.base import Device, LibraryAt, ModelAt, attach, base_folder, context, fitted_text
from lift.document.document import encodable, read_text
from lift.library import base_model, readers, tables
from lift.library.library import Library
from longthread.errors import ConfigError, exit_on_error, option

if TYPE_CHECKING:
    from lift.inference.together import Session, Together
    from lift.library.attach import Attached
    from longthread.language_model import ChatTokenizer

SILENT = "no memory has something to say: answered by the model alone"


@exit_on_error(option)
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    library: LibraryAt,
    document: Annotated[
        list[str] | None, typer.Option(help="Name of a document; repeat to ask several. All of the library otherwise.")
    ] = None,
    window: Annotated[Path | None, typer.Option(help="Text to put before the question.")] = None,
    retrieve: Annotated[int, typer.Option(min=0, help="Passages of --source to put before the question.")] = 0,
    source: Annotated[Path | None, typer.Option(help="The document's file, for --retrieve.")] = None,
    open_: Annotated[int, typer.Option("--open", help="Documents of recipe compact to open together, at most.")] = 2,
    hops: Annotated[int, typer.Option(min=0, help="Searches for names that replies name, at most.")] = 2,
    steps: Annotated[
        bool | None,
        typer.Option(
            "--steps/--no-steps",
            help="For questions over several facts: name who is passed on the way first.",
            show_default="steps of a reader with memories of recipe compact",
        ),
    ] = None,
    cite: Annotated[bool, typer.Option("--cite", help="Say where in its text the answer stands.")] = False,
    model: ModelAt = None,
    device: Device = "auto",
) -> None:
    """Ask about documents that the model remembers, with nothing of them in the prompt unless you say so.

    Those of recipe `compact` are open together: those that you name with --document, if these are no more than --open, and
    otherwise those that have something to say. Others are asked one after the other.
    """
    shelf = Library(library)
    names = list(dict.fromkeys(document or [entry.name for entry in shelf.entries()]))
    _check_question(question, shelf, names, retrieve, source)
    if open_ < 1:
        raise ConfigError(f"{open_} documents cannot be opened: give at least 1", setting="open")
    before = [read_text(window)] if window else []
    if source:
        from lift.inference.retrieval import passages

        before += passages(fitted_text(shelf, names[0], source).text, question, retrieve)
    target, folder = base_model.device(device), base_folder(shelf, names, model)
    together, tokenizer = _together(shelf, names, open_, cite, chosen=bool(document)), base_model.tokenizer(folder)
    if steps is None:  # readers were taught steps; memories of other recipes are made with the other form
        steps = together is not None and readers.is_reader(folder) and bool(tokenizer.chat_template)
    asked = _Asked(question, "\n\n".join(before), tokenizer, steps)
    settings = [setting for setting, on in (("window", window), ("retrieve", retrieve)) if on]
    _check_room(asked, context(folder, shelf, names), names, tuple(settings))
    attached = attach(shelf, names, folder, target, closed=together is not None)
    if together is None:
        _ask_each(attached, asked, names)
        return
    session = together.session(attached, asked.tokenizer, asked.window, steps)
    _ask_at_once(session, question, hops if together.segments > 1 else 0, several=len(names) > 1, cite=cite)


@dataclass(frozen=True)
class _Asked:
    """A question, and the text before it."""

    question: str
    window: str
    tokenizer: "ChatTokenizer"
    stepwise: bool

    def prompt(self, name: str) -> list[int]:
        from lift.inference import steps

        return steps.prompt(self.tokenizer, name, self.question, self.window, self.stepwise)

    @property
    def new_tokens(self) -> int:
        """The most tokens of a reply."""
        from lift.inference import steps

        return steps.reply_tokens(self.stepwise)


def _ask_each(attached: "Attached", asked: _Asked, names: Sequence[str]) -> None:
    """Ask about one document after the other, each with its memory alone, and print the replies."""
    from lift.inference.generate import answers

    for name in names:
        attached.switch(name)
        reply = answers(attached.model, asked.tokenizer, [asked.prompt(name)], asked.new_tokens)[0]
        _say(reply, asked.stepwise, f"{tables.shown(name)}: " if len(names) > 1 else "")


def _ask_at_once(session: "Session", question: str, hops: int, several: bool, cite: bool) -> None:
    """Ask about all documents at once; print the reply, which of `several` were open, and where it stands."""
    from lift.inference.hops import answered

    result = answered(session, question, hops)
    _say(result.reply, session.in_steps(result.places))
    if not result.places:
        typer.echo(SILENT, err=True)
    elif several:
        opened = dict.fromkeys(place.document for place in result.places)
        typer.echo(f"open: {', '.join(map(tables.shown, opened))}", err=True)
    if cite and (line := session.citation(question, result)):
        typer.echo(line)


def _say(reply: str, stepwise: bool, before: str = "") -> None:
    """Print a reply; step by step its answer alone, and who was passed on standard error."""
    if stepwise:
        from lift.inference import steps

        if passed := steps.passed(reply):
            typer.echo(f"by way of: {'; '.join(map(tables.shown, passed))}", err=True)
        reply = steps.value(reply)
    typer.echo(before + _shown(reply))


def _shown(reply: str) -> str:
    return "\n".join(map(tables.shown, reply.split("\n")))


def _together(shelf: Library, names: Sequence[str], most: int, cite: bool, chosen: bool) -> "Together | None":
    """Return the documents to be open together; None for those of a method that is asked one after the other."""
    from lift.inference.together import Together
    from lift.library.attach import method

    if method(shelf, shelf.get(names[0])).compact:
        return Together.read(shelf, names, most, cite, chosen)
    if cite:
        raise ConfigError(
            f"{names[0]!r} is of recipe {shelf.get(names[0]).recipe}, and only memories of recipe compact say where they "
            "stand: fit it with that recipe",
            setting="cite",
        )
    return None


def _check_room(asked: _Asked, limit: int | None, names: Sequence[str], settings: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a prompt that the model cannot read together with its reply."""
    longest = max(len(asked.prompt(name)) for name in names)  # a prompt that names no document is shorter
    if limit and longest + asked.new_tokens > limit:
        raise ConfigError(
            f"the prompt has {longest:,} tokens and the reply up to {asked.new_tokens}, the model reads {limit:,}: "
            f"shorten {'the text before the question' if settings else 'the question'}",
            setting=settings,
        )


def _check_question(question: str, shelf: Library, names: Sequence[str], retrieve: int, source: Path | None) -> None:
    if not question.strip():
        raise ConfigError("the question is empty: write one")
    if not encodable(question):
        raise ConfigError(f"the question {question!r} is not UTF-8: write it in UTF-8")
    if not names:
        raise ConfigError(f"{shelf.folder} has no documents: there is none yet to ask", setting="library")
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
