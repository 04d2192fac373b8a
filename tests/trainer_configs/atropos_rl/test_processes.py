"""Two trainer processes on CPUs, by gloo, against one: the same weights after some steps, and the same numbers of a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import PartialState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.testing import assert_close

from tests.environments.tiny_model import save_tiny
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.groups import Group
from trainer_configs.atropos_rl.trainer import Trainer


def group(i: int) -> Group:
    completions = [[60 + i, 70], [80, 90 + i, 100]]
    old = [[-4.0] * len(one) for one in completions]
    trained = [[True] * len(one) for one in completions]
    return Group(str(i), "t", 9, [1 + i] * (4 + 5 * i), completions, trained, old, [1.0, 0.0], 0)


class Trained(NamedTuple):
    """What a process has at the end; all but the first one know only how many they were."""

    processes: int
    weights: dict[str, Any]
    rows: list[list[float]]


def train(settings: dict[str, Any]) -> Trained:
    torch.set_num_threads(1)
    PartialState._reset_state()  # a fork has its parent's, of one process
    trainer = Trainer(RLConfig.model_validate(settings))
    if trainer.processes.rank:
        trainer._work()
        return Trained(trainer.processes.count, {}, [])
    rows = []
    for step in range(3):
        sums, norm = trainer._shared_update([group(i) for i in range(3 if step else 1)])  # one process without a group
        trainer.state.step += 1
        rows.append([sums.tokens, sums.loss, sums.entropy, sums.ratio_max, norm])
    trainer.processes.share(None)
    weights = {name: p.detach().contiguous().numpy() for name, p in trainer.policy.parameters().items()}
    return Trained(trainer.processes.count, weights, rows)


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """torchrun's handlers raise where a signal finds them. A fork of a later test that is told to end, as the pools of
    `datasets` are, could catch that like any other error, and would never end."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def by_torchrun(settings: dict[str, Any], processes: int) -> dict[int, Trained]:
    """What each has at the end, started as `torchrun --standalone` does, but forked: they have all that is imported."""
    start = "spawn" if torch.cuda.is_initialized() else "fork"
    config = LaunchConfig(
        1, 1, processes, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method=start
    )
    results: dict[int, Trained] = elastic_launch(config, train)(settings)
    return results


@pytest.mark.usefixtures("signals_restored")
def test_two_processes_take_the_steps_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = save_tiny(tmp_path / "model")
    settings = {
        "model": str(folder), "run": str(tmp_path / "run"), "environments": [{"program": "needle"}],
        "batch": {"max_tokens": 256}, "optimizer": {"learning_rate": 0.01, "warmup_steps": 0}, "loss": {"scale": "none"},
    }  # fmt: skip
    one, two = train(settings), by_torchrun(settings, 2)
    assert one.processes == 1 and [each.processes for each in two.values()] == [2, 2]
    assert one.weights.keys() == two[0].weights.keys()
    for name, weights in one.weights.items():
        # Sums in another order, and Adam divides by them: a hundredth of what a step moves.
        assert_close(two[0].weights[name], weights, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert_close(two[0].rows, one.rows, atol=1e-5, rtol=1e-4)
    assert one.rows[0][0] == 5 and one.rows[1][0] == 15
