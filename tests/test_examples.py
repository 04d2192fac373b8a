"""Every example runs as a user runs it, with a toy model, and says what it is there to show.

Those that load a model are forked, since most of their time would be imports.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import peft  # noqa: F401 (here, or a fork would import it)
import pytest

from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import save_tiny
from tests.forked import forked

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("0*.py"))
SAID = {
    "01_sample": "tokens, chat template included: 2048",
    "02_scoring": "1.000  all three\n",
    "03_evaluate": "look at: evaluation/heatmap.png",
    "04_rows_for_axolotl": "8 rows of 2048 tokens",
    "05_document_to_memory": "mill",
    "06_own_task": "What do friends call",
}
WITH_MODEL = ("03_evaluate", "05_document_to_memory")
MOST_BYTES = 200_000  # of the notebook, pictures included


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "toy", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


def run_program(arguments: Sequence[str]) -> None:
    folder, program, model = arguments
    os.chdir(folder)
    sys.argv = [program, model]
    runpy.run_path(program, run_name="__main__")


@pytest.fixture(scope="module")
def output(model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each program prints."""
    environment = {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    said = {}
    with forked(run_program, len(WITH_MODEL), tmp_path_factory.mktemp("forked")) as waiting:
        for name, one in zip(WITH_MODEL, waiting, strict=True):
            one.begin(str(folder), str(EXAMPLES / f"{name}.py"), str(model), **environment)
        for program in PROGRAMS:
            if program.stem not in WITH_MODEL:
                line = [sys.executable, str(program), str(model)]
                done = subprocess.run(
                    line, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE
                )
                assert done.returncode == 0, done.stdout + done.stderr
                said[program.stem] = done.stdout + done.stderr
        for name, one in zip(WITH_MODEL, waiting, strict=True):
            one.process.join(PATIENCE)
            said[name] = one.out.read_text() + one.err.read_text()
            assert one.process.exitcode == 0, said[name]
        yield said


@pytest.mark.parametrize("name", SAID)
def test_a_program_runs_on_a_cpu_and_shows_its_result(name: str, output: dict[str, str]) -> None:
    assert SAID[name] in output[name], output[name][-2000:]


def test_there_are_six_programs_of_at_most_40_lines() -> None:
    assert {program.stem for program in PROGRAMS} == set(SAID)
    assert all(len(program.read_text().splitlines()) <= 40 for program in PROGRAMS)


def test_the_programs_leave_what_they_say(output: dict[str, str], folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["role"] for row in rows] == ["assistant"] * 8
    assert (folder / "evaluation" / "report.html").is_file()
    assert json.loads((folder / "memories" / "library" / "index.json").read_text())["documents"][0]["name"] == "mill"


def test_the_tour_runs_and_keeps_its_outputs(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text())
    assert (EXAMPLES / "tour.ipynb").stat().st_size < MOST_BYTES
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names["MODEL"] = str(model)
        else:
            assert cell["outputs"], cell["source"]
