"""The trainer's side of run-api and of the server, against ones on loopback that do what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web

from longthread.errors import ConfigError, LongthreadError
from tests.trainer_configs.atropos_rl.test_groups import group
from trainer_configs.atropos_rl import source
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.groups import Flat
from trainer_configs.atropos_rl.publisher import Publisher
from trainer_configs.atropos_rl.source import BatchSource

VERSIONS = {0: 0, 3: 3, 9: 5}  # 5 is no version of this trainer's


def numbered(seed: int, version: int = 9) -> dict[str, Any]:
    recipe = {"task": "single", "length": 5, "seed": seed}
    given = {"group_overrides": {"recipe": recipe}, "generation_params": {"policy_version": version}}
    return group([1, 2], [[3], [4, 5]], **given)


class FakeApi:
    """run-api: knows its trainer or not, and hands out the batches that a test gives it."""

    def __init__(self, batches: list[list[dict[str, Any]]], batch_size: int = 4, registered: bool = False) -> None:
        self.batches, self.size, self.registered = batches, batch_size, registered
        self.registrations: list[dict[str, Any]] = []

    async def register(self, request: web.Request) -> web.Response:
        self.registrations.append(await request.json())
        self.registered = True
        return web.json_response({"uuid": 1})

    async def batch(self, _: web.Request) -> web.Response:
        if not self.registered:
            return web.json_response({"status": "error", "batch": []})
        return web.json_response({"batch": self.batches.pop(0) if self.batches else None})

    async def info(self, _: web.Request) -> web.Response:
        return web.json_response({"batch_size": self.size if self.registered else -1})

    async def status(self, _: web.Request) -> web.Response:
        return web.json_response({"current_step": 0, "queue_size": 1})


@asynccontextmanager
async def listening(routes: dict[tuple[str, str], Callable[..., Any]]) -> AsyncIterator[int]:
    app = web.Application()
    for (method, path), handler in routes.items():
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fed(api: FakeApi, **batch: Any) -> AsyncIterator[BatchSource]:
    routes = {("POST", "/register"): api.register, ("GET", "/batch"): api.batch}
    async with listening(routes | {("GET", "/info"): api.info, ("GET", "/status"): api.status}) as port:
        yield source_at(port, **batch)


def source_at(port: int, **batch: Any) -> BatchSource:
    settings = {"groups": 2, "group_size": 2, "max_tokens": 100, "max_staleness": 2, "starve_seconds": 0.3} | batch
    config = RLConfig.model_validate(
        {"model": "m", "run": "r", "environments": [{"program": "needle"}], "api_port": port, "batch": settings}
    )
    return BatchSource(config, dict(VERSIONS), set())


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PAUSE", 0.01)


async def idle() -> None:
    return None


async def test_each_group_once_and_none_too_old() -> None:
    """Repeats within a batch, of an earlier batch and of a step, another trainer's and stale ones fill no step."""
    batches = [
        [numbered(1), numbered(1)],
        [numbered(2, version=0), numbered(3, version=5)],
        [numbered(4), numbered(5, version=3)],
        [numbered(1), numbered(6)],
    ]
    async with fed(FakeApi(batches)) as taking:
        first = await taking.take(5, idle)
        assert len({one.key for one in first}) == 2 and [one.policy_version for one in first] == [9, 9]
        assert dict(taking.counts) | {"": 0} == {"repeated": 1, "stale": 1, "unknown": 1, "": 0}
        assert [taking.staleness(one, 5) for one in first] == [0, 0]
        second = await taking.take(5, idle)
        assert taking.counts["repeated"] == 2 and not {one.key for one in first} & {one.key for one in second}
        assert [taking.staleness(one, 5) for one in second] == [2, 0]  # as old as may be


async def test_a_group_that_grew_old_while_it_waited_is_dropped() -> None:
    async with fed(FakeApi([[numbered(1, 3), numbered(2), numbered(3, 3), numbered(4)]])) as taking:
        await taking.take(5, idle)
        with pytest.raises(LongthreadError, match="no batch within"):
            await taking.take(6, idle)
        assert taking.counts["stale"] == 1


async def test_groups_with_little_to_learn_are_dropped_and_counted() -> None:
    origin = {"policy_version": 9, "flat": [["single", 5, 2, 1.5, 1]]}
    narrow = numbered(1) | {"scores": [0.02, 0.0], "generation_params": origin}
    async with fed(FakeApi([[narrow, numbered(2)], [numbered(3), numbered(4)]]), least_spread=0.1) as taking:
        taken = await taking.take(5, idle)
        assert len(taken) == 2 and all(one.scores == [0.0, 1.0] for one in taken)
        assert taking.counts["narrow"] == 1
        # It counts in the task's reward as a group that was not sent does, and so do those that were not sent before it.
        assert taken[0].flat == [Flat("single", 5, 2, 1.5, 1), Flat("single", 5, 1, 0.01, 0)] and not taken[1].flat


