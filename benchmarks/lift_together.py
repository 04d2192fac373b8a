"""Documents that `benchmarks.lift run` has fitted, in one library: how long a switch takes, and what each still says when
all of them are on at once.

    python -m benchmarks.lift_together OUT --model MODEL [--tokens 8192] [--method lse]

OUT is the folder of `run`. `alone`: facts asked in wordings not trained on, with the document's own memory on; `all`: with
all of them on, each question to the one that it is about; `another's`: with another document's memory on instead.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.lift_measure import NEEDLES, free, load
from benchmarks.lift_options import LENGTH, MODEL, OUT
from benchmarks.lift_table import percent
from lift import tasks
from lift.document.document import Document
from lift.inference.capacity import synchronize
from lift.inference.generate import answers, chat
from lift.library.attach import Attached
from lift.library.base_model import fingerprint, recorded
from lift.library.library import Entry, Library
from lift.tasks import right, synthetic_document
from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error
from longthread.files import write_json
from longthread.statistics import Share

SWITCHES, LOADS = 200, 20

app = App()


def seconds_to_switch(attached: Attached, names: list[str], times: int) -> float:
    """The median of a turn through the documents."""
    took = []
    for at in range(times):
        synchronize(attached.model.device)
        began = time.perf_counter()
        attached.switch(names[at % len(names)])
        synchronize(attached.model.device)
        took.append(time.perf_counter() - began)
    return median(took)


def rate(attached: Attached, tokenizer: Any, document: Document, on: list[str], seed: int) -> Share:
    """Facts of the document that are recalled with the memories `on` active."""
    attached.switch(on)
    items = tasks.make(document, ("needle",), NEEDLES, seed, "eval")
    replies = answers(attached.model, tokenizer, [chat(tokenizer, document.name, item.question) for item in items], 40)
    return Share(sum(map(right, items, replies)), len(items))


@contextmanager
def shelf(
    model: Path, tokenizer: Any, tokens: int, method: str, fitted: Sequence[Path]
) -> Iterator[tuple[Library, dict[int, Document]]]:
    """Give a library of the documents in the folders `fitted`, each named after its seed, and the documents by seed.

    Raises `ConfigError` for a folder that states another base model than `model`, or none.
    """
    base_fingerprint, documents = fingerprint(model), {}
    with TemporaryDirectory() as scratch:
        library = Library(Path(scratch) / "books")
        for folder in fitted:
            seed = int(folder.name.rpartition("-")[2])
            if recorded(folder) is None:
                raise ConfigError(f"{folder} does not state the base model that it was fitted to: fit it again")
            document, _ = synthetic_document.generate(tokenizer, tokens, seed)
            library.add(folder, Entry(
                name=document.name, digest=document.digest, tokens=tokens, words=document.words, recipe=method,
                base_model=str(model), fingerprint=base_fingerprint,
            ))  # fmt: skip
            documents[seed] = document
        yield library, documents


def several(
    model: Path, given: Any, tokens: int, method: str, fitted: Sequence[Path], out: Path | None = None
) -> dict[str, Any]:
    """Figures of the documents in the folders `fitted`, each named after its seed, on one base model.

    `given` and `out` are what `Store` hands every work: a recipe and a folder.
    """
    free()
    base, tokenizer = load(model)
    with shelf(model, tokenizer, tokens, method, fitted) as (library, documents):
        names = [document.name for document in documents.values()]
        attached = Attached(library, base, names)
        attached.switch(names)
        found: dict[str, Any] = {"documents": names, "switch_ms": 1000 * seconds_to_switch(attached, names, SWITCHES)}
        for how in ("alone", "all", "another's"):
            found[how] = []
        for i, (seed, document) in enumerate(documents.items()):
            on = {"alone": [document.name], "all": names, "another's": [names[i - 1]]}
            for how, wanted in on.items():
                share = rate(attached, tokenizer, document, wanted, seed)
                found[how].append([share.right, share.asked])
        single = Attached(library, load(model)[0], names[:1], loaded=1)
        found["load_ms"] = 1000 * seconds_to_switch(single, names, LOADS)
    return found


@app.command()
@exit_on_error()
def main(
    out: OUT,
    model: MODEL,
    tokens: LENGTH = 8192,
    method: Annotated[str, typer.Option(help="The recipe that they were fitted by.")] = "lse",
) -> None:
    """Time to switch, and facts with all documents on."""
    fitted = sorted(path.parent for path in out.glob(f"{tokens}-{method}-*/adapter_model.safetensors"))
    fitted = [folder for folder in fitted if folder.name.rpartition("-")[2].isdigit()]
    if len(fitted) < 2:
        raise ConfigError(
            f"{out} has {len(fitted)} documents of {tokens} tokens by {method}, at least 2 are needed: "
            f"python -m benchmarks.lift run {out} --tokens {tokens} --methods {method} --seeds 0,1"
        )
    found = several(model, None, tokens, method, fitted)
    made = Table(title=f"{len(fitted)} documents of {tokens:,} tokens, {method}: facts, %")
    made.add_column("document")
    hows = ("alone", "all", "another's")
    for how in hows:
        made.add_column(how, justify="right")
    for i, name in enumerate(found["documents"]):
        made.add_row(name, *(percent(Share(*found[how][i])) for how in hows))
    Console(width=120).print(made)
    print(
        f"switch {found['switch_ms']:.1f} ms among loaded documents, {found['load_ms']:.1f} ms with reading from the disk"
    )
    write_json(out / f"together-{tokens}-{method}.json", found, indent=1)


if __name__ == "__main__":
    app()
