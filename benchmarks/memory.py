"""One document asked four ways on one machine, without a network: accuracy and cost of context, retrieval, weights, hybrid.

    python -m benchmarks.memory run OUT --reader DIR [--model DIR] [--recipe compact+] [--seconds 240]
    python -m benchmarks.memory report OUT      # the tables, pictures and advice of whatever cells there are

Made-up documents (`memory_documents`) have some 100 questions each, in wordings that no memory is fitted to: single facts,
facts among people of nearly the same name, links of two, and what the text does not say. Prompts and scores are those of
memory-env. A memory of each document is fitted and put into a library; of a text of several segments those are open that
`lift serve` opens. Where a text is longer than the model's window its middle is cut.

The order is declared (`order`): the reader's first two documents of each length, from short to long, each in all four
modes; the other model's of the shortest length; the reader's retrieval and hybrid by hops, retrieval in other orders and by
chunks of meaning of at most as many tokens; then what is left. Every cell is in OUT/cells as soon as it is there, with the
fingerprint of the weights, the recipe and the version of lift; the same command goes on behind it, and measures anew what
was of others. Nothing begins after --seconds, so the last fit may end later.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.lift_measure import free
from benchmarks.lift_options import known, numbers
from benchmarks.memory_measure import MODES, WAYS, Asked, Bench
from environments.memory.config import HYBRID, REMEMBERED, RETRIEVAL
from environments.memory.results import Results, advice, results
from environments.memory.tables import Table, tables_of, to_json
from lift.library import base_model
from lift.training.recipes import RECIPES
from longthread.errors import ConfigError, exit_on_error
from longthread.files import JsonObject, write_json
from longthread.statistics import estimate

READER, MODEL = "reader", "model"
FIRST = 2  # documents of each length, before any more of one
COMPACT = [name for name, recipe in RECIPES.items() if recipe.method == "compact"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
OUT = Annotated[Path, typer.Argument(help="Folder for cells and results.")]


@app.command()
@exit_on_error()
def run(  # noqa: PLR0913
    out: OUT,
    reader: Annotated[str, typer.Option(help="A model that reads long texts: a folder, or reader:NAME.")],
    model: Annotated[str, typer.Option(help="Another model, measured beside it.")] = "",
    recipe: Annotated[str, typer.Option(help=f"Of memories: {', '.join(COMPACT)}.")] = "compact",
    lengths: Annotated[str, typer.Option(help="Tokens of a document.")] = "8192,32768,131072",
    documents: Annotated[str, typer.Option(help="Documents of each length.")] = "4,4,1",
    seconds: Annotated[float, typer.Option(help="Begin nothing after so many.")] = 1e9,
    replies: Annotated[int, typer.Option(min=1, help="Tokens of a reply, at most.")] = 24,
    batch: Annotated[int, typer.Option(min=1, help="Tokens of a batch, on a GPU.")] = 1_200_000,
    libraries: Annotated[Path | None, typer.Option(help="Folder for memories; OUT/libraries otherwise.")] = None,
) -> None:
    """Fit, ask, and write a file for each cell; then print the tables."""
    ends = time.monotonic() + seconds
    known("recipe", [recipe], COMPACT)
    many = _documents(numbers("lengths", lengths), numbers("documents", documents))
    folders = {name: base_model.located(at)[1] for name, at in ((READER, reader), (MODEL, model)) if at}
    benches: dict[str, Bench] = {}
    failed = []
    for asked in order(list(folders), many, recipe):
        if time.monotonic() > ends:
            break
        if asked.model not in benches:
            benches[asked.model] = Bench(folders[asked.model], libraries or out / "libraries", replies, batch)
        if not _measured(benches[asked.model], out / "cells", asked):
            failed.append(asked.key)
    _print(out)
    if failed:
        print(f"\n{len(failed)} cells failed: {', '.join(failed)}")


def _documents(lengths: Sequence[int], documents: Sequence[int]) -> dict[int, int]:
    """Return how many documents there are of each length. Raises `ConfigError`."""
    if len(lengths) != len(documents) or len(set(lengths)) < len(lengths) or min([*lengths, *documents]) < 1:
        raise ConfigError(
            f"{len(documents)} numbers of documents for {len(lengths)} lengths: give one for each, at least 1, and each "
            "length once",
            setting=("documents", "lengths"),
        )
    return dict(sorted(zip(lengths, documents, strict=True)))


def order(models: Sequence[str], documents: dict[int, int], recipe: str) -> Iterator[Asked]:
    """Yield all cells, the most valuable first: each model's documents of each length in each way."""

    def cells(model: str, lengths: Sequence[int], first: bool, ways: Sequence[str]) -> Iterator[Asked]:
        for length in lengths:
            for seed in range(documents[length]):
                if (seed < FIRST) == first:
                    for way in ways:
                        asked = Asked(model, length, seed, way)
                        yield replace(asked, recipe=recipe if asked.mode in REMEMBERED else "")

    lengths, ways = list(documents), list(WAYS)
    yield from cells(READER, lengths, True, MODES)
    if MODEL in models:
        yield from cells(MODEL, lengths[:1], True, MODES)
    yield from cells(READER, lengths, True, ways)
    yield from cells(READER, lengths, False, MODES)
    if MODEL in models:
        yield from cells(MODEL, lengths[1:], True, MODES)
    yield from cells(READER, lengths, False, ways)
    if MODEL in models:
        yield from cells(MODEL, lengths, False, MODES)


