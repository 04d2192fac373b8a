"""Results into numbers, tables, pictures and self-contained HTML.

    python -m environments.report results/samples.jsonl --out report              # one evaluation
    python -m environments.report base/samples.jsonl tuned/samples.jsonl --out report    # and side by side
    python -m environments.report rollouts.jsonl --out report                     # a page to read rollouts in

A record is one evaluated sample (a line of samples.jsonl). A record with an error, or without a finite score, is a
failure: it is in no mean, and is counted and shown. The heatmap, the curves and the effective length are of samples
whose fact is in the text; what the model does when it is not is `false_answers`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from environments.report_html import SCORE_COLOURS, replacing, report_page
from environments.report_html import write_rollouts_html as write_rollouts_html

Record = Mapping[str, Any]

SHORT = 1_024  # tokens; NoLiMa takes its base score at 250, 500 and 1k
WORST = 20  # samples that the report shows in full
DPI = 200  # twice the usual 100, so that a picture is sharp at README size
MOST_LINES = 7  # of a depth curve
CELLS_WITH_TEXT = 150  # a heatmap of more cells has no room for numbers
COLUMNS = 8  # lengths side by side in the text table: 8 of 11 characters fit a terminal of 100
SCORE_MAP = LinearSegmentedColormap.from_list("longthread", SCORE_COLOURS)

# ---- numbers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (sample deviation / sqrt n; NaN below two values), and how many values it is of."""

    mean: float
    stderr: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "–"
        return f"{self.mean:.2f}" if math.isnan(self.stderr) else f"{self.mean:.2f}±{self.stderr:.2f}"


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and standard error. A share is the mean of zeros and ones, with the same formula."""
    found = [float(value) for value in values]
    n = len(found)
    mean = math.fsum(found) / n if n else math.nan
    spread = math.fsum((value - mean) ** 2 for value in found)
    return Estimate(mean, math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan, n)


def is_failure(record: Record) -> bool:
    """True for a record that has an error, or no finite score."""
    score = record.get("score")
    return record.get("error") is not None or not isinstance(score, int | float) or not math.isfinite(score)


def present(records: Iterable[Record]) -> list[Record]:
    """The scored records whose fact is in the text."""
    return [record for record in records if not is_failure(record) and record.get("present", True)]


def by(records: Iterable[Record], field: str) -> dict[Any, Estimate]:
    """Mean score by the values of any field (length, depth, task, hops), in order; missing is None, and last."""
    groups: dict[Any, list[float]] = {}
    for record in records:
        if not is_failure(record):
            value = record.get(field)
            key = (
                value if isinstance(value, str | int | float | None) else json.dumps(value, sort_keys=True, default=str)
            )
            groups.setdefault(key, []).append(record["score"])
    order = sorted(groups, key=lambda k: (k is None, isinstance(k, str), k if k is not None else 0))
    return {key: estimate(groups[key]) for key in order}


def depth_of(record: Record) -> float | None:
    """The asked depth; where it was random and one needle answers, that needle's true depth to the nearest tenth."""
    if record.get("depth") is not None:
        return round(float(record["depth"]), 6)
    depths = [needle.get("depth") for needle in record.get("needles") or () if needle.get("role") == "answer"]
    return round(depths[0], 1) if len(depths) == 1 and depths[0] is not None else None


@dataclass(frozen=True)
class Grid:
    """Scores by depth (rows, 0 to 1 from the top; NaN, last, for samples without one depth) and length (columns)."""

    lengths: np.ndarray  # (L,) tokens, ascending
    depths: np.ndarray  # (D,) ascending
    mean: np.ndarray  # (D, L), NaN where no record
    stderr: np.ndarray  # (D, L), NaN below two records
    n: np.ndarray  # (D, L)


def grid(records: Iterable[Record]) -> Grid:
    """Mean, standard error and count of the scores at each depth and length; every scored record counts."""
    cells: dict[tuple[float | None, int], list[float]] = {}
    for record in records:
        if not is_failure(record):
            cells.setdefault((depth_of(record), int(record["length"])), []).append(record["score"])
    lengths = sorted({length for _, length in cells})
    depths = sorted({depth for depth, _ in cells}, key=lambda d: math.inf if d is None else d)
    table = [[estimate(cells.get((depth, length), ())) for length in lengths] for depth in depths]
    shape = (len(depths), len(lengths))
    return Grid(
        lengths=np.array(lengths, dtype=int),
        depths=np.array([math.nan if depth is None else depth for depth in depths], dtype=float),
        mean=np.array([[cell.mean for cell in row] for row in table], dtype=float).reshape(shape),
        stderr=np.array([[cell.stderr for cell in row] for row in table], dtype=float).reshape(shape),
        n=np.array([[cell.n for cell in row] for row in table], dtype=int).reshape(shape),
    )


