"""Which pattern trains sparsely and serves in full? Full attention, S², S² with a quarter of full steps, tail-global, PoSE.

    longthread longlora reader-rows ROWS --tokenizer MODEL --shortest 16384 --longest 16384 --count 160 --parallel 0 \\
               --ordinary 0.1 --questions 24 --kinds single,multi_key,linked --forms tags --wordings environments
    python -m benchmarks.longlora_patterns prompts PROMPTS --model MODEL --held-out NOVELS --length 16384
    python -m benchmarks.longlora_patterns run OUT --model MODEL --rows ROWS --prompts PROMPTS --train-seconds 30

Each pattern is trained on the same rows for the same seconds, pose on `--short-rows` of its own (reader-rows --count 0 --pose
480 --longest 16384); then, but for full attention, for as many steps as full attention had in these seconds. A method of RoPE
extension behind a pattern, as full+ntk, stands for the recipe's; full:lora trains LoRA without embeddings and norms, full:all
all weights. Each model is measured in full attention on single needles at every depth and on questions over one link, of the
evaluation split and in part in held-out novels, by our exact score. OUT/results.json is written after each model; the same
command goes on where it was cut.
"""

import gc
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoTokenizer

from benchmarks.lift_options import known, numbers
from benchmarks.longlora_grid import DEPTHS, Grid, GridPrompt, evaluate
from benchmarks.longlora_in_process import POSE, Budget, InProcess, Method, Row, read_rows
from benchmarks.longlora_training import METHODS
from environments.haystack.tasks.task import Answer
from environments.haystack.tokens import load_full_tokenizer
from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error, option
from longthread.files import write_json
from longthread.statistics import estimate

EVERY, EQUAL = ",".join(METHODS), ("seconds", "steps")
BEFORE = "before"  # the model with its RoPE extended, untrained
ASKED = {"single": "single", "chain": "2-hop"}  # by task: its name in the table
BATCH_TOKENS = 1_048_576  # of prompts read at a time: 24 GB of keys and values; nothing else is on the device
SAVING = 2.0  # seconds of a model that neither training nor evaluation takes
Arm = tuple[str, str, int]  # method, "seconds" or "steps", seed
Results = dict[str, dict[str, Any]]  # by "method seconds|steps seed": figures and records


def key(arm: Arm) -> str:
    """Return the arm's name in results.json."""
    return f"{arm[0]} {arm[1]} {arm[2]}"


def is_pose(method: str) -> bool:
    """Return whether a method, whatever its RoPE extension and what it trains, has the short rows."""
    return method != BEFORE and Method.of(method).pattern == POSE


def longest(rows: Sequence[Row]) -> int:
    """Return the window that the rows need, 0 of none."""
    return max((row.reach for row in rows), default=0)


def arms(methods: Sequence[str], seeds: Sequence[int], equal: Sequence[str] = EQUAL) -> list[Arm]:
    """Return the trainings in their order: for each seed all methods at equal seconds, then at equal steps.

    Full attention at equal steps is the same training as at equal seconds, and counts the steps of the others.
    """
    whole = (BEFORE, "full")
    both = [(method, "seconds") for method in methods if "seconds" in equal or method in whole]
    if "full" in methods and "steps" in equal:
        both += [(method, "steps") for method in methods if method not in whole]
    return [(method, budget, seed) for seed in seeds for method, budget in both]


