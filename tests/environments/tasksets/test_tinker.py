"""Tinker's cookbook: groups that ask exactly the tokens counted, and score the tokens of a reply."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest

from longthread.errors import ConfigError
from tests.environments.loopback import SHORT
from tests.environments.tasksets.frameworks import right
from tests.environments.tiny_model import EOS, tiny_tokenizer

pytest.importorskip("tinker_cookbook.rl.types", reason="the Tinker cookbook is not installed")


def test_a_group_asks_the_same_and_is_scored_by_token(tokenizer: Path) -> None:
    from environments.tasksets.tinker import LongthreadDatasetBuilder

    settings = {"tokenizer": str(tokenizer), "lengths": SHORT, "absent_share": "0"}
    builder = LongthreadDatasetBuilder(settings=settings, batch_size=2, group_size=3, batches=4, eval_batches=1)
    train, held_out = asyncio.run(builder())
    assert (len(train), len(held_out)) == (4, 1)
    first, second = train.get_batch(1)
    group = pickle.loads(pickle.dumps(first))
    envs = asyncio.run(group.make_envs())
    assert len(envs) == 3 and first.row["digest"] != second.row["digest"]
    prompt, stop = asyncio.run(envs[0].initial_observation())
    assert prompt.length == int(SHORT) and stop == [EOS]
    for text, reward in ((right(first.row), 1.0), ("<answer>no</answer>", 0.0)):
        step = asyncio.run(envs[0].step([*tiny_tokenizer().encode(text), EOS]))
        assert step.episode_done and step.reward == reward == step.metrics["exact"]


def test_wrong_settings_are_one_line(tokenizer: Path) -> None:
    from environments.tasksets.tinker import LongthreadDatasetBuilder

    for settings, word in (({"task": "single"}, "task"), ({"split": "eval"}, "split")):
        with pytest.raises(ConfigError, match=word):
            asyncio.run(LongthreadDatasetBuilder(settings={"tokenizer": str(tokenizer), **settings})())
