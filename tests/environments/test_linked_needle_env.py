"""LinkedNeedleEnv end to end: process and evaluate against the embedded server, and what it refuses to start with."""

import json
from pathlib import Path
from typing import Any

import pytest

from environments.haystack.sample import rebuild
from environments.haystack.tokens import load_tokenizer
from environments.inference.embedded.server import EmbeddedServer
from environments.linked_needle_env import LinkedNeedleEnv
from longthread.errors import ConfigError
from tests.environments.loopback import (
    ChatServer,
    command,
    make_env,
    model_folder,
    rows_of,
    run_cli,
    said,
    tokenizer_folder,
)

pytestmark = pytest.mark.usefixtures("clean")

PROFILE = {"hops", "needed", "inversions", "span", "decoys", "distractors", "superseded"}
TASKS = "chain,update,find_all,count,order,join"
SETTINGS = {"tasks": TASKS, "lengths": "5000", "decoys": 1, "distractors": 2, "max_new_tokens": 4, "matches": "3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def test_default_tasks_are_the_linked_ones() -> None:
    config, _ = LinkedNeedleEnv.config_init()
    assert config.tasks == TASKS and config.wandb_name == "linked_needle"


def check_profile(found: dict[str, Any], task: str) -> None:
    assert found.keys() >= PROFILE and found["hops"] >= 1 and found["distractors"] >= 2
    assert found["decoys"] >= 2 and (found["span"] is None) == (found["needed"] == 0)
    assert (found["inversions"] is not None) == (task in ("chain", "update", "order", "join"))


async def test_process_against_the_embedded_server(folder: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(folder)
    url, out = await server.start(), tmp_path / "rollouts.jsonl"
    settings = {**SETTINGS, "group_size": 2, "total_steps": 7, "absent_share": 0.15}
    served = {"model_name": folder.name}
    env = make_env(folder, url, LinkedNeedleEnv, served, data_path_to_save_groups=str(out), **settings)
    try:
        await env.process_manager()
    finally:
        await server.stop()
    rows = rows_of(out)
    tasks = [row["recipe"]["task"] for row in rows]
    assert len(rows) == 7 and {task.removeprefix("absent_") for task in tasks} == set(TASKS.split(","))
    assert sum(task.startswith("absent") for task in tasks) == 1 and out.with_suffix(".html").is_file()
    for row, task in zip(rows, tasks, strict=True):
        check_profile(row["profile"], task)
        assert len(row["completions"]) == len(row["scores"]) == 2 and row["length"] == 5000
    again = rebuild(rows[0]["recipe"], load_tokenizer(str(folder)))
    assert json.loads(json.dumps(again.to_json()))["needles"] == rows[0]["needles"]


async def test_graphs_hidden_questions_and_chats_are_evaluated(tmp_path: Path) -> None:
    """Each with its absent twin, between tasks of prose: a run draws from both texts."""
    tasks = "chain,graph,hidden_question,turns,sessions"
    with ChatServer(said("<answer>none</answer>")).running() as server:
        settings = {**SETTINGS, "tasks": tasks, "numbered": True, "versions": "2", "repeats": 1, "depths": "0.5"}
        folder, out = tokenizer_folder(tmp_path / "tokenizer"), str(tmp_path / "out")
        env = make_env(folder, server.url, LinkedNeedleEnv, **settings, data_dir_to_save_evals=out)
        await env.evaluate()
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert {r["task"] for r in records if r["present"]} == set(tasks.split(","))
    assert all(r["abstained"] and r["score"] < 0.02 + (not r["present"]) for r in records)


async def test_evaluate_records_the_profile(folder: Path, tmp_path: Path) -> None:
    with ChatServer(said("<answer>none</answer>")).running() as server:
        settings = {**SETTINGS, "repeats": 1, "depths": "0.5", "data_dir_to_save_evals": str(tmp_path / "out")}
        env = make_env(tokenizer_folder(tmp_path / "tokenizer"), server.url, LinkedNeedleEnv, **settings)
        await env.evaluate()
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert {r["task"] for r in records if r["present"]} == set(TASKS.split(",")) and not all(
        r["present"] for r in records
    )
    for record in records:
        check_profile(record, record["task"])
        assert record["score"] == (0.02 if record["present"] else 1)
        assert record["abstained"] and "steps" in record["answer"]
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"hops": "1"}, ("hops '1'", "2 to 8")),
        ({"hops": "x"}, ("hops 'x'", "2-8")),
        ({"matches": "65"}, ("matches '65'", "2 to 64")),
        ({"decoys": 600}, ("decoys 600", "-1 to 512")),
        ({"min_span": 2.0}, ("min_span 2", "0 to 0.9")),
        ({"update_ask": "soon"}, ("'soon'", "update_ask must be one of current, then, times")),
        ({"decoys": 512, "hops": "8"}, ("lengths", "decoys")),
    ],
)
def test_wrong_settings_fail_before_any_work(wrong: dict, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        make_env(tokenizer_folder(tmp_path), "http://127.0.0.1:9/v1", LinkedNeedleEnv, **{**SETTINGS, **wrong})
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = command("process", tokenizer_folder(tmp_path), "http://127.0.0.1:9/v1", env_tasks="chain", env_hops="9",
                   env_lengths="5000")  # fmt: skip
    assert run_cli(argv, LinkedNeedleEnv) != 0
    printed = capsys.readouterr()
    assert "hops '9' is outside 2 to 8" in printed.err + printed.out and "Traceback" not in printed.err + printed.out
