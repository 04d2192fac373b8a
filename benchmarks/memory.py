"""One document asked four ways on one machine, without a network: accuracy and cost of context, retrieval, weights, hybrid.

    python -m benchmarks.memory run OUT --reader DIR [--model DIR] [--lengths 8192,32768,131072] [--seconds 240]
    python -m benchmarks.memory report OUT      # the tables, the picture and the advice of `memory-env evaluate`

Made-up documents (`lift.tasks.synthetic_document`) have some 60 questions each, in wordings that no memory is made with:
single facts of one among many people (needle), links of two (linked), and what the text does not say (absent). Prompts are
those of memory-env. A memory of each document is made with recipe compact and put into a library; of a text of several
segments those are open that `lift serve` opens. Where a text is longer than the model's window its middle is cut.

The order is declared: the reader's lengths from short to long, then the model's; of each length all documents, and of a
document context, retrieval, weights, hybrid, then retrieval's other orders and its chunks by meaning at equal tokens. Every
cell is in OUT/cells as soon as it is there, and the same command goes on behind it. Nothing begins after --seconds.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.lift_options import numbers
from benchmarks.memory_measure import MODES, RETRIEVALS, Asked, Bench
from environments.memory.report import PICTURE, accuracy_against_cost, tables_of, to_json
from environments.memory.results import advice, results
from environments.reports.figures import png
from longthread.errors import exit_on_error
from longthread.files import write_json

DOCUMENTS = "4,4,1,1"  # of each length: enough for 200 questions where time allows

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
OUT = Annotated[Path, typer.Argument(help="Folder for memories and results.")]


@app.command()
@exit_on_error()
def run(  # noqa: PLR0913
    out: OUT,
    reader: Annotated[Path, typer.Option(help="Folder of a model that reads long texts.")],
    model: Annotated[Path | None, typer.Option(help="Folder of another model, measured behind it.")] = None,
    lengths: Annotated[str, typer.Option(help="Tokens of a document.")] = "8192,32768,131072",
    documents: Annotated[str, typer.Option(help="Documents of each length.")] = DOCUMENTS,
    seconds: Annotated[float, typer.Option(help="Begin nothing after so many.")] = 1e9,
    replies: Annotated[int, typer.Option(min=1, help="Tokens of a reply, at most.")] = 24,
    batch: Annotated[int, typer.Option(min=1, help="Tokens of a batch, on a GPU.")] = 1_200_000,
) -> None:
    """Fit, ask, and write a file for each cell; then the report."""
    ends = time.monotonic() + seconds
    many = dict(zip(sizes := numbers("lengths", lengths), numbers("documents", documents), strict=False))
    for name, folder in (("reader", reader), ("model", model)):
        if folder is None or time.monotonic() > ends:
            continue
        bench = Bench(folder, out / "libraries" / name, replies, batch)
        for length in sizes:
            for seed in range(many.get(length, 1)):
                for ways in (MODES, RETRIEVALS):
                    for way in ways:
                        _cell(bench, out / "cells", Asked(name, length, seed, way), ends)
    report(out)


def _cell(bench: Bench, folder: Path, asked: Asked, ends: float) -> None:
    path = folder / f"{asked.key}.json"
    if path.exists() or time.monotonic() > ends:
        return
    began = time.monotonic()
    try:
        records = bench.records(asked)
    except Exception as error:  # out of memory, say: the other cells need not fail
        print(f"{asked.key}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return
    write_json(path, {"model": asked.model, "way": asked.way, "records": records})
    right = sum(record["correct"] for record in records)
    print(f"{asked.key}: {right} of {len(records)} right, {time.monotonic() - began:.1f} s", flush=True)


@app.command(name="report")
@exit_on_error()
def report(out: OUT) -> None:
    """Print the tables and the advice for each model, and write the numbers and the picture."""
    for model in ("reader", "model"):
        cells = [cell for cell in _cells(out / "cells") if cell["model"] == model]
        if found := [record for cell in cells if cell["way"] in MODES for record in cell["records"]]:
            measured = results(found)
            picture = png(accuracy_against_cost(measured, f"memory: {model}"))
            (out / f"{model}-{PICTURE}").write_bytes(picture)
            write_json(out / f"{model}.json", to_json(measured))
            print(f"\n# {model}\n")
            print("\n\n".join([*(table.text() for table in tables_of(measured)), advice(measured)]))
            _ways(cells)


def _cells(folder: Path) -> Iterator[dict]:
    return (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))


def _ways(cells: list[dict]) -> None:
    """Print what each way of retrieval is worth, with the standard error of its mean."""
    print("\nretrieval          length   n   score")
    for way in ("retrieval", *RETRIEVALS):
        of_way = [record for cell in cells if cell["way"] == way for record in cell["records"]]
        for length in sorted({record["length"] for record in of_way}):
            scores = [record["score"] for record in of_way if record["length"] == length]
            mean = sum(scores) / len(scores)
            error = (mean * (1 - mean) / len(scores)) ** 0.5
            print(f"{way:<18} {length:>7} {len(scores):>4}   {mean:.3f} ± {error:.3f}")


if __name__ == "__main__":
    app()
