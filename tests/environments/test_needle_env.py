"""NeedleEnv as a user starts it: processes that are killed and interrupted, run-api, a trainer, atropos-sft-gen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from environments import cli
from environments.needle_env import NeedleEnv
from tests.environments.atropos_api import call, hurry, running_api, started, train
from tests.environments.loopback import ChatServer, choice, command, make_env, rows_of, run_cli, said
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import EOS, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("clean")


def blocking_after(server: ChatServer, rows: int) -> asyncio.Event:
    """The server answers so many requests and leaves the others waiting; the event says that it has come to that."""

    async def make() -> asyncio.Event:
        return asyncio.Event()

    reached = asyncio.run_coroutine_threadsafe(make(), server.loop).result()

    async def reply(body: dict[str, Any], number: int) -> Any:
        if number <= rows:
            return said("<answer>none</answer>", "x")(body, number)
        reached.set()
        return await server.loop.create_future()

    server.reply = reply
    return reached


def wait_for(event: asyncio.Event, server: ChatServer) -> None:
    asyncio.run_coroutine_threadsafe(event.wait(), server.loop).result(PATIENCE)


def test_the_class() -> None:
    assert NeedleEnv.name == NeedleEnv.config_init()[0].wandb_name == "needle"
    assert NeedleEnv.config_init()[0].tasks == "single,multi_key,multi_value,multi_query"


def test_kill_9_in_the_middle_loses_and_doubles_nothing(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    """Fact 12 and the design: the same command continues, and a line that was cut is made again."""
    reached = blocking_after(server, 4)
    argv = command("process", tokenizer, server.url, env_total_steps=8, env_max_num_workers=1)
    process = started(argv)
    wait_for(reached, server)
    process.kill()
    process.communicate()
    path = tmp_path / "data" / "needle.jsonl"
    kept = rows_of(path)
    assert [row["item"] for row in kept] == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:-9])  # the last row as a crash in the middle of its line leaves it
    server.reply, before = said("y"), len(server.requests)
    assert run_cli(argv) == 0
    rows = rows_of(path)
    assert [row["item"] for row in rows] == list(range(8)) and rows[:3] == kept[:3]
    assert len(server.requests) == before + 5 and list(path.parent.glob("*.jsonl")) == [path]
    assert "</html>" in path.with_suffix(".html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_and_shows_what_it_has(
    number: signal.Signals, server: ChatServer, tokenizer: Path, tmp_path: Path
) -> None:
    """Fact 12: SIGTERM loses atroposlib's tail and its page."""
    reached = blocking_after(server, 2)
    process = started(command("process", tokenizer, server.url, env_total_steps=5, env_max_num_workers=1))
    wait_for(reached, server)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "Traceback" not in err
    assert "2 of 5 done, 0 failed; the same command continues where this one stopped" in out
    assert [row["item"] for row in rows_of(tmp_path / "data" / "needle.jsonl")] == [0, 1]
    assert "</html>" in (tmp_path / "data" / "needle.html").read_text()


def test_ctrl_c_while_the_server_is_looked_for_is_one_line(server: ChatServer, tokenizer: Path) -> None:
    async def make() -> asyncio.Event:
        return asyncio.Event()

    asked = asyncio.run_coroutine_threadsafe(make(), server.loop).result()

    async def hang(_: web.Request) -> web.StreamResponse:
        asked.set()
        return await server.loop.create_future()

    server.models = hang
    process = started(command("process", tokenizer, server.url))
    wait_for(asked, server)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err.strip().splitlines()[-1] == "error: interrupted" and "Traceback" not in err


# ---- run-api ----


