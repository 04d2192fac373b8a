"""`longthread longlora reader-rows`: the command line that makes the rows of a reader, and the table that it prints."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from environments.datasets.reader_rows.plan import FORMS, RowSettings
from environments.datasets.reader_rows.questions import WEIGHTS, WORDINGS
from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import ConfigError, exit_on_error, option
from longthread.files import JsonObject
from trainer_configs.longlora.row_files import ROWS

app = App(no_args_is_help=True)


@app.command()
def reader_rows(  # noqa: PLR0913 - an option each
    out: Annotated[Path, typer.Argument(help="Folder for the rows: new, or of the same command.")],
    tokenizer: Annotated[str, typer.Option(help="Folder or name of the model's tokenizer.")],
    count: Annotated[int, typer.Option(help="Rows: a training step each.")] = 600,
    shortest: Annotated[
        int, typer.Option(help="Tokens of the shortest texts; a row holds several.")
    ] = RowSettings.shortest,
    longest: Annotated[int, typer.Option(help="Tokens of the longest; between them each length twice the last.")] = (
        RowSettings.longest
    ),
    texts: Annotated[
        str, typer.Option(help="Folder of .txt/.md for half of the documents; fiction alone without.")
    ] = "",
    parallel: Annotated[float, typer.Option(help="Share of rows with 2 to 8 documents read apart.")] = 1 / 3,
    ordinary: Annotated[float, typer.Option(help="Share of rows of plain text.")] = RowSettings.ordinary,
    registers: Annotated[
        float, typer.Option(help="Share of rows of look-ups among entries of one form, as RULER asks for.")
    ] = RowSettings.registers,
    pose: Annotated[
        int, typer.Option(help="Further, short rows whose positions skip ahead, as far as those of the longest reach.")
    ] = RowSettings.pose,
    pose_length: Annotated[int, typer.Option(help="Tokens of these.")] = RowSettings.pose_length,
    questions: Annotated[int, typer.Option(help="About a text, at most.")] = RowSettings.questions,
    kinds: Annotated[str, typer.Option(help="Of questions.")] = ",".join(WEIGHTS),
    forms: Annotated[str, typer.Option(help="tags: as the environments ask; plain: as lift ask does.")] = ",".join(
        FORMS
    ),
    wordings: Annotated[str, typer.Option(help=f"{' or '.join(WORDINGS)}, which evaluations ask in too.")] = "train",
    lexical_gap: Annotated[
        float, typer.Option(help="Share of questions about facts and links that describe people in other words.")
    ] = RowSettings.lexical_gap,
    chat: Annotated[str, typer.Option(help="URL, with /v1, of a server whose model answers ordinary questions.")] = "",
    chat_model: Annotated[str, typer.Option(help="Its name there: the base model.")] = "",
    chats: Annotated[int, typer.Option(help="Questions to ask it.")] = 1000,
    chat_rows: Annotated[Path | None, typer.Option(help="File of conversations: kept, reused, or your own.")] = None,
    conversations: Annotated[
        int, typer.Option(help="Further rows of conversations alone; 0: every row has some behind it, which packs it.")
    ] = RowSettings.conversations,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    num_proc: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Rows that make a model a reader: documents with many questions, read whole or side by side, and other text."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes are parallel here
    with exit_on_error(option):
        from trainer_configs.longlora.data.reader_build import Build, build

        settings = RowSettings(
            count, shortest, longest, parallel, ordinary, questions, _names(kinds), _names(forms), wordings, seed, registers,
            conversations=conversations, pose=pose, pose_length=pose_length, lexical_gap=lexical_gap,
        )  # fmt: skip
        settings.check()
        if conversations and not (chat or chat_rows):
            raise ConfigError(f"conversations {conversations} need --chat or --chat-rows", setting="conversations")
        file = _conversations(chat, chat_model, chats, chat_rows, seed, out)
        stats = build(Build(settings, out, tokenizer, texts, file, num_proc), progress=True)
    Console().print(table(stats))
    if not file:
        print("no ordinary conversations: give --chat or --chat-rows, or the reader may answer all questions with none")
    print(f"{out}/data; for Axolotl:", *_axolotl(out, settings), sep="\n  ")


def _axolotl(out: Path, settings: RowSettings) -> list[str]:
    """Return the lines of a recipe that trains on the rows."""
    lines = [f"datasets: [{{path: {out}, type: {ROWS}}}]", f"sequence_len: {settings.most}", "sample_packing: false"]
    if settings.pose:
        lines.append(f"longlora: {{context_extension: {{target_length: {settings.longest}}}}}, or a window as long")
    return lines


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _conversations(url: str, model: str, count: int, file: Path | None, seed: int, out: Path) -> Path | None:  # noqa: PLR0913
    """Return the file of conversations, with those added that the served model is still to be asked; None for none."""
    if not url:
        if file and not file.is_file():
            raise ConfigError(f"{file} is not a file: give one, or a server with --chat", setting="chat_rows")
        return file
    from environments.datasets.reader_rows.chats import ask
    from environments.inference.contracts import ServerAddress
    from longthread.secrets import unmask_key

    if not model:
        raise ConfigError("chat needs the model's name on the server", setting="chat_model")
    if count < 1:
        raise ConfigError(f"chats must be at least 1 (got {count})", setting="chats")
    file = file or out.with_name(f"{out.name}-chats.jsonl")
    left_out = ask(ServerAddress(url.rstrip("/"), unmask_key("x"), model), count, seed, file, progress=True)
    replies = counted(left_out, "reply was", "replies were")
    print(f"conversations: {file}" + (f"; {replies} cut off or empty, and left out" if left_out else ""))
    return file


def table(stats: JsonObject) -> Table:
    """Return a table of the rows by kind: how many, their tokens, and the tokens learnt."""
    grid = Table("rows of", "rows", "tokens", "learnt")
    counted = stats["rows"]
    for kind in sorted(counted):
        grid.add_row(kind, *(f"{counted[kind][name]:,}" for name in ("rows", "tokens", "learnt")))
    return grid
