"""The whole loop with the real run-api, a real environment on `serve`, a served model and the trainer; and each of them
taken away in the middle. What a part leaves behind when it is killed is what stands on the disk: the next one has no more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from environments.haystack.sample import Options
from environments.inference.embedded.server import background
from tests.environments.atropos_api import RunApi, call, hurry
from tests.environments.loopback import make_env, no_waiting
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import save_tiny
from tests.forked import Forked, forked
from trainer_configs.atropos_rl import health
from trainer_configs.atropos_rl.command import main
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.groups import Group
from trainer_configs.atropos_rl.health import Sums
from trainer_configs.atropos_rl.shared_prompt import PromptGroup, Row, logprobs
from trainer_configs.atropos_rl.trainer import Trainer

GROUPS, SIZE, STEPS = 2, 4, 4
# Nobody taught this model anything; a needle of one sign is what it happens to say in about half of its replies.
SIGN = {"tasks": "custom", "needle": "The sign on the door is | today.", "question": "Which sign is on the door?",
        "expected": "|", "answer_format": "plain", "absent_share": 0.0, "lengths": "700,800"}  # fmt: skip


class Killed(Exception):
    """What ends a trainer in these tests: nothing is written behind it."""


class WatchedTrainer(Trainer):
    """A trainer that calls `hook` in the middle of one step."""

    hook: tuple[int, Callable[[], None]] | None = None

    def _update(self, groups: Sequence[Group]) -> tuple[Sums, float]:
        if self.hook and self.state.step + 1 == self.hook[0]:
            call_back, self.hook = self.hook[1], None
            call_back()
        return super()._update(groups)


class Place:
    """A model served at one port, run-api at another, and the environment between them."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run, self.api = folder, run, RunApi()
        self.served = contextlib.ExitStack()
        self.url = ""
        self.environment: asyncio.Task[None] | None = None
        self.drawn: list[int] = []

    def serve(self) -> None:
        port = int(self.url.split(":")[2].split("/")[0]) if self.url else 0
        self.url = self.served.enter_context(background(self.folder, model_name="m", threads=1, port=port))

    def serve_anew(self) -> None:
        self.served.close()
        self.serve()

    def restart_api(self) -> None:
        self.api.kill()
        self.api.start()

    def config(self, **changes: Any) -> RLConfig:
        batch = {"groups": GROUPS, "group_size": SIZE, "max_tokens": 1024, "max_staleness": 6, "starve_seconds": 200}
        known: dict[str, Any] = {
            "model": str(self.folder), "run": self.run, "steps": STEPS, "environments": [{"program": "needle"}],
            "api_port": self.api.port, "server": {"port": int(self.url.split(":")[2].split("/")[0])}, "batch": batch,
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0}, "checkpoint_every": 2,
        }  # fmt: skip
        return RLConfig.model_validate(known | changes)

    def start_environment(self) -> None:
        settings: dict[str, Any] = {"group_size": SIZE, "max_new_tokens": 48, "rollout_server_url": self.api.url}
        settings |= {"total_steps": 10**6, "state_path": str(self.run / "state.json"), "max_batches_offpolicy": 4}
        env = make_env(self.folder, self.url, server={"server_type": "vllm"}, **settings, **SIGN)
        self.environment = asyncio.create_task(env.env_manager())

    async def end_environment(self) -> None:
        assert self.environment is not None
        self.environment.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.environment

    async def train(self, hook: tuple[int, Callable[[], None]] | None = None, **changes: Any) -> WatchedTrainer:
        trainer = await asyncio.to_thread(WatchedTrainer, self.config(**changes))
        trainer.hook = hook
        await asyncio.wait_for(trainer.run(), PATIENCE)
        return trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), max_position_embeddings=8192, initializer_range=0.2)


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    no_waiting(monkeypatch)
    hurry(monkeypatch)
    monkeypatch.setattr(Options, "pool_tokens", 2**15)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    place = Place(folder, tmp_path / "run")
    place.run.mkdir()
    place.api.start()
    place.serve()
    try:
        yield place
    finally:
        place.api.kill()
        place.served.close()
        gc.unfreeze()  # what an environment froze would be reported as leaks when the interpreter ends


def check(place: Place, steps: int = STEPS) -> list[dict[str, Any]]:
    """Every step is there once, and no sample was trained on twice."""
    rows = health.rows(place.run)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    keys = [key for row in rows for key in row["keys"]]
    assert len(keys) == len(set(keys)) == steps * GROUPS
    return rows


async def version(place: Place) -> int:
    return int((await call(place.url.removesuffix("/v1"), "GET", "/weights"))["policy_version"])


