"""Results into files: pictures, CSV and self-contained HTML.

    python -m environments.reports.report results/samples.jsonl --out report              # one evaluation
    python -m environments.reports.report base/samples.jsonl tuned/samples.jsonl --out report    # and side by side
    python -m environments.reports.report rollouts.jsonl --out report                     # a page to read rollouts in

The numbers are in `metrics.py`, the pictures in `figures.py`, the pages in `html.py`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from matplotlib.figure import Figure

from environments.reports.figures import (
    CELLS_WITH_TEXT,
    breakdown_bars,
    depth_curve,
    error_heatmap,
    false_answer_bars,
    heatmap,
    png,
    score_histogram,
    side_by_side,
)
from environments.reports.html import report_page, write_rollouts_html
from environments.reports.metrics import (
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
)
from longthread.files import replacing
from longthread.statistics import Estimate, estimate

WANTED = "give samples.jsonl of an evaluation or the .jsonl of process"
WORST = 20  # samples that the report shows in full


@dataclass(frozen=True)
class ReportPaths:
    """Where `write_report` wrote what."""

    html: Path
    grid_csv: Path
    heatmap: Path
    error_heatmap: Path
    depth_curve: Path
    score_histogram: Path
    false_answers: Path | None = None  # where no fact was absent there is nothing to draw
    breakdown: Path | None = None


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
    }
    if wrong.invented.n:
        caption = "Answers to absent facts, silence on present ones"
        drawn["false_answers"] = (caption, lambda: false_answer_bars(records))
    pictures = {name: (caption, png(draw())) for name, (caption, draw) in drawn.items()}
    if (bars := breakdown_bars(found)) is not None:
        pictures["breakdown"] = ("Score by what makes a sample hard", png(bars))
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


# ---- the command -----------------------------------------------------------------------------------------------


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
                    raise ReportError(f"{self.path}:{self.line}: invalid JSON: {error}; {WANTED}") from None
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
        return f"length is {one_line(repr(length), 40)}; it must be a number of tokens"
    if depth is not None and not (isinstance(depth, int | float) and 0 <= depth <= 1):
        return f"depth is {one_line(repr(depth), 40)}; it must be null or from 0 to 1"
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
        _stop(f"{error.filename}: {error.strerror}; {WANTED}" if error.filename else str(error))


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
