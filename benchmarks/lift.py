"""What it is worth to write a document into the weights, method against method, at equal adapter bytes.

    python -m benchmarks.lift run OUT --model MODEL --reader READER --text NOVEL.txt --seconds S    # the whole table
    python -m benchmarks.lift run OUT --model MODEL [--tokens 8192] [--seeds 0,1,2] [--methods compact,whole,lse]
    python -m benchmarks.lift ceilings OUT --model MODEL --reader READER  # what the model finds with every key of a document
    python -m benchmarks.lift tune OUT --model MODEL                    # each method's learning rate, on two other documents
    python -m benchmarks.lift ablate OUT --model MODEL [--of compact]   # what each part of a recipe is worth, on these

Made-up documents with 16 single facts and 4 chains of two (`lift.tasks.synthetic_document`), questions in wordings that
no method was trained on. Closed book: nothing but the weights. Method `window`: the document in the window, and no memory;
`whole`: every key and value of the document as its memory. Column `window`: needles with the document around them in the
window, with the memory on, against off; `others`: the same with questions about another document, which stands in the window;
`at-once`: facts with the memories of three documents on, as a share of those with each one's own alone. A text file is asked
for gaps and for the order of its sentences.

The most important cells come first: on the reader `FIRST`, then real text, then all rivals, seed by seed; then the model as
shipped. Each visible GPU takes a fit at a time, or --each of them, whose seconds are then not shown. Every result is in
OUT/results.json as soon as it is there, with its recipe; the same command goes on, and measures anew what was of another
recipe, base model or version of lift's code. A cell that was not reached stays empty.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.lift_ceilings import ceilings as measured_ceilings
from benchmarks.lift_measure import measured
from benchmarks.lift_options import EACH, LENGTH, LENGTHS, MODEL, OUT, READER_AT, SECONDS, SEEDS, known, numbers
from benchmarks.lift_store import Store
from benchmarks.lift_table import ceilings_table, draw, draw_seconds, table
from benchmarks.lift_together import several
from lift.document.document import read
from lift.library.base_model import fingerprint
from lift.training.recipes import RECIPES, Recipe, Stage
from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error

# Found by `tune`: what is not said here is the recipe's own; published-v3's is its authors'.
TUNED = {"published-v4": 2e-3, "cartridge": 8e-2}
UNTUNED = ("published-v3", "compact")  # the authors' own; nothing is trained
RATES = {name: TUNED.get(name, each.learning_rate) for name, each in RECIPES.items() if name not in UNTUNED}
WINDOW, WHOLE = "window", "whole"
FIRST = (WINDOW, "compact", "compact+", WHOLE)
METHODS = (*FIRST, "lse", "query", "published-v4", "cartridge", "published-v3", "raw-lora")
SEVERAL = ("compact", "compact+", WHOLE, "lse")  # methods of which several memories may be on at once
AT_ONCE = 3
READER = "@reader"  # behind a method's name
STEPS = 10  # times over the questions, for every method that has them
_STEPS_OF_PLUS = {name: getattr(RECIPES["compact+"], name) for name in ("learning_rate", "betas", "kl_weight", "steps")}
ABLATIONS: dict[str, dict[str, Any]] = {
    "compact": {},
    "compact,whole": {"share": 1.0},
    "compact,tenth": {"share": 0.1},
    "compact,sixtieth": {"share": 1 / 60},
    "compact,hundredth": {"share": 1 / 100},
    "compact,no-biases": {"biases": False},
    "compact,no-values": {"values": False},
    "compact,eviction": {"biases": False, "values": False},
    "compact,no-quiet-rows": {"quiet_weight": 0.0},
    "compact,quieter": {"quiet_weight": 1.0},
    "compact,no-questions": {"tasks": ()},
    "compact,again-as-much": {"again_weight": 1.0},
    "compact,not-again": {"again_weight": 0.0},
    "compact,fewer-queries": {"queries": 2000},
    "compact,more-queries": {"queries": 18_000},
    "compact,read-alone": {"read_alone": True},
    "compact,40-steps": _STEPS_OF_PLUS,
    "compact,40-steps-keys-frozen": _STEPS_OF_PLUS | {"key_rate": 0.0},
    "compact,40-steps-not-held": {name: value for name, value in _STEPS_OF_PLUS.items() if name != "kl_weight"},
    "lse": {},
    "lse,undistilled": {"distil_steps": 0},
    "lse,no-other-text": {"kl_weight": 0.0, "kl_rows": 0, "neutral_budget": None},
    "lse,closed-book": {"window_rows": 0},
    "lse,half-beside": {"window_rows": 4},
    "lse,held-less": {"kl_weight": 0.5},
    "lse,held-harder": {"kl_weight": 4.0},
    "lse,narrow": {"width": 1},
    "lse,from-logits": {"learnt": "logits"},
    **{f"lse,{epochs}-epochs": {"stages": (Stage(("tasks",), epochs, 64),)} for epochs in (2, 5, 20)},
}
TUNED_ON = "100,101"  # seeds of documents that `run` does not use
TOKENS = "8192,32768,2048"
WIDTH = 210  # of the tables, in characters

Jobs = dict[str, tuple[Any, ...]]


def recipe(method: str, rate: float | None = None) -> Recipe:
    """A method's recipe with, where it is trained on questions, the same questions as often. All from answers: what a small
    model says with the document open is wrong too often to learn from."""
    if method == WHOLE:
        return replace(RECIPES["compact"], share=1.0)
    base = RECIPES[method]
    given = replace(base, learnt="answers", learning_rate=rate or RATES.get(method, base.learning_rate))
    if method == "published-v4":
        stages = tuple(replace(stage, epochs=STEPS, rows=64) for stage in base.stages)
        same = ("items", "window_rows", "schedule", "kl_weight", "kl_rows")
        return replace(given, stages=stages, **{name: getattr(RECIPES["lse"], name) for name in same})
    return given


class Cells:
    """The cells of `run`'s table. `sources` are seeds of made-up documents, `texts` are files."""

    def __init__(self, methods: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], texts: Sequence[Path]):
        self.methods, self.sizes, self.seeds, self.texts = methods, sizes, seeds, texts

    def stages(self, model: Path, reader: Path | None, out: Path) -> Iterator[tuple[Any, Jobs]]:
        """Yield the work and its jobs, the most important first."""
        first = [method for method in self.methods if method in FIRST]
        rest = [method for method in self.methods if method not in FIRST]
        if reader:
            yield from self._of(first, READER, reader, out, by_seed=False)
            yield from self._of(rest, READER, reader, out, by_seed=True)
        yield from self._of(self.methods, "", model, out, by_seed=True)

    def _of(
        self, methods: Sequence[str], suffix: str, base: Path, out: Path, by_seed: bool
    ) -> Iterator[tuple[Any, Jobs]]:
        """Yield all cells of these methods on one base model: made-up documents, several at once, real text."""

        def job(size: int, method: str, source: int | Path) -> tuple[str, tuple[Any, ...]]:
            name = source if isinstance(source, int) else f"text-{source.stem.replace(' ', '-')}"
            given = None if method == WINDOW else recipe(method)
            return f"{size} {method}{suffix} {name}", (base, given, size, source)

        ordered = [(size, method, seed) for size in self.sizes for method in methods for seed in self.seeds]
        if by_seed:
            ordered.sort(key=lambda cell: self.seeds.index(cell[2]))
        yield measured, dict(job(*cell) for cell in ordered)
        together: Jobs = {}
        for size in self.sizes:
            for method in (method for method in methods if method in SEVERAL):
                folders = [out / f"{size}-{method}{suffix}-{seed}" for seed in self.seeds[:AT_ONCE]]
                together[f"{size} {method}{suffix} together"] = (base, recipe(method), size, method, folders)
        yield several, together
        yield (
            measured,
            dict(job(size, method, text) for size in self.sizes for method in methods for text in self.texts),
        )


