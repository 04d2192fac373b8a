"""Groups to an API that fails: sent once each, kept while it is away, never to one that has no trainer."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from environments.atropos import sender as module
from environments.atropos.sender import TRIES, GroupSender
from tests.environments.patience import PATIENCE


def group(number: int) -> dict[str, Any]:
    return {"tokens": [[number]], "masks": [[number]], "scores": [1.0], "messages": [[]]}


class Api:
    """What a run-api has taken, and how it answers the next POST."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.batch_size = 8
        self.status: Callable[[int], int] = lambda number: 200
        self.posts = self.resets = 0
        self.hold: asyncio.Event | None = None
        self.arrived = asyncio.Event()

    async def info(self, _: web.Request) -> web.Response:
        self.arrived.set()
        return web.json_response({"batch_size": self.batch_size, "max_token_len": -1})

    async def reset(self, _: web.Request) -> web.Response:
        self.resets += 1
        self.taken.clear()
        return web.Response()

    async def post(self, request: web.Request) -> web.Response:
        self.posts += 1
        status = self.status(self.posts)
        self.arrived.set()
        if self.hold:
            await self.hold.wait()
        if status == 200:
            self.taken.append(await request.json())  # aiohttp unzips as run-api does
        return web.json_response({}, status=status)


def app_of(api: Api) -> web.Application:
    app = web.Application(client_max_size=2**28)
    app.router.add_get("/info", api.info)
    app.router.add_get("/reset_data", api.reset)
    app.router.add_post("/scored_data", api.post)
    return app


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Api, GroupSender]]:
    api = Api()
    monkeypatch.setattr(module, "PAUSE", 0.0)
    async with TestServer(app_of(api)) as server:
        sender = GroupSender(str(server.make_url("")).rstrip("/"), lambda: 7)
        sender.connected.set()
        yield api, sender


async def test_a_group_is_sent_once_with_the_id_of_its_environment(api: tuple[Api, GroupSender]) -> None:
    server, sender = api
    await asyncio.gather(*(sender.shielded(sender.send(group(i), [])) for i in range(5)))
    assert sorted(sent["tokens"][0][0] for sent in server.taken) == list(range(5)) and server.posts == 5
    assert {sent["env_id"] for sent in server.taken} == {7} and (sender.sent, sender.dropped) == (5, 0)


@pytest.mark.parametrize(("status", "posts"), [(500, TRIES), (503, TRIES), (400, 1), (422, 1)])
async def test_a_group_that_the_api_refuses_is_dropped_and_said(
    api: tuple[Api, GroupSender], status: int, posts: int, caplog: pytest.LogCaptureFixture
) -> None:
    server, sender = api
    server.status = lambda _: status
    await sender.send(group(1), [])
    assert server.posts == posts and not server.taken and (sender.sent, sender.dropped) == (0, 1)
    assert f"refused a group with HTTP {status}; it is not sent" in caplog.text


async def test_an_error_that_passes_loses_nothing(api: tuple[Api, GroupSender]) -> None:
    server, sender = api
    server.status = lambda number: 500 if number < TRIES else 200
    await sender.send(group(1), [])
    assert len(server.taken) == 1 and sender.sent == 1


async def test_nothing_is_sent_to_an_api_without_a_trainer(api: tuple[Api, GroupSender]) -> None:
    """Section 2.9: a group that arrives before a trainer registers leaves the batch size at -1 for ever."""
    server, sender = api
    server.batch_size = -1
    sending = asyncio.create_task(sender.send(group(1), []))
    await server.arrived.wait()
    while sender.connected.is_set():
        await asyncio.sleep(0)
    assert server.posts == 0
    server.batch_size = 8
    sender.connected.set()
    await sending
    assert len(server.taken) == 1 and server.posts == 1


async def test_a_group_that_slipped_into_a_reset_api_is_taken_back(api: tuple[Api, GroupSender]) -> None:
    """The trainer's reset came between the look at the API and the group."""
    server, sender = api

    def reset_meanwhile(number: int) -> int:
        server.batch_size = -1 if number == 1 else 8
        return 200

    server.status = reset_meanwhile
    sending = asyncio.create_task(sender.send(group(1), []))
    while sender.connected.is_set():
        await asyncio.sleep(0)
    while not server.resets:
        await asyncio.sleep(0)
    assert not server.taken
    server.batch_size = 8
    sender.connected.set()
    await sending
    assert len(server.taken) == 1 and server.resets == 1


async def test_a_group_waits_for_an_api_that_is_away(unused_tcp_port: int) -> None:
    sender, api = GroupSender(f"http://127.0.0.1:{unused_tcp_port}", lambda: 3), Api()
    sender.connected.set()
    sending = asyncio.create_task(sender.send(group(1), []))
    while sender.connected.is_set():
        await asyncio.sleep(0)
    async with TestServer(app_of(api), port=unused_tcp_port):
        sender.connected.set()
        await sending
    assert len(api.taken) == 1


async def test_a_cancelled_worker_does_not_cancel_what_it_sends(api: tuple[Api, GroupSender]) -> None:
    """Section 2.4: when the queue is full, atroposlib cancels every worker, and its group is lost."""
    server, sender = api
    server.hold = asyncio.Event()
    worker = asyncio.create_task(sender.shielded(sender.send(group(1), [])))
    await server.arrived.wait()
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    server.hold.set()
    assert await sender.drain(PATIENCE) == 0 and len(server.taken) == 1


async def test_drain_gives_up_and_counts(api: tuple[Api, GroupSender]) -> None:
    _, sender = api
    sender.connected.clear()
    for i in range(2):
        task = asyncio.create_task(sender.shielded(sender.send(group(i), [])))
        await asyncio.sleep(0)
        task.cancel()
    assert await sender.drain(0) == 2 and await sender.drain(0) == 0


async def test_packing_is_not_done_on_the_event_loop(
    api: tuple[Api, GroupSender], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 7: gzip at level 9 stops atroposlib's loop for 5.9 s at 8 x 128k tokens."""
    threads = []

    def pack(body: dict[str, Any], prompt: list[int] | None) -> bytes:
        threads.append(threading.current_thread())
        return gzip.compress(json.dumps(body).encode())

    monkeypatch.setattr(module, "encode_group", pack)
    await api[1].send(group(1), [])
    assert threads and threads[0] is not threading.main_thread() and len(api[0].taken) == 1
