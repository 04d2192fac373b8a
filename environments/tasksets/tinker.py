"""Tinker's cookbook: a dataset of single-turn environments, from the tokens of the prompt to the tokens of the reply.

The prompt's tokens are those that longthread counted, not a renderer's: the model reads exactly `length` of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import chz
import tinker
from tinker_cookbook.rl.types import Action, ActionExtra, Env, EnvGroupBuilder, RLDataset, RLDatasetBuilder, StepResult

from environments.haystack.tokens import Tokens
from environments.tasksets import core
from longthread.errors import ConfigError


class LongthreadEnv(Env):
    """One question about one text, answered in one turn."""

    def __init__(self, row: core.Row, tokens: Tokens):
        self._row, self._tokens = row, tokens
        self._stop = [end] if (end := tokens.tokenizer.eos_token_id) is not None else []

    async def initial_observation(self) -> tuple[tinker.ModelInput, list[int]]:
        """Return the prompt's tokens, and the token that ends a reply."""
        rendered = self._tokens.render(self._row["messages"])
        return tinker.ModelInput.from_ints(self._tokens.encode_prompt(rendered, self._row["length"])), self._stop

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """Return the reward of the reply's tokens, 0 to 1; the episode is over."""
        written = action[:-1] if action and action[-1] in self._stop else action
        score = core.score_row(self._tokens.decode(written), self._row)
        return StepResult(
            reward=score.score,
            episode_done=True,
            next_observation=tinker.ModelInput.from_ints([]),
            next_stop_condition=self._stop,
            metrics={"exact": float(score.correct), "abstained": float(score.abstained)},
            logs={"task": self._row["task"], "length": self._row["length"]},
        )


@dataclass(frozen=True)
class LongthreadGroup(EnvGroupBuilder):
    """The environments of one row, one for each reply of a group. Goes to other processes as it is."""

    row: core.Row
    tokenizer: str
    size: int

    async def make_envs(self) -> Sequence[Env]:
        """Return `size` environments that ask the same."""
        tokens = Tokens(core.tokenizer_named(self.tokenizer), self.row["recipe"].get("template"))
        return [LongthreadEnv(self.row, tokens) for _ in range(self.size)]

    def logging_tags(self) -> list[str]:
        """Return the names under which metrics are grouped."""
        return ["longthread", self.row["task"]]


class LongthreadDataset(RLDataset):
    """The first `batches` batches of a config's rows."""

    def __init__(self, config: core.TasksetConfig, batches: int, batch_size: int, group_size: int):
        self._rows, self._batches = core.Rows(config), batches
        self._batch_size, self._group_size = batch_size, group_size

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """Return the groups of batch `index`, from 0."""
        first, name = index * self._batch_size, self._rows.config.tokenizer
        return [LongthreadGroup(self._rows[first + i], name, self._group_size) for i in range(self._batch_size)]

    def __len__(self) -> int:
        return self._batches


@chz.chz
class LongthreadDatasetBuilder(RLDatasetBuilder):
    """Makes a dataset to train on and one of held-out rows. `settings`: those of `TasksetConfig` by name, without `split`."""

    settings: dict[str, str]
    batch_size: int = 16
    group_size: int = 8
    batches: int = 100
    eval_batches: int = 4

    async def __call__(self) -> tuple[LongthreadDataset, LongthreadDataset]:
        """Return both datasets. Raises `ConfigError` for settings that cannot work."""
        if "split" in self.settings:
            raise ConfigError("settings must not hold split: both are made", setting="split")
        train, held_out = (core.read_config({**self.settings, "split": split}) for split in ("train", "eval"))
        return (
            LongthreadDataset(train, self.batches, self.batch_size, self.group_size),
            LongthreadDataset(held_out, self.eval_batches, self.batch_size, 1),
        )
