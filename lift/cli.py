"""The command `lift`: write a document into the weights of a small model, and ask questions about it.

lift fit book.txt --model MODEL --recipe lse --library books
lift ask --library books --document book "Who keeps the lighthouse?"
lift evaluate --library books --document book --source book.txt
lift serve books
lift list --library books
lift remove --library books --document book

Mistakes are reported before a model is loaded: one line on stderr and exit status 2.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lift import reader, serve
from lift.commands.ask import ask
from lift.commands.base import Device, LibraryAt, ModelAt, attach, base_folder, context, fitted_text
from lift.commands.fit import fit
from lift.document.repeats import read_once
from lift.library import base_model, light_imports, tables, working_folder
from lift.library.library import Library
from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import DataError, exit_on_error, option

app = App(no_args_is_help=True, help="A document into the weights of a small model.")
app.command()(fit)
app.command()(ask)
app.command("serve")(serve.command)
app.add_typer(reader.app, name="reader")


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
        typer.Option(help="Tokens of text beside the memory.", show_default="2,048, or what the model reads"),
    ] = None,
    model: ModelAt = None,
    device: Device = "auto",
) -> None:
    """Measure a memory: recall, recall beside a window, forgetting, selectivity of the gate."""
    shelf = Library(library)
    entry, text = shelf.get(document), read_once(fitted_text(shelf, document, source))
    target, folder = base_model.device(device), base_folder(shelf, [document], model)
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
    limit = context(folder, shelf, [document])
    pairs = [(name, item.question) for name, items in groups for item in items]
    window = window_size(window_tokens, limit, tokenizer, pairs)
    attached = attach(shelf, [document], folder, target).model
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
    if verify:
        if problems := shelf.verify():
            raise DataError("; ".join(problems))
        typer.echo(f"{counted(len(entries), 'adapter')} as added")


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
    light_imports.allow()
    app()


if __name__ == "__main__":
    main()
