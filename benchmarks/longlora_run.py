"""SmolLM2-135M-Instruct from 8,192 to 32,768 tokens by Axolotl, four ways; then perplexity by position and needle grids.

    python -m benchmarks.longlora_run OUT --model MODEL --rows ROWS --held-out NOVELS

ROWS is what the recipe's own command writes (trainer_configs/smollm2-135m-32k.yaml). The model is evaluated as it is, with
YaRN alone, and after LongLoRA: full attention, shifted sparse with a quarter of its steps full and without, tail-global. No
training row has names, values or novels of the evaluation. While one training loads, the model before it is evaluated.
Every result is in OUT/results.json as soon as it is there; the same command goes on where it was cut.
"""

import gc
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.longlora_grid import LENGTHS, Grid, evaluate, load
from benchmarks.longlora_results import UNTRAINED, Results, best, draw, report
from benchmarks.longlora_training import METHODS, write_config
from longthread.command_line import App
from longthread.errors import ConfigError, LongthreadError, exit_on_error, option
from longthread.files import write_text
from trainer_configs.longlora.by_position import by_position
from trainer_configs.longlora.extend.axolotl_run import Training
from trainer_configs.longlora.perplexity import read_text
from trainer_configs.longlora.token_nll import windows as cut_windows

CONFIRM_SEED = 1_000_000  # samples of the best model's second grid share nothing with the first
LEAST_SECONDS = 15  # an evaluation with less time left is not begun


class Cut(Exception):
    """The time is up; finished results are in the file."""


@dataclass
class Run:
    """Results are written whenever something was added to them."""

    out: Path
    model: Path
    grid: Grid
    rows_NL: Any
    samples: int
    deadline: float
    results: Results = field(default_factory=dict)

    def left(self, needed: float = 0.0) -> float:
        """Seconds left. Raises `Cut` when there are fewer than `needed`."""
        if (seconds := self.deadline - time.monotonic()) < needed:
            raise Cut
        return seconds

    def of(self, name: str) -> dict[str, Any]:
        """The results of one model."""
        return self.results.setdefault(name, {"perplexity": [], "records": [], "confirm": []})

    def save(self) -> None:
        """Write results.json."""
        write_text(self.out / "results.json", json.dumps(self.results, indent=1))  # NaN too: of a broken model

    def evaluate(self, name: str, key: str = "records", samples: int = 0) -> None:
        """Measure the missing parts of a model's perplexity and grid; a length at a time, the shortest first."""
        import torch

        result, samples = self.of(name), samples or self.samples
        wanted = samples * len(self.grid.depths)
        missing = [n for n in self.grid.lengths if sum(r["length"] == n for r in result[key]) < wanted]
        if result["perplexity"] and not missing:
            return
        folder = self.model if name in UNTRAINED else self.out / f"{name}-merged"
        if not (folder / "config.json").exists():
            return  # its training failed, which is in the results
        self.left(LEAST_SECONDS)
        model = load(str(folder), extend=name == "yarn")
        if not result["perplexity"]:
            result["perplexity"] = [asdict(bucket) for bucket in by_position(model, self.rows_NL)]
            self.save()
        for length in missing:
            self.left(LEAST_SECONDS)
            self._grade(model, name, key, length, samples)
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _grade(self, model: Any, name: str, key: str, length: int, samples: int) -> None:
        """The grid of one length."""
        result, began = self.of(name), time.monotonic()
        # An untrained model was never shown the tags and is asked for none: what it finds counts, not the form it knows.
        answer_format = "plain" if name in UNTRAINED else "tags"
        prompts = self.grid.prompts(length, samples, CONFIRM_SEED if key == "confirm" else 0, answer_format)
        records = evaluate(model, self.grid.tokenizer, prompts)
        result[key] = [r for r in result[key] if r["length"] != length] + records
        correct, seconds = sum(r["score"] for r in records), time.monotonic() - began
        print(f"{name} {key} {length}: {correct:.0f} of {len(records)} found, {seconds:.0f} s", flush=True)
        self.save()

    def train(self, method: str, rows: Path, changes: dict[str, Any], meanwhile: Sequence[str]) -> None:
        """Train and merge one method, unless it is merged already; evaluate others while it loads."""
        from trainer_configs.longlora.merge import merge

        result = self.of(method)
        if (self.out / f"{method}-merged" / "config.json").exists():
            return
        result.pop("error", None)
        before = [other["training"]["seconds"] for other in self.results.values() if "training" in other]
        self.left(max(before, default=60.0))  # a training that would be cut is not begun
        print(f"{method}: training", flush=True)
        config = write_config(method, self.out, self.model, rows, dict(changes))
        training = Training(config, self.out / f"{method}.log").start()
        try:
            for name in meanwhile:
                self.evaluate(name)
        finally:
            error = training.wait(max(1.0, self.deadline - time.monotonic()))
            result["training"] = training.figures()
            self.save()
        if "out of time" in error:
            raise Cut
        if not error:
            try:
                merged = merge(self.out / method, self.out / f"{method}-merged", base=str(self.model))
                result["merge_difference"] = merged.difference
            except LongthreadError as problem:
                error = f"merge: {problem}"
        if error:
            result["error"] = error
            print(f"{method}: {error}", *training.log.read_text().splitlines()[-25:], sep="\n", flush=True)
        self.save()

    def measure(self, methods: Sequence[str], rows: Path, changes: dict[str, Any], confirm: int) -> None:
        """Train and evaluate all methods, and the best one once more. Raises `Cut`."""
        waiting = list(UNTRAINED)
        cut = False
        try:
            for method in methods:
                self.train(method, rows, changes, waiting)
                waiting.append(method)
        except Cut:
            cut = True  # an evaluation takes less time than a training
        for name in waiting:
            self.evaluate(name)
        if cut:
            raise Cut
        if confirm and (winner := best(self.results)):
            self.evaluate(winner, "confirm", confirm)


