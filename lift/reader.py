"""The commands `lift reader`: a base model that LongLoRA taught to read long texts, as a file, and installed by name.

lift reader pack out/reader smollm2.reader --name smollm2
lift reader install smollm2.reader
lift fit book.txt --model reader:smollm2 --recipe compact --library memories
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift.library import base_model, reader_file, readers
from lift.library.readers import Reader
from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error, option
from longthread.files import replacing_folder, write_text

if TYPE_CHECKING:
    from trainer_configs.longlora.merge import Merged

app = App(no_args_is_help=True, help="Models that were taught to read long texts.")
BaseAt = Annotated[str | None, typer.Option(help="The base model, when not the one that the reader names.")]


def install(
    source: Path, base: str | None = None, name: str | None = None, strength: float = 1.0
) -> "tuple[Reader, Merged]":
    """Install the reader in a file, an unpacked file's folder or an adapter's folder; return its record, and how it merged.

    Merges `strength` of its change of the weights with its base model. It appears whole or not at all. Raises `ConfigError`
    or `DataError`.
    """
    from trainer_configs.longlora.merge import merge

    if not source.exists():
        raise ConfigError(f"{source} does not exist: give a reader's file or folder")
    with tempfile.TemporaryDirectory() as temporary:
        adapter = Path(temporary)
        if source.is_dir() and not (source / readers.RECORD).is_file():  # an adapter as it was trained
            reader = _of_adapter(source, base, name)
            adapter, base_folder = source, base_model.located(reader.base_model)[1]
        else:
            reader = reader_file.unpack(source, adapter)
            base_folder = _base_folder(reader, base)
            reader_file.restore(adapter, base_folder)
        reader = reader.model_copy(update={"name": readers.check_name(name or reader.name), "moved": {}, "same": {}})
        target = readers.folder() / reader.name
        if target.exists():
            raise ConfigError(
                f"reader {reader.name!r} is installed already: remove it, or give another name", setting="name"
            )
        with replacing_folder(target) as draft:
            merged = merge(adapter, draft / readers.MODEL, str(base_folder), strength=strength)
            write_text(draft / readers.RECORD, reader.model_dump_json(indent=1) + "\n")
    return reader, merged


def _base_folder(reader: Reader, base: str | None) -> Path:
    """Return the folder of a reader's base model, which must have the weights that it was trained on."""
    try:
        _, folder = base_model.located(base or reader.base_model)
    except ConfigError:
        raise ConfigError(
            f"base model {base or reader.base_model} of reader {reader.name!r} is not here: give its folder",
            setting="base",
        ) from None
    if (found := base_model.fingerprint(folder)) != reader.fingerprint:
        raise ConfigError(
            f"reader {reader.name!r} was trained on {reader.base_model} ({reader.fingerprint[:12]}), {folder} has other "
            f"weights ({found[:12]}): give that model",
            setting="base",
        )
    return folder


def _of_adapter(adapter: Path, base: str | None, name: str | None) -> Reader:
    from trainer_configs.longlora.adapter import base_of

    if not (stated := base or base_of(adapter)):
        raise ConfigError(f"{adapter} does not name its base model: give it", setting="base")
    located, folder = base_model.located(stated)
    return Reader(name=name or adapter.resolve().name, base_model=located, fingerprint=base_model.fingerprint(folder))


@app.command("install")
@exit_on_error(option)
def install_command(
    source: Annotated[Path, typer.Argument(metavar="FILE_OR_FOLDER", help="A packed reader, or an adapter's folder.")],
    base: BaseAt = None,
    name: Annotated[str | None, typer.Option(help="What it is called here.", show_default="its own name")] = None,
    strength: Annotated[
        float, typer.Option(help="Share of what training changed: less of it keeps more of the base model.")
    ] = 1.0,
) -> None:
    """Merge a reader with its base model and keep it: `--model reader:NAME` then loads it."""
    reader, merged = install(source, base, name, strength)
    typer.echo(
        f"installed {readers.PREFIX}{reader.name} ({reader.base_model}, {merged.max_position_embeddings:,} positions)"
    )


@app.command("list")
@exit_on_error(option)
def list_command() -> None:
    """List the readers that are installed."""
    for reader in (found := readers.installed()):
        typer.echo(f"{readers.PREFIX}{reader.name}  {reader.base_model}  {reader.fingerprint[:12]}")
    if not found:
        typer.echo(f"no readers in {readers.folder()}")


@app.command("pack")
@exit_on_error(option)
def pack_command(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER_DIR", help="The training run's output_dir, or a checkpoint.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    base: BaseAt = None,
    name: Annotated[str | None, typer.Option(help="The reader's name.", show_default="the file's")] = None,
) -> None:
    """Pack what a LongLoRA run trained into one file of at most 60 MB."""
    size = reader_file.pack(adapter, out, name or out.stem, base)
    typer.echo(f"written: {out} ({size / 1e6:.1f} MB)")


@app.command("remove")
@exit_on_error(option)
def remove_command(name: Annotated[str, typer.Argument(help="The reader's name.")]) -> None:
    """Remove an installed reader; the libraries made with it stay, and need it again to be asked."""
    if (model := readers.model_folder(readers.PREFIX + name.removeprefix(readers.PREFIX))) is not None:
        shutil.rmtree(model.parent)
        typer.echo(f"removed {readers.PREFIX}{model.parent.name}")