@dataclass(frozen=True)
class EffectiveLength:
    """How far a model's window really reaches. `length` is None when it does not even reach the shortest length."""

    length: int | None
    base: float  # score, 0..1
    base_length: int  # tokens; the length where the base was found
    share: float
    shortest: int
    longest: int

    @property
    def label(self) -> str:
        if self.length is None:
            return "none"
        return ("≥ " if self.length == self.longest else "") + length_label(self.length)

    @property
    def reason(self) -> str:
        """Why, in one line."""
        rule = f"{self.share:.0%} of the base score {self.base:.2f} (at {length_label(self.base_length)})"
        if self.base <= 0:
            return "the base score is 0, so no length is held"
        if self.length is None:
            return f"even the shortest length, {length_label(self.shortest)}, is below {rule}"
        if self.length == self.longest:
            return f"every tested length keeps {rule}; longer ones are untested"
        return f"the longest tested length up to which each keeps {rule}"


def effective_length(records: Iterable[Record], share: float = 0.85) -> EffectiveLength | None:
    """The effective length of NoLiMa (arXiv 2502.05167): how far the score holds at `share` of its base.

    Only scored records whose fact is in the text count. The score of a length is the mean over all its records. The
    base is the best score among the tested lengths of at most 1,024 tokens or, when all are longer, the score at the
    shortest. The effective length is the longest tested one such that it and every shorter tested length score at
    least `share * base`; None when the shortest already does not, or when the base is 0. No records give None.
    """
    means = {int(length): found.mean for length, found in by(present(records), "length").items()}
    if not means:
        return None
    shortest, longest = min(means), max(means)
    base_length = max((length for length in means if length <= SHORT), key=means.__getitem__, default=shortest)
    base, reached = means[base_length], None
    for length in sorted(means):
        if base <= 0 or means[length] < share * base - 1e-9:
            break
        reached = length
    return EffectiveLength(reached, base, base_length, share, shortest, longest)


@dataclass(frozen=True)
class FalseAnswers:
    """Two ways to be wrong about whether the text says it."""

    invented: Estimate  # of absent samples, the share that got an answer
    withheld: Estimate  # of present samples, the share on which the model abstained
    by_length: dict[int, tuple[Estimate, Estimate]]  # length -> (invented, withheld)


def false_answers(records: Iterable[Record]) -> FalseAnswers:
    """Answers to absent facts and silence on present ones, in all and by length (the lengths in order)."""
    scored = [record for record in records if not is_failure(record)]

    def rates(some: Sequence[Record]) -> tuple[Estimate, Estimate]:
        absent = [record for record in some if not record.get("present", True)]
        invented = estimate(not record.get("abstained", False) for record in absent)
        return invented, estimate(bool(record.get("abstained", False)) for record in present(some))

    lengths: dict[int, list[Record]] = {}
    for record in scored:
        lengths.setdefault(int(record["length"]), []).append(record)
    return FalseAnswers(*rates(scored), by_length={length: rates(lengths[length]) for length in sorted(lengths)})


def failures(records: Iterable[Record]) -> dict[str, int]:
    """How often each error came, the most frequent first."""
    found = Counter(str(record.get("error") or "no finite score") for record in records if is_failure(record))
    return dict(found.most_common())


# ---- text -------------------------------------------------------------------------------------------------------


def length_label(length: int) -> str:
    """1024 -> 1k, 32000 -> 32k, 131072 -> 128k, 1048576 -> 1M, 1500 -> 1,500."""
    for unit in (1_000, 1_024):
        if length and length % unit == 0:
            thousands = length // unit
            return f"{thousands // unit}M" if thousands % unit == 0 else f"{thousands}k"
    return f"{length:,}"


def length_labels(lengths: Iterable[int]) -> list[str]:
    """One label a length, all different: full numbers where the short ones clash (128000 beside 131072)."""
    lengths = [int(length) for length in lengths]
    short = [length_label(length) for length in lengths]
    return short if len(set(short)) == len(set(lengths)) else [f"{length:,}" for length in lengths]


def depth_label(depth: float) -> str:
    """0.5 -> 50, 0.0294 -> 2.9; NaN, no single depth, -> any."""
    return "any" if math.isnan(depth) else f"{100 * depth:.1f}".removesuffix(".0")


