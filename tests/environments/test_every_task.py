"""Every task runs in every command: `process`, `evaluate` with its report, and `serve`'s curriculum."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from environments.curriculum import task_ladders
from environments.curriculum.policy import Curriculum
from environments.haystack.sample import rebuild
from environments.haystack.tasks import TASKS
from environments.haystack.tokens import load_tokenizer
from tests.environments.loopback import ChatServer, command, make_env, rows_of, run_cli

pytestmark = pytest.mark.usefixtures("clean")
ASKED = [task.name for task in TASKS.own if not task.fixed]
SETTINGS = {"env_tasks": ",".join(ASKED), "env_lengths": "9000", "env_absent_share": 0, "env_group_size": 1}


def test_process_writes_a_row_of_each_that_can_be_built_again(
    server: ChatServer, tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    more: dict[str, Any] = {"env_total_steps": len(ASKED), "env_data_path_to_save_groups": out}
    assert run_cli(command("process", tokenizer, server.url, **SETTINGS | more)) == 0
    rows, loaded = rows_of(out), load_tokenizer(str(tokenizer))
    assert sorted(row["recipe"]["task"] for row in rows) == sorted(ASKED)
    for row in rows:
        sample = rebuild(row["recipe"], loaded)
        assert (sample.question, sample.length) == (row["question"], 9000)


def test_evaluate_reports_each(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"env_depths": 1, "env_repeats": 1, "env_data_dir_to_save_evals": tmp_path}
    assert run_cli(command("evaluate", tokenizer, server.url, **SETTINGS | more)) == 0
    records = rows_of(tmp_path / "samples.jsonl")
    assert {record["task"] for record in records} == set(ASKED) and not any(record["error"] for record in records)
    page = (tmp_path / "report.html").read_text()
    assert all(task in page for task in ASKED)


def test_the_curriculum_climbs_each(server: ChatServer, tokenizer: Path) -> None:
    present = [name for name in ASKED if not TASKS[name].absent]
    env = make_env(tokenizer, server.url, tasks=",".join(present), lengths="9000", absent_share=0.3)
    curriculum = Curriculum(env._ladders())
    for index, name in enumerate(present):
        task, counted, difficulty = task_ladders.draw(curriculum, present, index, Random(index))
        options = task_ladders.options(env.options, difficulty)
        assert counted == name and task in TASKS
        assert env.haystacks.variant(options).sample(index, "train", task, difficulty.length).length == 9000