async def test_a_batch_is_fetched_ahead_and_what_fails_then_is_said_at_the_next_step() -> None:
    api = FakeApi(
        [[numbered(1), numbered(2)], [numbered(3), numbered(4)], [numbered(5) | {"inference_logprobs": None}]]
    )
    async with fed(api) as taking:
        await taking.take(5, idle)
        taking.fetch_ahead(idle)
        assert taking.ahead is not None
        await asyncio.wait([taking.ahead])
        assert len(api.batches) == 1 and len(await taking.take(5, idle)) == 2
        taking.fetch_ahead(idle)
        with pytest.raises(LongthreadError, match="no log-probabilities"):
            await taking.take(5, idle)
        taking.fetch_ahead(idle)
        taking.close()


async def test_run_api_started_anew_is_told_of_the_trainer_again() -> None:
    api = FakeApi([[numbered(1), numbered(2)], [numbered(3), numbered(4)]])
    async with fed(api) as taking:
        await taking.take(5, idle)
        api.registered = False
        await taking.take(5, idle)
    assert [one["batch_size"] for one in api.registrations] == [4, 4]
    assert api.registrations[0]["max_token_len"] == 100


async def test_a_batch_that_starves_and_no_run_api_end_the_run_in_one_line() -> None:
    async with fed(FakeApi([])) as taking:
        with pytest.raises(LongthreadError) as starved:
            await taking.take(0, idle)
    assert "run-api has 1 groups of the 2 that a batch needs" in starved.value.line()
    nobody = source_at(1)
    for call in (nobody.take(0, idle), nobody.check_batch_size()):
        with pytest.raises(LongthreadError, match="no run-api at http://127.0.0.1:1") as gone:
            await call
        assert "start it: run-api --port 1" in gone.value.line() and "\n" not in gone.value.line()


async def test_a_staleness_that_is_never_met_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "STALE_LIMIT", 3)
    batches = [[numbered(2 * i, version=0), numbered(2 * i + 1, version=0)] for i in range(9)]
    async with fed(FakeApi(batches), starve_seconds=60) as taking:
        with pytest.raises(LongthreadError, match="the last 6 groups were dropped") as caught:
            await taking.take(5, idle)
    assert "max_staleness is 2" in caught.value.line() and "6 stale" in caught.value.line()


async def test_batches_of_another_size_are_refused() -> None:
    async with fed(FakeApi([], batch_size=16, registered=True)) as taking:
        with pytest.raises(ConfigError, match="forms batches of 16 sequences, this one takes 4"):
            await taking.check_batch_size()


async def test_while_nothing_comes_the_server_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "IDLE", 0.02)
    api, asked = FakeApi([]), asyncio.Event()

    async def on_idle() -> None:
        asked.set()
        api.batches.append([numbered(1), numbered(2)])

    async with fed(api, starve_seconds=60) as taking:
        assert len(await taking.take(5, on_idle)) == 2
    assert asked.is_set()


# ---- the server ----


async def test_what_a_server_says_against_the_weights_is_one_line(tmp_path: Path) -> None:
    async def other(_: web.Request) -> web.Response:
        return web.json_response({"policy_version": 0, "base": "another"})

    async def mine(_: web.Request) -> web.Response:
        return web.json_response({"policy_version": 0, "base": "base"})

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no room"}}, status=400)

    weights = {"w": torch.ones(1)}
    async with listening({("GET", "/weights"): other}) as port:
        with pytest.raises(ConfigError, match="serves another model"):
            await publisher(port, tmp_path).publish(weights, 1)
    async with listening({("GET", "/weights"): mine, ("POST", "/weights"): refuse}) as port:
        with pytest.raises(LongthreadError, match="refuses the weights: no room"):
            await publisher(port, tmp_path).publish(weights, 1)
    async with listening({}) as port:
        with pytest.raises(ConfigError, match="takes no weights"):
            await publisher(port, tmp_path).served()
    with pytest.raises(LongthreadError, match="no answer from the server at http://127.0.0.1:1"):
        await publisher(1, tmp_path).served()


def publisher(port: int, folder: Path) -> Publisher:
    return Publisher(f"http://127.0.0.1:{port}", folder / "w.safetensors", "base", patience=0.2)
