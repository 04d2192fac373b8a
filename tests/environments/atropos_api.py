"""Atropos' own run-api as a process on a free port, and a trainer that takes batches from it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]


def started(
    argv: list[str], program: str = "environments.needle_env", stdout: int = PIPE, stdin: int | None = None
) -> subprocess.Popen[str]:
    """A module as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", program, *argv]
    return subprocess.Popen(line, stdin=stdin, stdout=stdout, stderr=PIPE, text=True, env=environment)


class RunApi:
    """run-api on one port, to be killed and started again."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """It has a line for every request: once a pipe that no one reads is full of them, it answers no more."""
        self.process = started(["--host", "127.0.0.1", "--port", str(self.port)], "atroposlib.cli.run_api", DEVNULL)
        assert self.process.stderr is not None
        if not any("running on" in line for line in self.process.stderr):
            pytest.fail("run-api did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running_api() -> Iterator[str]:
    """run-api's URL."""
    api = RunApi()
    try:
        api.start()
        yield api.url
    finally:
        api.kill()


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """atroposlib waits five seconds "for other instances" and a second for a trainer."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *_: sleep(min(seconds, 0.02)))


async def call(api: str, method: str, path: str, body: Any = None) -> Any:
    async with aiohttp.ClientSession() as session, session.request(method, api + path, json=body) as reply:
        assert reply.status == 200, (path, await reply.text())
        # /reset_data says "Reset successful"
        return await reply.json() if reply.content_type == "application/json" else None


async def register(api: str, batch_size: int, steps: int, longest: int = 4096) -> None:
    """What a trainer says of itself."""
    registration: dict[str, Any] = {
        "wandb_group": "g",
        "wandb_project": "p",
        "batch_size": batch_size,
        "max_token_len": longest,
    }
    registration |= {"checkpoint_dir": "", "save_checkpoint_interval": -1, "starting_step": 0, "num_steps": steps}
    await call(api, "POST", "/register", registration)


async def take_batches(api: str, batch_size: int, steps: int, longest: int = 4096) -> list[list[dict[str, Any]]]:
    """A trainer: registers, and takes batches until the API has counted more than so many steps. The batches."""
    await call(api, "GET", "/reset_data")
    await register(api, batch_size, steps, longest)
    batches: list[list[dict[str, Any]]] = []
    while True:
        batch = (await call(api, "GET", "/batch"))["batch"]
        # One call forms all batches that it can and counts them as steps, but gives one of them.
        if batch is not None:
            batches.append(batch)
        elif (await call(api, "GET", "/status"))["current_step"] > steps:
            return batches
        else:
            await asyncio.sleep(0.02)


async def train(api: str, batch_size: int, steps: int, longest: int = 4096) -> list[dict[str, Any]]:
    """The groups of `take_batches`."""
    return [group for batch in await take_batches(api, batch_size, steps, longest) for group in batch]
