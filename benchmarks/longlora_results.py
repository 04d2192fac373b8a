"""The tables and pictures of `benchmarks.longlora_run`."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.longlora_grid import FILLERS, NATIVE
from benchmarks.longlora_training import METHODS
from trainer_configs.longlora.by_position import Bucket, is_flat, mean_nll

UNTRAINED = ("before", "yarn")  # the model as it is, and with its RoPE extended
Record = dict[str, Any]  # of one question, as `environments.reports.metrics` takes it
Results = dict[str, dict[str, Any]]  # by model: perplexity, records, confirm, training


def best(results: Results) -> str | None:
    """The trained method that finds most; None before any has a grid."""
    graded = {name: results[name]["records"] for name in METHODS if results.get(name, {}).get("records")}
    return max(graded, key=lambda name: statistics.mean(r["score"] for r in graded[name]), default=None)


def report(results: Results) -> None:
    """Print the tables."""
    results = _in_order(results)
    _print_needles(results)
    buckets = {name: [Bucket(**b) for b in result["perplexity"]] for name, result in results.items()}
    print("\nperplexity by position")
    _line("", *(f"{b.start // 1024}-{b.end // 1024}k" for b in next(filter(None, buckets.values()), [])), "flat")
    for name, curve in buckets.items():
        _line(name, *(f"{b.perplexity:,.1f}" for b in curve), "yes" if is_flat(curve, NATIVE) else "no")
    if (winner := best(results)) is None:
        return
    _print_depths(winner, results[winner]["confirm"] or results[winner]["records"])
    if buckets[winner] and buckets.get("before"):
        after, before = (mean_nll(buckets[name], 0, 4096) for name in (winner, "before"))
        print(f"perplexity of 0-4k: {math.exp(after):.2f}, of the model as it was: {math.exp(before):.2f}")


def _print_needles(results: Results) -> None:
    print("\nneedles found, %, by length; seconds a step; loss of the last ten steps")
    lengths = sorted({r["length"] for result in results.values() for r in result["records"]})
    _line("", *lengths, *FILLERS, "s/step", "loss")
    for name, result in results.items():
        training = result.get("training", {})
        step, losses = training.get("seconds_a_step"), training.get("losses", [])[-10:]
        ends = format(step, ".3f") if step else "–", format(statistics.mean(losses), ".2f") if losses else "–"
        for label, records in ((name, result["records"]), (f"{name}, anew", result["confirm"])):
            if records:
                parts = [("length", length) for length in lengths] + [("filler", filler) for filler in FILLERS]
                _line(label, *(_percent([r for r in records if r[key] == value]) for key, value in parts), *ends)


def _print_depths(winner: str, records: Sequence[Record]) -> None:
    lengths, depths = (sorted({r[key] for r in records}) for key in ("length", "depth"))
    questions = len(records) // len(lengths) // len(depths)
    print(f"\nbest: {winner}; % found of {questions} questions at each depth and length")
    _line("depth", *lengths, "all")
    for depth in depths:
        row = [r for r in records if r["depth"] == depth]
        _line(depth, *(_percent([r for r in row if r["length"] == n], ".0f") for n in lengths), _percent(row))


def _in_order(results: Results) -> Results:
    return {name: results[name] for name in (*UNTRAINED, *METHODS) if name in results}


def _line(*cells: Any) -> None:
    print("  ".join(f"{cell:>11}" for cell in cells))


def _percent(records: Sequence[Record], form: str = ".1f") -> str:
    return format(100 * statistics.mean(r["score"] for r in records), form) if records else "–"


def draw(results: Results, out: Path) -> None:
    """Write a heatmap of each model, and the perplexity of all."""
    from matplotlib.figure import Figure

    from environments.reports.figures import side_by_side
    from environments.reports.metrics import grid

    results = _in_order(results)
    if grids := {name: grid(r["confirm"] or r["records"]) for name, r in results.items() if r["records"]}:
        side_by_side(grids).savefig(out / "needles.png", dpi=110)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, result in results.items():
        middles = [(b["start"] + b["end"]) / 2 for b in result["perplexity"]]
        axes.plot(middles, [math.exp(min(b["nll"], 20)) for b in result["perplexity"]], marker="o", label=name)
    axes.set(xlabel="position (tokens)", ylabel="perplexity", yscale="log", title="Held-out novels")
    axes.legend()
    figure.savefig(out / "perplexity.png", dpi=110)