@dataclass
class Patterns:
    """The trainings and evaluations of one command. `deadline` is by time.perf_counter."""

    out: Path
    model: Path
    rows: list[Row]
    prompts: list[GridPrompt]
    train_seconds: float
    deadline: float
    results: Results = field(default_factory=dict)
    short: list[Row] = field(default_factory=list)  # of pose
    keeps: bool = False

    @property
    def length(self) -> int:
        """Return the window that is trained: that of the rows."""
        return longest(self.rows)

    def measure(self, arm: Arm) -> bool:
        """Train and evaluate one arm unless it is there or no time is left for it; return whether it is there."""
        if key(arm) in self.results:
            return True
        budget = self._budget(arm)
        if budget is None or time.perf_counter() + self._expected(arm, budget) > self.deadline:
            return False
        print(f"{key(arm)}: training", flush=True)
        began = time.perf_counter()
        method = "full" if arm[0] == BEFORE else arm[0]
        rows = self.short if is_pose(method) else self.rows
        trained = InProcess(self.model, method, self.length, arm[2]).train(rows, budget)
        figures, asked = trained.figures(), time.perf_counter()
        tokenizer = load_full_tokenizer(str(self.model))
        if self.keeps:
            trained.model.save_pretrained(self.folder(arm))
            AutoTokenizer.from_pretrained(self.model).save_pretrained(self.folder(arm))
        records = evaluate(trained.model, tokenizer, self.prompts, BATCH_TOKENS)
        ended = time.perf_counter()
        figures |= {"losses": trained.losses, "evaluation_seconds": ended - asked, "all_seconds": ended - began}
        self.results[key(arm)] = figures | {"records": records}
        write_json(self.out / "results.json", self.results)
        print(f"{key(arm)}: {line(self.results[key(arm)])}", flush=True)
        del trained
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def folder(self, arm: Arm) -> Path:
        """Return where an arm's model is kept."""
        return self.out / "models" / "-".join(map(str, arm))

    def _budget(self, arm: Arm) -> Budget | None:
        if arm[0] == BEFORE:
            return Budget()
        if arm[1] == "seconds":
            return Budget(seconds=self.train_seconds)
        full = self.results.get(key(("full", "seconds", arm[2])))
        return Budget(steps=full["steps"]) if full else None

    def _expected(self, arm: Arm, budget: Budget) -> float:
        """Return the seconds that an arm takes, by those measured before it."""
        rest = [r["all_seconds"] - r["seconds"] for r in self.results.values()]
        same = self.results.get(key((arm[0], "seconds", arm[2])))
        training = budget.seconds
        if budget.steps:
            training = budget.steps * same["seconds"] / same["steps"] if same else self.train_seconds
        return training + max(rest, default=0.0) + SAVING


def scores_of(result: dict[str, Any], task: str) -> list[float]:
    """Return the scores of a model's questions of a task."""
    return [record["score"] for record in result["records"] if record["task"] == task]


def share_right(result: dict[str, Any], task: str) -> str:
    """Return the share of right answers with its standard error, in per cent."""
    scores = scores_of(result, task)
    if not scores:
        return "–"
    found = estimate(scores)
    return f"{100 * found.mean:.0f} ± {100 * found.stderr:.0f}"


def line(result: dict[str, Any]) -> str:
    """Return one result in words."""
    said = ", ".join(f"{name} {share_right(result, task)} %" for task, name in ASKED.items())
    loss = f", loss {result['loss']:.2f}" if "loss" in result else ""
    return f"{result['steps']} steps in {result['seconds']:.1f} s{loss}; {said}"


def over_seeds(results: Sequence[dict[str, Any]], task: str) -> str:
    """Return the mean share of right answers over trainings, with its standard error over these, in per cent."""
    scores = [scores_of(result, task) for result in results]
    if not all(scores):
        return "–"
    found = estimate(100 * sum(each) / len(each) for each in scores)
    return f"{found.mean:.0f} ± {found.stderr:.0f}"


def table(results: Results, wanted: Sequence[Arm]) -> str:
    """Return the table, a line an arm; "–" where there is no result. Lines over several seeds follow.

    The error of an arm is that of its questions, of several seeds that of the trainings.
    """
    head = ["method", "equal", "seed", "steps", "s/step", "sparse", "full", "GiB", "loss", *ASKED.values()]
    lines = [head]
    for arm in wanted:
        result = results.get(key(arm))
        if result is None:
            lines.append([arm[0], arm[1], str(arm[2]), *["–"] * (len(head) - 3)])
            continue
        steps = [f"{result[name]:.3f}" if name in result else "–" for name in ("sparse_step", "full_step")]
        mean = f"{result['seconds'] / result['steps']:.3f}" if result["steps"] else "–"
        loss = f"{result['loss']:.2f}" if "loss" in result else "–"
        figures = [str(result["steps"]), mean, *steps, f"{result['peak_gib']:.0f}", loss]
        lines.append([arm[0], arm[1], str(arm[2]), *figures, *(share_right(result, task) for task in ASKED)])
    for method, budget in dict.fromkeys((method, budget) for method, budget, _ in wanted):
        seeds = [results[key(arm)] for arm in wanted if arm[:2] == (method, budget) and key(arm) in results]
        if len(seeds) > 1:
            asked = [over_seeds(seeds, task) for task in ASKED]
            lines.append([method, budget, f"{len(seeds)} seeds", *["–"] * (len(head) - 3 - len(asked)), *asked])
    return "\n".join("".join(f"{cell:>12}" for cell in cells) for cells in lines)


