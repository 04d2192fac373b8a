"""Results as pictures: the depth x length heatmap, curves, histograms, and accuracy by what makes a sample hard."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from environments.reports.colours import SCORE_COLOURS
from environments.reports.metrics import (
    CELLS_WITH_NUMBERS,
    Grid,
    Record,
    breakdown,
    depth_label,
    false_answers,
    grid,
    length_labels,
    one_line,
    present,
)

DPI = 200  # twice the usual 100, so that a picture is sharp at README size
MOST_LINES = 7  # of a depth curve
BAND_FROM = 3  # samples a cell: the standard error of two is no more than their difference
SCORE_MAP = LinearSegmentedColormap.from_list("longthread", SCORE_COLOURS)
BREAKDOWNS = {
    "hops": "facts to follow one after the other",
    "inversions": "pairs of facts in the other order",
    "span": "span of the facts (share of the text)",
    "needed": "facts that the answer needs",
    "decoys": "sentences of decoy chains",
    "distractors": "near-duplicates",
    "superseded": "superseded values",
}


class _Scale(NamedTuple):
    """The meaning of a cell's colour: values from 0 to `top` go over `colours`; `label` stands beside the colour bar."""

    colours: Colormap
    top: float
    label: str


SCORES = _Scale(SCORE_MAP, 1.0, "mean score")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _title(axes: Axes, title: str) -> None:
    # A name is data: without parse_math=False a `$` in it is a formula, and a bad formula is an exception.
    axes.set_title(one_line(title, 90), parse_math=False, fontsize=11)


def _size(cells: Grid) -> tuple[float, float]:
    """Return the width and height of one heatmap with its labels, in inches."""
    depths, lengths = cells.mean.shape
    return min(max(3.4, 1.9 + 0.62 * lengths), 12.0), min(max(2.6, 1.5 + 0.34 * depths), 7.0)


def _ticks(labels: Sequence[str], room: int) -> tuple[list[int], list[str]]:
    """Return at most `room` of the labels, evenly chosen, and before them their positions."""
    step = max(1, math.ceil(len(labels) / room))
    return list(range(0, len(labels), step)), list(labels[::step])


def _cells(axes: Axes, cells: Grid, values: np.ndarray, scale: _Scale) -> AxesImage:
    """Draw one depth x length picture, depth 0 on top; a cell without a value shows the hatched ground."""
    axes.patch.set(facecolor="#e4e6e9", edgecolor="#b4b9bf", hatch="////", linewidth=0)
    rows, columns = max(len(cells.depths), 1), max(len(cells.lengths), 1)
    drawn = values if values.size else np.full((rows, columns), math.nan)
    image = axes.imshow(drawn, cmap=scale.colours, vmin=0.0, vmax=scale.top, aspect="auto", interpolation="none")
    at, labels = _ticks(length_labels(cells.lengths), 20)
    axes.set_xticks(at, labels, rotation=45 if len(labels) > 12 else 0)
    axes.set_yticks(*_ticks([depth_label(depth) for depth in cells.depths], 21))
    axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    if drawn.size <= 400:  # white seams tell cells apart until they are too many
        axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel("needle depth (% of the text)")
    if drawn.size <= CELLS_WITH_NUMBERS:
        for i, j in zip(*np.nonzero(np.isfinite(drawn)), strict=True):
            red, green, blue, _ = scale.colours(drawn[i, j] / scale.top)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{drawn[i, j]:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color="white" if dark else "#1c2024")
    return image


def _heatmap(cells: Grid, values: np.ndarray, scale: _Scale, title: str) -> Figure:
    figure = _figure(*_size(cells))
    axes = figure.add_subplot()
    figure.colorbar(_cells(axes, cells, values, scale), ax=axes, label=scale.label, pad=0.02)
    _title(axes, title)
    return figure


def heatmap(cells: Grid, title: str = "Score by needle depth and context length") -> Figure:
    """Draw mean scores by depth and length: 0..1, dark red to green, empty cells hatched grey, numbers where they fit."""
    return _heatmap(cells, cells.mean, SCORES, title)


def error_heatmap(cells: Grid, title: str = "Standard error") -> Figure:
    """Draw the standard error of each cell of the heatmap; cells of fewer than two samples are hatched."""
    known = cells.stderr[np.isfinite(cells.stderr)]
    colours = LinearSegmentedColormap.from_list("", ["#f3f5f9", "#54278f"])
    return _heatmap(cells, cells.stderr, _Scale(colours, known.max(initial=0.0) or 0.1, "standard error"), title)


