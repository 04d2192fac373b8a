"""What it is worth to write a document into the weights, method against method, at equal adapter bytes.

    python -m benchmarks.lift run OUT --model MODEL [--tokens 2048,8192,32768] [--seeds 0,1,2] [--methods …] [--seconds S]
    python -m benchmarks.lift run OUT --model MODEL --reader DIR --methods compact,whole,lse    # the same on a reader too
    python -m benchmarks.lift tune OUT --model MODEL                    # each method's learning rate, on two other documents
    python -m benchmarks.lift ablate OUT --model MODEL [--of compact]   # what each part of a recipe is worth, on these

Made-up documents with 16 single facts and 4 chains of two (`lift.tasks.synthetic_document`), questions in wordings that
no method was trained on. Closed book: nothing but the weights. `window`: needles with the document around them in the
window, with the memory on, against off. `whole`: every key and value of the document as its memory, what the model itself
finds of it. `others`: questions about another document that stands in the window, with the
memory on, against off. Each visible GPU takes a fit at a time, or --each of them, whose seconds are then not shown. Every
result is in OUT/results.json as soon as it is there, with its recipe; the same command goes on, and measures anew what was
of another recipe, base model or version of lift's code.
"""

import gc
import hashlib
import json
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import PeftModel, get_peft_model
from rich.console import Console
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import lift
from benchmarks.lift_table import draw, table
from benchmarks.spread import spread
from lift import tasks
from lift.evaluation.evaluate import Settings, evaluate
from lift.inference.generate import answers, chat
from lift.library.base_model import fingerprint
from lift.memory.tuner import gate, layers
from lift.tasks import Item, synthetic_document
from lift.tasks.synthetic_document import ControlSet, DocumentQuestions
from lift.training.fit import FitOptions, adapter_config, fit
from lift.training.recipes import RECIPES, Recipe, Stage
from longthread.errors import ConfigError, exit_on_error
from longthread.files import write_json
from longthread.model_shape import kv_bytes

# Found by `tune`: what is not said here is the recipe's own; published-v3's is its authors'.
TUNED = {"published-v4": 2e-3, "cartridge": 8e-2}
UNTUNED = ("published-v3", "compact")  # the authors' own; nothing is trained
RATES = {name: TUNED.get(name, each.learning_rate) for name, each in RECIPES.items() if name not in UNTUNED}
WHOLE = "whole"
METHODS = (*RECIPES, WHOLE)
READER = "+reader"  # behind a method's name
STEPS = 10  # times over the questions, for every method that has them
ABLATIONS: dict[str, dict[str, Any]] = {
    "compact": {},
    "compact,whole": {"share": 1.0},
    "compact,tenth": {"share": 0.1},
    "compact,sixtieth": {"share": 1 / 60},
    "compact,no-biases": {"biases": False},
    "compact,no-values": {"values": False},
    "compact,eviction": {"biases": False, "values": False},
    "compact,no-quiet-rows": {"quiet_weight": 0.0},
    "compact,quieter": {"quiet_weight": 1.0},
    "compact,no-questions": {"tasks": ()},
    "compact,more-queries": {"queries": 18_000},
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
TUNED_ON = (100, 101)  # seeds of documents that `run` does not use
NEEDLES, ABSENT, OTHERS = 32, 12, 16  # questions of an evaluation, beside all linked ones, cloze and order
TOKENS = (2048, 8192, 32_768)


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


def equal(config: Any) -> dict[str, Any]:
    """Rank and slots at which all adapters of a model are of one size, that of a gated memory."""
    bare = RECIPES["published-v4"]
    gated = parameters(config, RECIPES["lse"])
    rank = round(gated / parameters(config, replace(bare, rank=1)))
    return {"rank": rank, "alpha": 2 * rank, "slots": round(2 * gated / kv_bytes(config, 1))}


def parameters(config: Any, given: Recipe) -> int:
    """Trained numbers of the recipe's adapter in a model of this config."""
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(deepcopy(config)), adapter_config(given))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def questions(document: Any, facts: Sequence[Any], seed: int) -> list[Item]:
    """In held-out wordings, every fact as often as any other."""
    asked = tasks.make(document, ("needle",), NEEDLES, seed, "eval")
    asked += [item for item in synthetic_document.items(facts) if item.kind == "linked"]
    asked += tasks.make(document, ("linked",), 12, seed, "eval")
    asked += tasks.make(document, ("absent",), ABSENT, seed, "eval")
    return asked + tasks.make(document, ("cloze", "order"), 8, seed, "eval")


