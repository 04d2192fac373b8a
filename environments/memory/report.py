"""The report of an evaluation in several modes: a page, tables, the numbers as JSON, and accuracy against cost as a picture.

Beside it each mode has the report that every environment writes, in a folder of its name.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from environments.atropos.environment import Environment
from environments.atropos.evaluate import report_records
from environments.memory.results import Results, advice, results
from environments.memory.tables import tables_of, to_json
from environments.reports.figures import DPI, png
from environments.reports.html import Picture, render
from environments.reports.metrics import length_label
from longthread.files import read_jsonl, replacing, write_json, write_text

PICTURE = "accuracy_cost.png"
COLOURS = {"context": "#0072b2", "retrieval": "#d55e00", "weights": "#009e73", "hybrid": "#cc79a7"}  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_report(env: Environment, samples: Path, out: Path, run: Any) -> None:
    """Write the report of all modes to `out`, and that of each mode below it; log the latter to W&B if there is a run."""
    records = list(read_jsonl(samples))
    if not records:
        return
    found = results(records)
    for mode in dict.fromkeys(record["mode"] for record in records):
        report_records(env, [record for record in records if record["mode"] == mode], out / mode, run, mode)
    print(f"samples  {samples}")
    if not found.modes:
        print("no record was scored, so there is nothing to compare")
        return
    tables, said = tables_of(found), advice(found)
    title = f"{env.name}: {env.model_name}"
    picture = Picture(PICTURE, "Mean score against tokens read a question", png(accuracy_against_cost(found, title)))
    with replacing(out / PICTURE) as file:
        file.write(picture.png)
    write_json(out / "memory.json", to_json(found))
    page = render("memory.jinja", title, advice=said, picture=picture, modes=found.modes, tables=tables)
    write_text(out / "memory.html", "".join(page))
    print("\n\n".join([*(table.text() for table in tables), said]))
    print(f"report   {out / 'memory.html'}\nnumbers  {out / 'memory.json'}")


def accuracy_against_cost(found: Results, title: str) -> Figure:
    """Draw the mean score of each mode at each length over the tokens that a question reads there."""
    figure = Figure(figsize=(7.2, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for mode in found.modes:
        points = []
        for place, length in enumerate(found.lengths):
            if of_mode := found.scores[length].get(mode):
                score, tokens = sum(of_mode.values()) / len(of_mode), found.costs[length][mode].tokens_read
                points.append((tokens, score))
                axes.plot(tokens, score, MARKERS[place % len(MARKERS)], color=COLOURS[mode], markersize=7)
        axes.plot(*zip(*points, strict=True), color=COLOURS[mode], linewidth=1, alpha=0.5, label=mode)
    for place, length in enumerate(found.lengths):
        axes.plot([], [], MARKERS[place % len(MARKERS)], color="#666", label=f"{length_label(length)} tokens")
    axes.set(xscale="log", ylim=(-0.03, 1.05), xlabel="tokens read a question", ylabel="mean score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title[:90], parse_math=False, fontsize=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
