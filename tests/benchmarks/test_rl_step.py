"""What the step of reinforcement is timed on: the same rollouts, learnt from together or one by one."""

from pathlib import Path

import torch
from typer.testing import CliRunner

from benchmarks.rl_step import ADAPTER, alone, app, random_groups
from tests.environments.tiny_model import save_tiny
from trainer_configs.atropos_rl.config import Batch, Environment, RLConfig
from trainer_configs.atropos_rl.loss import Clip
from trainer_configs.atropos_rl.policy import Policy
from trainer_configs.atropos_rl.trainer import backward


def test_both_roads_forward_the_same_rollouts(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", max_position_embeddings=512)
    config = RLConfig(
        model=str(model), run=tmp_path, environments=[Environment(program="needle")], batch=Batch(max_tokens=200),
        lora=ADAPTER,
    )  # fmt: skip
    policy = Policy(config)
    groups = random_groups(2, 3, 40, 5, policy.model.config.vocab_size)
    together = backward(policy, groups, Clip(), "none", 30)
    apart = [backward(policy, [one], Clip(), "none", 30) for one in alone(groups)]
    assert sum(group.all_tokens for group in alone(groups)) == sum(group.all_tokens for group in groups) == 2 * 3 * 45
    torch.testing.assert_close(together.entropy, sum(sums.entropy for sums in apart), rtol=1e-4, atol=1e-4)


def test_the_table_has_both_roads(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", max_position_embeddings=512)
    result = CliRunner().invoke(
        app, [f"--model={model}", "--prompt=64", "--groups=2", "--group-size=2", "--completion=4", "--times=1"]
    )
    assert result.exit_code == 0, result.output
    assert "a group's prompt once" in result.output and "each rollout by itself" in result.output
