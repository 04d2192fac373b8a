"""Models asked the same general questions: the shares, the difference with its error, and a run that goes on."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.general_knowledge import app, difference
from environments.datasets import general_knowledge
from environments.datasets.general_knowledge import GeneralQuestion
from tests.environments.tiny_model import save_tiny


def replies(path: Path, *right: bool) -> Path:
    rows = [{"kind": "k", "question": str(number), "reply": "", "right": one} for number, one in enumerate(right)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_difference_is_of_the_same_questions(tmp_path: Path) -> None:
    first = replies(tmp_path / "a", True, True, False, False)
    assert difference(first, replies(tmp_path / "b", True, False, False, False)) == (-0.25, pytest.approx(0.25))
    assert difference(first, replies(tmp_path / "c", True, True, False)) == (0.0, 0.0)


def test_two_models_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [GeneralQuestion("a", "Which?", ("x",)), GeneralQuestion("b", "Who?", ("y",))]
    monkeypatch.setattr(general_knowledge, "questions", lambda: few)
    model = save_tiny(tmp_path / "kept" / "model")
    arguments = [str(tmp_path / "out"), "--model", str(model), "--model", str(model)]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "kept/model" in said.output and "(+0.0 ± 0.0)" in said.output
    files = {path.name: path.read_text() for path in (tmp_path / "out").glob("*.jsonl")}
    assert set(files) == {"0-model.jsonl", "1-model.jsonl"} and all(text.count("\n") == 2 for text in files.values())
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert files == {path.name: path.read_text() for path in (tmp_path / "out").glob("*.jsonl")}
    other = save_tiny(tmp_path / "other" / "model", vocab_size=300)
    refused = CliRunner().invoke(app, [str(tmp_path / "out"), "--model", str(other), "--model", str(model)])
    assert refused.exit_code == 2 and "another 0-model" in refused.output
