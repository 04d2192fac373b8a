"""HaystackEnv in this process, against servers on real sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from atroposlib.frontend.jsonl2html import generate_html

from environments import cli
from environments.atropos.serve import ServeSession
from environments.haystack.layout import LayoutError
from environments.haystack.sample import rebuild
from environments.haystack_env import HaystackEnv
from environments.inference.embedded.server import background
from environments.linked_needle_env import LinkedNeedleEnv
from longthread.errors import ConfigError, RunError
from tests.environments.loopback import (
    SHORT,
    ChatServer,
    choice,
    command,
    make_env,
    model_folder,
    rows_of,
    run_cli,
    said,
)
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import EOS

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def embedded(model: Path) -> Iterator[str]:
    with background(model) as url:
        yield url


def recomputed(env: Any, item: Any) -> list[int]:
    """The prompt's tokens by another way: transformers' own, on a sample rebuilt from its recipe."""
    sample, _ = env.build(item)
    again = rebuild(sample.recipe, env.tokenizer)
    return env.tokenizer.apply_chat_template(again.messages, add_generation_prompt=True, return_dict=False)


# ---- groups ----


async def test_group_of_a_plain_endpoint(server: ChatServer, tokenizer: Path) -> None:
    """Fact 2: atroposlib's own tokenisation is broken on transformers 5."""
    env = make_env(tokenizer, server.url)
    server.reply = lambda *_: [choice("<answer>none</answer>"), choice("cut", "length"), choice(None)]
    group, backlog = await env.collect_trajectories(item := env.request(0))
    prompt, encode = recomputed(env, item), env.tokenizer.encode
    assert backlog == [] and len(server.requests) == 1 and server.requests[0]["n"] == 3
    completions = [[*encode("<answer>none</answer>"), EOS], encode("cut"), [EOS]]
    assert group["tokens"] == [prompt + one for one in completions] and len(prompt) == int(SHORT)
    assert group["masks"] == [[-100] * len(prompt) + one for one in completions]
    assert len(group["scores"]) == 3 and "inference_logprobs" not in group and group["group_overrides"]


async def test_group_of_the_embedded_server_over_chat(embedded: str, model: Path) -> None:
    env = make_env(model, embedded, server={"model_name": "tiny"}, max_new_tokens=5)
    group, _ = await env.collect_trajectories(item := env.request(0))
    prompt = recomputed(env, item)
    assert all(tokens[: len(prompt)] == prompt for tokens in group["tokens"]) and len(group["tokens"]) == 3


async def test_token_exact_group_of_the_embedded_server(embedded: str, model: Path) -> None:
    """Fact 13: a trainer needs tokens and log-probabilities as the server had them."""
    import torch
    from transformers import AutoModelForCausalLM

    env = make_env(
        model, embedded, server={"model_name": "tiny", "server_type": "vllm"}, max_new_tokens=6, group_size=2
    )
    group, _ = await env.collect_trajectories(item := env.request(1))
    prompt, weights = recomputed(env, item), AutoModelForCausalLM.from_pretrained(model)
    for tokens, masks, logprobs in zip(group["tokens"], group["masks"], group["inference_logprobs"], strict=True):
        assert tokens[: len(prompt)] == prompt and 1 <= len(tokens) - len(prompt) <= 6
        assert masks == [-100] * len(prompt) + tokens[len(prompt) :]
        with torch.inference_mode():
            predicted = weights(torch.tensor([tokens])).logits[0].log_softmax(-1)
        expected = [predicted[i - 1, tokens[i]].item() for i in range(len(prompt), len(tokens))]
        assert logprobs[: len(prompt)] == [1.0] * len(prompt)
        assert logprobs[len(prompt) :] == pytest.approx(expected, abs=5e-3)  # this model is far from tame


@pytest.mark.parametrize("group_size", [1, 16])
async def test_one_request_a_group(server: ChatServer, tokenizer: Path, group_size: int) -> None:
    env = make_env(tokenizer, server.url, group_size=group_size)
    group, _ = await env.collect_trajectories(env.request(0))
    assert [request["n"] for request in server.requests] == [group_size] and len(group["tokens"]) == group_size


async def test_the_prompt_is_built_off_the_event_loop(server: ChatServer, tokenizer: Path) -> None:
    """Section 7: 128k tokens inline stop everything else for a second."""
    env = make_env(tokenizer, server.url)
    threads, encode = [], env.haystacks.tokens.encode

    def watched(text: str) -> list[int]:
        threads.append(threading.get_ident())
        return encode(text)

    env.haystacks.tokens.encode = watched
    await env.collect_trajectories(env.request(0))
    assert threads and threading.get_ident() not in threads


