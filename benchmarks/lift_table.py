"""What `benchmarks.lift` prints and draws of its results: a row and a dot for each length and method."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from lift.evaluation.results import MARKERS, Results, plot
from longthread.files import replacing
from longthread.statistics import Share

TOGETHER, TEXT = "together", "text-"  # in place of a seed: several documents at once, a text file
HEADS = (
    "tokens method seeds needles linked absent in-steps cloze window neutral others unrelated fit,s ×prefill MB 1/KV AUROC "
    "order perplexity at-once"
)


def pooled(rates: Sequence[Share]) -> Share:
    """All of them together."""
    return sum(rates, Share())


def rows_of(results: dict[str, dict[str, Any]]) -> Iterator[tuple[int, str, list[dict[str, Any]]]]:
    """Yield each length and method with the results of its documents; real texts are a method's second row."""
    rows: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for key, value in results.items():
        tokens, method, source = key.split()
        if source != TOGETHER:
            rows[int(tokens), f"{method}, text" if source.startswith(TEXT) else method].append(value)
    for (length, method), values in sorted(rows.items(), key=lambda row: row[0][0]):
        yield length, method, values


def table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each length and method; rates pool the seeds, times are means of the fits that had a GPU alone."""
    report = Table(title="closed book, in wordings not trained on")
    for head in HEADS.split():
        report.add_column(head, justify="left" if head == "method" else "right")
    for length, method, values in rows_of(results):
        of_seeds = [Results.from_json(value["results"]) for value in values]
        pool = together(of_seeds)
        closed = {kind: percent(share) for kind, share in pool.closed.items()}
        timed = [value for value in values if value["gpu_alone"]]  # those that shared a GPU waited for each other
        aurocs = [r.gate_auroc for r in of_seeds if r.gate_auroc is not None]
        beside = "cloze" if method.endswith(", text") else "needle"
        report.add_row(
            f"{length}", method, f"{len(values)}",
            *(closed.get(kind, "–") for kind in ("needle", "linked", "absent")),
            _in_steps(values), closed.get("cloze", "–"),
            "/".join(percent(rates.get(beside, Share())) for rates in (pool.window, pool.window_off)),
            f"{pool.nll - pool.nll_off:+.3f}", f"{percent(pool.other)}/{percent(pool.other_off)}",
            f"{percent(pool.unrelated)}/{percent(pool.unrelated_off)}",
            f"{mean(v['seconds'] for v in timed):.1f}" if timed else "–",
            f"{mean(v['seconds'] / v['prefill'] for v in timed):.0f}" if timed else "–",
            f"{mean(v['bytes'] for v in values) / 1e6:.1f}", f"{mean(v['kv'] / v['bytes'] for v in values):.0f}",
            f"{mean(aurocs):.2f}" if aurocs else "", closed.get("order", "–"), f"{math.exp(pool.nll):.1f}",
            _at_once(results.get(f"{length} {method} {TOGETHER}")),
        )  # fmt: skip
    return report


def _in_steps(values: Sequence[dict[str, Any]]) -> str:
    """Facts, links and absent ones, each asked step by step, in per cent; empty where none was."""
    found = [value["in steps"] for value in values if "in steps" in value]
    if not any(asked for each in found for _, asked in each.values()):
        return ""
    return "/".join(percent(pooled([Share(*each[kind]) for each in found])) for kind in found[0])


def _at_once(found: dict[str, Any] | None) -> str:
    """Facts with all memories on, in per cent of those with a document's own alone."""
    if not found:
        return ""
    every, alone = (pooled([Share(*counts) for counts in found[how]]) for how in ("all", "alone"))
    return f"{100 * every.right / alone.right:.0f}" if alone.right else "–"


def percent(rate: Share) -> str:
    """The share in per cent."""
    return f"{100 * rate.right / rate.asked:.0f}" if rate.asked else "–"


def by_kind(rates: Sequence[dict[str, Share]]) -> dict[str, Share]:
    """Shares pooled for each kind of question."""
    return {kind: pooled([each.get(kind, Share()) for each in rates]) for kind in rates[0]}


def together(results: Sequence[Results]) -> Results:
    """Of several seeds: rates pooled, nats averaged."""
    low, high = (mean(r.nll_change[i] for r in results) for i in (0, 1))
    return replace(
        results[0],
        closed=by_kind([r.closed for r in results]),
        window=by_kind([r.window for r in results]), window_off=by_kind([r.window_off for r in results]),
        other=pooled([r.other for r in results]), other_off=pooled([r.other_off for r in results]),
        unrelated=pooled([r.unrelated for r in results]), unrelated_off=pooled([r.unrelated_off for r in results]),
        nll=mean(r.nll for r in results), nll_off=mean(r.nll_off for r in results), nll_change=(low, high),
    )  # fmt: skip


def ceilings_table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each length, model and kind of question; under them neutral text and gates."""
    report = Table(title="what a memory could give at best: facts, links of two, absent, %")
    for head in (
        "tokens",
        "model",
        "exact",
        "in steps",
        "at once",
        "evidence",
        "around",
        "neutral, nats",
        "gate AUROC",
    ):
        report.add_column(head, justify="left" if head == "model" else "right")
    for key, value in results.items():
        tokens, model = key.split()
        shares = (
            "/".join(percent(Share(*counts)) for counts in value[how].values())
            for how in ("exact", "in steps", "at once", "evidence", "around")
        )
        off, *on = value["neutral"]
        gates = ", ".join(f"{name} {area:.2f}" for name, area in value.get("gate", {}).items())
        report.add_row(tokens, model, *shares, " ".join(f"{nats - off:+.3f}" for nats in on), gates)
    return report


def draw(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Accuracy against neutral text, a picture a length."""
    pictures: dict[int, dict[str, Results]] = defaultdict(dict)
    for length, method, values in rows_of(results):
        if not method.endswith(", text"):
            pictures[length][method] = together([Results.from_json(value["results"]) for value in values])
    for length, methods in pictures.items():
        plot(methods, out / f"lift-{length}.png")


def draw_seconds(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Facts against the seconds of a fit, a panel a length and a point a method, as lift-seconds.png.

    Seconds are those of fits that had a GPU alone; the bars are 95 %.
    """
    panels: dict[int, list[tuple[str, float, Share]]] = defaultdict(list)
    for length, method, values in rows_of(results):
        share = pooled([Results.from_json(value["results"]).closed.get("needle", Share()) for value in values])
        timed = [value["seconds"] for value in values if value["gpu_alone"] and value["seconds"] > 0]
        if timed and share.value is not None:
            panels[length].append((method, mean(timed), share))
    if not panels:
        return
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(1.5 + 4 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(method for points in panels.values() for method, _, _ in points))
    handles = {}
    for axis, (length, points) in zip(axes, panels.items(), strict=True):
        for method, seconds, share in points:
            number, percents = names.index(method), [100 * end for end in (share.value or 0.0, *share.interval)]
            handles[method] = axis.errorbar(
                [seconds], percents[:1], yerr=[[percents[0] - percents[1]], [percents[2] - percents[0]]],
                fmt=MARKERS[number % len(MARKERS)], color=f"C{number % 10}", capsize=3, markersize=7,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_title(f"{length:,} tokens")
        axis.set_xlabel("seconds to fit")
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("facts, closed book, %")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2 * len(panels), frameon=False)
    with replacing(out / "lift-seconds.png") as file:
        figure.savefig(file, format="png", dpi=150)