app = App(no_args_is_help=True)


@app.command()
def run(
    out: Annotated[Path, typer.Argument(help="Folder for configs, adapters, merged models and results.")],
    model: Annotated[Path, typer.Option(help="Folder of SmolLM2-135M-Instruct.")],
    rows: Annotated[Path, typer.Option(help="Folder of the training rows.")],
    held_out: Annotated[Path, typer.Option(help="Folder of .txt that no row was made of.")],
    methods: Annotated[
        str, typer.Option(help="Which of full, quarter, tail_global, shifted; empty: only the untrained.")
    ] = ",".join(METHODS),
    samples: Annotated[int, typer.Option(min=1, help="Questions a cell of the grid.")] = 4,
    confirm: Annotated[int, typer.Option(help="Other questions a cell for the best; 0: none.")] = 20,
    steps: Annotated[int, typer.Option(min=1)] = 400,
    seconds: Annotated[float, typer.Option(help="Stop in time, to go on with the same command later.")] = 1e9,
    set_: Annotated[str, typer.Option("--set", help="JSON merged into the recipe.")] = "{}",
    lengths: Annotated[str, typer.Option(help="Of the grid.")] = ",".join(map(str, LENGTHS)),
    windows: Annotated[int, typer.Option(min=1, help="Windows for the perplexity.")] = 8,
) -> None:
    """Train, merge, evaluate; print the tables."""
    deadline = time.monotonic() + seconds
    with exit_on_error(option):
        chosen = [name for name in methods.split(",") if name]
        if unknown := sorted(set(chosen) - set(METHODS)):
            raise ConfigError(f"methods must be of {', '.join(METHODS)} (got {', '.join(unknown)})", setting="methods")
        out.mkdir(parents=True, exist_ok=True)
        grid = Grid(str(model), held_out, [int(n) for n in lengths.split(",")])
        texts = [read_text(path) for path in sorted(held_out.glob("*.txt"))]
        documents = [grid.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        work = Run(out, model, grid, cut_windows(documents, max(grid.lengths), windows), samples, deadline)
        if (out / "results.json").exists():
            work.results = json.loads((out / "results.json").read_text())
        # Nothing is recomputed: a large GPU has the memory that the recipe saves.
        changes: dict[str, Any] = {"max_steps": steps, "gradient_checkpointing": False, "selective_checkpointing": None}
        changes |= {"lr_scheduler_kwargs": {"num_decay_steps": max(1, steps // 5)}, "dataset_num_proc": 4}
        try:
            work.measure(chosen, rows, changes | json.loads(set_), confirm)
        except Cut:
            print(f"time is up: run the same command again to go on from {out / 'results.json'}")
    report(work.results)
    draw(work.results, out)


if __name__ == "__main__":
    app()
