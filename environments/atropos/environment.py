"""What the commands need of an environment."""

from typing import Protocol

from environments.config import HaystackEnvConfig
from environments.curriculum.policy import Curriculum
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
        """Name of the model that writes the completions."""

    @property
    def serving(self) -> bool:
        """Whether `serve` is running: an evaluation is then one of many."""

    def sampling_in_force(self, temperature: float) -> str:
        """Return in words the sampling parameters of requests of that temperature, as far as the server takes them."""

    def run_digest(self) -> str:
        """Return hex digits that name a run by the settings that shape its rows."""

    def request(self, index: int) -> RolloutRequest:
        """Return request number `index` of a run; its task and length follow from the settings and this number."""

    def evaluation_requests(self) -> list[RolloutRequest]:
        """Return the requests of one evaluation, one for each sample."""

    async def rollout(self, request: RolloutRequest, n: int) -> RolloutGroup:
        """Build the request's sample, and return it with `n` scored completions of its prompt."""

    def state(self) -> JsonObject:
        """Return what a later run goes on from."""

    def restore(self, state: JsonObject) -> None:
        """Continue from a `state`."""

    next_index: int  # of the next request
    curriculum: Curriculum | None

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
