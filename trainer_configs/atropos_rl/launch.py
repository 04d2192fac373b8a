"""Runs all parts as child processes: evaluated before, trained, evaluated after; a part that is killed is started again.

Each part can also be run by itself (`longthread rl CONFIG --part NAME`), which is the same command.
"""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import aiohttp

from environments.inference.http_client import session
from environments.rollouts.runner import on_signals
from longthread.errors import LongthreadError, RunError
from longthread.files import write_json
from trainer_configs.atropos_rl import parts
from trainer_configs.atropos_rl.config import WEIGHTS, RLConfig

POLL = 0.3  # seconds between two looks at the parts
GRACE = 20  # seconds that a part may take to end
READY_SECONDS = 600  # for the server to load its model
EVALUATION_SHARE = 1.2  # of the first evaluation's seconds, kept for the second where time is limited
DIES_WITH_PARENT = 1  # Linux: PR_SET_PDEATHSIG


class PartFailed(LongthreadError):
    """A part that ended by itself and not as it should; the message is its own last line."""

    def __init__(self, name: str, log: Path, code: int) -> None:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")] or lines or ["no output"]
        super().__init__(f"{name}: {errors[-1].removeprefix('error: ')[:400]} [log: {log}]")
        self.exit_code = code if code in (1, 2) else 1  # type: ignore[misc]  # as the part itself would have ended


def _end_with_parent() -> None:
    """In a child, before its program begins: have it killed when this process is, so that none is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)


class Parts:
    """The child processes of a run, by name."""

    def __init__(self, config: RLConfig, path: Path) -> None:
        self.config, self.path = config, path
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.restarts: Counter[str] = Counter()
        self.training_ends: float | None = None  # as of time.time()

    def log(self, name: str) -> Path:
        """Return the file that a part's output goes to."""
        return self.config.run / "logs" / f"{name}.log"

    def start(self, name: str, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a part; its output goes to its log."""
        command = command or parts.command(self.config, self.path, name)
        if name == parts.TRAINER and self.training_ends is not None:
            command = [*command, f"--until={self.training_ends:.1f}"]
        with self._output(name) as output:
            environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
            self.running[name] = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment,
                preexec_fn=_end_with_parent,
            )  # fmt: skip
        return self.running[name]

    @contextmanager
    def _output(self, name: str) -> Iterator[BinaryIO]:
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as file:
            yield file

    async def look_after(self) -> bool:
        """Start killed parts again. Returns True once the trainer is done. Raises `PartFailed` for one that gave up."""
        for name, process in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            if name == parts.TRAINER and code == 0:
                return True
            self.restarts[name] += 1
            if code >= 0 or self.restarts[name] > self.config.restarts:
                raise PartFailed(name, self.log(name), code)
            if name in self.config.names:
                await self.ready()  # an environment asks for the server once, when it starts
            self.start(name)
        return False

    async def ready(self, trained: bool = False) -> None:
        """Wait for the server; with `trained`, give it the last weights, if it was started after they were written."""
        url, start = self.config.server_url, time.monotonic()
        weights = self.config.run / WEIGHTS
        async with session(url, READY_SECONDS) as http:
            while (served := await _served(http, url)) is None:
                if (code := self.running[parts.SERVER].poll()) is not None:
                    raise PartFailed(parts.SERVER, self.log(parts.SERVER), code)
                if time.monotonic() - start > READY_SECONDS:
                    raise RunError(f"the server at {url} is not ready within {READY_SECONDS} s")
                await asyncio.sleep(POLL)
            if trained and served == 0 and weights.exists():
                async with http.post(f"{url}/weights", json={"path": str(weights.resolve())}) as reply:
                    if reply.status != 200:
                        raise RunError(f"the server refuses the trained weights: {await reply.text()}")

    def stop(self, *names: str) -> None:
        """End these parts, or all: SIGTERM, and SIGKILL for one that takes longer than `GRACE`."""
        ended = [self.running.pop(name) for name in names or list(self.running) if name in self.running]
        for process in ended:
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in ended:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def launch(
    config: RLConfig, path: Path, show: Callable[[Counter[str]], None], seconds: float | None = None
) -> None:
    """Run everything to the end; `show` is called with the restarts so far, several times a second.

    `seconds`: that all of it may take: training ends when as much time is left as the evaluation before it took.
    Raises `PartFailed`, one line, when a part gives up.
    """
    began = time.time()
    running, task = Parts(config, path), asyncio.current_task()
    assert task is not None
    try:
        with on_signals([signal.SIGTERM], task.cancel):
            running.start(parts.SERVER)
            await running.ready()
            ready = time.time()
            await _evaluate(running, "before")
            took = evaluation_seconds(config.run, time.time() - ready)
            if seconds is not None:
                running.training_ends = began + seconds - EVALUATION_SHARE * took - GRACE
            for name in parts.names(config):
                if name != parts.SERVER:
                    running.start(name)
            while not await running.look_after():
                show(running.restarts)
                await asyncio.sleep(POLL)
            running.stop(*config.names)  # before run-api, which takes what they have left to send
            running.stop(parts.API, parts.TRAINER)
            await _evaluate(running, "after")
    finally:
        running.stop()


def evaluation_seconds(run: Path, now: float) -> float:
    """Return how long the evaluation before the training took, in whichever start of the run it was done.

    A run that goes on finds it done, `now` in no time, and yet its last evaluation takes as long as the first did.
    """
    path = run / "before" / "seconds.json"
    took = max(now, float(json.loads(path.read_text()))) if path.is_file() else now
    write_json(path, took)
    return took


async def _evaluate(running: Parts, when: str) -> None:
    """Evaluate the environments that are to be, all at once, unless they were in an earlier part of the run."""
    config = running.config
    await running.ready(trained=when == "after")
    begun = {}
    for name, environment in config.names.items():
        out = config.run / when / name
        if environment.evaluation is not None and not (out / "metrics.json").exists():
            begun[name] = running.start(f"{name}-{when}", parts.evaluation_command(config, name, out))
    while begun:
        await asyncio.sleep(POLL)
        for name in [name for name, process in begun.items() if process.poll() is not None]:
            if code := begun.pop(name).returncode:
                raise PartFailed(f"{name}-{when}", running.log(f"{name}-{when}"), code)
            del running.running[f"{name}-{when}"]


async def _served(http: aiohttp.ClientSession, url: str) -> int | None:
    """Return the version of the weights that the server has; None while it does not answer."""
    try:
        async with http.get(f"{url}/weights") as reply:
            return int((await reply.json())["policy_version"])
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return None
