"""How many general questions models answer, asked without any text: what training on long texts has left of short ability.

    python -m benchmarks.general_knowledge OUT --model AS_SHIPPED --model TRAINED

347 questions of 18 kinds (`environments.datasets.general_knowledge`), greedily, each model served in this process. ± is one
standard error of the difference to the first model, on the same questions. OUT holds every reply; the same command goes on,
and with other weights it is refused.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.lift_table import percent
from environments.datasets.general_knowledge import ask, shares
from environments.inference.contracts import ServerAddress
from environments.inference.embedded.server import background
from lift.library.base_model import fingerprint
from longthread.command_line import App
from longthread.errors import exit_on_error
from longthread.files import read_jsonl
from longthread.statistics import Share, estimate
from trainer_configs.longlora.data.run_folder import begin

app = App(no_args_is_help=True)


def difference(first: Path, other: Path) -> tuple[float, float]:
    """Return by how much the second file's share of right replies is above the first's, and its standard error."""
    before, after = ({row["question"]: row["right"] for row in read_jsonl(path)} for path in (first, other))
    change = estimate(after[question] - before[question] for question in before if question in after)
    return change.mean, change.stderr


@app.command()
@exit_on_error()
def main(
    out: Annotated[Path, typer.Argument(help="Folder of the replies.")],
    model: Annotated[list[Path], typer.Option(help="Folder of a model; repeat for several.")],
) -> None:
    """Ask each model, and print the shares by kind."""
    names = [f"{number}-{path.name}" for number, path in enumerate(model)]
    begin(out, out / ".state", {name: fingerprint(path) for name, path in zip(names, model, strict=True)})
    files = [out / f"{name}.jsonl" for name in names]
    for name, path, file in zip(names, model, files, strict=True):
        with background(path, model_name=name) as url:
            ask(ServerAddress(url, "", name), file, progress=True)
    found = [shares(file) for file in files]
    shown = Table("kind", "n", *(f"{number}: {path.parent.name}/{path.name}, %" for number, path in enumerate(model)))
    for kind, first in found[0].items():
        shown.add_row(kind, str(first.asked), *(percent(of[kind]) for of in found))
    every = [sum(of.values(), Share()) for of in found]
    cells = [f"{100 * (share.value or 0):.1f}" for share in every]
    for number, file in enumerate(files[1:], 1):
        change, error = difference(files[0], file)
        cells[number] += f" ({100 * change:+.1f} ± {100 * error:.1f})"
    shown.add_row("all", str(every[0].asked), *cells)
    Console(width=110).print(shown)


if __name__ == "__main__":
    app()
