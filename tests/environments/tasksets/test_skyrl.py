"""SkyRL-gym: its registry makes the environment from a written row."""

from __future__ import annotations

from pathlib import Path

import pytest

from environments.tasksets import core
from environments.tasksets.write import LINES, Format
from longthread.errors import DataError
from tests.environments.tasksets.frameworks import config, right

skyrl_gym = pytest.importorskip("skyrl_gym", reason="skyrl-gym is not installed")


def test_a_row_is_asked_and_scored_in_one_turn(tokenizer: Path) -> None:
    import environments.tasksets.skyrl  # noqa: F401

    row = core.Rows(config(tokenizer, absent_share=0))[0]
    line = LINES[Format.SKYRL](row)
    for text, reward in ((right(row), 1.0), ("<answer>no</answer>", 0.0), ("", 0.0)):
        env = skyrl_gym.make(line["env_class"], env_config={}, extras={"reward_spec": line["reward_spec"]})
        prompt, _ = env.init(line["prompt"])
        step = env.step(text)
        assert prompt == row["messages"] and step["done"] and step["observations"] == []
        assert step["reward"] == reward == step["metadata"]["exact"]


def test_a_row_without_its_target_is_refused() -> None:
    import environments.tasksets.skyrl  # noqa: F401

    with pytest.raises(DataError, match="ground_truth"):
        skyrl_gym.make("longthread", env_config={}, extras={"reward_spec": {"ground_truth": "Paris"}})
