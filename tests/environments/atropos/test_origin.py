"""What `serve` adds for a trainer: which weights wrote a group and what was not sent; and the file that it goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from environments.atropos.serve import ScoredGroup, ServeSession
from environments.haystack.sample import Options
from longthread.errors import ConfigError
from tests.environments.loopback import ChatServer, make_env
from tests.environments.tiny_model import tiny_tokenizer


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, clean: None) -> None:
    monkeypatch.setattr(Options, "pool_tokens", 2**15)


def versioned(version: int | None, n: int) -> web.Response:
    """/generate's reply with the version of the weights, as the embedded server states it."""
    ids = tiny_tokenizer().encode("<answer>none</answer>")
    reply = {"logprobs": [[[{str(i): -0.5}] for i in ids]] * n, "finish_reasons": ["stop"] * n}
    return web.json_response(reply | ({} if version is None else {"policy_version": version}))


async def delivered(env: Any, session: ServeSession, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is sent of the next request's group."""
    sent: list[dict[str, Any]] = []

    async def send(group: dict[str, Any], prompt: list[int]) -> None:
        sent.append(group)

    monkeypatch.setattr(session.sender, "send", send)
    request = await env.get_next_item()
    await session.deliver(ScoredGroup(await env.rollout(request, env.config.group_size)), request)
    return sent


async def test_a_group_says_which_weights_wrote_it_and_what_was_not_sent(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = lambda body, number: versioned(10 + number, body["n"])
    env = make_env(tokenizer, server.url, server={"server_type": "vllm"}, absent_share=0.0)
    session = ServeSession(env)
    for _ in range(2):
        assert not await delivered(env, session, monkeypatch)  # all scores are the same
    env.config = env.config.model_copy(update={"ensure_scores_are_not_same": False})
    [group] = await delivered(env, session, monkeypatch)
    origin = group["generation_params"]
    assert origin["policy_version"] == 13
    [[task, length, groups, score, passed]] = origin["flat"]
    assert (task, length, groups, passed) == ("single", 1300, 2, 0) and 0 <= score < 1
    assert (group["group_overrides"]["counted_task"], group["group_overrides"]["length"]) == ("single", 1300)
    assert "recipe" in group["group_overrides"] and "levels" not in origin
    [after] = await delivered(env, session, monkeypatch)
    assert after["generation_params"]["flat"] == []  # said once


async def test_a_server_that_states_no_version(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = lambda body, _: versioned(None, body["n"])
    env = make_env(tokenizer, server.url, server={"server_type": "vllm"}, ensure_scores_are_not_same=False)
    [group] = await delivered(env, ServeSession(env), monkeypatch)
    assert "policy_version" not in group["generation_params"]


async def test_levels_of_the_curriculum_are_sent(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = lambda body, _: versioned(0, body["n"])
    env = make_env(
        tokenizer, server.url, server={"server_type": "vllm"}, ensure_scores_are_not_same=False, curriculum=True
    )
    [group] = await delivered(env, ServeSession(env), monkeypatch)
    assert set(group["generation_params"]["levels"]) == {"single"}


async def nothing() -> None:
    return None


async def test_started_again_it_goes_on_where_the_file_says(
    server: ChatServer, tokenizer: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"state_path": str(tmp_path / "state.json"), "curriculum": True}
    env = make_env(tokenizer, server.url, **settings)
    session = ServeSession(env)
    session._continue()  # there is no file yet
    drawn = [await env.get_next_item() for _ in range(3)]
    await session.poll(nothing)
    again = make_env(tokenizer, server.url, **settings)
    ServeSession(again)._continue()
    assert again.next_index == 3 and again.curriculum is not None
    assert (await again.get_next_item()).seed not in {request.seed for request in drawn}


@pytest.mark.parametrize(
    "text", ["{", "[]", json.dumps({"curriculum_state": {"version": 99}, "next_index": 1})], ids=str
)
async def test_a_file_that_is_no_state_is_refused_in_one_line(
    text: str, server: ChatServer, tokenizer: Path, tmp_path: Path
) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    session = ServeSession(make_env(tokenizer, server.url, state_path=str(path), curriculum=True))
    with pytest.raises(ConfigError) as caught:
        session._continue()
    assert "\n" not in caught.value.line()