def _measured(bench: Bench, folder: Path, asked: Asked) -> bool:
    """Measure a cell unless it is there, and write it. Returns whether it is there now."""
    path, began = folder / f"{asked.key}.json", time.monotonic()
    try:
        made_of = bench.made_of(asked)
        if path.exists() and json.loads(path.read_text())["made_of"] == made_of:
            return True
        records = bench.records(asked)
    except Exception as error:  # out of memory, say: the other cells need not fail
        print(f"{asked.key}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        free()
        return False
    cell = {"model": asked.model, "way": asked.way, "recipe": asked.recipe, "made_of": made_of, "records": records}
    write_json(path, cell)
    right = sum(record["correct"] for record in records)
    print(f"{asked.key}: {right} of {len(records)} right, {time.monotonic() - began:.1f} s", flush=True)
    return True


# ---- the report ----


@app.command()
@exit_on_error()
def report(out: OUT) -> None:
    """Print the tables and the advice of each model and recipe, and write the numbers and the pictures."""
    from environments.memory.report import PICTURE, accuracy_against_cost
    from environments.reports.figures import png

    for name, measured in _print(out):
        (out / f"{name}-{PICTURE}").write_bytes(png(accuracy_against_cost(measured, f"memory: {name}")))
        write_json(out / f"{name}.json", to_json(measured))


def _print(out: Path) -> list[tuple[str, Results]]:
    """Print what there is of each model's weights and recipe, and return the numbers."""
    cells = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    if not cells:
        raise ConfigError(f"{out} has no cells: begin with the command run", setting="out")
    found = []
    for name, of_model in _apart(cells):
        measured = results([record for cell in of_model if cell["way"] in MODES for record in cell["records"]])
        found.append((name, measured))
        tables = [*tables_of(measured), *_ways(of_model)]
        print("\n\n".join([f"\n# {name}", *(table.text() for table in tables), advice(measured)]))
    return found


def _apart(cells: Sequence[JsonObject]) -> Iterator[tuple[str, list[JsonObject]]]:
    """Yield the cells of each model, its weights and recipe, with a name; those without a memory belong to every recipe."""
    for base in dict.fromkeys((cell["model"], cell["made_of"]["base"]) for cell in sorted(cells, key=_reader_first)):
        of_base = [cell for cell in cells if (cell["model"], cell["made_of"]["base"]) == base]
        recipes = list(dict.fromkeys(cell["recipe"] for cell in of_base if cell["recipe"])) or [""]
        for recipe in recipes:
            parts = [base[0], base[1][:8], *([recipe] if recipe else [])]
            yield "-".join(parts), [cell for cell in of_base if cell["recipe"] in ("", recipe)]


def _reader_first(cell: JsonObject) -> bool:
    return cell["model"] != READER


def _ways(cells: Sequence[JsonObject]) -> list[Table]:
    """Return the table of what each way of looking up is worth, on the documents that were asked in all of them."""
    of_way: dict[str, dict[str, list[JsonObject]]] = {}
    for cell in cells:
        if cell["way"] in (RETRIEVAL, HYBRID, *WAYS):
            of_way.setdefault(cell["way"], {})[cell["records"][0]["document"]] = cell["records"]
    in_all = set.intersection(*map(set, of_way.values())) if len(of_way) > 1 else set()
    lengths = {records[0]["length"] for of in of_way.values() for name, records in of.items() if name in in_all}
    rows = []
    for length in sorted(lengths):
        for way in (RETRIEVAL, HYBRID, *WAYS):
            lines = [line for name in in_all for line in of_way.get(way, {}).get(name, []) if line["length"] == length]
            if lines:
                recall = estimate(line["recall"]["needles"] for line in lines if line["recall"])
                score = estimate(line["score"] for line in lines)
                rows.append([f"{length:,}", way, str(len(lines)), str(score), str(recall)])
    header = ["length", "way", "n", "score", "evidence found"]
    return (
        [
            Table(
                "Ways of looking up",
                "Retrieval and hybrid as they are, and what each setting changes, on the same questions.",
                header,
                rows,
            )
        ]
        if rows
        else []
    )


if __name__ == "__main__":
    app()
