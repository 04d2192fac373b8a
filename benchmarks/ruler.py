"""RULER by lm_eval's own tasks and metric, offline, on local weights: a table, a heatmap and results.json.

    python -m benchmarks.ruler OUT --model MODEL --lengths 8192,16384,32768 --samples 50 --seconds 240

Prompts and metric are lm_eval's; the replies come from the embedded engine, which decodes prompts of different lengths
together without padding them. RULER counts an expected string wherever it stands in a reply; beside it stands the share of
replies that name all of them and no other value of the same form in the haystack. Each cell is written as it ends; the same
command goes on where it was cut.
"""

import json
import multiprocessing
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from benchmarks.ruler_documents import TASKS, Question, check_installed, metric, questions
from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error, option
from longthread.files import write_json

BEYOND = 256  # tokens beyond the window that are let through: lm_eval leaves the chat template out of a length
REQUESTS = 64  # decoded at a time, where memory holds so many
PALE = (20, 95)  # per cent between which a cell's colour bears black ink
Cells = dict[str, dict[str, Any]]  # "task length" -> scores and replies


def exact(question: Question, reply: str) -> float:
    """Return 1.0 for a reply that names every expected value and no other word of the same shape from the text.

    A reply that copies the haystack earns nothing, where RULER's metric gives it all.
    """
    wanted = [str(value) for value in question.document["outputs"]]
    shapes = {re.sub(r"[0-9]", "0", re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", value))) for value in wanted}
    if shapes == {"0000000"}:
        named = re.findall(r"\b\d{7}\b", reply)
    elif all(len(value) == 36 for value in wanted):
        named = re.findall(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", reply)
    elif shapes == {"AAAAA"}:
        named = re.findall(r"\b[A-Z]{5}\b", reply)
    else:  # words: whatever the reply lists
        named = re.findall(r"[a-z][a-z'-]*", reply.lower())
    return float(set(named) == set(wanted))


class Replies:
    """Greedy replies of one model."""

    def __init__(self, model: Path):
        from environments.inference.embedded.engine import Engine, load
        from environments.inference.embedded.limits import limits_for

        loaded, self.tokenizer, eos = load(model)
        self.engine = Engine(loaded, eos, limits_for(loaded, REQUESTS))
        self.window = int(loaded.config.max_position_embeddings)

    def of(self, asked: Sequence[Question]) -> list[str]:
        """Return the reply to each question. Raises `ConfigError` for a prompt beyond the model's window."""
        from environments.inference.embedded.protocol import Sampling

        bos = self.tokenizer.bos_token
        ids = [
            self.tokenizer.encode(
                q.prompt, **({"add_special_tokens": False} if bos and q.prompt.startswith(bos) else {})
            )
            for q in asked
        ]
        if (longest := max(map(len, ids)) + max(q.new_tokens for q in asked)) > self.window + BEYOND:
            raise ConfigError(f"{longest:,} tokens are beyond the model's window of {self.window:,}", setting="lengths")
        futures = [
            self.engine.submit(prompt, Sampling(max_tokens=q.new_tokens, temperature=0.0))
            for prompt, q in zip(ids, asked, strict=True)
        ]
        return [str(self.tokenizer.decode(f.result()[0].ids, skip_special_tokens=True)) for f in futures]


def measure(asked: Sequence[Question], replies: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one cell and its replies."""
    pairs = list(zip(asked, replies, strict=True))
    return {
        "lm_eval": mean(metric(question, reply) for question, reply in pairs),
        "exact": mean(exact(question, reply) for question, reply in pairs),
        "samples": len(pairs),
        "replies": [{"said": said[:300], "expected": q.document["outputs"]} for q, said in pairs],
    }


def table(cells: Cells) -> str:
    """Return the figures in per cent, a row for each task: lm_eval's score, and ours in brackets."""
    lengths = sorted({int(key.split()[1]) for key in cells})
    lines = [f"{'':16}" + "".join(f"{length:>16,}" for length in lengths)]
    for task in [task for task in TASKS if any(key.startswith(f"{task} ") for key in cells)]:
        found = [cells.get(f"{task} {length}") for length in lengths]
        shown = [f"{100 * c['lm_eval']:.1f} ({100 * c['exact']:.1f})" if c else "–" for c in found]
        lines.append(f"{task:16}" + "".join(f"{text:>16}" for text in shown))
    return "\n".join(lines)


def draw(cells: Cells, path: Path) -> None:
    """Draw lm_eval's scores, tasks by lengths."""
    lengths = sorted({int(key.split()[1]) for key in cells})
    tasks = [task for task in TASKS if any(key.startswith(f"{task} ") for key in cells)]
    grid = [[cells.get(f"{task} {n}", {}).get("lm_eval", float("nan")) * 100 for n in lengths] for task in tasks]
    draw_grid(grid, tasks, [f"{n:,}" for n in lengths], path)


def draw_grid(grid: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Draw per cent in a grid with the names of its rows and columns; NaN is a cell that was not measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 + 1.1 * len(columns), 1.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title("RULER by lm_eval, %, by length in tokens")
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            ink = "white" if value < PALE[0] or value > PALE[1] else "black"
            axes.text(column, row, f"{value:.0f}" if value == value else "–", ha="center", va="center", color=ink)
    figure.savefig(path, dpi=110)


app = App(no_args_is_help=True)


@app.command()
def run(
    out: Annotated[Path, typer.Argument(help="Folder for results.json and ruler.png.")],
    model: Annotated[Path, typer.Option(help="Folder of the model.")],
    tasks: Annotated[str, typer.Option(help="Of lm_eval's RULER tasks.")] = ",".join(TASKS),
    lengths: Annotated[str, typer.Option(help="In tokens, as lm_eval counts them.")] = "8192,16384,32768",
    samples: Annotated[int, typer.Option(min=1, max=500, help="Questions a cell.")] = 50,
    chat: Annotated[bool, typer.Option(help="Ask in the model's chat template.")] = True,
    seconds: Annotated[float, typer.Option(help="Begin no cell after that.")] = 1e9,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make prompts.")] = 4,
) -> None:
    """Evaluate; print the table."""
    began = time.monotonic()
    with exit_on_error(option):
        check_installed()
        wanted = tasks.split(",")
        try:
            sizes = sorted(int(length) for length in lengths.split(","))
        except ValueError:
            raise ConfigError(f"must be whole numbers with commas (got {lengths!r})", setting="lengths") from None
        if unknown := sorted(set(wanted) - set(TASKS)):
            raise ConfigError(f"must be of {', '.join(TASKS)} (got {', '.join(unknown)})", setting="tasks")
        path = out / "results.json"
        stated = {"model": str(model), "samples": samples, "chat": chat}
        written: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {**stated, "cells": {}}
        if any(written[name] != value for name, value in stated.items()):
            raise ConfigError(f"{path} has results of another model, number of samples or form: give a new folder")
        cells: Cells = written["cells"]
        missing = [(t, n) for n in sizes for t in wanted if f"{t} {n}" not in cells]
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        made: dict[tuple[str, int], Future[list[Question]]] = {
            (task, n): pool.submit(questions, str(model), task, n, samples, chat) for task, n in missing
        }
        try:
            replies = Replies(model) if missing else None
            for task, length in missing:
                if replies is None or time.monotonic() - began > seconds:
                    break
                asked, cell = made[task, length].result(), time.monotonic()
                cells[f"{task} {length}"] = measure(asked, replies.of(asked))
                write_json(path, written)
                score = cells[f"{task} {length}"]["lm_eval"]
                print(f"{task} {length}: {100 * score:.1f} %, {time.monotonic() - cell:.0f} s", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if cells:
        print(table(cells))
        draw(cells, out / "ruler.png")


if __name__ == "__main__":
    app()
