"""The picture of docs/longlora.md that is drawn from docs/measurements/longlora: RULER's tasks by reader.

python -m benchmarks.longlora_pictures docs/measurements/longlora/ruler.json docs/ruler-readers.png
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.ruler import TASKS, Cells, draw_grid
from longthread.command_line import App

Models = dict[str, Cells]  # by model


def columns(cells: Models) -> list[tuple[int, str]]:
    """Return the lengths and tasks that any model was asked, in order."""
    asked = {tuple(key.split()) for found in cells.values() for key in found}
    return sorted(
        ((int(length), task) for task, length in asked), key=lambda column: (column[0], TASKS.index(column[1]))
    )


def draw(cells: Models, path: Path) -> None:
    """Draw lm_eval's scores, models by tasks."""
    wanted = columns(cells)
    grid = [
        [100 * found.get(f"{task} {length}", {}).get("lm_eval", float("nan")) for length, task in wanted]
        for found in cells.values()
    ]
    draw_grid(grid, list(cells), [f"{task.removeprefix('niah_')}\n{length:,}" for length, task in wanted], path)


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