@pytest.fixture(scope="module")
def run_api() -> Iterator[str]:
    with running_api() as url:
        yield url


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def generated(body: dict[str, Any], _: int) -> web.Response:
    texts = ["<answer>none</answer>", "wrong"] * (body["n"] // 2)
    logprobs = [[[{str(i): -0.5}] for i in [*tiny_tokenizer().encode(text), EOS]] for text in texts]
    return web.json_response({"logprobs": logprobs, "finish_reasons": ["stop"] * len(texts)})


@pytest.mark.parametrize("server_type", ["openai", "vllm"])
async def test_serve_feeds_a_trainer_and_ends_by_itself(
    server_type: str, server: ChatServer, tokenizer: Path, run_api: str, hurried: None
) -> None:
    """Facts 4 and 13: registers under its name; the trainer gets full groups with scores, and what the server type can
    give beside them."""
    server.reply = generated if server_type == "vllm" else said("<answer>none</answer>", "wrong")
    settings = {"group_size": 4, "batch_size": 8, "total_steps": 2, "rollout_server_url": run_api, "absent_share": 0.5}
    env = make_env(tokenizer, server.url, server={"server_type": server_type}, **settings)
    groups, _ = await asyncio.wait_for(asyncio.gather(train(run_api, 8, 2), env.env_manager()), PATIENCE)
    assert env.wandb_prepend == "needle_0" and len(groups) >= 6
    for group in groups:
        assert len(group["tokens"]) == len(group["masks"]) == len(group["scores"]) == 4
        prompt = group["masks"][0].count(-100)
        task = group["group_overrides"]["recipe"]["task"]
        assert group["scores"] == ([1.0, 0.0] if task == "absent" else [0.02, 0.0]) * 2
        assert env.tokenizer.decode(group["tokens"][0][prompt:]) == "<answer>none</answer><|im_end|>"
        assert prompt == group["group_overrides"]["recipe"]["length"]
        assert (group["inference_logprobs"] is not None) == (server_type == "vllm")
        if server_type == "vllm":
            assert group["inference_logprobs"][1] == [1.0] * prompt + [-0.5] * 6
        assert group["messages"][1][-1] == {"role": "assistant", "content": "wrong"}


async def test_serve_refuses_a_trainer_whose_sequences_are_too_short(
    server: ChatServer, tokenizer: Path, run_api: str, hurried: None
) -> None:
    """Fact 8: atropos-sft-gen takes 2,048 tokens unless told otherwise."""
    env = make_env(tokenizer, server.url, rollout_server_url=run_api, group_size=4, batch_size=8)
    trainer = asyncio.create_task(train(run_api, 8, 2, longest=1000))
    with pytest.raises(cli.ConfigError, match="start it with --max-token-len 1429 or more"):
        await asyncio.wait_for(env.env_manager(), PATIENCE)
    trainer.cancel()
    assert not server.requests


async def test_atropos_sft_gen_takes_messages(
    server: ChatServer, tokenizer: Path, run_api: str, hurried: None, tmp_path: Path
) -> None:
    """Facts 9 and 10: with --save-messages rows hold whole chats; the tokenizer is a local folder. The generator is started
    as `longthread collect` does, without torch."""
    right = "<answer>none</answer>"
    server.reply = lambda body, _: [choice(text) for text in (right, "wrong") * (body["n"] // 2)]
    argv = f"atroposlib.cli.sft {tmp_path}/sft.jsonl --api-url {run_api}".split()
    argv += "--group-size 2 --tasks-per-step 2 --num-seqs-to-save 4".split()
    argv += f"--tokenizer {tokenizer} --save-messages --save-top-n-per-group 1 --max-token-len 4096".split()
    env = make_env(
        tokenizer, server.url, rollout_server_url=run_api, group_size=2, batch_size=4, tasks="absent", total_steps=1000
    )
    await call(run_api, "GET", "/reset_data")
    its_input, held_open = os.pipe()
    generator = started(argv, "environments.datasets.child_process", stdin=its_input)
    try:
        while (await call(run_api, "GET", "/info"))["batch_size"] != 4:
            assert generator.poll() is None, generator.stderr
            await asyncio.sleep(0.02)
        serving = asyncio.create_task(env.env_manager())
        await asyncio.to_thread(generator.communicate, timeout=PATIENCE)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    finally:
        generator.kill()
        for end in (its_input, held_open):
            os.close(end)
    rows = rows_of(tmp_path / "sft.jsonl")
    assert len(rows) >= 4 and {row["score"] for row in rows} == {1.0}
    assert {row["messages"][-1]["content"] for row in rows} == {right}
    assert all(len(env.tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=False))
               == 1300 for row in rows)  # fmt: skip
