"""Results into files: pictures, CSV and self-contained HTML.

    python -m environments.reports.report results/samples.jsonl --out report              # one evaluation
    python -m environments.reports.report base/samples.jsonl tuned/samples.jsonl --out report    # and side by side
    python -m environments.reports.report rollouts.jsonl --out report                     # a page to read rollouts in

The numbers are in `metrics.py`, the pictures in `figures.py`, the pages in `html.py` and `viewer.py`.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from environments.reports.html import ComparisonRow, Fact, Picture, ReportPage, comparison_page
from environments.reports.metrics import (
    CELLS_WITH_NUMBERS,
    Grid,
    Record,
    depth_of,
    effective_length,
    failures,
    false_answers,
    grid,
    is_failure,
    one_line,
    present,
    summary,
    summary_table,
    without_text,
)
from environments.reports.viewer import write_rollouts_html
from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import DataError, exit_on_error, option
from longthread.files import JsonLines, replacing, write_text
from longthread.statistics import Estimate, estimate

WANTED = "give samples.jsonl of an evaluation or the .jsonl of process"
WORST = 20  # samples that the report shows in full


@dataclass(frozen=True)
class ReportPaths:
    """The paths of the files that `Report.write` wrote."""

    html: Path
    grid_csv: Path
    pictures: Mapping[str, Path]  # by the stem of the file: heatmap, depth_curve, ...


@dataclass(frozen=True)
class Report:
    """One evaluation: its title, records and config, and its pictures, drawn once for the files and for W&B."""

    title: str
    records: Sequence[Record]
    config: Mapping[str, object]
    pictures: Mapping[str, Picture]  # by the stem of the file; the first belongs on the first screen

    @property
    def facts(self) -> list[Fact]:
        """The numbers at the top of the page: effective length, mean score, false answers, false silence and failures."""
        scored, wrong, reach = present(self.records), false_answers(self.records), effective_length(self.records)
        failed = sum(failures(self.records).values())
        mean = str(estimate(record["score"] for record in scored))
        absent, known = counted(wrong.invented.n, "sample"), counted(wrong.withheld.n, "sample")
        return [
            Fact(
                "Effective length",
                reach.label if reach else "–",
                reach.reason if reach else "no sample scored with its text",
            ),
            Fact("Mean score", mean, f"{counted(len(scored), 'sample')} whose fact is in the text"),
            Fact("False answers", _share(wrong.invented), f"of {absent} whose fact is absent"),
            Fact("False silence", _share(wrong.withheld), f"of {known} whose fact is there"),
            Fact("Failures", f"{failed:,}", f"of {counted(len(self.records), 'record')}, excluded from means"),
        ]

    @property
    def worst(self) -> list[Record]:
        """The `WORST` samples of the lowest scores, the lowest first."""
        scored = [record for record in self.records if not is_failure(record)]
        return sorted(scored, key=lambda r: (r["score"], r["length"], depth_of(r) or 0.0))[:WORST]

    def page(self, worst: Sequence[Record] | None = None) -> str:
        """Return the self-contained HTML page. `worst`: the samples to show in place of `self.worst`."""
        return ReportPage(
            title=self.title,
            facts=self.facts,
            pictures=list(self.pictures.values()),
            table=summary_table(self.records),
            config=self.config,
            worst=self.worst if worst is None else worst,
            failures=failures(self.records),
        ).html()

    def write(self, folder: Path) -> ReportPaths:
        """Write pictures, grid.csv and report.html, each complete or not at all, and return their paths."""
        paths = ReportPaths(
            html=folder / "report.html",
            grid_csv=folder / "grid.csv",
            pictures={name: folder / picture.file for name, picture in self.pictures.items()},
        )
        for name, picture in self.pictures.items():
            _write_png(paths.pictures[name], picture.png)
        write_text(paths.html, self.page())
        write_text(paths.grid_csv, grid_csv(grid(present(self.records))))
        return paths


def draw_report(records: Iterable[Record], title: str, config: Mapping[str, object]) -> Report:
    """Draw the pictures of one evaluation, and return its report. `config` is shown on the page, without its secrets."""
    from environments.reports.figures import CHARTS, png

    records = list(records)
    title = f"{title}, asked without the text" if without_text(records) else title
    figures = {chart: chart.draw(records, title) for chart in CHARTS}
    pictures = {
        chart.name: Picture(f"{chart.name}.png", chart.caption, png(figure))
        for chart, figure in figures.items()
        if figure is not None
    }
    return Report(title, records, config, pictures)


def grid_csv(cells: Grid) -> str:
    """Return the grid as lines of length,depth,mean,stderr,n; cells without records are left out, NaN is empty."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["length", "depth", "mean", "stderr", "n"])
    for j, i in np.ndindex(cells.n.T.shape):
        if cells.n[i, j]:
            numbers = (cells.depths[i], cells.mean[i, j], cells.stderr[i, j])
            depth, mean, stderr = ("" if math.isnan(x) else f"{x:.6g}" for x in numbers)
            rows.writerow([cells.lengths[j], depth, mean, stderr, cells.n[i, j]])
    return out.getvalue()