# ---- prompts ----


def read_prompts(path: Path) -> list[GridPrompt]:
    """Return the prompts that the command `prompts` wrote. Raises `ConfigError` for another file."""
    try:
        stored = json.loads(path.read_text())
        return [GridPrompt(**prompt | {"answer": _answer(**prompt["answer"])}) for prompt in stored]
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} holds no prompts: make it with the command prompts", setting="prompts") from None


def _answer(kind: str, values: Sequence[str], value_kind: str, steps: Sequence[str]) -> Answer:
    return Answer(kind, tuple(values), value_kind, tuple(steps))


app = App(no_args_is_help=True)
Model = Annotated[Path, typer.Option(help="Folder of the model.")]


@app.command()
def prompts(
    path: Annotated[Path, typer.Argument(help="File to write.")],
    model: Model,
    held_out: Annotated[Path, typer.Option(help="Folder of .txt that no row was made of.")],
    length: Annotated[int, typer.Option(min=512, help="Tokens of every prompt.")] = 32_768,
    singles: Annotated[int, typer.Option(min=1, help="Single needles at each of ten depths.")] = 3,
    links: Annotated[int, typer.Option(min=0, help="Questions over one link.")] = 34,
) -> None:
    """Make the questions, the same for every model."""
    with exit_on_error(option):
        grid = Grid(str(model), held_out, [length], DEPTHS)
        made = [*grid.prompts(length, singles), *grid.two_hops(length, links)]
        write_json(path, [asdict(prompt) for prompt in made], indent=None)


@app.command()
def run(
    out: Annotated[Path, typer.Argument(help="Folder for results.json.")],
    model: Model,
    rows: Annotated[Path, typer.Option(help="Folder of longlora reader-rows, one document a row.")],
    prompts: Annotated[Path, typer.Option(help="File of the command prompts.")],
    methods: Annotated[str, typer.Option(help="In this order; PATTERN+ROPE:lora or :all; before: untrained.")] = EVERY,
    short_rows: Annotated[Path | None, typer.Option(help="For pose: of reader-rows --pose.")] = None,
    train_seconds: Annotated[float, typer.Option(min=0.1, help="Of each training.")] = 40.0,
    equal: Annotated[str, typer.Option(help="Of trainings: seconds, steps or both.")] = ",".join(EQUAL),
    seeds: Annotated[str, typer.Option(help="Of LoRA's first weights, the rows' order and the full steps.")] = "1",
    seconds: Annotated[float, typer.Option(help="Begin no model that would end later.")] = 1e9,
    keep: Annotated[bool, typer.Option(help="Write the models, too, below OUT/models.")] = False,
) -> None:
    """Train and measure the patterns; print the table."""
    began = time.perf_counter()
    with exit_on_error(option):
        chosen = methods.split(",")
        poses = [is_pose(method) for method in chosen]
        if equal == "steps" and "full" not in chosen:
            raise ConfigError("the steps of the others are those of full: add it to methods", setting="methods")
        if short_rows is None and any(poses):
            raise ConfigError(
                "pose needs shorter rows: make some with longlora reader-rows --pose", setting="short_rows"
            )
        wanted = arms(chosen, numbers("seeds", seeds), known("equal", equal.split(","), EQUAL))
        asked = read_prompts(prompts)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        short = read_rows(short_rows, device) if short_rows else []
        work = Patterns(
            out, model, read_rows(rows, device), asked, train_seconds, began + seconds, short=short, keeps=keep
        )
        if (most := longest(short)) > work.length:
            raise ConfigError(
                f"rows that reach position {most:,} are longer than the others' {work.length:,}", setting="short_rows"
            )
        if (out / "results.json").exists():
            work.results = json.loads((out / "results.json").read_text())
        if keep and (
            lost := [key(arm) for arm in wanted if key(arm) in work.results and not work.folder(arm).is_dir()]
        ):
            raise ConfigError(
                f"{lost[0]} was measured without keep: give a new folder, or leave it out", setting="keep"
            )
        there = [work.measure(arm) for arm in wanted]
    if not all(there):
        print("time is up: the same command goes on with the empty lines")
    print(table(work.results, wanted))


if __name__ == "__main__":
    app()
