"""Rows: endless, the same everywhere, scored as the environments score them, and proved from their own text."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from environments.config import HaystackEnvConfig
from environments.config_checks import check
from environments.haystack.facts import SPLITS
from environments.haystack.options import Options
from environments.haystack.sample import rebuild
from environments.haystack.tasks import TASKS
from environments.haystack.tokens import load_tokenizer
from environments.rollouts.requests import training_request
from environments.tasksets import core
from environments.tasksets.core import (
    Row,
    Rows,
    TasksetConfig,
    read_config,
    reply_text,
    samples,
    score_completion,
    score_row,
    solve,
    target_of,
)
from longthread.errors import ConfigError, DataError
from tests.environments.tasksets.frameworks import config

ASKED = [name for name, task in TASKS.items() if not task.fixed]


@pytest.fixture(scope="module")
def row(tokenizer: Path) -> Row:
    return Rows(config(tokenizer, absent_share=0))[0]


@pytest.fixture(scope="module")
def of_every_task(tokenizer: Path) -> dict[str, Row]:
    """A row of each task, with passages to cite where any passage can be left out."""
    rows = {}
    for numbered in (False, True):
        tasks = [task for task in ASKED if bool(TASKS[task].items) != numbered]
        drawn = Rows(config(tokenizer, tasks=",".join(tasks), lengths="9000", absent_share=0, numbered=numbered))
        rows |= dict(zip(tasks, drawn, strict=False))
    return rows


@pytest.mark.parametrize("task", ASKED)
def test_every_task_is_solved_from_its_text(task: str, of_every_task: dict[str, Row], tokenizer: Path) -> None:
    row = json.loads(json.dumps(of_every_task[task]))
    earned = score_row(solve(row, str(tokenizer)), row)
    assert row["task"] == task and earned.correct and earned.score == 1


def test_facts_that_do_not_fit_are_drawn_again(tokenizer: Path) -> None:
    """One row in six at this length; a run would end with the first of them."""
    tight = Rows(config(tokenizer, tasks="find_all", lengths="1000", absent_share=0, decoys=0, matches="2-14"))
    rows = list(islice(tight, 8))
    seeds = [row["recipe"]["seed"] for row in rows]
    assert seeds != list(range(8)) and len(set(seeds)) == 8
    assert {row["length"] for row in rows} == {1000}


def test_the_tasks_take_turns_as_in_the_environments(tokenizer: Path) -> None:
    changes = {"tasks": "single,find_all,count", "lengths": "1300,1500", "absent_share": 0.3, "seed": 7}
    env = HaystackEnvConfig(tokenizer_name=str(tokenizer), **changes)
    asked = [training_request(env, check(env, []), i) for i in range(20)]
    drawn = list(islice(samples(config(tokenizer, **changes)), 20))
    assert [(row["task"], row["length"], row["recipe"]["seed"]) for row in drawn] == [
        (request.task, request.length, request.seed) for request in asked
    ]
    assert sum(TASKS[row["task"]].absent for row in drawn) == 6


def test_rows_are_json_and_rebuild(row: Row, tokenizer: Path) -> None:
    again = json.loads(json.dumps(row))
    assert again == row == Rows(config(tokenizer, absent_share=0))[0]
    assert rebuild(row["recipe"], load_tokenizer(str(tokenizer))).messages == row["messages"]
    assert not {"messages"} & set(target_of(row))


def test_train_and_eval_have_no_row_in_common(tokenizer: Path) -> None:
    rows = {split: list(islice(samples(config(tokenizer, split=split)), 8)) for split in SPLITS}
    train, held_out = ({str(row["messages"]) for row in rows[split]} for split in ("train", "eval"))
    assert len(train) == len(held_out) == 8 and not train & held_out


def test_every_option_of_a_sample_has_its_own_name_and_default() -> None:
    derived = {"pool_tokens", "seeds_per_pool", "may_abstain"}
    for option in Options.fields():
        assert option.name in derived or TasksetConfig.model_fields[option.name].default == option.default


WRONG = {
    "a task that is none": ({"tasks": "single,find"}, "tasks", "find"),
    "no task": ({"tasks": ""}, "tasks", "empty"),
    "too short": ({"lengths": "40"}, "lengths", "40"),
    "no length": ({"lengths": "long"}, "lengths", "long"),
    "no tokenizer": ({"tokenizer": ""}, "tokenizer_name", "tokenizer"),
    "a tokenizer that is not there": ({"tokenizer": "/nowhere"}, "tokenizer_name", "/nowhere"),
    "another split": ({"split": "test"}, "split", "train, eval"),
    "an option's value": ({"value_kind": "colours"}, "value_kind", "colours"),
    "a share": ({"absent_share": 1}, "absent_share", "0.9"),
}


@pytest.mark.parametrize(("changes", "setting", "word"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_one_line(changes: dict[str, Any], setting: str, word: str, tokenizer: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        Rows(config(tokenizer, **changes))
    assert setting in raised.value.settings and word in raised.value.line() and "\n" not in raised.value.line()


CHANGED = {
    "answer": {"answer": {"kind": "one", "values": ["42"], "value_kind": "numbers", "steps": []}},
    "recipe": {"recipe": {}},
    "digest": {"digest": "0" * 32},
    "length": {"length": "1300"},
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_changed_row_earns_nothing_and_is_said_so(change: dict[str, Any], row: Row) -> None:
    with pytest.raises(DataError, match="row"):
        score_row("<answer>42</answer>", {**row, **change})


def test_a_row_without_a_field_is_none(row: Row) -> None:
    with pytest.raises(DataError, match="answer"):
        score_row("", {name: value for name, value in row.items() if name != "answer"})


def test_a_cut_prompt_is_not_proved(row: Row, tokenizer: Path) -> None:
    content = row["messages"][0]["content"]
    with pytest.raises(DataError, match="messages"):
        solve({**row, "messages": [{"role": "user", "content": content[200:]}]}, str(tokenizer))


def test_a_row_of_another_tokenizer_is_refused(row: Row, tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in tokenizer.iterdir():
        (folder / file.name).write_text(file.read_text().replace("assistant", "model"))
    with pytest.raises(ConfigError, match="for tokenizer"):
        solve(row, str(folder))


def test_thinking_that_the_template_opened(row: Row) -> None:
    opened = {**row, "opened": "<think>"}
    opened["digest"] = core._digest(target_of(row) | {"opened": "<think>"})
    value = row["answer"]["values"][0]
    draft = f"Perhaps <answer>{value}</answer>"
    assert score_row(draft, opened).score == 0  # all that the model wrote: still thinking
    assert score_row(draft, opened, finished=False).score == 0  # cut
    assert score_row(draft, opened, finished=True).score == 1  # the server took the thinking out
    assert score_row(f"{draft}</think><answer>{value}</answer>", opened).score == 1


def test_reasoning_in_a_field_of_its_own_is_no_part_of_the_reply(row: Row) -> None:
    opened = {**row, "opened": "<think>"}
    opened["digest"] = core._digest(target_of(row) | {"opened": "<think>"})
    text = f"<answer>{row['answer']['values'][0]}</answer>"
    message = {"role": "assistant", "content": text}
    assert score_completion([message], opened).score == 0
    assert score_completion([message | {"reasoning_content": "Hm."}], opened).score == 1


def test_settings_by_name() -> None:
    assert read_config({"tasks": ["single", "count"], "values": "4"}).tasks == "single,count"
    for settings, word in (({"task": "single"}, "task"), ({"values": "many"}, "values")):
        with pytest.raises(ConfigError, match=word):
            read_config(settings)


REPLIES = {
    "none": (None, ""),
    "text": ("a", "a"),
    "message": ({"role": "assistant", "content": "a"}, "a"),
    "messages": ([{"role": "user", "content": "b"}, {"role": "assistant", "content": "a"}], "a"),
    "no messages": ([], ""),
    "parts": ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}, "b"]}], "ab"),
    "no content": ([{"role": "assistant", "content": None}], ""),
    "tool call": ([{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}], ""),
    "tool result last": ([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}], ""),
    "number": (7, ""),
}


@pytest.mark.parametrize(("completion", "text"), REPLIES.values(), ids=REPLIES)
def test_reply_text_of_any_form(completion: Any, text: str) -> None:
    assert reply_text(completion) == text
