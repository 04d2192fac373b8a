"""The results of `evaluate.py`: rates with their intervals, as JSON, as a table and as a plot."""

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lift import LiftError
from longthread.files import replacing

Z95 = 1.959963984540054  # standard errors to each side of 95 % of a normal distribution
KINDS = ("needle", "linked", "cloze", "order")  # the columns that come first, in this order
PANELS = {"needle": "single needles", "linked": "linked needles"}  # of the plot
MARKERS = "osD^vP*X<>"
WIDTH = 200  # characters of table.txt


@dataclass(frozen=True)
class Rate:
    right: int = 0
    asked: int = 0

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.right + other.right, self.asked + other.asked)

    @property
    def share(self) -> float | None:
        return self.right / self.asked if self.asked else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval: the shares from which what was counted is less than 1.96 standard errors away."""
        if not self.asked:
            return 0.0, 1.0
        n, p, z2 = self.asked, self.right / self.asked, Z95**2
        middle, reach = p + z2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        # Nothing right and all right reach 0 and 1 exactly, which rounding would miss.
        low = (middle - reach) / (1 + z2 / n) if self.right else 0.0
        high = (middle + reach) / (1 + z2 / n) if self.right < n else 1.0
        return low, high


@dataclass(frozen=True)
class Results:
    """Of one memory. Rates by the kind of item; a kind that was not asked is missing."""

    document: str
    digest: str
    tokens: int
    window_tokens: int
    closed: dict[str, Rate]  # nothing but the memory; for the kind "absent" the rate of abstaining
    depths: dict[str, list[Rate]]  # the same by tenth of the document, for items whose evidence is one span
    window: dict[str, Rate]  # the document around the evidence in the window too
    window_off: dict[str, Rate]  # in the window only
    elsewhere: dict[str, Rate]  # the longest stretch of the document without the evidence in the window
    other: Rate  # questions about another document, which stands in the window: with the memory on
    other_off: Rate
    unrelated: Rate  # closed book, on what has nothing to do with any document
    unrelated_off: Rate
    nll: float  # nats a token of neutral text
    nll_off: float
    nll_change: tuple[float, float]  # 95 % interval of nll - nll_off: normal, of the differences token by token
    gate_auroc: float | None  # that the gate opens wider on a token of the document than on one of another text

    @property
    def recall(self) -> Rate:
        """Closed book, over all kinds that the document answers."""
        return answered(self.closed)

    def to_json(self) -> dict[str, Any]:
        """Of numbers, strings, lists and dicts; each rate with its share and interval, for whoever reads it."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Results":
        """Raises `LiftError` if it is not what `to_json` gave."""
        try:
            return cls(**{name: _typed(data[name]) for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise LiftError(f"these are no results of `lift evaluate` ({error!r}): evaluate again") from None


def answered(rates: dict[str, Rate]) -> Rate:
    """All kinds together but "absent", which the document does not answer."""
    return sum((rate for kind, rate in rates.items() if kind != "absent"), Rate())


def _plain(value: Any) -> Any:
    if isinstance(value, Rate):
        return asdict(value) | {"share": value.share, "interval": list(value.interval)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) >= {"right", "asked"}:
            return Rate(value["right"], value["asked"])
        return {key: _typed(each) for key, each in value.items()}
    if isinstance(value, list):
        pair = all(isinstance(each, float | int) for each in value)  # the one interval; all other lists are of rates
        return tuple(value) if pair else [_typed(each) for each in value]
    return value


# ---- table ----


def table(results: Mapping[str, Results]) -> Table:
    """A row for each method: rates in per cent over their Wilson 95 % intervals."""
    asked = {kind for each in results.values() for kind in each.closed}
    kinds = [*(k for k in KINDS if k in asked), *sorted(asked - {*KINDS, "absent"}), *({"absent"} & asked)]
    shown = Table(title="Closed book by kind of question; the same beside a window; forgetting", show_lines=True)
    shown.add_column("method", no_wrap=True)
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
        shown.add_column(column, justify="right", no_wrap=True)
    for method, each in results.items():
        shown.add_row(
            method,
            *(_cell(each.closed.get(kind, Rate())) for kind in kinds),
            *(_cell(answered(rates)) for rates in (each.window, each.window_off, each.elsewhere)),
            f"{each.nll:.3f} ({each.nll - each.nll_off:+.3f})\n{each.nll_change[0]:+.3f} to {each.nll_change[1]:+.3f}",
            *(_cell(rate) for rate in (each.other, each.other_off, each.unrelated, each.unrelated_off)),
            "–" if each.gate_auroc is None else f"{each.gate_auroc:.3f}",
        )
    return shown


def upright(results: Mapping[str, Results]) -> Table:
    """The same with a column for each method: for a terminal, which is too narrow for the other."""
    first, *figures = table(results).columns
    shown = Table("", *map(str, first.cells), title="Closed book, beside a window, forgetting")
    for column in figures:
        cells = (str(cell).replace("\n", "  (", 1) + (")" if "\n" in str(cell) else "") for cell in column.cells)
        shown.add_row(str(column.header).replace("\n", " "), *cells)
    return shown


def _cell(rate: Rate) -> str:
    if rate.share is None:
        return "–"
    low, high = rate.interval
    return f"{100 * rate.share:.0f} %\n{100 * low:.0f}–{100 * high:.0f}"


# ---- plot ----


def plot(results: Mapping[str, Results], path: Path) -> None:
    """A PNG at `path`: closed-book accuracy against neutral NLL, one point a method with both its intervals."""
    with replacing(path) as file:
        draw(results).savefig(file, format="png", dpi=150)


def draw(results: Mapping[str, Results]) -> Figure:
    panels = [kind for kind in PANELS if any(each.closed.get(kind, Rate()).asked for each in results.values())]
    panels = panels or list(PANELS)[:1]
    figure = Figure(figsize=(1.5 + 4 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, panels, strict=True):
        for number, (method, each) in enumerate(results.items()):
            _point(axis, each, each.closed.get(kind, Rate()), method, number)
        for off in {round(each.nll_off, 4) for each in results.values()}:
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


def _point(axis: Any, each: Results, rate: Rate, method: str, number: int) -> None:
    share = math.nan if rate.share is None else 100 * rate.share
    low, high = (100 * end for end in rate.interval)
    change = each.nll - each.nll_off
    axis.errorbar(
        [each.nll],
        [share],
        xerr=[[max(change - each.nll_change[0], 0)], [max(each.nll_change[1] - change, 0)]],
        yerr=[[max(share - low, 0)], [max(high - share, 0)]],
        fmt=MARKERS[number % len(MARKERS)],
        color=f"C{number % 10}",
        label=method,
        capsize=3,
        markersize=7,
    )


# ---- files ----


def check_folder(folder: Path) -> None:
    """Before hours of measuring: raises `LiftError` if `save` could not write there."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "cannot be written" if above.is_dir() else "is no folder"
        raise LiftError(f"{above} {what}: give another --out")


def save(results: Mapping[str, Results], folder: Path) -> None:
    """results.json, table.txt and plot.png in `folder`, each whole or not at all."""
    with replacing(folder / "results.json") as file:
        file.write((json.dumps({name: each.to_json() for name, each in results.items()}, indent=1) + "\n").encode())
    console = Console(file=io.StringIO(), width=WIDTH, record=True)
    console.print(table(results))
    with replacing(folder / "table.txt") as file:
        file.write(console.export_text().encode())
    plot(results, folder / "plot.png")


def load(folder: Path) -> dict[str, Results]:
    """What `save` wrote there. Raises `LiftError`."""
    path = folder / "results.json"
    try:
        return {name: Results.from_json(each) for name, each in json.loads(path.read_bytes()).items()}
    except OSError as error:
        raise LiftError(f"{path}: {error.strerror}: run `lift evaluate` first") from None
    except (ValueError, AttributeError) as error:
        raise LiftError(f"{path} holds no results ({error}): evaluate again") from None
