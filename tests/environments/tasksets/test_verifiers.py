"""verifiers 0.4: its own commands find the taskset, prove it without a model, and evaluate a served one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import environments.tasksets
from environments.inference.embedded.server import background
from environments.tasksets import core
from tests.environments.loopback import SHORT, model_folder
from tests.environments.tasksets.frameworks import right

vf = pytest.importorskip("verifiers.v1", reason="verifiers 0.4 is not installed: make test-frameworks")
HUB = Path(environments.tasksets.__path__[0]) / "longthread_vf"
sys.path.append(str(HUB))  # as `pip install` of the folder would

SETTINGS = {"lengths": SHORT, "decoys": "1", "absent_share": "0"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def task(model: Path) -> Any:
    from longthread_vf.taskset import LongthreadConfig, LongthreadTaskset

    return next(iter(LongthreadTaskset(LongthreadConfig(tokenizer=str(model), **SETTINGS))))


def trace(reply: str | None, finish_reason: str = "stop", prompt_tokens: int = 1300, cached: int = 0) -> Any:
    """As much of a trace as scoring reads."""
    messages = [] if reply is None else [vf.AssistantMessage(content=reply)]
    usage = vf.Usage(prompt_tokens=prompt_tokens - cached, completion_tokens=1, cached_input_tokens=cached)
    call = SimpleNamespace(finish_reason=finish_reason, usage=usage)
    return SimpleNamespace(assistant_messages=messages, calls=[call], num_turns=len(messages))


async def test_rewards_and_metrics(task: Any) -> None:
    reply = trace(right(task.data.target), cached=900)  # verifiers counts what a cache held apart from the rest
    assert await task.reward(reply) == 1.0 and await task.one_turn(reply)
    metrics = await task.metrics(reply)
    assert metrics == {"exact": 1.0, "abstained": 0.0, "well_formed": 1.0, "prompt_tokens_off": 0.0}
    assert await task.reward(trace(None)) == 0.0 and not await task.one_turn(trace(None))
    assert (await task.metrics(trace("", prompt_tokens=515)))["prompt_tokens_off"] == 515 - 1300


async def test_a_task_is_named_by_its_row_and_proved_from_its_text(task: Any, model: Path) -> None:
    row = core.Rows(core.TasksetConfig(tokenizer=str(model), **SETTINGS))[0]
    assert task.key == row["digest"] == task.with_data(idx=7).key
    assert isinstance(task.data.prompt, list)  # as one text it would go on a command line, which holds 128 KiB
    assert await task.validate(None) is True


def command(name: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(environments.tasksets.__path__[0]).parents[1]
    found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(HUB)]), "PATH": found, "KEY": "secret"}
    run = [str(Path(sys.executable).parent / name), "longthread-vf", *args]
    return subprocess.run(run, cwd=cwd, env=given, capture_output=True, text=True, timeout=540)


def flags(section: str, **settings: str) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{section}.{name.replace('_', '-')}", value)]


def test_vf_validate_and_a_wrong_setting(model: Path, tmp_path: Path) -> None:
    own = ["--runtime.type", "subprocess", "--no-rich", "--only-gold", "-n", "3", "-o", str(tmp_path)]
    done = command("vf-validate", *flags("taskset", tokenizer=str(model), **SETTINGS), *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout[done.stdout.index("{") :])["outcomes"]["valid"] == 3
    wrong = command("vf-validate", *flags("taskset", tokenizer=str(model), tasks="find"), *own, cwd=tmp_path)
    assert wrong.returncode == 2 and "error: tasks must be one of" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[str]:
    with background(model, port=0, api_key="secret", threads=1) as url:
        yield url


def test_vf_eval_on_the_embedded_server(model: Path, served: str, tmp_path: Path) -> None:
    """The harness streams. verifiers installs it with uv, from PyPI, the first time."""
    done = command(
        "vf-eval", *flags("env.taskset", tokenizer=str(model), **SETTINGS),
        "--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess",
        "--client.base-url", served, "--client.api-key-var", "KEY", "--model", model.name,
        "--sampling.max-tokens", "8", "--no-push", "--no-rich", "-n", "2", "-r", "2", "-o", str(tmp_path), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*/traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    traces = [trace for episode in episodes for trace in episode.get("traces", [episode])]
    assert len(traces) == 4 and len({trace["task"]["key"] for trace in traces}) == 2
    for trace in traces:
        assert not trace["errors"] and 0 <= trace["rewards"]["reward"]["score"] <= 1
        assert trace["metrics"]["prompt_tokens_off"] == 0