def summary_table(records: Iterable[Record]) -> str:
    """Depth by length as plain text, at most 95 columns wide, and below it what else to know in a line each."""
    records = list(records)
    found = present(records)
    cells, columns = grid(found), by(found, "length")
    labels, lines = length_labels(cells.lengths), []
    if len(labels):
        lines.append("score by depth (rows, % of the text) and length (columns, tokens): mean±standard error")
    for start in range(0, len(labels), COLUMNS):
        block = slice(start, start + COLUMNS)
        rows = [["depth", *labels[block]]]
        for i, depth in enumerate(cells.depths):
            row = zip(cells.mean[i, block], cells.stderr[i, block], cells.n[i, block], strict=True)
            rows.append([depth_label(depth), *(str(Estimate(*cell)) for cell in row)])
        rows.append(["mean", *(str(columns[int(length)]) for length in cells.lengths[block])])
        rows.append(["n", *(f"{columns[int(length)].n:,}" for length in cells.lengths[block])])
        lines += ["".join(f"{text:>{11 if j else 7}}" for j, text in enumerate(row)) for row in rows] + [""]
    return "\n".join([*lines, summary(records)])


def summary(records: Sequence[Record]) -> str:
    """The lines below the table: mean score, effective length, false answers, failures."""
    lines = []
    for name, text in _facts(records):
        lines += textwrap.wrap(text, 95, initial_indent=f"{name:<18}", subsequent_indent=" " * 18)
    return "\n".join(lines)


