"""NeMo-Gym's server: what it computes, on responses as agents send them; the server itself where NeMo-Gym is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import environments.tasksets
from environments.tasksets import core, nemo_gym
from longthread.errors import DataError
from tests.environments.tasksets.frameworks import config, right

SERVER = Path(environments.tasksets.__path__[0]) / "resources_servers/longthread"


@pytest.fixture(scope="module")
def line(tokenizer: Path) -> dict[str, Any]:
    return nemo_gym.dataset_row(core.Rows(config(tokenizer, absent_share=0))[0])


def response(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"output": [*output], "status": "completed", "usage": {"input_tokens": 1300}, **more}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **more}


def test_a_right_reply_earns_one(line: dict[str, Any]) -> None:
    target = line["target"]
    measured = nemo_gym.verify(response(said(right(target))), target)
    assert measured["reward"] == measured["exact"] == 1.0
    assert measured["prompt_tokens_off"] == 0
    assert nemo_gym.verify(response(said("<answer>none</answer>")), target)["abstained"] == 1.0


# Agents' messages without `type` were taken for none, and earned 0.
def test_verifiers_2212_and_2032_a_message_without_its_type_counts(line: dict[str, Any]) -> None:
    message = said(right(line["target"]))
    del message["type"]
    assert nemo_gym.verify(response(message), line["target"])["reward"] == 1.0


def test_the_last_message_of_the_assistant_is_the_reply(line: dict[str, Any]) -> None:
    target = line["target"]
    wrong, call = said("<answer>no</answer>"), {"type": "function_call", "name": "f", "arguments": "{}"}
    assert nemo_gym.verify(response(wrong, call, said(right(target))), target)["reward"] == 1.0
    assert nemo_gym.verify(response(said(right(target)), wrong), target)["reward"] == 0.0


@pytest.mark.parametrize(
    "output", [[], [{"type": "reasoning", "summary": []}], [said("")]], ids=["none", "thought", "empty"]
)
def test_no_reply_earns_nothing(output: list[dict[str, Any]], line: dict[str, Any]) -> None:
    assert nemo_gym.verify(response(*output), line["target"])["reward"] == 0.0


def test_what_the_server_read_is_compared_with_the_exact_length(line: dict[str, Any]) -> None:
    cut = response(said("x"), usage={"input_tokens": 515})
    assert nemo_gym.verify(cut, line["target"])["prompt_tokens_off"] == 515 - 1300
    assert nemo_gym.verify(response(said("x"), usage=None), line["target"])["prompt_tokens_off"] is None


def test_a_changed_target_is_refused(line: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="changed"):
        nemo_gym.verify(response(said("x")), {**line["target"], "length": 1299})


def test_the_example_holds_five_rows() -> None:
    """Those of the command in the README."""
    lines = [json.loads(line) for line in (SERVER / "data/example.jsonl").read_text().splitlines()]
    assert [line["target"]["task"] for line in lines] == ["single", "multi_key", "chain", "count", "update"]
    for line in lines:
        core.target_of(line["target"])
        assert line["target"]["question"] in line["responses_create_params"]["input"][0]["content"]


def test_the_yaml_names_what_is_there() -> None:
    settings = yaml.safe_load((SERVER / "configs/longthread.yaml").read_text())
    server = settings["longthread"]["resources_servers"]["longthread"]
    agent = settings["longthread_simple_agent"]["responses_api_agents"]["simple_agent"]
    assert (SERVER / server["entrypoint"]).exists()
    assert agent["resources_server"] == {"type": "resources_servers", "name": "longthread"}
    assert (SERVER.parent.parent / agent["datasets"][0]["jsonl_fpath"]).exists()


def test_the_server_verifies(line: dict[str, Any]) -> None:
    """NeMo-Gym 0.7 wants Python 3.13.14; where it can be imported, its own server class answers."""
    pytest.importorskip("nemo_gym.base_resources_server", reason="NeMo-Gym is not installed")
    import asyncio

    spec = importlib.util.spec_from_file_location("longthread_app", SERVER / "app.py")
    assert spec and spec.loader
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    server = app.LongthreadResourcesServer.model_construct()
    whole = {
        "id": "r", "created_at": 0.0, "model": "m", "object": "response", "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [],
        "output": [{"id": "m", "status": "completed", **said(right(line["target"]))}],
    }  # fmt: skip
    whole["output"][0]["content"][0]["annotations"] = []
    body = app.LongthreadVerifyRequest.model_validate({**line, "response": whole})
    assert asyncio.run(server.verify(body)).reward == 1.0
