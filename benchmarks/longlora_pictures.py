"""The picture of docs/longlora.md that is drawn from docs/measurements/longlora: RULER's tasks by reader.

python -m benchmarks.longlora_pictures docs/measurements/longlora/ruler.json docs/ruler-readers.png
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ruler import TASKS
from longthread.command_line import App

PALE = (20, 95)  # per cent between which a cell's colour bears black ink
Cells = dict[str, dict[str, dict[str, Any]]]  # model -> "task length" -> scores


def columns(cells: Cells) -> list[tuple[int, str]]:
    """Return the lengths and tasks that any model was asked, in order."""
    asked = {tuple(key.split()) for found in cells.values() for key in found}
    return sorted(
        ((int(length), task) for task, length in asked), key=lambda column: (column[0], TASKS.index(column[1]))
    )


def draw(cells: Cells, path: Path) -> None:
    """Draw lm_eval's scores, models by tasks; a cell without a figure is one that was not measured."""
    from matplotlib.figure import Figure

    wanted = columns(cells)
    grid = [
        [100 * found.get(f"{task} {length}", {}).get("lm_eval", float("nan")) for length, task in wanted]
        for found in cells.values()
    ]
    figure = Figure(figsize=(3 + 1.1 * len(wanted), 1.6 + 0.45 * len(cells)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(
        range(len(wanted)), [f"{task.removeprefix('niah_')}\n{length:,}" for length, task in wanted], fontsize=8
    )
    axes.set_yticks(range(len(cells)), list(cells))
    axes.set_title("RULER by lm_eval, %")
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            ink = "white" if value < PALE[0] or value > PALE[1] else "black"
            axes.text(column, row, f"{value:.0f}" if value == value else "–", ha="center", va="center", color=ink)
    figure.savefig(path, dpi=110)


app = App(no_args_is_help=True)


@app.command()
def run(
    measured: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="ruler.json.")],
    picture: Annotated[Path, typer.Argument(help="File to write: .png, .svg or .pdf.")],
) -> None:
    """Draw it."""
    draw(json.loads(measured.read_text()), picture)


if __name__ == "__main__":
    app()