def side_by_side(grids: Mapping[str, Grid]) -> Figure:
    """Draw heatmaps over the same depths and lengths, with one colour bar; the keys of `grids` are their titles.

    Two or three stand side by side, four two by two. Cells that a grid lacks are hatched.
    """
    if not grids:
        raise ValueError("side_by_side: no grids given; give at least one")
    depths = np.unique(np.concatenate([cells.depths for cells in grids.values()]))
    lengths = np.unique(np.concatenate([cells.lengths for cells in grids.values()]))
    columns = min(len(grids), 2 if len(grids) == 4 or len(lengths) > 6 else 3)
    rows = math.ceil(len(grids) / columns)
    panels = {title: _spread(cells, depths, lengths) for title, cells in grids.items()}
    width, height = _size(next(iter(panels.values())))
    figure = _figure(min((width - 0.9) * columns + 0.9, 18.0), height * rows)
    subplots = figure.subplots(rows, columns, squeeze=False)
    for k, (title, cells) in enumerate(panels.items()):
        axes, scored = subplots.flat[k], cells.n > 0
        image = _cells(axes, cells, cells.mean, SCORES)
        mean = np.sum(cells.mean[scored] * cells.n[scored]) / cells.n.sum() if scored.any() else math.nan
        _title(axes, f"{one_line(title, 40)} (mean {mean:.2f})")
        if k % columns:  # the same depths as the panel on its left
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
        if k + columns < len(grids):  # the same lengths as the panel below
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    for axes in subplots.flat[len(grids) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=subplots, label=SCORES.label, pad=0.015, fraction=0.05, aspect=20 * rows)
    return figure


def _spread(cells: Grid, depths: np.ndarray, lengths: np.ndarray) -> Grid:
    """Return the grid on wider axes, with NaN in the cells that it lacks."""
    at = np.ix_(np.searchsorted(depths, cells.depths), np.searchsorted(lengths, cells.lengths))
    shape = (len(depths), len(lengths))
    mean, stderr, n = np.full(shape, math.nan), np.full(shape, math.nan), np.zeros(shape, dtype=int)
    mean[at], stderr[at], n[at] = cells.mean, cells.stderr, cells.n
    return Grid(lengths, depths, mean, stderr, n)


