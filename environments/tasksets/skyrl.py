"""SkyRL-gym: rows for its dataset, and the environment that scores them.

    import environments.tasksets.skyrl  # registers "longthread"

SkyRL drops rows above `max_prompt_length` when it loads them: give it the longest of `lengths`.
"""

import json
from collections.abc import Mapping

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from environments.tasksets import core
from longthread.errors import DataError
from longthread.files import Json

NAME = "longthread"


class LongthreadEnv(BaseTextEnv):
    """One question about one text, answered in one turn. Raises `DataError` for a row that is none, or was changed."""

    def __init__(self, env_config: Json = None, extras: Mapping[str, Json] | None = None):
        super().__init__()
        try:
            self._target = json.loads((extras or {})["reward_spec"]["ground_truth"])
        except (KeyError, TypeError, ValueError):
            raise DataError("reward_spec.ground_truth holds no target: write the rows with --format skyrl") from None
        core.target_of(self._target)

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Return the reward of the reply, 0 to 1; the episode is over."""
        score = core.score_completion(action, self._target)
        told = {"exact": float(score.correct), "abstained": float(score.abstained), "task": self._target["task"]}
        return BaseTextEnvStepOutput(observations=[], reward=score.score, done=True, metadata=told)


if NAME not in skyrl_gym.registry:
    skyrl_gym.register(id=NAME, entry_point=f"{__name__}:{LongthreadEnv.__name__}")