async def test_a_run(place: Place) -> None:
    place.start_environment()
    trainer = await place.train()
    await place.end_environment()
    rows = check(place)
    # The first batch was sampled by the very weights that it is scored with.
    assert rows[0]["ratio"]["mean"] == pytest.approx(1, abs=1e-3) and rows[0]["clip"] == {"low": 0, "high": 0}
    assert rows[0]["staleness"] == {"mean": 0, "max": 0}
    assert all(0 <= row["staleness"]["max"] <= 6 and row["grad_norm"] > 0 and row["entropy"] > 0 for row in rows)
    assert await version(place) == STEPS == rows[-1]["version"]
    assert all(cell["completions"] % SIZE == 0 for row in rows for cell in row["tasks"]["custom"].values())
    assert (place.run / f"adapter-{STEPS}" / "adapter_model.safetensors").exists()
    # What is served is what was trained: the log-probabilities of its greedy reply agree.
    prompt = list(b"Which sign is on the door?")
    asked = {"prompt": {"prompt_token_ids": prompt}, "max_tokens": 8, "temperature": 0}
    reply = await call(place.url.removesuffix("/v1"), "POST", "/generate", asked)
    [entries] = reply["logprobs"]
    with torch.inference_mode():
        own, _ = logprobs(trainer.policy.adapted, Row([PromptGroup(prompt, reply["token_ids"])], torch.device("cpu")))
    served = torch.tensor([next(iter(entry[0].values())) for entry in entries])
    torch.testing.assert_close(own, served, atol=1e-3, rtol=1e-3)


async def test_a_run_ends_in_time_though_nothing_comes(place: Place) -> None:
    trainer = await asyncio.to_thread(WatchedTrainer, place.config())
    await asyncio.wait_for(trainer.run(time.time() + 0.3), PATIENCE)
    assert not health.rows(place.run) and (place.run / "adapter-0" / "adapter_model.safetensors").exists()


async def test_a_killed_trainer_goes_on_from_its_checkpoint(place: Place) -> None:
    """It dies in step 4, one step behind its checkpoint of step 2: the server has weights that the next trainer has not."""

    def kill() -> None:
        raise Killed

    place.start_environment()
    with pytest.raises(Killed):
        await place.train((4, kill))
    lost = await version(place)
    before = health.rows(place.run)
    assert len(before) == lost == 3
    trainer = await asyncio.to_thread(WatchedTrainer, place.config(steps=5))
    assert trainer.state.step == 2 and len(trainer.state.seen) == 2 * GROUPS
    assert health.rows(place.run) == before[:2]
    await asyncio.wait_for(trainer.run(), PATIENCE)
    await place.end_environment()
    rows = check(place, 5)
    assert await version(place) > lost
    assert rows[2]["version"] > lost  # never a number that other weights had
    assert not any(lost == known for known in trainer.state.steps_of)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[list[Forked]]:
    """Two processes that wait to be told what to train, forked before anything here runs in threads."""
    with forked(main, 2, tmp_path) as waiting:
        yield waiting


async def test_a_trainer_ended_by_sigkill_goes_on_too(commands: list[Forked], place: Place) -> None:
    """A process of its own, killed as soon as three steps stand in the log, wherever it is by then."""
    place.start_environment()
    config = place.config(steps=6, environments=[{"program": "needle", "env": SIGN | {"max_new_tokens": 48}}])
    path = place.run / "rl.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    first, again = commands
    first.begin("train", str(path))
    while len(health.rows(place.run)) < 3:
        assert first.process.is_alive(), first.err.read_text()
        await asyncio.sleep(0.05)
    first.process.kill()
    await asyncio.to_thread(first.process.join)
    assert first.process.exitcode == -signal.SIGKILL
    lost = await version(place)
    again.begin("train", str(path))
    await asyncio.to_thread(again.process.join, PATIENCE)
    assert again.process.exitcode == 0, again.err.read_text()
    await place.end_environment()
    rows = check(place, 6)
    assert [row["version"] for row in rows] == sorted({row["version"] for row in rows})  # each step's weights their own
    assert rows[-1]["version"] > lost
    assert await version(place) == rows[-1]["version"]


async def test_a_server_started_anew_gets_the_weights_again(place: Place) -> None:
    place.start_environment()
    await place.train((3, place.serve_anew))
    await place.end_environment()
    check(place)
    assert await version(place) == STEPS


async def test_a_run_api_started_anew_is_registered_with_again(place: Place) -> None:
    place.start_environment()
    await place.train((3, place.restart_api))
    await place.end_environment()
    check(place)


async def test_an_environment_started_anew_asks_nothing_twice(place: Place) -> None:
    loop = asyncio.get_running_loop()

    async def restart() -> None:
        await place.end_environment()
        place.start_environment()

    place.start_environment()
    await place.train((3, lambda: asyncio.run_coroutine_threadsafe(restart(), loop).result(PATIENCE)))
    await place.end_environment()
    rows = check(place)
    assert sum(row["groups"]["repeated"] for row in rows) <= 4  # in flight when the state was last written
