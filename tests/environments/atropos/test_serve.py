"""`serve` against the real run-api: what is sent, what is kept, and a run-api that is killed, restarted and reset."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from environments.atropos import serve as serving
from environments.atropos.serve import ServeSession
from environments.haystack.sample import rebuild
from environments.rollouts import row_log
from longthread.errors import RunError
from tests.environments.atropos_api import RunApi, call, hurry, register
from tests.environments.loopback import ChatServer, make_env, rows_of, said
from tests.environments.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("clean")
MIXED = said("<answer>none</answer>", "wrong")


class Api(RunApi):
    """With a trainer that registers and takes what it wants."""

    async def register(self, batch_size: int = 4) -> None:
        """The trainer has asked for its first batch too, without which no environment may register."""
        await register(self.url, batch_size, 99)
        await self.batch()

    async def batch(self) -> list[dict[str, Any]]:
        return (await call(self.url, "GET", "/batch"))["batch"] or []

    async def take(self, groups: int) -> list[dict[str, Any]]:
        """So many groups, however many batches they come in."""
        taken: list[dict[str, Any]] = []
        while len(taken) < groups:
            taken += (new := await self.batch())
            await asyncio.sleep(0 if new else 0.02)
        return taken


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    api.start()
    yield api
    api.kill()


@asynccontextmanager
async def serve(env: Any) -> AsyncIterator[asyncio.Task[None]]:
    serving = asyncio.create_task(env.env_manager())
    try:
        async with asyncio.timeout(PATIENCE):
            yield serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def env_of(api: str, server: ChatServer, tokenizer: Path, **settings: Any) -> Any:
    settings = {"group_size": 2, "tasks": "absent", "total_steps": 1000, "max_num_workers": 2} | settings
    return make_env(tokenizer, server.url, rollout_server_url=api, **settings)


def indices(groups: list[dict[str, Any]]) -> Counter[int]:
    return Counter(group["group_overrides"]["recipe"]["seed"] for group in groups)


async def noticed(caplog: pytest.LogCaptureFixture, times: int) -> None:
    while caplog.text.count("waiting for it and for a trainer") < times:
        await asyncio.sleep(0.02)


async def test_a_run_api_that_is_killed_and_one_that_is_reset(
    api: Api,
    server: ChatServer,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Section 2.9: atroposlib's environment dies of either. Here it waits, registers again and goes on: no group comes
    twice, and those that were under way arrive."""
    hurry(monkeypatch)
    server.reply = MIXED
    env = env_of(api.url, server, tokenizer, data_path_to_save_groups="served.jsonl")
    await api.register()
    async with serve(env) as running:
        first = await api.take(4)
        api.kill()
        await noticed(caplog, 1)
        await asyncio.to_thread(api.start)
        await api.register()
        second = await api.take(6)
        await call(api.url, "GET", "/reset_data")
        await noticed(caplog, 2)
        await api.register()
        third = await api.take(4)
        assert not running.done()
    assert caplog.text.count("run-api is back; registered again as needle_0") == 2
    seen = indices(first + second + third)
    assert set(seen.values()) == {1}, "a group came twice"
    kept = Counter(row["item"] for row in rows_of(Path("served.jsonl")))
    assert set(kept.values()) == {1} and set(kept) >= set(seen), "a group that was sent is not on disk"
    assert env.session.sender.dropped == 0
    lost = set(range(max(seen))) - set(seen)  # taken by an API that died, or that was reset, with them in memory
    assert len(lost) <= 2 * env.config.max_batches_offpolicy * 4, lost