app = App(no_args_is_help=True)


@app.command()
@exit_on_error()
def run(
    out: OUT,
    model: MODEL,
    tokens: LENGTHS = TOKENS,
    seeds: SEEDS = "0,1,2",
    methods: Annotated[str, typer.Option(help="Of lift's recipes, window and whole.")] = ",".join(METHODS),
    reader: READER_AT = None,
    text: Annotated[list[Path] | None, typer.Option(help="A text file to ask about; repeat for several.")] = None,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """Fit, ask, print the table."""
    chosen = known("methods", methods.split(","), METHODS)
    cells = Cells(chosen, numbers("tokens", tokens), numbers("seeds", seeds), readable(text or []))
    store = Store(out / "results.json", seconds, each)
    bases = {folder: fingerprint(folder) for folder in (model, reader) if folder}
    for work, jobs in cells.stages(model, reader, out):
        if work is several:
            jobs = {key: job for key, job in jobs.items() if len(job[-1]) > 1 and all(map(_fitted, job[-1]))}
        store.measure(work, jobs, bases)
    Console(width=WIDTH).print(table(store.results))
    draw(store.results, out)
    draw_seconds(store.results, out)


def readable(texts: list[Path]) -> list[Path]:
    """Return the text files. Raises `ConfigError` for one that cannot be read, and for two of one name."""
    if len({text.stem for text in texts}) < len(texts):
        raise ConfigError(f"{', '.join(map(str, texts))}: two have one name, by which results are kept", setting="text")
    for text in texts:
        read(text)
    return texts


def _fitted(folder: Path) -> bool:
    return (folder / "adapter_model.safetensors").exists()


@app.command()
@exit_on_error()
def ceilings(
    out: OUT,
    model: MODEL,
    tokens: LENGTHS = "8192,32768",
    seeds: SEEDS = "0,1,2",
    reader: READER_AT = None,
    seconds: SECONDS = 1e9,
) -> None:
    """What a memory could give at best: what the model finds with every key and value of a document beside its window."""
    store = Store(out / "ceilings.json", seconds)
    bases = {folder: fingerprint(folder) for folder in (reader, model) if folder}
    jobs = {
        f"{size} {'reader' if folder == reader else 'model'}": (folder, None, size, numbers("seeds", seeds))
        for size in numbers("tokens", tokens)
        for folder in bases
    }
    store.measure(measured_ceilings, jobs, bases)
    Console(width=WIDTH).print(ceilings_table(store.results))


@app.command()
@exit_on_error()
def tune(
    out: OUT,
    model: MODEL,
    tokens: LENGTH = 8192,
    methods: Annotated[str, typer.Option(help="Of lift's recipes.")] = ",".join(RATES),
    factors: Annotated[str, typer.Option(help="Times today's learning rate.")] = "0.5,1,2",
    seeds: SEEDS = TUNED_ON,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """Each method at several learning rates, on documents of seeds that `run` does not use."""
    chosen = known("methods", methods.split(","), RATES)
    rates = {(method, RATES[method] * factor) for method in chosen for factor in map(float, factors.split(","))}
    recipes = {f"{m}@{rate:g}": recipe(m, rate) for m, rate in sorted(rates)}
    _aside(Store(out / "rates.json", seconds, each), model, recipes, tokens, numbers("seeds", seeds))


@app.command()
@exit_on_error()
def ablate(
    out: OUT,
    model: MODEL,
    tokens: LENGTH = 8192,
    of: Annotated[str, typer.Option(help="The recipe: lse or compact.")] = "lse",
    changes: Annotated[str | None, typer.Option(help="Separated by spaces; all otherwise.")] = None,
    seeds: SEEDS = TUNED_ON,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """A recipe without one part, or with more or less of it."""
    mine = [name for name in ABLATIONS if name.partition(",")[0] == of]
    names = known("changes", changes.split() if changes else mine, mine)
    recipes = {n: replace(recipe(of), **ABLATIONS[n]) for n in names}
    _aside(Store(out / "ablations.json", seconds, each), model, recipes, tokens, numbers("seeds", seeds))


def _aside(store: Store, model: Path, recipes: dict[str, Recipe], tokens: int, seeds: Sequence[int]) -> None:
    jobs = {
        f"{tokens} {name} {seed}": (model, given, tokens, seed) for name, given in recipes.items() for seed in seeds
    }
    store.measure(measured, jobs, {model: fingerprint(model)})
    Console(width=WIDTH).print(table(store.results))


if __name__ == "__main__":
    app()
