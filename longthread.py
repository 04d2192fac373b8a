"""The `longthread` command: one thin module that mounts the rooms' own commands, each imported when it is called."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Small language models as long-term memory.")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
) -> None:
    """A real small model, served here, asked about needles; rollouts, heatmap and report to look at."""
    from environments import demo

    demo.demo(out)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="samples.jsonl of evaluations, or rollouts.")],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when missing.")] = Path("report"),
    title: Annotated[str | None, typer.Option(help="Title of the pages; the file's name when left out.")] = None,
) -> None:
    """Heatmaps, curves and self-contained pages from results; several files also side by side."""
    from environments import report

    report.report(paths, out, title)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