async def test_a_run_api_that_stays_away_ends_it_in_one_line(
    api: Api, server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(serving, "RECONNECT_SECONDS", 0)
    server.reply = MIXED
    await api.register()
    async with serve(env_of(api.url, server, tokenizer)) as running:
        await api.take(2)
        api.kill()
        with pytest.raises(RunError, match="no answer from run-api at http.* for 0 s; start it, and then this again"):
            await running


async def test_rows_beside_serving(
    api: Api, server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a file of its own, compact, and of the same form as those of process."""
    hurry(monkeypatch)
    server.reply = MIXED
    for name in ("served.jsonl", "served_1.jsonl"):
        await call(api.url, "GET", "/reset_data")
        await api.register()
        env = env_of(api.url, server, tokenizer, data_path_to_save_groups="served.jsonl")
        async with serve(env):
            await api.take(2)
        found = rows_of(Path(name))
        assert len(found) >= 2 and {row["store"] for row in found} == {"compact"}
        assert rebuild(found[0]["recipe"], env.tokenizer).length == found[0]["length"]


# ---- what is sent, without an API ----


def offline(tokenizer: Path, server: ChatServer, **settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    """An environment as `serve` has it, and what it sends."""
    sent: list[dict[str, Any]] = []

    async def send(group: dict[str, Any], prompt: list[int]) -> None:
        sent.append(group)

    env = env_of("http://x", server, tokenizer, **settings)
    env.session = ServeSession(env)
    env.session.sender.send = send
    return env, sent


async def work(env: Any, times: int = 1) -> None:
    for _ in range(times):
        env.running_items["u"] = {"item": await env.get_next_item()}
        await env.handle_env("u")


async def test_groups_with_nothing_to_learn_are_kept_but_not_sent(
    server: ChatServer, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """huggingface/trl 5588, 3452: equal scores leave a loss of 0, or the KL term alone."""
    server.reply = said("wrong")
    env, sent = offline(tokenizer, server)
    with row_log.RowLog(Path("kept.jsonl"), "r", []) as env.session.rows:
        await work(env, 10)
        assert not sent and len(rows_of(Path("kept.jsonl"))) == 10
        assert (
            caplog.text.count("10 groups in a row are not sent, since all scores of a group are the same (0.00)") == 1
        )
        server.reply = MIXED
        await work(env)
        assert len(sent) == 1 and env.session.same_scores == 0
    env, sent = offline(tokenizer, server, ensure_scores_are_not_same=False)
    server.reply = said("wrong")
    await work(env)
    assert len(sent) == 1


async def test_a_flawed_group_is_not_sent(
    server: ChatServer, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A subclass may score as it likes; a NaN would lose the trainer a whole batch."""
    server.reply = MIXED
    env, sent = offline(tokenizer, server)
    made = await env.collect_trajectories(env.request(0))
    made[0]["scores"][0] = float("nan")
    await env.handle_send_to_api(made[0], env.request(0))
    assert not sent and "item 0 is not sent: a score that is not finite" in caplog.text
    env.max_token_len = 1000
    await work(env)
    assert not sent and "where the trainer takes fewer than 1000" in caplog.text


async def test_completion_lengths_are_the_completions(server: ChatServer, tokenizer: Path) -> None:
    server.reply = MIXED
    env, _ = offline(tokenizer, server)
    await work(env)
    assert env.completion_lengths == [len(env.tokenizer.encode(t)) + 1 for t in ("<answer>none</answer>", "wrong")]


async def test_a_full_disk_does_not_end_the_training(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply = MIXED
    env, sent = offline(tokenizer, server)
    with row_log.RowLog(Path("kept.jsonl"), "r", []) as env.session.rows:
        await work(env)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("environments.rollouts.row_log.os.fsync", full)
        await work(env, 2)
    assert len(sent) == 3 and len(rows_of(Path("kept.jsonl"))) == 1
    assert caplog.text.count("No space left on device); make room") == 1 and "serving goes on" in caplog.text


async def test_a_server_that_refuses_ends_it_at_once(server: ChatServer, tokenizer: Path) -> None:
    env, sent = offline(tokenizer, server)
    server.reply = lambda *_: web.Response(status=401)
    await work(env)
    with pytest.raises(RunError, match="HTTP 401; set LONGTHREAD_API_KEY"):
        await env.get_next_item()
    assert len(server.requests) == 1 and not sent


async def test_a_group_makes_its_lists_when_something_looks_into_it(server: ChatServer, tokenizer: Path) -> None:
    """Atropos' worker only asks for its length; a subclass may look into it, and change it."""
    server.reply = MIXED
    env, _ = offline(tokenizer, server)
    scored, _ = await env.collect_trajectories(env.request(0))
    light, prompt = scored.without_prompt()
    assert len(scored) == len(light) and "data" not in vars(scored) and len(prompt) == 1300
    whole = scored.rollout.scored_data()
    assert dict(scored) == whole == {**scored} and scored["tokens"][1][:1300] == prompt and set(scored) == set(whole)
    scored["scores"][0] = 0.25
    assert scored.without_prompt() == (scored.data, []) and scored.data["scores"][0] == 0.25


async def test_sigterm_ends_it_in_order(
    api: Api, server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemd, Slurm and docker send it; what is under way is sent, and the file is named."""
    hurry(monkeypatch)
    server.reply = MIXED
    await api.register()
    async with serve(env_of(api.url, server, tokenizer, data_path_to_save_groups="served.jsonl")) as running:
        await api.take(2)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(asyncio.CancelledError):
            await running
    assert "rollouts  served.jsonl" in capsys.readouterr().out
