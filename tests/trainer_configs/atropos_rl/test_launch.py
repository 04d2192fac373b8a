"""Parts as processes: started, killed, started again, and given up with the line that they ended with."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer_configs.atropos_rl import launch, parts
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.launch import PartFailed, Parts

WAITS = "import time; print('begun', flush=True); time.sleep(600)"
FAILS = "import sys; print('loading', flush=True); sys.exit('error: no model there')"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    config = RLConfig.model_validate(
        {"model": "m", "run": tmp_path, "environments": [{"program": "needle"}], "restarts": 2}
    )
    made = Parts(config, tmp_path / "rl.yaml")
    try:
        yield made
    finally:
        made.stop()


def code(monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Have parts run these programs."""
    monkeypatch.setattr(parts, "command", lambda config, path, name: [sys.executable, "-c", programs[name]])


def kill(running: Parts, name: str) -> None:
    process = running.running[name]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


async def test_a_killed_part_is_started_again_until_there_were_too_many(
    running: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    code(monkeypatch, api=WAITS, server=WAITS)
    for name in (parts.API, parts.SERVER):
        running.start(name)
    untouched = running.running[parts.SERVER]
    for again in (1, 2):
        kill(running, parts.API)
        assert not await running.look_after()
        assert running.running[parts.API].poll() is None and running.restarts == {"api": again}
    kill(running, parts.API)
    with pytest.raises(PartFailed, match="^api: "):
        await running.look_after()
    assert running.running[parts.SERVER] is untouched


async def test_a_part_that_gives_up_ends_the_run_with_its_own_line(
    running: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    code(monkeypatch, server=FAILS)
    running.start(parts.SERVER).wait()
    with pytest.raises(PartFailed) as caught:
        await running.look_after()
    assert caught.value.line().startswith("server: no model there [log: ") and caught.value.exit_code == 1


async def test_an_environment_waits_for_the_server(running: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for the server once, when it starts, and both may have been killed."""
    asked: list[Any] = []

    async def ready(*_: Any) -> None:
        asked.append("needle" in running.running and running.running["needle"].poll())

    code(monkeypatch, needle=WAITS)
    monkeypatch.setattr(running, "ready", ready)
    running.start("needle")
    kill(running, "needle")
    await running.look_after()
    assert asked == [-signal.SIGKILL] and running.running["needle"].poll() is None


async def test_the_trainer_s_end_is_the_run_s(running: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    code(monkeypatch, trainer="pass")
    running.start(parts.TRAINER).wait()
    assert await running.look_after()


def test_the_trainer_alone_is_told_until_when(running: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    code(monkeypatch, trainer="import sys; print(sys.argv[1:])", api="import sys; print(sys.argv[1:])")
    running.training_ends = 12.34
    for name in (parts.TRAINER, parts.API):
        running.start(name).wait()
    assert running.log(parts.TRAINER).read_text().strip() == "['--until=12.3']"
    assert running.log(parts.API).read_text().strip() == "[]"


async def test_stopping_ends_all_and_a_deaf_part_too(running: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + WAITS
    code(monkeypatch, api=WAITS, server=deaf)
    monkeypatch.setattr(launch, "GRACE", 0.5)
    begun = [running.start(parts.API), running.start(parts.SERVER)]
    for name in (parts.API, parts.SERVER):
        while "begun" not in running.log(name).read_text():
            assert running.running[name].poll() is None
    running.stop()
    assert [process.returncode for process in begun] == [-signal.SIGTERM, -signal.SIGKILL] and not running.running


def test_a_run_that_goes_on_keeps_as_much_time_for_its_last_evaluation(tmp_path: Path) -> None:
    assert launch.evaluation_seconds(tmp_path, 90.0) == 90.0
    assert launch.evaluation_seconds(tmp_path, 0.2) == 90.0  # evaluated before it was stopped
    assert launch.evaluation_seconds(tmp_path, 120.0) == 120.0
    assert launch.evaluation_seconds(tmp_path, 0.2) == 120.0