async def test_a_score_that_is_not_finite_refuses_the_group(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 2.2: run-api takes NaN, answers /batch with 500, and the batch is gone."""
    from environments.rollouts import completion_scoring

    right = completion_scoring.score
    monkeypatch.setattr(completion_scoring, "score", lambda *a: replace(right(*a), score=math.nan))
    env = make_env(tokenizer, server.url)
    assert await env.collect_trajectories(env.request(0)) == (None, []) and env.failures == 1


async def test_a_completion_of_a_megabyte(server: ChatServer, tokenizer: Path) -> None:
    server.reply = said("lorem <answer> 12345 " * 50_000)
    env = make_env(tokenizer, server.url, group_size=1, total_steps=1)
    await env.process_manager()
    (row,) = rows_of(Path("data/needle.jsonl"))
    assert row["scores"] == [0.0] and len(row["completions"][0]) == 21 * 50_000


# ---- items ----


@pytest.mark.parametrize("share", [0, 0.15, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("tasks", ["single,multi_key", "single,multi_key,multi_value,multi_query"])
def test_items_have_their_share_of_absent_facts_and_of_every_task(tokenizer: Path, share: float, tasks: str) -> None:
    """Tasks and absent facts were both counted by the index: at a share of 0.5 only every other task was ever drawn."""
    env = make_env(tokenizer, "http://x/v1", tasks=tasks, absent_share=share)
    drawn = [env.request(index).task for index in range(400)]
    assert drawn.count("absent") == pytest.approx(400 * share, abs=1)
    present = [drawn.count(task) for task in env.grid.tasks]
    assert max(present) - min(present) <= 1 and sum(present) + drawn.count("absent") == 400


def test_items_follow_from_the_seed_alone(tokenizer: Path) -> None:
    one, two, other = (make_env(tokenizer, "http://x/v1", seed=seed, lengths="1300,1400") for seed in (1, 1, 2))
    assert [one.request(i) for i in range(20)] == [two.request(i) for i in range(20)]
    assert not {one.request(i).seed for i in range(99)} & {other.request(i).seed for i in range(99)}


@pytest.mark.parametrize(
    ("settings", "present", "absent"),
    [
        ({"absent_share": 0, "depths": "0.5"}, 3, 0),
        ({"absent_share": 0.5, "depths": "0.5"}, 3, 3),
        ({"absent_share": 0.9, "depths": "0,1", "repeats": 1}, 2, 18),
        ({"tasks": "absent"}, 0, 3),
        ({"tasks": "absent", "absent_share": 0}, 0, 3),
        ({"tasks": "single,absent", "absent_share": 0, "depths": "0.5"}, 3, 3),
        ({"tasks": "single,single", "depths": "0.5,0.5", "absent_share": 0}, 3, 0),
    ],
)
def test_evaluation_grid(tokenizer: Path, settings: dict[str, Any], present: int, absent: int) -> None:
    items = make_env(tokenizer, "http://x/v1", **settings).evaluation_requests()
    assert sum(item.task != "absent" for item in items) == present
    assert sum(item.task == "absent" for item in items) == absent
    assert len({item.key for item in items}) == len({item.seed for item in items}) == len(items)
    assert {item.split for item in items} == {"eval"}


def test_a_length_too_short_for_any_task_is_found_at_the_start(tokenizer: Path) -> None:
    with pytest.raises(ConfigError, match="multi_value at 600 tokens.*lengths"):
        make_env(tokenizer, "http://x/v1", tasks="multi_value", lengths="600")
    with pytest.raises(
        ConfigError, match="absent at 600 tokens.*lengths"
    ):  # absent facts bring distractors that a single needle lacks
        make_env(tokenizer, "http://x/v1", tasks="single", lengths="600,1300", distractors=20)


# ---- process ----


@pytest.mark.parametrize("store", ["compact", "full"])
async def test_rows_of_process(server: ChatServer, tokenizer: Path, store: str) -> None:
    """Section 2.8: atroposlib's own page can be made of them."""
    server.reply = lambda body, _: [choice("<answer>none</answer>"), choice("<script>alert(1)</script>"), choice("")]
    env = make_env(tokenizer, server.url, store=store, tasks="single,multi_value", data_path_to_save_groups="o.jsonl")
    await env.process_manager()
    rows = rows_of(Path("o.jsonl"))
    assert sorted(row["item"] for row in rows) == [0, 1, 2, 3] and {row["store"] for row in rows} == {store}
    for row in rows:
        sample = rebuild(row["recipe"], env.tokenizer)
        prompt = env.tokenizer.apply_chat_template(sample.messages, add_generation_prompt=True, return_dict=False)
        whole = row["tokens"] if store == "full" else [prompt + tokens for tokens in row["tokens"]]
        assert all(tokens[: len(prompt)] == prompt for tokens in whole) and len(prompt) == row["length"] == int(SHORT)
        assert env.tokenizer.decode(whole[0][len(prompt) :]) == "<answer>none</answer><|im_end|>"
    page = Path("o.html").read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    Path("o.html").unlink()
    generate_html("o.jsonl")
    assert Path("o.html").read_text().count("<details>") >= 4


async def test_process_asks_for_several_groups_at_a_time(server: ChatServer, tokenizer: Path) -> None:
    """Fact 12: atroposlib goes one by one. Ten are in flight before the first is answered."""
    together = asyncio.run_coroutine_threadsafe(_event(), server.loop).result()

    async def reply(body: dict[str, Any], number: int) -> Any:
        if number == 10:
            together.set()
        await asyncio.wait_for(together.wait(), PATIENCE)
        return said("x")(body, number)

    server.reply = reply
    env = make_env(tokenizer, server.url, total_steps=12, max_num_workers=10)
    await env.process_manager()
    assert server.most == 10 and sorted(row["item"] for row in rows_of(Path("data/needle.jsonl"))) == list(range(12))


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def test_minus_one_workers_are_atropos_many(server: ChatServer, tokenizer: Path) -> None:
    env = make_env(tokenizer, server.url, total_steps=12, max_num_workers=-1)
    ready = asyncio.run_coroutine_threadsafe(_event(), server.loop).result()

    async def reply(body: dict[str, Any], number: int) -> Any:
        if number == 8:
            ready.set()
        await asyncio.wait_for(ready.wait(), PATIENCE)
        return said("x")(body, number)

    server.reply = reply
    await env.process_manager()
    assert server.most == 8


async def test_each_row_is_on_disk_before_the_next_request(server: ChatServer, tokenizer: Path) -> None:
    """Fact 12: atroposlib's rows wait in a buffer."""
    path, seen = Path("data/needle.jsonl").absolute(), []

    def reply(body: dict[str, Any], number: int) -> Any:
        seen.append(path.read_bytes().count(b"\n"))
        return said("x")(body, number)

    server.reply = reply
    await make_env(tokenizer, server.url, max_num_workers=1).process_manager()
    assert seen == [0, 1, 2, 3]


async def test_items_that_fail_are_made_up_for_by_the_same_command(
    server: ChatServer, tokenizer: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fact 12: one exception ends atroposlib's whole run."""
    bad = make_env(tokenizer, server.url)
    broken = bad.build(bad.request(1))[0].messages[0]["content"]
    server.reply = lambda body, n: (
        web.Response(status=400) if body["messages"][0]["content"] == broken else said("x")(body, n)
    )
    with pytest.raises(SystemExit) as stop:
        await bad.process_manager()
    assert stop.value.code == 1
    shown = capfd.readouterr()
    assert "3 of 4 done, 1 failed; the same command continues" in shown.out and "HTTP 400" in shown.err
    assert broken[:80] not in shown.out + shown.err
    server.reply = said("x")
    before = len(server.requests)
    await make_env(tokenizer, server.url).process_manager()
    assert len(server.requests) == before + 1
    assert sorted(row["item"] for row in rows_of(Path("data/needle.jsonl"))) == [0, 1, 2, 3]


async def test_process_gives_up_after_max_failures(server: ChatServer, tokenizer: Path) -> None:
    """Section 2.5: with a server that always fails, atroposlib never ends."""
    server.reply = lambda *_: web.Response(status=400)
    env = make_env(tokenizer, server.url, max_failures=2, total_steps=50, max_num_workers=1)
    with pytest.raises(SystemExit) as stop:
        await env.process_manager()
    items = {request["messages"][0]["content"] for request in server.requests}
    assert stop.value.code == 1 and len(items) == 3


async def test_a_sample_that_cannot_be_built_is_a_failed_item(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, build = make_env(tokenizer, server.url), HaystackEnv.build

    def build_some(self: Any, item: Any) -> Any:
        if item.index == 2:
            raise LayoutError("needles do not fit")
        return build(self, item)

    monkeypatch.setattr(HaystackEnv, "build", build_some)
    with pytest.raises(SystemExit):
        await env.process_manager()
    assert sorted(row["item"] for row in rows_of(Path("data/needle.jsonl"))) == [0, 1, 3]
    assert await env.collect_trajectories(env.request(2)) == (None, []) and env.failures == 1


async def test_other_settings_take_the_next_free_name(server: ChatServer, tokenizer: Path) -> None:
    names = []
    for settings in ({}, {"seed": 5}, {"temperature": 0.5}, {"total_steps": 6}):
        await make_env(tokenizer, server.url, **settings).process_manager()
        names.append(sorted(path.name for path in Path("data").glob("*.jsonl"))[-1])
    assert names == ["needle.jsonl", "needle_1.jsonl", "needle_2.jsonl", "needle_2.jsonl"]
    assert len(rows_of(Path("data/needle.jsonl"))) == 6  # the longer run of the first settings


async def test_a_full_disk_stops_the_run_at_once(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("environments.rollouts.row_log.os.fsync", full)
    env = make_env(tokenizer, server.url, max_num_workers=1)
    with pytest.raises(RuntimeError, match="No space left on device.; make room, and the same command continues"):
        await env.process_manager()
    assert len(server.requests) == 1 and Path("data/needle.jsonl").read_bytes() == b""


async def test_signals_stop_a_run_and_are_given_back(server: ChatServer, tokenizer: Path) -> None:
    """After an evaluation Ctrl-C was deaf for the rest of the process."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def reply(body: dict[str, Any], number: int) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            return server.loop.create_future()
        return said("x")(body, number)

    server.reply = reply
    with pytest.raises(SystemExit) as stop:
        await make_env(tokenizer, server.url, max_num_workers=1).process_manager()
    assert stop.value.code == 1 and len(rows_of(Path("data/needle.jsonl"))) == 1
    assert "</html>" in Path("data/needle.html").read_text()
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after[1] == before[1] and after[0] in (before[0], signal.default_int_handler)


# ---- evaluate ----


async def test_evaluate_writes_everything_and_a_second_run_takes_a_new_name(
    server: ChatServer, tokenizer: Path
) -> None:
    settings = {"depths": "0,0.5,1", "repeats": 1, "data_dir_to_save_evals": "out", "max_eval_workers": 3}
    await make_env(tokenizer, server.url, **settings).evaluate()
    names = {"samples.jsonl", "metrics.json", "grid.csv", "heatmap.png", "report.html"}
    assert names <= {path.name for path in Path("out").iterdir()}
    records = rows_of(Path("out/samples.jsonl"))
    assert len(records) == 4 and {record["temperature"] for record in server.requests} == {0.0}
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["results"]["all"] == metrics["results"]["atropos|needle|0"]
    assert metrics["results"]["all"]["eval/score_by_task/absent"] == 1.0
    first = Path("out/samples.jsonl").read_bytes()
    await make_env(tokenizer, server.url, **settings).evaluate()
    assert Path("out/samples.jsonl").read_bytes() == first and len(rows_of(Path("out/samples_1.jsonl"))) == 4
    assert {"metrics.json", "report.html"} <= {path.name for path in Path("out/samples_1").iterdir()}


async def test_an_evaluation_that_fails_while_serving_does_not_end_the_training(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SystemExit in a task ends the event loop; and the failures of an evaluation are not those of training."""
    server.reply = lambda *_: web.Response(status=400)
    env = make_env(tokenizer, server.url, depths="0.5", max_failures=1, data_dir_to_save_evals="out")
    env.session, env.curr_step = ServeSession(env), 7
    handlers = signal.getsignal(signal.SIGINT)
    await env.evaluate()
    assert signal.getsignal(signal.SIGINT) == handlers and env.failures == 0
    assert Path("out/step-7/samples.jsonl").exists()
    await env.get_next_item()


# ---- serve ----


@asynccontextmanager
async def trainer_info(**info: int) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(info)

    app = web.Application()
    app.router.add_get("/info", answer)
    async with TestServer(app) as running:
        yield str(running.make_url("")).rstrip("/")


@pytest.mark.parametrize(
    ("batch", "longest", "settings", "message"),
    [
        (12, -1, {"group_size": 8}, "batch_size must be a multiple of group_size 8 .got 12.*16"),
        (4, -1, {"group_size": 8}, "group_size .8. must be less than batch_size .4."),
        (8, 1300, {"group_size": 8}, "below 1300 tokens, and these reach 1428: .*--max-token-len 1429 or more"),
        (8, 1428, {"group_size": 8}, "--max-token-len 1429"),
        (8, -1, {"group_size": 1}, "group_size 1: every group would be dropped"),
    ],
)
async def test_what_a_trainer_asks_for_and_cannot_get(
    tokenizer: Path, batch: int, longest: int, settings: dict[str, Any], message: str
) -> None:
    """Facts 8 and 11, section 2.3: atroposlib would generate for ever, and drop every group."""
    async with trainer_info(batch_size=batch, max_token_len=longest) as url:
        env = make_env(tokenizer, "http://x/v1", rollout_server_url=url, **settings)
        with pytest.raises(ConfigError, match=message):
            await env.get_server_info()


async def test_what_a_trainer_can_get(tokenizer: Path) -> None:
    async with trainer_info(batch_size=16, max_token_len=1429) as url:
        env = make_env(tokenizer, "http://x/v1", rollout_server_url=url, group_size=8)
        await env.get_server_info()
        assert env.config.batch_size == 16 and env.max_token_len == 1429


async def test_serve_without_run_api_is_one_line(server: ChatServer, tokenizer: Path, unused_tcp_port: int) -> None:
    env = make_env(tokenizer, server.url, rollout_server_url=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(RunError, match="no answer from run-api at .*Connect.*; start it") as caught:
        await env.env_manager()
    assert "\n" not in str(caught.value)


async def test_serve_gives_up_after_max_failures_in_a_row(server: ChatServer, tokenizer: Path) -> None:
    env = make_env(tokenizer, server.url, max_failures=1)
    server.reply = lambda *_: web.Response(status=400)
    for _ in range(2):
        assert await env.collect_trajectories(await env.get_next_item()) == (None, [])
    with pytest.raises(RunError, match="stopped after 2 failed items in a row, more than 1 .max_failures."):
        await env.get_next_item()
    server.reply = said("x")
    await env.collect_trajectories(env.request(0))
    assert (await env.get_next_item()).index == 2


async def test_the_haystack_is_in_no_log(
    server: ChatServer, tokenizer: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 2.4: at DEBUG atroposlib prints each item, and the openai client each request."""
    cli.main(HaystackEnv.config_init()[0], HaystackEnv.run, [])
    caplog.set_level(logging.DEBUG)
    env = make_env(tokenizer, server.url)

    async def send(*_: Any) -> None: ...

    env.session = ServeSession(env)
    monkeypatch.setattr(env.session.sender, "send", send)
    logging.getLogger("atroposlib.envs.base").setLevel(logging.DEBUG)  # even then: an item is a seed
    try:
        env.running_items["u"] = {"item": env.request(0)}
        assert await env.handle_env("u")
    finally:
        logging.getLogger("atroposlib.envs.base").setLevel(logging.WARNING)
    sentences = [s for s in server.requests[0]["messages"][0]["content"].split(". ") if len(s) > 30]
    assert "handle_env" in caplog.text and not [s for s in sentences if s in caplog.text]


async def test_checkpoints_carry_the_next_item(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    """Section 2.4: atroposlib's save_checkpoint saves nothing unless overridden."""
    env, again = (make_env(tokenizer, server.url) for _ in range(2))
    for one in (env, again):
        one.checkpoint_dir, one.wandb_prepend = str(tmp_path), "needle_0"
    indices = [(await env.get_next_item()).index for _ in range(3)]
    env.save_checkpoint(5)
    again.curr_step = 5
    again.load_checkpoint()
    assert indices == [0, 1, 2] and (await again.get_next_item()).index == 3


async def test_what_the_curriculum_logs_has_its_prefix_once(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`curriculum/curriculum/chain/level` stood in W&B, where the manual says `curriculum/chain/level`."""
    logged: dict[str, Any] = {}
    wandb = SimpleNamespace(log=lambda values, step: logged.update(values))
    monkeypatch.setattr("atroposlib.envs.base.wandb", wandb)
    env = make_env(tokenizer, server.url, LinkedNeedleEnv, tasks="chain", lengths="2600,3000", curriculum=True)
    await env.collect_trajectories(await env.get_next_item())
    monkeypatch.setattr(env, "config", env.config.model_copy(update={"use_wandb": True}))
    monkeypatch.setattr(env, "create_rollout_table", unchanged)
    env.wandb_prepend = "needle_0"
    await env.wandb_log()
    keys = {key for key in logged if "curriculum" in key}
    assert keys == {
        f"needle_0_curriculum/chain/{name}"
        for name in ("level", "pass_rate", "length", "hops", "decoys", "distractors")
    }


async def unchanged(metrics: dict[str, Any]) -> dict[str, Any]:
    return metrics


def test_nothing_stays_frozen_when_a_command_ends(server: ChatServer, tokenizer: Path) -> None:
    """Where Triton is imported, a run ended with 29 lines of "nanobind: leaked"."""
    assert run_cli(command("process", tokenizer, server.url)) == 0
    assert gc.get_freeze_count() == 0
