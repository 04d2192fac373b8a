"""One document asked four ways on one machine, without a network: accuracy and cost of context, retrieval, weights, hybrid.

    python -m benchmarks.memory run OUT --reader DIR [--model DIR] [--recipe compact+] [--steps] [--seconds 240]
    python -m benchmarks.memory report OUT      # the tables, pictures and advice of whatever cells there are

Made-up documents (`memory_documents`) have 128 questions each, in wordings that no memory is fitted to: single facts,
facts among people of nearly the same name, links of two, and what the text does not say. Prompts and scores are those of
memory-env. A memory of each document is fitted and put into a library; of a text of several segments those are open that
`lift serve` opens. Where a text is longer than the model's window its middle is cut.

With --steps every question is asked step by step, in the prompt of `lift ask --steps`; its cells stand beside the others,
and the report says what that gains. A document of 65,536 tokens or more has 200 questions of each kind (`counts_of`).

The order is declared (`order`), documents from short to long, the first two of each length before any more: the reader's by
retrieval and by hops; what the reader has of them in the other modes; the other model's by retrieval and in context; the
reader's other documents; passages in other orders and by chunks of meaning of at most as many tokens; then what is left.
Every cell is in OUT/cells as soon as it is there, with the fingerprint of the weights, the recipe and the version of lift;
the same command goes on behind it, and measures anew what was of others. Nothing begins after --seconds, so the last fit may
end later; a fit that is killed goes on behind its last segment. With --each, so many processes on each GPU fit a text's
segments.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import memory_tables
from benchmarks.lift_measure import free
from benchmarks.lift_options import EACH, known, numbers
from benchmarks.memory_cells import MODES, STEPS, WAYS, Asked, outdated
from benchmarks.memory_measure import Bench
from environments.memory.config import CONTEXT, REMEMBERED, RETRIEVAL, MemoryEnvConfig
from environments.memory.results import Results, advice, results
from environments.memory.tables import Table, tables_of, to_json
from lift.inference import steps as stepwise
from lift.library import base_model
from lift.training.recipes import RECIPES
from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import ConfigError, exit_on_error
from longthread.files import JsonObject, write_json

READER, MODEL = "reader", "model"
FIRST = 2  # documents of each length, before any more of one
REPLY = 24  # tokens, of an answer alone
DEFAULTS = MemoryEnvConfig()
LOOKED_UP = (RETRIEVAL, "hops")
OTHERS = (CONTEXT, "weights", "hybrid", "hybrid_hops")
COMPACT = [name for name, recipe in RECIPES.items() if recipe.method == "compact"]

app = App(no_args_is_help=True)
OUT = Annotated[Path, typer.Argument(help="Folder for cells and results.")]


@app.command()
@exit_on_error()
def run(  # noqa: PLR0913
    out: OUT,
    reader: Annotated[str, typer.Option(help="A model that reads long texts: a folder, or reader:NAME.")],
    model: Annotated[str, typer.Option(help="Another model, measured beside it.")] = "",
    recipe: Annotated[str, typer.Option(help=f"Of memories: {', '.join(COMPACT)}.")] = "compact",
    steps: Annotated[bool, typer.Option("--steps", help="Ask step by step, as readers learn links.")] = False,
    ways: Annotated[str, typer.Option(help=f"Of asking: some of {', '.join([*MODES, *WAYS])}; all if unset.")] = "",
    lengths: Annotated[str, typer.Option(help="Tokens of a document.")] = "8192,32768,131072,1048576",
    documents: Annotated[str, typer.Option(help="Documents of each length.")] = "7,7,1,1",
    questions: Annotated[int, typer.Option(min=0, help="Of a kind about a document, at most; 0: all.")] = 0,
    passages: Annotated[int, typer.Option(min=1, help="Passages that are looked up.")] = DEFAULTS.passages,
    chunk_tokens: Annotated[int, typer.Option(min=64, help="Tokens of a passage, at most.")] = DEFAULTS.chunk_tokens,
    seconds: Annotated[float, typer.Option(help="Begin nothing after so many.")] = 1e9,
    replies: Annotated[int, typer.Option(min=0, help=f"Tokens of a reply, at most; 0: {REPLY}, more in steps.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Tokens of a batch, on a GPU.")] = 1_200_000,
    libraries: Annotated[Path | None, typer.Option(help="Folder for memories; OUT/libraries otherwise.")] = None,
    each: EACH = 1,
) -> None:
    """Fit, ask, and write a file for each cell; then print the tables."""
    ends = time.monotonic() + seconds
    known("recipe", [recipe], COMPACT)
    wanted = known("ways", ways.split(","), [*MODES, *WAYS]) if ways else [*MODES, *WAYS]
    many = _documents(numbers("lengths", lengths), numbers("documents", documents))
    folders = {name: base_model.located(at)[1] for name, at in ((READER, reader), (MODEL, model)) if at}
    given = {"passages": passages, "chunk_tokens": chunk_tokens}
    lookup = {name: value for name, value in given.items() if value != getattr(DEFAULTS, name)}
    tokens = replies or (stepwise.NEW_TOKENS if steps else REPLY)
    benches: dict[str, Bench] = {}
    failed, left = [], []
    for cell in order(list(folders), many, recipe):
        asked = replace(cell, steps=steps)
        if asked.way not in wanted:
            continue
        if time.monotonic() > ends:
            left.append(asked.key)
            continue
        if asked.model not in benches:
            at, kept = folders[asked.model], libraries or out / "libraries"
            benches[asked.model] = Bench(at, kept, tokens, batch, lookup, questions, each)
        if not _measured(benches[asked.model], out / "cells", asked):
            failed.append(asked.key)
    _print(out)
    for what, keys in (("failed", failed), ("not reached", left)):
        if keys:
            print(f"\n{counted(len(keys), 'cell')} {what}: {', '.join(keys)}")


def _documents(lengths: Sequence[int], documents: Sequence[int]) -> dict[int, int]:
    """Return how many documents there are of each length. Raises `ConfigError`."""
    if len(lengths) != len(documents) or len(set(lengths)) < len(lengths) or min([*lengths, *documents]) < 1:
        raise ConfigError(
            f"{len(documents)} numbers of documents for {len(lengths)} lengths: give one for each, at least 1, and each "
            "length once",
            setting=("documents", "lengths"),
        )
    return dict(sorted(zip(lengths, documents, strict=True)))


def order(models: Sequence[str], documents: dict[int, int], recipe: str) -> list[Asked]:
    """Return all cells, the most valuable first: each model's documents of each length in each way."""
    settings = [way for way in WAYS if way not in (*LOOKED_UP, *OTHERS)]

    def cells(model: str, ways: Sequence[str], seeds: range) -> Iterator[Asked]:
        """Yield a model's documents of some seeds, the short ones first, each in these ways."""
        for (length, count), seed in product(documents.items(), seeds):
            for way in ways if seed < count and model in models else ():
                asked = Asked(model, length, seed, way)
                yield replace(asked, recipe=recipe if asked.mode in REMEMBERED else "")

    most = max(documents.values())
    first, rest, every = range(FIRST), range(FIRST, most), range(most)
    parts = [
        cells(READER, LOOKED_UP, first),
        cells(READER, OTHERS, first),
        cells(MODEL, (RETRIEVAL, CONTEXT), first),
        cells(READER, (*LOOKED_UP, *OTHERS), rest),
        cells(READER, settings, every),
        cells(MODEL, (*LOOKED_UP, *OTHERS, *settings), every),
    ]
    return list(dict.fromkeys(asked for part in parts for asked in part))


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
    named = {"model": asked.model, "way": asked.way, "recipe": asked.recipe, "steps": asked.steps}
    write_json(path, {**named, "made_of": made_of, "records": records})
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
    current = [cell for cell in cells if not outdated(cell)]
    if earlier := len(cells) - len(current):
        left_out = counted(earlier, "cell of an earlier hybrid is", "cells of an earlier hybrid are")
        print(f"{left_out} left out: run measures what they held anew")
    found = []
    for name, of_model, beside in _apart(current):
        measured = results([record for cell in of_model if cell["way"] in MODES for record in cell["records"]])
        found.append((name, measured))
        tables = [*tables_of(replace(measured, modes=MODES)), *memory_tables.ways(of_model), *beside]
        print("\n\n".join([f"\n# {name}", *(table.text() for table in tables), advice(measured)]))
    return found


def _apart(cells: Sequence[JsonObject]) -> Iterator[tuple[str, list[JsonObject], list[Table]]]:
    """Yield a name and the cells of each model, its weights, recipe and form of asking.

    With those in steps comes what that gains. Cells without a memory belong to every recipe.
    """
    for base in dict.fromkeys((cell["model"], cell["made_of"]["base"]) for cell in sorted(cells, key=_reader_first)):
        of_base = [cell for cell in cells if (cell["model"], cell["made_of"]["base"]) == base]
        for recipe in list(dict.fromkeys(cell["recipe"] for cell in of_base if cell["recipe"])) or [""]:
            of_recipe = [cell for cell in of_base if cell["recipe"] in ("", recipe)]
            bare, in_steps = ([cell for cell in of_recipe if cell.get("steps", False) == on] for on in (False, True))
            parts = [base[0], base[1][:8], *([recipe] if recipe else [])]
            if bare:
                yield "-".join(parts), bare, []
            if in_steps:
                yield "-".join([*parts, STEPS]), in_steps, memory_tables.in_steps(in_steps, bare)


def _reader_first(cell: JsonObject) -> bool:
    return cell["model"] != READER


if __name__ == "__main__":
    app()