def load(folder: Path) -> tuple[Any, Any]:
    """The model, in bf16 on a GPU where there is one, and its tokenizer."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(device), AutoTokenizer.from_pretrained(folder)


def measured(folder: Path, given: Recipe, tokens: int, seed: int, out: Path) -> dict[str, Any]:
    """One fit and its evaluation."""
    free()  # what the last one held
    model, tokenizer = load(folder)
    document, facts = synthetic_document.generate(tokenizer, tokens, seed)
    other, _ = synthetic_document.generate(tokenizer, 2048, 1000 + seed)
    sized = replace(given, **equal(model.config))
    done = fit(document, model, tokenizer, sized, FitOptions(out, seed, progress=False))
    del model
    free()
    model = PeftModel.from_pretrained(load(folder)[0], str(out)).eval()
    unlike = tasks.make(other, ("needle",), OTHERS, seed, "eval")
    control = ControlSet(
        synthetic_document.neutral("eval"), synthetic_document.unrelated(), DocumentQuestions(other, unlike)
    )
    settings = Settings(
        window_tokens=1024, progress=False, gate=gate if layers(model) else None,
        answer=lambda prompts: answers(model, tokenizer, [chat(tokenizer, *prompt) for prompt in prompts], 40),
    )  # fmt: skip
    asked = DocumentQuestions(document, questions(document, facts, seed))
    results = evaluate(model, tokenizer, asked, control, settings)
    figures = {"seconds": done.seconds, "prefill": done.prefill_seconds, "bytes": done.bytes, "kv": done.kv_bytes}
    return {"results": results.to_json(), "steps": done.steps, "losses": done.losses, **figures}


def free() -> None:
    """Gives back what torch holds and no longer needs: others fit on the same GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def code() -> str:
    """SHA-256 of lift's files: a recipe does not say how it is carried out."""
    files = sorted(Path(lift.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Store:
    """A JSON file of results by key, rewritten whenever something was added."""

    def __init__(self, path: Path):
        self.path = path
        self.results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def measure(
        self, model: Path, base: str, jobs: dict[str, tuple[Recipe, int, int]], seconds: float, each: int
    ) -> None:
        """Whatever of these (recipe, tokens, seed) is not there yet, of this recipe, code and base (a fingerprint)."""
        same = {"base": base, "code": code()}
        made_by = {key: {"recipe": json.loads(json.dumps(asdict(job[0]))), **same} for key, job in jobs.items()}
        new = {
            key: (model, *job, self.path.parent / key.replace(" ", "-"))
            for key, job in jobs.items()
            if not made_by[key].items() <= self.results.get(key, {}).items()
        }
        with tqdm(total=len(new), unit="fit") as bar:
            for key, result in spread(measured, new, torch.cuda.device_count(), seconds, each):
                bar.update()
                if isinstance(result, Exception):
                    bar.write(f"{key}: {type(result).__name__}: {result}")
                    continue
                self.results[key] = {**result, **made_by[key], "alone": each == 1}
                write_json(self.path, self.results, indent=1)
                closed = {kind: rate["share"] for kind, rate in result["results"]["closed"].items()}
                change = result["results"]["nll"] - result["results"]["nll_off"]
                bar.write(f"{key}: {closed} neutral {change:+.3f} fit {result['seconds']:.1f} s {result['losses']}")


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
OUT = Annotated[Path, typer.Argument(help="Folder for adapters, results.json and pictures.")]
MODEL = Annotated[Path, typer.Option(help="Folder of the base model.")]
LENGTH = Annotated[int, typer.Option("--tokens", help="Length of a document.")]
SECONDS = Annotated[float, typer.Option(help="Begin nothing after so many; the same command goes on later.")]
EACH = Annotated[int, typer.Option(min=1, help="Fits at a time on a GPU.")]


def known(what: str, names: list[str], of: Collection[str]) -> list[str]:
    """The names. Raises `ConfigError` for an unknown one."""
    if unknown := set(names) - set(of):
        raise ConfigError(f"{what} must be one of {', '.join(of)} (got {', '.join(map(repr, sorted(unknown)))})")
    return names


@app.command()
@exit_on_error()
def run(
    out: OUT,
    model: MODEL,
    tokens: Annotated[str, typer.Option(help="Lengths of the documents.")] = ",".join(map(str, TOKENS)),
    seeds: Annotated[str, typer.Option(help="Of documents and fits.")] = "0,1,2",
    methods: Annotated[str, typer.Option(help="Of lift's recipes, and whole.")] = ",".join(RECIPES),
    reader: Annotated[Path | None, typer.Option(help="Another base model: all methods are measured on it too.")] = None,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """Fit, ask, print the table."""
    chosen = known("methods", methods.split(","), METHODS)
    store = Store(out / "results.json")
    bases = [("", model, fingerprint(model)), *([(READER, reader, fingerprint(reader))] if reader else [])]
    for suffix, folder, base in bases:
        jobs = {
            f"{size} {method}{suffix} {seed}": (recipe(method), size, seed)
            for seed in map(int, seeds.split(","))
            for size in map(int, tokens.split(","))
            for method in chosen
        }
        store.measure(folder, base, jobs, seconds, each)
    Console(width=170).print(table(store.results))
    draw(store.results, out)


@app.command()
@exit_on_error()
def tune(
    out: OUT,
    model: MODEL,
    tokens: LENGTH = 8192,
    methods: Annotated[str, typer.Option(help="Of lift's recipes.")] = ",".join(RATES),
    factors: Annotated[str, typer.Option(help="Times today's learning rate.")] = "0.5,1,2",
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """Each method at several learning rates, on documents of seeds that `run` does not use."""
    chosen = known("methods", methods.split(","), RATES)
    rates = {(method, RATES[method] * factor) for method in chosen for factor in map(float, factors.split(","))}
    recipes = {f"{m}@{rate:g}": recipe(m, rate) for m, rate in sorted(rates)}
    _aside(out / "rates.json", model, recipes, tokens, seconds, each)


@app.command()
@exit_on_error()
def ablate(
    out: OUT,
    model: MODEL,
    tokens: LENGTH = 8192,
    of: Annotated[str, typer.Option(help="The recipe: lse or compact.")] = "lse",
    changes: Annotated[str | None, typer.Option(help="Separated by spaces; all otherwise.")] = None,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """A recipe without one part, or with more or less of it."""
    mine = [name for name in ABLATIONS if name.partition(",")[0] == of]
    names = known("changes", changes.split() if changes else mine, mine)
    recipes = {n: replace(recipe(of), **ABLATIONS[n]) for n in names}
    _aside(out / "ablations.json", model, recipes, tokens, seconds, each)


def _aside(path: Path, model: Path, recipes: dict[str, Recipe], tokens: int, seconds: float, each: int) -> None:
    base = fingerprint(model)
    store = Store(path)
    jobs = {f"{tokens} {name} {seed}": (given, tokens, seed) for name, given in recipes.items() for seed in TUNED_ON}
    store.measure(model, base, jobs, seconds, each)
    Console(width=170).print(table(store.results))


if __name__ == "__main__":
    app()
