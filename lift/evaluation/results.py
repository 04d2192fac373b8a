"""The results of an evaluation: shares with their intervals, as JSON, as a table and as a plot."""

import io
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from longthread.errors import ConfigError, DataError
from longthread.files import replacing, write_json, write_text
from longthread.statistics import Share

if TYPE_CHECKING:  # matplotlib takes a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("needle", "linked", "cloze", "order")  # the columns that come first, in this order
PANELS = {"needle": "single needles", "linked": "linked needles"}  # of the plot
MARKERS = "osD^vP*X<>"
WIDTH = 200  # characters of table.txt


@dataclass(frozen=True)
class Results:
    """The measurements of one memory.

    Shares of right answers are by kind of question; a kind that was not asked is missing.
    """

    document: str
    digest: str
    tokens: int
    window_tokens: int
    closed: dict[str, Share]  # nothing but the memory; for the kind "absent" the share of abstaining
    depths: dict[str, list[Share]]  # the same by tenth of the document, for items whose evidence is one span
    window: dict[str, Share]  # the document around the evidence in the window too
    window_off: dict[str, Share]  # in the window only
    elsewhere: dict[str, Share]  # the longest stretch of the document without the evidence in the window
    other: Share  # questions about another document, which stands in the window: with the memory on
    other_off: Share
    unrelated: Share  # closed book, on what has nothing to do with any document
    unrelated_off: Share
    nll: float  # nats a token of neutral text
    nll_off: float
    nll_change: tuple[float, float]  # 95 % interval of nll - nll_off: normal, of the differences token by token
    gate_auroc: float | None  # that the gate opens wider on a token of the document than on one of another text

    @property
    def recall(self) -> Share:
        """Return the closed-book share of right answers over all kinds of question but "absent"."""
        return pooled(self.closed)

    def to_json(self) -> dict[str, object]:
        """Return the results as JSON values. For readers, each share also has its value and its interval."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: object) -> "Results":
        """Read the results from what `to_json` returned. Raises `DataError`."""
        try:
            return TypeAdapter(cls).validate_python(data)
        except ValueError as error:
            raise DataError(f"these are not results of `lift evaluate` ({_reason(error)}): evaluate again") from None


def pooled(shares: Mapping[str, Share]) -> Share:
    """Add up the shares of all kinds of question but "absent", which the document does not answer."""
    return sum((share for kind, share in shares.items() if kind != "absent"), Share())


def _plain(value: object) -> object:
    if isinstance(value, Share):
        return asdict(value) | {"share": value.value, "interval": list(value.interval)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# ---- table ----


def table(results: Mapping[str, Results]) -> Table:
    """Return a table with a row for each method: shares in per cent over their Wilson 95 % intervals."""
    asked = {kind for result in results.values() for kind in result.closed}
    kinds = [*(k for k in KINDS if k in asked), *sorted(asked - {*KINDS, "absent"}), *({"absent"} & asked)]
    rows = Table(title="Closed book by kind of question; the same beside a window; forgetting", show_lines=True)
    rows.add_column("method", no_wrap=True)
    columns = [
        *kinds,
        "evidence in\nwindow",
        "the same,\nmemory off",
        "other part\nin window",
        "neutral NLL\n(change)",
        "other text\nin window",
        "the same,\nmemory off",
        "unrelated",
        "the same,\nmemory off",
        "gate\nAUROC",
    ]
    for column in columns:
        rows.add_column(column, justify="right", no_wrap=True)
    for method, result in results.items():
        rows.add_row(
            method,
            *(_cell(result.closed.get(kind, Share())) for kind in kinds),
            *(_cell(pooled(shares)) for shares in (result.window, result.window_off, result.elsewhere)),
            _neutral_cell(result),
            *(_cell(share) for share in (result.other, result.other_off, result.unrelated, result.unrelated_off)),
            "–" if result.gate_auroc is None else f"{result.gate_auroc:.3f}",
        )
    return rows


def upright(results: Mapping[str, Results]) -> Table:
    """Return the content of `table` with a column for each method, so that it is narrow enough for a terminal."""
    first, *figures = table(results).columns
    rows = Table("", *map(str, first.cells), title="Closed book, beside a window, forgetting")
    for column in figures:
        cells = (str(cell).replace("\n", "  (", 1) + (")" if "\n" in str(cell) else "") for cell in column.cells)
        rows.add_row(str(column.header).replace("\n", " "), *cells)
    return rows


def _neutral_cell(result: Results) -> str:
    low, high = result.nll_change
    return f"{result.nll:.3f} ({result.nll - result.nll_off:+.3f})\n{low:+.3f} to {high:+.3f}"


def _cell(share: Share) -> str:
    if share.value is None:
        return "–"
    low, high = share.interval
    return f"{100 * share.value:.0f} %\n{100 * low:.0f}–{100 * high:.0f}"


# ---- plot ----


def plot(results: Mapping[str, Results], path: Path) -> None:
    """Write a PNG of closed-book accuracy against neutral NLL, with one point and both intervals for each method."""
    with replacing(path) as file:
        draw(results).savefig(file, format="png", dpi=150)


def draw(results: Mapping[str, Results]) -> "Figure":
    """Return the figure that `plot` writes, with a panel for single needles and one for linked needles."""
    from matplotlib.figure import Figure

    panels = [kind for kind in PANELS if any(result.closed.get(kind, Share()).asked for result in results.values())]
    panels = panels or list(PANELS)[:1]
    figure = Figure(figsize=(1.5 + 4 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, panels, strict=True):
        for number, (method, result) in enumerate(results.items()):
            _add_point(axis, result, result.closed.get(kind, Share()), method, number)
        for off in {round(result.nll_off, 4) for result in results.values()}:
            axis.axvline(off, color="0.6", linestyle="--", linewidth=1, zorder=0)
        axis.set_title(PANELS[kind])
        axis.set_xlabel("NLL of neutral text, nats a token")
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("closed-book accuracy, %")
    # Names in a legend and none beside the points: points of two methods may fall together.
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(panels), frameon=False)
    figure.suptitle("Upper left is better; dashed: without memory; bars: 95 %", fontsize=10)
    return figure


def _add_point(axis: "Axes", results: Results, share: Share, method: str, number: int) -> None:
    percent = math.nan if share.value is None else 100 * share.value
    low, high = (100 * end for end in share.interval)
    change = results.nll - results.nll_off
    axis.errorbar(
        [results.nll],
        [percent],
        xerr=[[max(change - results.nll_change[0], 0)], [max(results.nll_change[1] - change, 0)]],
        yerr=[[max(percent - low, 0)], [max(high - percent, 0)]],
        fmt=MARKERS[number % len(MARKERS)],
        color=f"C{number % 10}",
        label=method,
        capsize=3,
        markersize=7,
    )


# ---- files ----


def check_folder(folder: Path) -> None:
    """Raise `ConfigError` if `save` could not write to the folder. Call it before hours of measuring."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        problem = "cannot be written" if above.is_dir() else "is not a folder"
        raise ConfigError(f"{above} {problem}: give another folder", setting="out")


def save(results: Mapping[str, Results], folder: Path) -> None:
    """Write results.json, table.txt and plot.png in `folder`, each whole or not at all."""
    write_json(folder / "results.json", {name: result.to_json() for name, result in results.items()}, indent=1)
    console = Console(file=io.StringIO(), width=WIDTH, record=True)
    console.print(table(results))
    write_text(folder / "table.txt", console.export_text())
    plot(results, folder / "plot.png")


def load(folder: Path) -> dict[str, Results]:
    """Read the results that `save` wrote to the folder, by method. Raises `DataError`."""
    path = folder / "results.json"
    try:
        return TypeAdapter(dict[str, Results]).validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: run `lift evaluate` first") from None
    except ValueError as error:
        raise DataError(f"{path} does not hold results ({_reason(error)}): evaluate again") from None


def _reason(error: ValueError) -> str:
    """The place and the fault that pydantic names first."""
    return ": ".join(line.strip() for line in str(error).splitlines()[1:3])