def _write_png(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


def _share(share: Estimate) -> str:
    if not share.n:
        return "–"
    error = "" if math.isnan(share.stderr) else f"±{100 * share.stderr:.0f}"
    return f"{100 * share.mean:.0f}{error} %"


# ---- the command -----------------------------------------------------------------------------------------------


def kind_of(row: object) -> str | None:
    """Return "rollouts" for a row of process, "records" for a row of samples.jsonl, None for neither."""
    if not isinstance(row, Mapping):
        return None
    if "scores" in row:
        return "rollouts"
    return "records" if "length" in row and ("score" in row or "error" in row) else None


def _fault(row: object) -> str | None:
    """Return what keeps a row from being a record; None if nothing does."""
    if not isinstance(row, Mapping):
        return "not a JSON object"
    length, depth, needles = row.get("length"), row.get("depth"), row.get("needles") or []
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        return f"length is {one_line(repr(length), 40)}; it must be a number of tokens"
    if depth is not None and not (isinstance(depth, int | float) and 0 <= depth <= 1):
        return f"depth is {one_line(repr(depth), 40)}; it must be null or from 0 to 1"
    numbered = isinstance(needles, list) and all(
        isinstance(needle, dict) and isinstance(needle.get("depth"), int | float) for needle in needles
    )
    return None if numbered else "needles must be a list of objects, each with a depth from 0 to 1"


def read_records(lines: JsonLines) -> list[Record]:
    """Return the records of samples.jsonl. Raises `DataError`, with file and line, at the first row that is not one."""
    records: list[Record] = []
    for line in lines:
        if (fault := _fault(line.value)) is not None:
            raise DataError(f"{lines.path}:{line.number}: {fault}")
        if records and bool(records[0].get("no_context")) != bool(line.value.get("no_context")):
            raise DataError(
                f"{lines.path}:{line.number}: questions asked with their text and without it (no_context) in one file: take "
                "them apart"
            )
        if records and records[0].get("mode") != line.value.get("mode"):
            raise DataError(
                f"{lines.path}:{line.number}: questions asked in several modes in one file, which a heatmap would mix: "
                "memory.html beside it compares them, and each mode's folder has its own report"
            )
        records.append(line.value)
    return records


app = App()


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="samples.jsonl of evaluations, or rollouts.")],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when missing.")],
    title: Annotated[str | None, typer.Option(help="Title of the pages; the file's name when left out.")] = None,
) -> None:
    """Turn samples.jsonl of evaluations, or rollouts of `process`, into pictures and pages."""
    with exit_on_error(option):
        reports: dict[str, Report] = {}
        for name, path in _names(paths).items():
            lines = JsonLines(path, WANTED)
            if _kind_of_file(lines) == "rollouts":
                rows = (line.value for line in lines)
                typer.echo(write_rollouts_html(rows, out / f"{name}.html", title=title or name))
            else:
                reports[name] = draw_report(read_records(lines), title or name, {"samples": str(path)})
                _show(reports[name], out / name if len(paths) > 1 else out)
            if lines.cut:
                typer.echo(f"warning: {path}: 1 line cut off at the end, left out", err=True)
        if len(reports) > 1:
            _compare(reports, out, title or "Side by side")


def _kind_of_file(lines: JsonLines) -> str:
    first = next(iter(lines), None)
    if first is None:
        raise DataError(f"{lines.path}: no complete row in it; give a file of records or rollouts")
    if (kind := kind_of(first.value)) is None:
        raise DataError(f"{lines.path}:{first.number}: neither a record (score, length) nor rollouts (scores)")
    return kind


def _show(drawn: Report, folder: Path) -> None:
    """Write the report, and sum it up in the terminal."""
    small = grid(present(drawn.records)).mean.size <= CELLS_WITH_NUMBERS
    typer.echo((summary_table if small else summary)(drawn.records))
    typer.echo(drawn.write(folder).html)


def _compare(reports: Mapping[str, Report], out: Path, title: str) -> None:
    """Write the heatmaps of several evaluations side by side, and a page of their numbers that links their reports."""
    from environments.reports.figures import png, side_by_side

    figure = side_by_side({name: grid(present(drawn.records)) for name, drawn in reports.items()})
    picture = Picture("side_by_side.png", "Mean score by needle depth and context length", png(figure))
    _write_png(out / picture.file, picture.png)
    rows = [ComparisonRow(name, f"{name}/report.html", drawn.facts) for name, drawn in reports.items()]
    write_text(out / "comparison.html", comparison_page(title, picture, rows))
    typer.echo(out / picture.file)
    typer.echo(out / "comparison.html")


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the paths by short names, all different: each one's stem, or its folder's name where stems are alike."""
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
