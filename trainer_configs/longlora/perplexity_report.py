"""Perplexity by position as a table, as JSON and as a picture."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

from longthread.files import JsonObject
from trainer_configs.longlora.by_position import Comparison, Stretch, perplexity_of

if TYPE_CHECKING:  # matplotlib is imported where it draws
    from matplotlib.axes import Axes

FIGURES = (".png", ".svg", ".pdf")
NONE = "–"


def table(title: str, result: Comparison) -> Table:
    """Return a table with a row for each stretch of positions and one for all of them.

    The third column is the perplexity given all of the row before, the fourth that by sliding windows. The last three are
    of tokens beyond the first sliding window; LongPPL is the perplexity of the key ones.
    """
    names = ("positions", "tokens", "whole row", "sliding", "gain", "key", "LongPPL")
    grid = Table(title=title, box=SIMPLE, caption="perplexity; gain in nats; key: share of key tokens")
    grid.add_column(names[0], overflow="fold")
    for name in names[1:]:
        grid.add_column(name, justify="right", overflow="fold")
    for stretch in (*result.stretches, result.whole):
        name = "all" if stretch is result.whole else f"{stretch.start:,}–{stretch.end:,}"
        grid.add_row(
            name,
            f"{stretch.tokens:,}",
            _perplexity(stretch.nll),
            _perplexity(stretch.sliding_nll),
            NONE if stretch.gain is None else f"{stretch.gain:+.3f}",
            f"{stretch.key_tokens / stretch.compared:.2%}" if stretch.compared else NONE,
            _perplexity(stretch.key_nll),
        )
    return grid


def _perplexity(nll: float | None) -> str:
    return NONE if nll is None else f"{perplexity_of(nll):,.2f}"


def as_json(result: Comparison, **settings: str | int | None) -> JsonObject:
    """Return the settings and the figures as JSON: NLLs and gains in nats, null where there is no such figure."""
    return settings | {"by_position": [asdict(each) for each in result.stretches], "all": asdict(result.whole)}


def draw(title: str, result: Comparison, path: Path) -> None:
    """Draw perplexity by position, and below it the gain and the share of key tokens where rows were read whole."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    compared = [stretch for stretch in result.stretches if stretch.gain is not None]
    figure = Figure(figsize=(8, 7 if compared else 3.5), layout="constrained")
    panels = figure.subplots(3 if compared else 1, sharex=True, squeeze=False)[:, 0]
    _line(panels[0], "the whole row before it", result.stretches, [s.nll for s in result.stretches])
    _line(panels[0], "the sliding window", result.stretches, [s.sliding_nll for s in result.stretches])
    panels[0].set(ylabel="perplexity", yscale="log", title=title)
    for set_formatter in (panels[0].yaxis.set_major_formatter, panels[0].yaxis.set_minor_formatter):
        set_formatter(StrMethodFormatter("{x:,.5g}"))
    panels[0].legend(title="a token is given")
    if compared:
        panels[1].plot([_middle(s) for s in compared], [s.gain for s in compared], marker="o")
        panels[1].axhline(0, color="grey", linewidth=0.8)
        panels[1].set(ylabel="gain (nats)")
        shares = [1000 * s.key_tokens / s.compared for s in compared]
        panels[2].bar([_middle(s) for s in compared], shares, [0.9 * (s.end - s.start) for s in compared])
        panels[2].set(ylabel="key tokens in 1,000")
    panels[-1].set(xlabel="position (tokens)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _line(axes: "Axes", label: str, stretches: list[Stretch], nlls: list[float | None]) -> None:
    points = [(_middle(s), perplexity_of(nll)) for s, nll in zip(stretches, nlls, strict=True) if nll is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", label=label)


def _middle(stretch: Stretch) -> float:
    return (stretch.start + stretch.end) / 2
