"""What the commands need of an environment."""

from typing import Protocol

from environments.config import HaystackEnvConfig
from environments.reports.wandb_log import RolloutLog
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from longthread.files import JsonObject


class Environment(Protocol):
    """HaystackEnv as `process`, `evaluate` and `serve` see it."""

    name: str
    config: HaystackEnvConfig
    rollout_log: RolloutLog

    @property
    def model_name(self) -> str:
        """The model that is asked."""

    @property
    def serving(self) -> bool:
        """Whether `serve` is running: an evaluation is then one of many."""

    def run_digest(self) -> str:
        """Names a run by what shapes its rows."""

    def request(self, index: int) -> RolloutRequest:
        """The `index`-th request of a run."""

    def evaluation_requests(self) -> list[RolloutRequest]:
        """All requests of an evaluation."""

    async def rollout(self, request: RolloutRequest, n: int) -> RolloutGroup:
        """`n` scored completions of one sample."""

    # Of Atropos' BaseEnv, with its names.
    n_groups_to_process: int
    group_size_to_process: int
    max_num_workers: int
    max_token_len: int  # of the trainer's sequences, which are shorter; -1: any
    items_sent_this_step: int
    completion_lengths: list[int]
    curr_step: int
    env_id: int
    wandb_prepend: str | None  # the name that run-api gave this environment
    wandb_project: str | None
    wandb_group: str | None

    async def setup(self) -> None:
        """Ask every server whether it is there."""

    async def get_server_info(self) -> None:
        """Ask run-api what the trainer wants."""

    async def _register_env(self) -> JsonObject: ...
