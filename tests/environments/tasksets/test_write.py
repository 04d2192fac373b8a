"""Rows in files: one JSON object a line in the form of each framework, all of them or no file."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from environments.tasksets import core, write
from environments.tasksets.write import Format
from tests.environments.loopback import SHORT
from tests.environments.tasksets.frameworks import config


def target(form: Format, line: dict[str, Any]) -> dict[str, Any]:
    if form == Format.SKYRL:
        return json.loads(line["reward_spec"]["ground_truth"])
    return json.loads(line["target"]) if form == Format.TRL else line["target"]


@pytest.mark.parametrize("form", Format)
def test_the_rows_of_a_config_in_a_file(form: Format, tokenizer: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "rows.jsonl", config(tokenizer, split="eval")
    write.write(asked, form, out, 3)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    rows = list(islice(core.samples(asked), 3))
    assert [target(form, line) for line in lines] == [core.target_of(row) for row in rows]
    for row, line in zip(rows, lines, strict=True):
        asked_there = line["prompt"] if "prompt" in line else line["responses_create_params"]["input"]
        assert [m["content"] for m in asked_there] == [m["content"] for m in row["messages"]]


WRONG = {
    "count": (["--count", "0"], "--count"),
    "task": (["--set", "tasks=single,find"], "--set tasks="),
    "name": (["--set", "task=single"], "task"),
    "form": (["--set", "lengths"], "NAME=VALUE"),
    "type": (["--set", "values=many"], "--set values="),
    "length": (["--set", "lengths=40"], "--set lengths="),
}


@pytest.mark.parametrize(("args", "said"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_one_line_and_write_nothing(
    args: list[str], said: str, tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    result = CliRunner().invoke(write.app, ["trl", str(out), "--tokenizer", str(tokenizer), *args])
    assert result.exit_code == 2 and not out.exists()
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_the_command_writes(tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    args = ["trl", str(out), "--tokenizer", str(tokenizer), "--count", "2", "--set", f"lengths={SHORT}"]
    assert CliRunner().invoke(write.app, args).exit_code == 0
    assert len(out.read_text().splitlines()) == 2
    assert CliRunner().invoke(write.app, args).exit_code == 2  # it exists
