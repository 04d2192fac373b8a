"""Numbers against references by hand, pictures against what their axes must say, the command against bad input."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.figure import Figure
from typer.testing import CliRunner

from environments.reports import figures, metrics, report
from longthread.statistics import estimate
from tests.environments.patience import grows_linearly

# ---- fake data --------------------------------------------------------------------------------------------------


def record(length: int = 1024, depth: float | None = 0.5, score: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "task": "single",
        "length": length,
        "depth": depth,
        "repeat": 0,
        "seed": 17,
        "score": score,
        "present": True,
        "abstained": False,
        "correct": score == 1.0,
        "answer": {"kind": "one", "values": ["8812"]},
        "completion": "<answer>8812</answer>",
        "finish_reason": "stop",
        "prompt_tokens": length,
        "needles": [],
        "question": "Which code?",
        "error": None,
    } | more


def needle(depth: float, role: str = "answer") -> dict[str, Any]:
    return {"text": "n", "token_start": 1, "token_end": 2, "depth": depth, "role": role, "before": "b", "after": "a"}


def evaluation(lengths: tuple[int, ...] = (512, 4096), depths: tuple[float, ...] = (0.0, 0.5, 1.0)) -> list[dict]:
    rng = random.Random(5)
    cells = [(length, depth, repeat) for length in lengths for depth in depths for repeat in range(4)]
    present = [record(n, d, rng.choice([0.0, 0.5, 1.0]), repeat=r, needles=[needle(d)]) for n, d, r in cells]
    absent = [record(n, None, 1.0, present=False, abstained=True) for n in lengths]
    return present + absent + [record(lengths[0], 0.5, None, error="server timed out")]


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_estimate_by_hand() -> None:
    found = estimate([1.0, 0.0, 1.0, 1.0])  # deviations 1/4, 3/4: variance 3/4 / 3 = 1/4
    assert (found.mean, found.stderr, found.n) == (0.75, 0.25, 4)
    assert str(found) == "0.75±0.25"
    assert str(estimate([0.5])) == "0.50" and str(estimate([])) == "–"


def test_grid_by_hand() -> None:
    records = [
        record(4096, 1.0, 0.5),
        record(1024, 0.0, 1.0),
        record(1024, 0.0, 0.0),
        record(1024, 1.0, 1.0),
        record(4096, 1.0, None, error="timeout"),
        record(8192, 0.0, math.nan),
    ]
    cells = metrics.grid(records)
    assert cells.lengths.tolist() == [1024, 4096] and cells.depths.tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(cells.mean, [[0.5, math.nan], [1.0, 0.5]])
    np.testing.assert_array_equal(cells.stderr, [[0.5, math.nan], [math.nan, math.nan]])
    np.testing.assert_array_equal(cells.n, [[2, 0], [1, 1]])


def test_random_depths_fall_to_the_nearest_tenth_and_the_rest_to_any() -> None:
    one = record(depth=None, needles=[needle(0.4871), needle(0.1, "decoy")])
    two = record(depth=None, needles=[needle(0.2), needle(0.8)], score=0.0)
    assert metrics.depth_of(one) == 0.5 and metrics.depth_of(two) is None
    cells = metrics.grid([two, one])
    assert cells.depths[0] == 0.5 and math.isnan(cells.depths[1])
    assert cells.mean[:, 0].tolist() == [1.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([256, 1024, 4096]),
            st.sampled_from([0.0, 0.3, 0.1 + 0.2, 1.0, None]),
            st.floats(0, 1),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_grid_equals_the_slow_mean(rows: list[tuple[int, float | None, float, bool]]) -> None:
    records = [record(n, d, s, error="x" if failed else None) for n, d, s, failed in rows]
    cells = metrics.grid(records)
    assert cells.mean.shape == cells.stderr.shape == cells.n.shape == (len(cells.depths), len(cells.lengths))
    assert cells.n.sum() == sum(not failed for *_, failed in rows)
    for i, depth in enumerate(cells.depths):
        for j, length in enumerate(cells.lengths):
            mine = [
                s
                for n, d, s, failed in rows
                if not failed and n == length and (math.isnan(depth) if d is None else abs(d - depth) < 1e-6)
            ]
            assert cells.n[i, j] == len(mine)
            if mine:
                assert cells.mean[i, j] == pytest.approx(sum(mine) / len(mine))
            else:
                assert math.isnan(cells.mean[i, j])
            if len(mine) > 1:
                assert cells.stderr[i, j] == pytest.approx(np.std(mine, ddof=1) / math.sqrt(len(mine)), abs=1e-12)


def lengths(scores: dict[int, float]) -> list[dict]:
    return [record(length, 0.5, score) for length, score in scores.items()]


@pytest.mark.parametrize(
    ("scores", "length", "base", "words"),
    [
        ({1024: 0.9, 4096: 0.8, 16384: 0.5}, 4096, 0.9, "the longest tested length"),
        ({1024: 0.9, 4096: 0.5, 16384: 0.9}, 1024, 0.9, "the longest tested length"),  # a later recovery is no reach
        ({4096: 0.07, 8192: 0.0595}, 8192, 0.07, "every tested length"),  # just 85 %, in floats less; none <= 1k
        ({256: 0.5, 1024: 1.0, 4096: 1.0}, None, 1.0, "even the shortest length, 256,"),  # base: the best at <= 1k
        ({1024: 0.0, 4096: 0.0}, None, 0.0, "base score is 0"),
    ],
)
def test_effective_length(scores: dict[int, float], length: int | None, base: float, words: str) -> None:
    found = metrics.effective_length(lengths(scores))
    assert found is not None
    assert (found.length, found.base) == (length, base)
    assert words in found.reason
    assert (found.label == "none") == (length is None)
    assert found.label.startswith("≥") == (length == max(scores))


def test_effective_length_is_of_present_samples_and_none_without_any() -> None:
    assert metrics.effective_length([]) is None
    assert metrics.effective_length([record(error="x", score=None), record(present=False)]) is None
    always_silent = [record(n, 0.5, 0.0, abstained=True) for n in (512, 4096)]
    always_silent += [record(n, None, 1.0, present=False, abstained=True) for n in (512, 4096)]
    found = metrics.effective_length(always_silent)
    assert found is not None and found.length is None


def test_false_answers_by_hand() -> None:
    records = [
        record(512, None, 1.0, present=False, abstained=True),
        record(512, None, 0.0, present=False, abstained=False),
        record(512, None, 0.0, present=False, abstained=False),
        record(512, None, 0.0, present=False, abstained=False),
        record(512, 0.5, 0.0, abstained=True),
        record(512, 0.5, 1.0),
        record(1024, 0.5, 1.0),
        record(1024, 0.5, None, abstained=True, error="timeout"),
    ]
    found = metrics.false_answers(records)
    assert (found.invented.mean, found.invented.stderr, found.invented.n) == (0.75, 0.25, 4)
    assert (found.withheld.mean, found.withheld.n) == (pytest.approx(1 / 3), 3)
    assert list(found.by_length) == [512, 1024]
    invented, withheld = found.by_length[1024]
    assert invented.n == 0 and math.isnan(invented.mean) and (withheld.mean, withheld.n) == (0.0, 1)


def test_by_any_field() -> None:
    records = [record(task="b", hops=2, score=0.0), record(task="a", hops=1), record(task="a", score=0.5)]
    assert [(k, v.mean, v.n) for k, v in metrics.by(records, "task").items()] == [("a", 0.75, 2), ("b", 0.0, 1)]
    assert list(metrics.by(records, "hops")) == [1, 2, None]
    assert list(metrics.by([record(options={"k": 1})], "options")) == ['{"k": 1}']


def test_labels() -> None:
    many = [512, 1000, 1024, 1500, 16384, 32000, 128000, 1048576, 1000000]
    assert [metrics.length_label(n) for n in many] == [
        "512",
        "1k",
        "1k",
        "1,500",
        "16k",
        "32k",
        "128k",
        "1M",
        "1M",
    ]
    assert metrics.length_labels([1024, 16384]) == ["1k", "16k"]
    assert metrics.length_labels([128000, 131072]) == ["128,000", "131,072"]
    assert [metrics.depth_label(d) for d in (0.0, 1 / 34, 0.5, 1.0, math.nan)] == [
        "0",
        "2.9",
        "50",
        "100",
        "any",
    ]


# ---- text -------------------------------------------------------------------------------------------------------


def test_summary_table_says_all() -> None:
    text = metrics.summary_table([record(1024, 0.0, 1.0), record(1024, 0.0, 0.0), record(4096, 1.0, 0.25)])
    lines = text.splitlines()
    assert lines[1].split() == ["depth", "1k", "4k"]
    assert lines[2].split() == ["0", "0.50±0.50", "–"]
    assert lines[3].split() == ["100", "–", "0.25"]
    assert lines[4].split() == ["mean", "0.50±0.50", "0.25"]
    assert lines[5].split() == ["n", "2", "1"]
    for name in ("mean score", "effective length", "false answers", "failures"):
        assert any(line.startswith(name) for line in lines)


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_summary_table_fits_a_terminal(count: int) -> None:
    records = [record(1024 * (j + 1), i / 10, 0.93) for i in range(11) for j in range(count) for _ in range(2)]
    text = metrics.summary_table(records)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("depth  ") == math.ceil(count / 8)


def test_summary_table_of_nothing_and_of_failures() -> None:
    assert "0 of 0 records" in metrics.summary_table([])
    text = metrics.summary_table([record(score=None, error="boom\x1b[31m\nred")] * 3)
    one = metrics.summary([record()])
    assert "1.00 of 1 sample whose" in one and "0 of 1 record, excluded" in one
    assert "3 of 3 records" in text and "3× boom [31m red" in text and "\x1b" not in text


# ---- pictures ---------------------------------------------------------------------------------------------------

FIGURES = {
    "heatmap": lambda records: figures.heatmap(metrics.grid(records), "t"),
    "error_heatmap": lambda records: figures.error_heatmap(metrics.grid(records)),
    "depth_curve": figures.depth_curve,
    "score_histogram": lambda records: figures.score_histogram(r["score"] for r in metrics.present(records)),
    "false_answer_bars": figures.false_answer_bars,
    "side_by_side": lambda records: figures.side_by_side({"a": metrics.grid(records), "b": metrics.grid([])}),
}
INPUTS = {
    "nothing": [],
    "all failures": [record(score=None, error="x")] * 3,
    "one cell": [record()],
    "evaluation": evaluation(),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("records", INPUTS.values(), ids=INPUTS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_every_picture_renders(name: str, records: list[dict]) -> None:
    figure = FIGURES[name](records)
    width, height = size(figures.png(figure))
    inches = figure.get_size_inches()
    assert (width, height) == (round(inches[0] * figures.DPI), round(inches[1] * figures.DPI))
    assert min(width, height) >= 500
    first = figure.axes[0]
    assert first.get_title() and first.get_xlabel() and first.get_ylabel()


def test_pictures_are_reproducible() -> None:
    cells = metrics.grid(evaluation())
    assert figures.png(figures.heatmap(cells)) == figures.png(figures.heatmap(cells))


def test_heatmap_axes() -> None:
    cells = metrics.grid([record(n, d, 0.5) for n in (1024, 16384) for d in (0.0, 0.5, 1.0)][:-1])
    axes, bar = figures.heatmap(cells, "my title").axes
    assert axes.get_title() == "my title"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1k", "16k"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "50", "100"]
    assert axes.get_ylim() == (2.5, -0.5)  # depth 0 on top
    assert axes.get_xlim() == (-0.5, 1.5)
    assert "tokens" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert axes.images[0].get_clim() == (0.0, 1.0) and bar.get_ylim() == (0.0, 1.0)
    assert [t.get_text() for t in axes.texts] == ["0.50"] * 5  # none in the empty cell
    assert axes.patch.get_hatch()


def test_heatmap_of_many_cells_has_no_numbers_and_few_ticks() -> None:
    cells = metrics.grid([record(1000 + 37 * j, i / 34) for i in range(35) for j in range(35)])
    axes = figures.heatmap(cells).axes[0]
    assert not axes.texts and len(axes.get_xticks()) <= 20 and len(axes.get_yticks()) <= 21


def test_depth_curve_lines() -> None:
    records = [record(n, d, 0.5) for n in (1024, 4096) for d in (0.0, 1.0)] + [record(8192, None, 1.0)]
    axes = figures.depth_curve(records).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines][:2] == [[[0, 0.5], [100, 0.5]]] * 2
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["1k", "4k", "8k"]
    assert axes.get_xlim() == (-2, 102) and axes.get_ylim() == (-0.02, 1.02)
    many = figures.depth_curve([record(1000 * n, d) for n in range(1, 21) for d in (0.0, 1.0)]).axes[0]
    assert len(many.lines) == figures.MOST_LINES and "7 of 20" in many.get_legend().get_title().get_text()


def test_score_histogram_counts_and_ignores_what_is_not_finite() -> None:
    axes = figures.score_histogram([0.0, 0.02, 1.0, math.nan, math.inf]).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert (heights[0], heights[-1], sum(heights)) == (2, 1, 3) and "n = 3" in axes.get_title()
    assert figures.score_histogram([-1.0, 1.0]).axes[0].get_xlim() == (-1.0, 1.0)


def test_false_answer_bars_heights() -> None:
    records = [record(512, None, 0.0, present=False), record(512, None, 1.0, present=False, abstained=True)]
    axes = figures.false_answer_bars([*records, record(512, abstained=True, score=0.0)]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.5, 1.0]
    assert [t.get_text() for t in axes.texts] == ["50%\nn=2", "100%\nn=1"]


def test_side_by_side_aligns_different_grids() -> None:
    a, b = (
        metrics.grid([record(1024, 0.0, 0.2)]),
        metrics.grid([record(4096, 1.0, 0.8), record(4096, None, 0.4)]),
    )
    figure = figures.side_by_side({"before": a, "after": b})
    left, right, _ = figure.axes
    assert left.get_title() == "before (mean 0.20)" and right.get_title() == "after (mean 0.60)"
    assert left.get_xlim() == right.get_xlim() == (-0.5, 1.5) and left.get_ylim() == right.get_ylim() == (2.5, -0.5)
    shown = left.images[0].get_array()
    assert shown[0, 0] == 0.2 and np.ma.count(shown) == 1
    np.testing.assert_array_equal(np.ma.filled(right.images[0].get_array()[:, 1], -1), [-1, 0.8, 0.4])
    with pytest.raises(ValueError, match="no grids"):
        figures.side_by_side({})


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3)])
def test_side_by_side_shares_labels_and_the_colour_bar(count: int, columns: int) -> None:
    cells = metrics.grid([record(n, d, 0.5) for n in (4096, 8192, 16384, 32768) for d in (0.0, 0.5, 1.0)])
    *panels, bar = figures.side_by_side({f"model {k}": cells for k in range(count)}).axes
    assert bar.get_ylabel() == "mean score" and [p.get_title()[:7] for p in panels[:count]] == [
        f"model {k}" for k in range(count)
    ]
    assert [bool(p.get_ylabel()) for p in panels[:count]] == [k % columns == 0 for k in range(count)]
    assert [bool(p.get_xlabel()) for p in panels[:count]] == [k + columns >= count for k in range(count)]


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=30))
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_title_is_never_a_formula(title: str) -> None:
    figure = figures.heatmap(metrics.grid([record()]), r"$\frac$ " + title)
    assert isinstance(figure, Figure)
    figure.set_dpi(40)
    figure.draw_without_rendering()


# Machado, Oliveira and Fernandes 2009: full deuteranopia and protanopia, on linear RGB.
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def nearest_pair(colours: Any, matrix: list[list[float]], apart: float) -> float:
    """The least CIE76 difference between two scores at least `apart`, seen through `matrix`."""
    scores = np.linspace(0, 1, 21)
    rgb = colours(scores)[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
    xyz = np.clip(linear, 0, 1) @ XYZ.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    return min(
        float(np.linalg.norm(lab[i] - lab[j]))
        for i in range(21)
        for j in range(i)
        if scores[i] - scores[j] >= apart - 1e-9
    )


@pytest.mark.parametrize("kind", BLIND)
def test_colours_can_be_told_apart_without_red_and_green(kind: str) -> None:
    assert nearest_pair(figures.SCORE_MAP, BLIND[kind], 0.25) > 20
    assert nearest_pair(figures.SCORE_MAP, BLIND[kind], 0.5) > 35
    assert nearest_pair(colormaps["RdYlGn"], BLIND[kind], 0.5) < 15


# ---- files and the command --------------------------------------------------------------------------------------


def test_write_report(tmp_path: Path) -> None:
    config = {"model": "tiny", "api_key": "sk-1-2-3", "server": {"hf_token": "a-b-c", "max_tokens": 77}}
    paths = report.draw_report(evaluation(), "A <title>", config).write(tmp_path / "new" / "out")
    assert size(paths.pictures["heatmap"].read_bytes()) > (500, 500)
    names = {path.name for path in paths.html.parent.iterdir()}
    pictures = {"heatmap", "depth_curve", "error_heatmap", "score_histogram", "false_answers"}
    assert names == {"report.html", "grid.csv"} | {f"{name}.png" for name in pictures}  # and no temporary file
    rows = list(csv.DictReader(io.StringIO(paths.grid_csv.read_text())))
    assert list(rows[0]) == ["length", "depth", "mean", "stderr", "n"] and len(rows) == 6
    cells = metrics.grid(metrics.present(evaluation()))
    assert float(rows[0]["mean"]) == pytest.approx(cells.mean[0, 0]) and rows[0]["n"] == "4"
    page = paths.html.read_text()
    assert "A &lt;title&gt;" in page and "sk-1-2-3" not in page and "a-b-c" not in page and "77" in page
    assert page.count("data:image/png;base64,") == 5 and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("records", INPUTS.values(), ids=INPUTS)
def test_write_report_of_any_input(records: list[dict], tmp_path: Path) -> None:
    paths = report.draw_report(records, "t", {}).write(tmp_path)
    assert paths.html.read_text().endswith("</html>\n")
    assert paths.grid_csv.read_text().startswith("length,depth,mean,stderr,n\n")


def write(path: Path, rows: list[Any], end: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(report.app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_command_one_evaluation(tmp_path: Path) -> None:
    samples = write(tmp_path / "samples.jsonl", evaluation())
    code, output = run(samples, "--out", tmp_path / "o")
    assert code == 0 and str(tmp_path / "o" / "report.html") in output and "effective length" in output
    assert (tmp_path / "o" / "report.html").exists()


def test_command_several_evaluations_and_rollouts(tmp_path: Path) -> None:
    before = write(tmp_path / "before" / "samples.jsonl", evaluation())
    after = write(tmp_path / "after" / "samples.jsonl", evaluation())
    rollouts = write(tmp_path / "r.jsonl", [{"scores": [1.0], "completions": ["hi"]}])
    code, output = run(before, after, rollouts, "--out", tmp_path / "o")
    assert code == 0, output
    for name in ("before/report.html", "after/report.html", "side_by_side.png", "comparison.html", "r.html"):
        assert (tmp_path / "o" / name).exists() and str(tmp_path / "o" / name) in output


def test_command_tolerates_a_last_line_cut_off(tmp_path: Path) -> None:
    samples = write(tmp_path / "samples.jsonl", evaluation(), end='{"task": "single", "len')
    code, output = run(samples, "--out", tmp_path / "o")
    assert code == 0 and "1 line cut off" in output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "no complete row"),
        ("\n\n", "no complete row"),
        ('{"task', "no complete row"),
        ('{"task": "x"\n', "bad.jsonl:1: invalid JSON"),
        (json.dumps(record()) + "\n\n{nope}\n" + json.dumps(record()) + "\n", "bad.jsonl:3: invalid JSON"),
        ('{"hello": 1}\n', "bad.jsonl:1: neither"),
        ("[1]\n", "bad.jsonl:1: neither"),
        (json.dumps(record()) + '\n{"score": 1}\n', "bad.jsonl:2: length is None"),
        (json.dumps(record(depth=50)) + "\n", "depth is 50"),
        (json.dumps(record(needles=["x"])) + "\n", "needles must be"),
    ],
)
def test_command_errors_are_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    if text is not None:
        path.write_text(text)
    code, output = run(path, "--out", tmp_path / "o")
    assert code == 2 and words in output and "Traceback" not in output
    assert len(output.strip().splitlines()) == 1 and output.startswith("error: ")


def test_the_work_grows_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "png", lambda _: b"")  # ink: the same work for any number of records
    rng = random.Random(1)
    records = [record(rng.choice([512, 1024, 4096]), rng.randrange(11) / 10, rng.random()) for _ in range(2_000)]
    assert grows_linearly(lambda count: report.draw_report(records[:count], "t", {}).write(tmp_path), 500)
