"""metrics.json, in the form of atroposlib's evaluate_log."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from environments.reports.metrics import write_metrics


def record(task: str, length: int, score: float, present: bool = True) -> dict[str, Any]:
    common = {"task": task, "length": length, "score": score, "depth": 0.5 if present else None, "present": present}
    abstained = score == 1 if not present else False
    return common | {
        "abstained": abstained,
        "correct": score == 1,
        "completion": "c",
        "predicted": 0 if abstained else 1,
    }


def written(path: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    write_metrics(path / "metrics.json", records, {"model_name": "model"}, "needle")
    text = (path / "metrics.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert [file.name for file in path.iterdir()] == ["metrics.json"]
    return json.loads(text)


def test_means_and_standard_errors(tmp_path: Path) -> None:
    scores = [1.0, 0.0, 1.0, 1.0]
    records = [record("single", 1024 * (1 + i % 2), s) for i, s in enumerate(scores)] + [
        record("absent", 1024, 1.0, False)
    ]
    body = written(tmp_path, records)
    assert set(body) == {"config_general", "results"} and body["config_general"]["model_name"] == "model"
    found = body["results"]["atropos|needle|0"]
    assert found == body["results"]["all"]
    assert found["eval/score"] == pytest.approx(0.8) and found["eval/score_present"] == pytest.approx(0.75)
    spread = math.sqrt(sum((s - 0.8) ** 2 for s in [*scores, 1.0]) / 4)
    assert found["eval/score/stderr"] == pytest.approx(spread / math.sqrt(5))
    assert found["eval/score_by_task/single"] == pytest.approx(0.75) and found["eval/score_by_task/absent"] == 1
    assert found["eval/score_by_length/2048"] == pytest.approx(0.5)
    assert all(isinstance(value, int | float) for value in found.values())


def test_one_record_has_no_standard_error(tmp_path: Path) -> None:
    found = written(tmp_path, [record("single", 1024, 1.0)])["results"]["all"]
    assert found["eval/score"] == 1 and "eval/score/stderr" not in found and "eval/false_answers" not in found


def test_a_second_evaluation_replaces_the_file(tmp_path: Path) -> None:
    written(tmp_path, [record("single", 1024, 1.0)])
    assert written(tmp_path, [record("single", 1024, 0.0)])["results"]["all"]["eval/score"] == 0
