"""Every example runs as a user runs it, with a toy model, and says what it is there to show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import save_tiny

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
MOST_BYTES = 200_000  # of the notebook, pictures included


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "toy", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def output(model: Path, folder: Path) -> Iterator[dict[str, str]]:
    """What each program prints; they start together, since most of their time is imports."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    running = {
        program.stem: subprocess.Popen(
            [sys.executable, str(program), str(model)],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for program in PROGRAMS
    }
    try:
        yield {name: process.communicate(timeout=PATIENCE)[0] for name, process in running.items()}
        assert not {name: process.returncode for name, process in running.items() if process.returncode}
    finally:
        for process in running.values():
            process.kill()


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