def depth_curve(records: Iterable[Record], title: str = "Score by needle depth") -> Figure:
    """Draw mean score by depth, the U curve of Lost in the Middle (arXiv 2307.03172): a line for each length, in a band
    of one standard error to each side."""
    cells = grid(records)
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
    known = np.isfinite(cells.depths)
    labels = length_labels(cells.lengths)
    # More lines than that is a tangle: an even choice with the shortest and the longest, and the legend says so.
    drawn = sorted({round(j) for j in np.linspace(0, len(labels) - 1, min(len(labels), MOST_LINES))})
    for j in drawn:
        seen = known & np.isfinite(cells.mean[:, j])
        depth, mean = 100 * cells.depths[seen], cells.mean[seen, j]
        error = np.nan_to_num(cells.stderr[seen, j])  # one sample: no band
        colour = _line_colour(j, len(cells.lengths))
        axes.plot(depth, mean, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=labels[j])
        if cells.n[seen, j].min(initial=BAND_FROM) >= BAND_FROM:
            axes.fill_between(
                depth, np.clip(mean - error, 0, 1), np.clip(mean + error, 0, 1), color=colour, alpha=0.12, linewidth=0
            )
    axes.set(xlim=(-2, 102), ylim=(-0.02, 1.02), xlabel="needle depth (% of the text)")
    axes.set_ylabel(f"mean score\n(band: ±1 standard error, from {BAND_FROM} samples)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if labels:
        chosen = "tokens" if len(drawn) == len(labels) else f"tokens\n({len(drawn)} of {len(labels)}\nlengths)"
        axes.legend(title=chosen, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _title(axes, title)
    return figure


def _line_colour(j: int, count: int) -> tuple[float, ...]:
    """Return the colour of line `j` of `count`; longer is darker: an order, and readable without telling hues apart."""
    scale = LinearSegmentedColormap.from_list("", ["#f0b13c", "#cf5f4f", "#7d2a78", "#1d1147"])
    return tuple(scale(j / (count - 1) if count > 1 else 0.6))


def score_histogram(scores: Iterable[float], title: str = "Samples by score") -> Figure:
    """Draw how many samples have each score, in bars 0.05 wide; a score that is not finite is left out."""
    finite = np.array([score for score in scores if math.isfinite(score)], dtype=float)
    low, high = min(0.0, finite.min(initial=0.0)), max(1.0, finite.max(initial=1.0))
    bins = 20 if (low, high) == (0.0, 1.0) else 40
    figure = _figure(6.4, 3.4)
    axes = figure.add_subplot()
    _, edges, bars = axes.hist(finite, bins=bins, range=(low, high), edgecolor="white", linewidth=0.5)
    for bar, left, right in zip(bars, edges, edges[1:], strict=False):  # type: ignore[arg-type]
        bar.set_facecolor(SCORE_MAP((left + right) / 2))
    if len(finite):
        axes.axvline(finite.mean(), color="#1c2024", linewidth=1.2, linestyle="--")
        title += f" (n = {len(finite):,}, mean {finite.mean():.2f}, dashed)"
    axes.set(xlim=(low, high), xlabel="score", ylabel="samples")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    _title(axes, title)
    return figure


def false_answer_bars(records: Iterable[Record], title: str = "False answers and false silence") -> Figure:
    """Draw for each length the shares of absent facts answered and of present ones not, with standard errors and counts."""
    rates = false_answers(records).by_length
    figure = _figure(min(max(6.4, 1.6 + 0.8 * len(rates)), 12.0), 3.6)
    axes = figure.add_subplot()
    kinds = [("answered, though the fact is absent", "#d55e00"), ("abstained, though the fact is there", "#0072b2")]
    for kind, (label, colour) in enumerate(kinds):  # Okabe and Ito's vermilion and blue
        shares = [pair[kind] for pair in rates.values()]
        at = np.arange(len(shares)) + (kind - 0.5) * 0.38
        height = np.nan_to_num([share.mean for share in shares])
        error = np.nan_to_num([share.stderr for share in shares])
        whisker = [height - np.clip(height - error, 0, 1), np.clip(height + error, 0, 1) - height]
        axes.bar(
            at, height, 0.36, yerr=whisker, color=colour, label=label, capsize=2.5, ecolor="#444", error_kw={"lw": 1}
        )
        for x, share, up in zip(at, shares, height + whisker[1], strict=True) if len(rates) <= 12 else ():
            text = f"{share.mean:.0%}\nn={share.n}" if share.n else "n=0"
            axes.text(x, up + 0.015, text, ha="center", va="bottom", fontsize=7.5, linespacing=1.0)
    places, labels = _ticks(length_labels(rates), 20)
    axes.set_xticks(places, labels, rotation=45 if len(labels) > 12 else 0)
    axes.set(ylim=(0, 1.15), xlim=(-0.6, max(len(rates), 1) - 0.4), xlabel="context length (tokens)")
    axes.set_yticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    axes.set_ylabel("share of samples")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _title(axes, title)
    return figure


def breakdown_bars(records: Iterable[Record], title: str = "Score by what makes a sample hard") -> Figure | None:
    """Draw one small chart for each property that varies among the records (`BREAKDOWNS`); return None if none does."""
    records = list(records)
    charts = [("mean score", label, bars) for name, label in BREAKDOWNS.items() if (bars := breakdown(records, name))]
    if bars := breakdown(records, "wanted", "found_share"):
        charts.append(("share found", "values to name", bars))
    if not charts:
        return None
    columns = min(3, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = _figure(3.4 * columns, 2.7 * rows + 0.4)
    for i, (measure, label, bars) in enumerate(charts):
        axes = figure.add_subplot(rows, columns, i + 1)
        means = np.array([bar.mean for bar in bars.values()])
        errors = np.nan_to_num([bar.stderr for bar in bars.values()])
        at = np.arange(len(bars))
        axes.bar(at, means, 0.8, color=[SCORE_MAP(m) for m in means], edgecolor="#444", linewidth=0.6)
        whisker = [means - np.clip(means - errors, 0, 1), np.clip(means + errors, 0, 1) - means]
        axes.errorbar(at, means, whisker, fmt="none", ecolor="#1c2024", capsize=2.5, linewidth=1)
        names = [f"{name}\nn={bar.n}" for name, bar in bars.items()]
        axes.set_xticks(at, names, fontsize=7)
        axes.set(ylim=(0, 1.05), ylabel=measure if i % columns == 0 or measure != "mean score" else "")
        axes.set_xlabel(label, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as PNG; equal figures give equal bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


@dataclass(frozen=True)
class Chart:
    """A kind of picture: the stem of its file, its caption, and a function that draws it from all records and a title."""

    name: str
    caption: str
    draw: Callable[[Sequence[Record], str], Figure | None]  # None: there is nothing to show


def _false_answers(records: Sequence[Record], _: str) -> Figure | None:
    return false_answer_bars(records) if false_answers(records).invented.n else None


CHARTS = (
    Chart(
        "heatmap", "Mean score by needle depth and context length", lambda r, title: heatmap(grid(present(r)), title)
    ),
    Chart("depth_curve", "Mean score by depth, a line for each length", lambda r, _: depth_curve(present(r))),
    Chart("error_heatmap", "Standard error of each cell", lambda r, _: error_heatmap(grid(present(r)))),
    Chart("score_histogram", "Samples by score", lambda r, _: score_histogram(s["score"] for s in present(r))),
    Chart("false_answers", "Answers to absent facts, silence on present ones", _false_answers),
    Chart("breakdown", "Score by what makes a sample hard", lambda r, _: breakdown_bars(present(r))),
)