def _facts(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    found, wrong = present(records), false_answers(records)
    reach, failed = effective_length(records), failures(records)
    yield "mean score", f"{estimate(r['score'] for r in found)} of {len(found):,} samples whose fact is in the text"
    tasks = by(found, "task")
    if len(tasks) > 1:
        yield "by task", ", ".join(f"{_one_line(str(task), 40)} {score}" for task, score in tasks.items())
    yield "effective length", f"{reach.label}: {reach.reason}" if reach else "–: no scored sample"
    yield (
        "false answers",
        f"answered {wrong.invented} of {wrong.invented.n:,} samples whose fact is absent; "
        f"abstained on {wrong.withheld} of {wrong.withheld.n:,} whose fact is there",
    )
    errors = "; ".join(f"{count}× {_one_line(error, 60)}" for error, count in list(failed.items())[:3])
    more = f"; and {len(failed) - 3} other errors" if len(failed) > 3 else ""
    total = sum(failed.values())
    yield "failures", f"{total:,} of {len(records):,} records, in no mean" + (f": {errors}{more}" if total else "")


def _one_line(text: str, limit: int) -> str:
    """Text of the data for a terminal or a picture: one line, no control characters, at most `limit` characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


# ---- pictures ---------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _title(axes: Any, title: str) -> None:
    # A name is data: without parse_math=False a `$` in it is a formula, and a bad formula is an exception.
    axes.set_title(_one_line(title, 90), parse_math=False, fontsize=11)


def _size(cells: Grid) -> tuple[float, float]:
    """Inches of one heatmap with its labels."""
    depths, lengths = cells.mean.shape
    return min(max(3.4, 1.9 + 0.62 * lengths), 12.0), min(max(2.6, 1.5 + 0.34 * depths), 7.0)


def _ticks(labels: Sequence[str], room: int) -> tuple[list[int], list[str]]:
    """At most `room` of the labels, evenly chosen, and where they stand."""
    step = max(1, math.ceil(len(labels) / room))
    return list(range(0, len(labels), step)), list(labels[::step])


def _cells(axes: Any, cells: Grid, values: np.ndarray, colours: Colormap, top: float) -> Any:
    """Draw one depth x length picture, depth 0 on top; a cell without a value shows the hatched ground."""
    axes.patch.set(facecolor="#e4e6e9", edgecolor="#b4b9bf", hatch="////", linewidth=0)
    rows, columns = max(len(cells.depths), 1), max(len(cells.lengths), 1)
    shown = values if values.size else np.full((rows, columns), math.nan)
    image = axes.imshow(shown, cmap=colours, vmin=0.0, vmax=top, aspect="auto", interpolation="none")
    at, labels = _ticks(length_labels(cells.lengths), 20)
    axes.set_xticks(at, labels, rotation=45 if len(labels) > 12 else 0)
    axes.set_yticks(*_ticks([depth_label(depth) for depth in cells.depths], 21))
    axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    if shown.size <= 400:  # white seams tell cells apart until they are too many
        axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel("needle depth (% of the text)")
    if shown.size <= CELLS_WITH_TEXT:
        for i, j in zip(*np.nonzero(np.isfinite(shown)), strict=True):
            red, green, blue, _ = colours(shown[i, j] / top)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{shown[i, j]:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color="white" if dark else "#1c2024")
    return image


def heatmap(cells: Grid, title: str = "Score by needle depth and context length") -> Figure:
    """The depth x length picture: 0..1, dark red to green, empty cells hatched grey, numbers where they fit."""
    figure = _figure(*_size(cells))
    axes = figure.add_subplot()
    image = _cells(axes, cells, cells.mean, SCORE_MAP, 1.0)
    figure.colorbar(image, ax=axes, label="mean score", pad=0.02)
    _title(axes, title)
    return figure


def error_heatmap(cells: Grid, title: str = "Standard error") -> Figure:
    """How sure each cell of the heatmap is; cells of fewer than two samples are hatched."""
    figure = _figure(*_size(cells))
    axes = figure.add_subplot()
    top = float(np.nanmax(cells.stderr, initial=0.0)) if np.isfinite(cells.stderr).any() else 0.0
    image = _cells(axes, cells, cells.stderr, LinearSegmentedColormap.from_list("", ["#f3f5f9", "#54278f"]), top or 0.1)
    figure.colorbar(image, ax=axes, label="standard error", pad=0.02)
    _title(axes, title)
    return figure


def side_by_side(grids: Mapping[str, Grid]) -> Figure:
    """Heatmaps of several models over the same depths and lengths (one's missing cells are hatched), one colour bar."""
    if not grids:
        raise ValueError("side_by_side: no grids given; give at least one")
    depths = np.unique(np.concatenate([cells.depths for cells in grids.values()]))
    lengths = np.unique(np.concatenate([cells.lengths for cells in grids.values()]))
    spread = {name: _spread(cells, depths, lengths) for name, cells in grids.items()}
    columns = min(len(grids), 3 if len(lengths) <= 6 else 2)
    rows = math.ceil(len(grids) / columns)
    width, height = _size(next(iter(spread.values())))
    figure = _figure(min((width - 0.9) * columns + 0.9, 18.0), height * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for k, (name, cells) in enumerate(spread.items()):
        axes = panels.flat[k]
        image = _cells(axes, cells, cells.mean, SCORE_MAP, 1.0)
        scored = cells.n > 0
        mean = np.sum(cells.mean[scored] * cells.n[scored]) / cells.n.sum() if scored.any() else math.nan
        _title(axes, f"{_one_line(name, 40)} (mean {mean:.2f})")
        if k % columns:  # the same depths as the panel on its left
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
    for axes in panels.flat[len(grids) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=panels, label="mean score", pad=0.015, fraction=0.05, aspect=20 * rows)
    return figure


def _spread(cells: Grid, depths: np.ndarray, lengths: np.ndarray) -> Grid:
    """The same grid on wider axes."""
    at = np.ix_(np.searchsorted(depths, cells.depths), np.searchsorted(lengths, cells.lengths))
    shape = (len(depths), len(lengths))
    mean, stderr, n = np.full(shape, math.nan), np.full(shape, math.nan), np.zeros(shape, dtype=int)
    mean[at], stderr[at], n[at] = cells.mean, cells.stderr, cells.n
    return Grid(lengths, depths, mean, stderr, n)


def depth_curve(records: Iterable[Record], title: str = "Score by needle depth") -> Figure:
    """The U curve of Lost in the Middle (arXiv 2307.03172): a line a length, its band one standard error wide."""
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
        axes.fill_between(
            depth, np.clip(mean - error, 0, 1), np.clip(mean + error, 0, 1), color=colour, alpha=0.12, linewidth=0
        )
    axes.set(xlim=(-2, 102), ylim=(-0.02, 1.02), xlabel="needle depth (% of the text)")
    axes.set_ylabel("mean score (band: ±1 standard error)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if labels:
        chosen = "tokens" if len(drawn) == len(labels) else f"tokens\n({len(drawn)} of {len(labels)}\nlengths)"
        axes.legend(title=chosen, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _title(axes, title)
    return figure


def _line_colour(j: int, count: int) -> tuple[float, ...]:
    """Longer is darker: an order, and readable without telling hues apart."""
    scale = LinearSegmentedColormap.from_list("", ["#f0b13c", "#cf5f4f", "#7d2a78", "#1d1147"])
    return tuple(scale(j / (count - 1) if count > 1 else 0.6))


def score_histogram(scores: Iterable[float], title: str = "Samples by score") -> Figure:
    """How scores are spread, in bars 0.05 wide; a score that is not finite is left out."""
    found = np.array([score for score in scores if math.isfinite(score)], dtype=float)
    low, high = min(0.0, found.min(initial=0.0)), max(1.0, found.max(initial=1.0))
    bins = 20 if (low, high) == (0.0, 1.0) else 40
    figure = _figure(6.4, 3.4)
    axes = figure.add_subplot()
    _, edges, bars = axes.hist(found, bins=bins, range=(low, high), edgecolor="white", linewidth=0.5)
    for bar, left, right in zip(bars, edges, edges[1:], strict=False):  # type: ignore[arg-type]
        bar.set_facecolor(SCORE_MAP((left + right) / 2))
    if len(found):
        axes.axvline(found.mean(), color="#1c2024", linewidth=1.2, linestyle="--")
        title += f" (n = {len(found):,}, mean {found.mean():.2f}, dashed)"
    axes.set(xlim=(low, high), xlabel="score", ylabel="samples")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    _title(axes, title)
    return figure


def false_answer_bars(records: Iterable[Record], title: str = "False answers and false silence") -> Figure:
    """By length: answers to absent facts beside silence on present ones, with standard errors and counts."""
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


def png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


# ---- files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportPaths:
    """Where `write_report` wrote what."""

    html: Path
    grid_csv: Path
    heatmap: Path
    error_heatmap: Path
    depth_curve: Path
    score_histogram: Path
    false_answers: Path


def grid_csv(cells: Grid) -> str:
    """The grid as lines of length,depth,mean,stderr,n; cells without records are left out, NaN is empty."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["length", "depth", "mean", "stderr", "n"])
    for j, i in np.ndindex(cells.n.T.shape):
        if cells.n[i, j]:
            numbers = (cells.depths[i], cells.mean[i, j], cells.stderr[i, j])
            depth, mean, stderr = ("" if math.isnan(x) else f"{x:.6g}" for x in numbers)
            rows.writerow([cells.lengths[j], depth, mean, stderr, cells.n[i, j]])
    return out.getvalue()


def _write(path: Path, data: bytes) -> Path:
    with replacing(path) as file:
        file.write(data)
    return path


def write_report(records: Iterable[Record], out_dir: Path, title: str, config: Mapping[str, Any]) -> ReportPaths:
    """Write the pictures, grid.csv and report.html of one evaluation into `out_dir`, each file whole or not at all."""
    records = list(records)
    found, wrong, reach = present(records), false_answers(records), effective_length(records)
    cells, failed = grid(found), failures(records)
    drawn: dict[str, tuple[str, Callable[[], Figure]]] = {
        "heatmap": ("Mean score by needle depth and context length", lambda: heatmap(cells, title)),
        "depth_curve": ("Mean score by depth, a line for each length", lambda: depth_curve(found)),
        "error_heatmap": ("Standard error of each cell", lambda: error_heatmap(cells)),
        "score_histogram": ("Samples by score", lambda: score_histogram(r["score"] for r in found)),
        "false_answers": ("Answers to absent facts, silence on present ones", lambda: false_answer_bars(records)),
    }
    pictures = {name: (caption, png(draw())) for name, (caption, draw) in drawn.items()}
    paths = {name: _write(out_dir / f"{name}.png", data) for name, (_, data) in pictures.items()}
    facts = [
        ("Effective length", reach.label if reach else "–", reach.reason if reach else "no scored sample"),
        ("Mean score", str(estimate(r["score"] for r in found)), f"{len(found):,} samples whose fact is in the text"),
        ("False answers", _share(wrong.invented), f"of {wrong.invented.n:,} samples whose fact is absent"),
        ("False silence", _share(wrong.withheld), f"of {wrong.withheld.n:,} samples whose fact is there"),
        ("Failures", f"{sum(failed.values()):,}", f"of {len(records):,} records, in no mean"),
    ]
    scored = [record for record in records if not is_failure(record)]
    worst = sorted(scored, key=lambda r: (r["score"], r["length"], depth_of(r) or 0.0))[:WORST]
    page = report_page(
        title=title,
        facts=facts,
        pictures=[(f"{name}.png", *picture) for name, picture in pictures.items()],
        table=summary_table(records),
        config=config,
        worst=worst,
        failures=failed,
    )
    html = _write(out_dir / "report.html", page.encode())
    return ReportPaths(html=html, grid_csv=_write(out_dir / "grid.csv", grid_csv(cells).encode()), **paths)


def _share(found: Estimate) -> str:
    if not found.n:
        return "–"
    return f"{100 * found.mean:.0f}" + ("" if math.isnan(found.stderr) else f"±{100 * found.stderr:.0f}") + " %"


# ---- the command ------------------------------------------------------------------------------------------------


class ReportError(ValueError):
    """Something about the input that one line can say."""


class JsonLines:
    """The rows of a JSON-lines file, one at a time. `line` is the current line's number; `cut` tells that the last
    line was cut off by a crash (no newline, no valid JSON) and left out. Raises ReportError at any other bad line."""

    def __init__(self, path: Path) -> None:
        self.path, self.line, self.cut = path, 0, False

    def __iter__(self) -> Iterator[Any]:
        with open(self.path, "rb") as lines:
            for self.line, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8", "replace"))
                except (ValueError, RecursionError) as error:
                    if not line.endswith(b"\n"):
                        self.cut = True
                        return
                    raise ReportError(f"{self.path}:{self.line}: invalid JSON: {error}") from None
                yield row


def kind_of(row: Any) -> str | None:
    """`rollouts` for a row of process, `records` for a row of samples.jsonl, None for neither."""
    if not isinstance(row, Mapping):
        return None
    if "scores" in row:
        return "rollouts"
    return "records" if "length" in row and ("score" in row or "error" in row) else None


def _fault(row: Any) -> str | None:
    """What keeps a row from being a record."""
    if not isinstance(row, Mapping):
        return "not a JSON object"
    length, depth, needles = row.get("length"), row.get("depth"), row.get("needles") or []
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        return f"length is {_one_line(repr(length), 40)}; it must be a number of tokens"
    if depth is not None and not (isinstance(depth, int | float) and 0 <= depth <= 1):
        return f"depth is {_one_line(repr(depth), 40)}; it must be null or from 0 to 1"
    numbered = isinstance(needles, list) and all(
        isinstance(needle, dict) and isinstance(needle.get("depth"), int | float) for needle in needles
    )
    return None if numbered else "needles must be a list of objects, each with a depth from 0 to 1"


def read_records(lines: JsonLines) -> list[Record]:
    """The records of samples.jsonl. Raises ReportError, with file and line, at the first that is none."""
    records = []
    for row in lines:
        if (fault := _fault(row)) is not None:
            raise ReportError(f"{lines.path}:{lines.line}: {fault}")
        records.append(row)
    return records


app = typer.Typer(add_completion=False)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="samples.jsonl of evaluations, or rollouts.")],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when missing.")],
    title: Annotated[str | None, typer.Option(help="Title of the pages; the file's name when left out.")] = None,
) -> None:
    """Turn samples.jsonl of evaluations, or rollouts of `process`, into pictures and pages."""
    try:
        grids: dict[str, Grid] = {}
        for name, path in _names(paths).items():
            lines = JsonLines(path)
            first = next(iter(lines), lines)
            if first is lines:
                raise ReportError(f"{path}: no complete row in it; give a file of records or rollouts")
            if (kind := kind_of(first)) is None:
                raise ReportError(f"{path}:{lines.line}: neither a record (score, length) nor rollouts (scores)")
            if kind == "rollouts":
                typer.echo(write_rollouts_html(lines, out / f"{name}.html", title=title or name))
            else:
                records = read_records(lines)
                folder = out / name if len(paths) > 1 else out
                written = write_report(records, folder, title or name, {"samples": str(path)})
                grids[name] = grid(present(records))
                small = grids[name].mean.size <= CELLS_WITH_TEXT
                typer.echo((summary_table if small else summary)(records) + f"\n{written.html}")
            if lines.cut:
                typer.echo(f"warning: {path}: 1 line cut off at the end, left out", err=True)
        if len(grids) > 1:
            typer.echo(_write(out / "side_by_side.png", png(side_by_side(grids))))
    except ReportError as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _stop(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2) from None


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """A short name for each path, all different: its stem, or its folder's name where stems are alike."""
    names: dict[str, Path] = {}
    for path in paths:
        alike = sum(other.stem == path.stem for other in paths) > 1
        name = path.resolve().parent.name if alike else path.stem
        number, unique = 2, name
        while unique in names:
            number, unique = number + 1, f"{name}-{number}"
        names[unique] = path
    return names


if __name__ == "__main__":
    app()
