"""verifiers 0.4: the text behind two tools, in a server of its own that its null harness calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

import environments.tasksets
from tests.environments.loopback import ChatServer, choice, tokenizer_folder

vf = pytest.importorskip("verifiers.v1", reason="verifiers 0.4 is not installed: make test-frameworks")
HUB = Path(environments.tasksets.__path__[0]) / "longthread_vf"
sys.path.insert(0, str(HUB))  # as `pip install` of the folder would

SETTINGS = {"lengths": "4000", "tasks": "single", "absent_share": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def task(folder: Path) -> Any:
    from longthread_vf.taskset import LongthreadConfig, LongthreadTaskConfig, LongthreadTaskset

    own = LongthreadTaskConfig(reading=True, reading_tokens=700)
    return next(iter(LongthreadTaskset(LongthreadConfig(tokenizer=str(folder), task=own, **SETTINGS))))


async def test_the_tools_read_the_text_of_the_task_and_count(task: Any) -> None:
    (toolset,) = type(task).toolsets(task.config)
    await toolset.setup_task(task.data)
    (value,) = task.data.target["answer"]["values"]
    assert value not in task.data.prompt[0].content and "which you do not see" in task.data.prompt[0].content
    name = re.search("[A-Z][a-z]+ [A-Z][a-z]+", task.data.target["question"])
    assert name is not None and value in toolset.search(name.group())
    assert "limit of reading is reached" in toolset.read(1, 99) and "all 700 tokens" in toolset.read(1, 1)
    counts = toolset.state.counts()
    assert counts.pop("share_read") == pytest.approx(700 / toolset._total)
    assert counts == {"searches": 1, "reads": 1, "tokens_read": 700, "tool_errors": 1}
    assert await task.validate(None) is True


async def test_a_call_is_no_answer(task: Any) -> None:
    answer = f"<answer>{task.data.target['answer']['values'][0]}</answer>"
    call = vf.AssistantMessage(content=answer, tool_calls=[vf.ToolCall(id="a", name="read", arguments="{}")])
    call_info = SimpleNamespace(finish_reason="stop", usage=None)
    for message, reward in ((vf.AssistantMessage(content=answer), 1.0), (call, 0.0)):
        trace = SimpleNamespace(assistant_messages=[message], calls=[call_info], num_turns=1)
        assert await task.reward(trace) == reward and not await task.one_turn(trace)


def streamed(made: dict[str, Any]) -> web.Response:
    """A choice as the one event of a stream: verifiers asks for streams alone."""
    chunk = {"index": 0, "delta": made["message"], "finish_reason": made["finish_reason"]}
    event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [chunk]}
    return web.Response(text=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n", content_type="text/event-stream")


def test_vf_eval_lets_a_served_model_search(server: ChatServer, folder: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], _: int) -> Any:
        question = body["messages"][0]["content"]
        name = re.search("[A-Z][a-z]+ [A-Z][a-z]+", question.partition("Question: ")[2])
        assert name is not None
        if body["messages"][-1]["role"] == "tool":
            return streamed(choice("<answer>none</answer>"))
        search = next(tool["function"]["name"] for tool in body["tools"] if "search" in tool["function"]["name"])
        made = choice(None, "tool_calls")
        arguments = json.dumps({"query": name.group()})
        made["message"]["tool_calls"] = [
            {"index": 0, "id": "a", "type": "function", "function": {"name": search, "arguments": arguments}}
        ]
        return streamed(made)

    server.reply = reply
    root = Path(environments.tasksets.__path__[0]).parents[1]
    found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    paths = os.pathsep.join([str(root), str(HUB), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    given = {**os.environ, "PYTHONPATH": paths, "PATH": found, "KEY": "secret"}
    settings = {"tokenizer": str(folder), **SETTINGS, "task.reading": "true"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "vf-eval"), "longthread-vf",
         *(part for name, value in settings.items() for part in (f"--env.taskset.{name.replace('_', '-')}", value)),
         "--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess",
         "--client.base-url", server.url, "--client.api-key-var", "KEY", "--model", "m",
         "--no-push", "--no-rich", "-n", "1", "-r", "1", "-o", str(tmp_path)],
        cwd=tmp_path, env=given, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*/traces.jsonl")
    episode = json.loads(file.read_text().splitlines()[0])
    (trace,) = episode.get("traces", [episode])
    assert not trace["errors"], trace["errors"]
    assert trace["metrics"]["reading_searches"] == 1 and trace["metrics"]["reading_tokens_read"] > 0
    assert trace["rewards"]["reward"]["score"] == pytest.approx(0.02)
