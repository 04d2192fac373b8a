"""The report of an evaluation in several modes: a page, tables, the numbers as JSON, and accuracy against cost as a picture.

Beside it each mode has the report that every environment writes, in a folder of its name.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

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
OUTLINE: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.2}
SMALLEST, LARGEST, STEP = 7.0, 40.0, 4.0  # points: sizes of marks, and how much larger each around another is, at most
SAME = 0.015  # of the width and of the height: marks that are closer to one another would hide one another


class _Mark(NamedTuple):
    """A mode at a length in the picture; `place` is that of the length among all."""

    mode: str
    place: int
    tokens: float
    score: float


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
    """Draw the mean score of each mode at each length over the tokens that a question reads there.

    A mark's colour tells the mode, its shape the length. Marks are outlines, and of those at one place each lies around the
    next, so that none hides another; lines that coincide grow thinner from mode to mode.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    marks = _marks(found)
    low, high = _ends([mark.tokens for mark in marks])
    for mark, size in zip(marks, _sizes(marks, math.log(high / low)), strict=True):
        shape, colour = MARKERS[mark.place % len(MARKERS)], COLOURS[mark.mode]
        axes.plot(mark.tokens, mark.score, marker=shape, markersize=size, color=colour, clip_on=False, **OUTLINE)
    for rank, mode in enumerate(found.modes, 1):
        points = [(mark.tokens, mark.score) for mark in marks if mark.mode == mode]
        thickness = 1.2 + 0.8 * (len(found.modes) - rank)
        axes.plot(*zip(*points, strict=True), color=COLOURS[mode], linewidth=thickness, alpha=0.6, zorder=1, label=mode)
    for place, length in enumerate(found.lengths):
        shape = MARKERS[place % len(MARKERS)]
        axes.plot([], [], marker=shape, color="#666", label=f"{length_label(length)} tokens", **OUTLINE)
    axes.set(xscale="log", xlim=(low, high), ylim=(-0.03, 1.05), xlabel="tokens read a question", ylabel="mean score")
    # Each label has room beside the next; those of matplotlib run into each other on an axis of few decades.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title[:90], parse_math=False, fontsize=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _marks(found: Results) -> list[_Mark]:
    """Return a mark for each mode and length that were asked, in the order of the modes."""
    return [
        _Mark(mode, place, found.costs[length][mode].tokens_read, sum(scores.values()) / len(scores))
        for mode in found.modes
        for place, length in enumerate(found.lengths)
        if (scores := found.scores[length].get(mode))
    ]


def _ends(tokens: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis of tokens: over a decade apart, so that small differences look small."""
    low, high = min(tokens), max(tokens)
    room = max(1.4, math.sqrt(12 * low / high))
    return low / room, high * room


def _sizes(marks: Sequence[_Mark], width: float) -> list[float]:
    """Return each mark's size in points: larger by a step for each later mark at its place.

    `width` is that of the axis, the logarithm of the last number of tokens over the first.
    """

    def same(one: _Mark, other: _Mark) -> bool:
        return abs(math.log(one.tokens / other.tokens)) < SAME * width and abs(one.score - other.score) < SAME

    around = [0] * len(marks)
    for i in reversed(range(len(marks))):
        around[i] = max((around[j] + 1 for j in range(i + 1, len(marks)) if same(marks[i], marks[j])), default=0)
    step = min(STEP, (LARGEST - SMALLEST) / max(1, *around))
    return [SMALLEST + step * count for count in around]
