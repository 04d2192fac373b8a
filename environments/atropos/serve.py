"""`serve` against Atropos' run-api: what is sent and what is not, rows on disk beside it, and an API that comes and goes."""

import asyncio
import logging
import signal
import time
import uuid
from collections import UserDict
from functools import cached_property
from pathlib import Path
from typing import Any

from atroposlib.envs.base import BaseEnv
from tenacity import RetryError

from environments.atropos import shared_prefix_gzip
from environments.atropos.sender import Delivery, batch_size
from environments.config import check_batch
from environments.inference.completions import failure_reason
from environments.reports import wandb_run
from environments.rollouts import row_log
from environments.rollouts.rollout import NOT_TRAINED, RolloutGroup
from environments.rollouts.runner import on_signals
from longthread.errors import ConfigError, RunError

logger = logging.getLogger(__name__)
RECONNECT_SECONDS = 3600  # that a run-api, and a trainer that registers with it, may take to come back
DRAIN_SECONDS = 60  # for groups under way when `serve` ends
SECONDS_A_TOKEN = 3.3e-6  # of one core, for run-api to write a batch with log-probabilities and messages
BATCH_TOKENS = 1_500_000  # 5 s, if it has that core to itself
SAME_SCORES = (10, 100, 1000, 10_000)  # groups in a row with nothing to learn, at which it is said


class ScoredGroup(UserDict[str, Any]):
    """Atropos' ScoredDataGroup of a rollout, its lists of tokens made when something looks into it. `serve` itself does
    not: the lists of eight sequences of 128k tokens are millions of references, which are made, looked through by every
    garbage collection, and taken apart again, each time with the event loop standing still."""

    def __init__(self, rollout: RolloutGroup, **more: Any):
        self.rollout, self.more = rollout, more

    @cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]
        return self.rollout.scored_data() | self.more

    def __len__(self) -> int:
        return len(self.rollout.scored_data(with_prompt=False) | self.more)

    def sent_as(self) -> tuple[dict[str, Any], list[int]]:
        """A group, and the tokens that all its sequences begin with and that it leaves out."""
        if "data" in vars(self):  # it may have been changed
            return self.data, []
        return self.rollout.scored_data(with_prompt=False) | self.more, self.rollout.prompt


class ServingEnv(BaseEnv):
    """BaseEnv with the half of `serve` that faces the API. Subclasses give `run_digest` and `longest_sequence`."""

    delivery: Delivery | None = None  # while serving
    store: row_log.RowLog | None = None  # while serving, with --env.data_path_to_save_groups
    same_scores = 0  # groups in a row
    server_type = "openai"  # of the model's server

    def run_digest(self) -> str:
        """Names a run by what shapes its rows."""
        raise NotImplementedError

    def longest_sequence(self) -> int:
        """Tokens of the longest prompt with its longest completion."""
        raise NotImplementedError

    @property
    def serving(self) -> bool:
        return self.delivery is not None

    async def handle_send_to_api(
        self,
        scored_data: Any,
        item: Any = None,
        do_send_to_api: bool = True,
        abort_on_any_max_length_exceeded: bool = True,
    ) -> None:
        """Keeps the group's row, and sends it to the API if a trainer can learn from it."""
        if self.delivery:
            await self.delivery.carry(self._hand_over(self.delivery, scored_data, item))

    async def _hand_over(self, delivery: Delivery, scored: Any, item: Any) -> None:
        group, prompt = scored.sent_as() if isinstance(scored, ScoredGroup) else (scored, [])
        await asyncio.to_thread(self._keep, scored, group, item)
        if flaw := await asyncio.to_thread(
            shared_prefix_gzip.flaw, group, self.config.group_size, self.max_token_len, prompt
        ):
            logger.warning("item %s is not sent: %s", item.index, flaw)
        elif self.config.ensure_scores_are_not_same and len(set(group["scores"])) == 1:
            self.same_scores += 1  # in a row
            if self.same_scores in SAME_SCORES:
                logger.warning(
                    "%d groups in a row are not sent, since all scores of a group are the same (%.2f): nothing to learn; "
                    "make the task easier or harder, or use --env.curriculum true",
                    self.same_scores,
                    group["scores"][0],
                )
        else:
            self.same_scores = 0
            self.items_sent_this_step += 1
            await delivery.send(group, prompt)

    def _keep(self, scored: Any, group: Any, item: Any) -> None:
        self.completion_lengths += [len(mask) - mask.count(NOT_TRAINED) for mask in group["masks"]]
        if self.store and isinstance(scored, ScoredGroup):
            try:
                self.store.add(item.index, scored.rollout.row(self.config.store == "full"))
            except row_log.RowLost as error:  # the trainer still gets its groups
                self.store = None
                logger.warning("%s; serving goes on without keeping rows", error)

    async def env_manager(self) -> None:
        out = self.config.data_path_to_save_groups
        self.delivery = Delivery(self.config.rollout_server_url, lambda: self.env_id)
        task = asyncio.current_task()
        assert task is not None
        try:
            if out:  # a file of its own: what the model of another moment said is no continuation
                self.store = row_log.RowLog(Path(out), f"{self.run_digest()}-{uuid.uuid4().hex[:8]}", [])
            # As Ctrl-C does: systemd, Slurm and docker send SIGTERM.
            with on_signals([signal.SIGTERM], task.cancel), wandb_run.finishing(self.config):
                await super().env_manager()
        except RetryError as error:
            raise RunError(f"{self._no_api(error)}; start it, or give another --env.rollout_server_url") from None
        finally:
            lost = await self.delivery.drain(DRAIN_SECONDS if self.delivery.connected.is_set() else 0)
            if lost:
                logger.warning("%d groups were not sent", lost)
            if self.store:
                self.store.close()
                print(f"rollouts  {self.store.path}")

    async def register_env(self) -> None:
        await super().register_env()
        if self.delivery:
            self.delivery.connected.set()

    async def get_status(self) -> None:
        """Atropos asks ten times a second; a run-api that is away or was restarted is waited for."""
        try:
            await super().get_status()
        except RetryError as error:
            await self._reconnect(error)
            await super().get_status()
        if self.delivery:
            self.delivery.connected.set()

    async def _reconnect(self, error: RetryError) -> None:
        if self.delivery:
            self.delivery.connected.clear()
        logger.warning("%s; waiting for it and for a trainer, up to %d s", self._no_api(error), RECONNECT_SECONDS)
        start, known = time.monotonic(), dict[str, Any]()
        while known.get("status") != "success":
            if time.monotonic() - start > RECONNECT_SECONDS:
                raise RunError(f"{self._no_api(error)} for {RECONNECT_SECONDS} s; start it, and then this again")
            await asyncio.sleep(1)
            if await batch_size(self.config.rollout_server_url) not in (
                None,
                -1,
            ):  # asked first: atroposlib logs each failure
                known = await self._register_env()
        # Not the step: it belongs to what has been learnt and drawn so far. A checkpoint would be loaded over it.
        self.env_id, self.wandb_prepend = known["env_id"], known["wandb_name"]
        await self.get_server_info()
        logger.warning("run-api is back; registered again as %s", self.wandb_prepend)

    def _no_api(self, error: RetryError) -> str:
        return f"no answer from run-api at {self.config.rollout_server_url} ({failure_reason(error)})"

    async def get_server_info(self) -> None:
        try:
            await super().get_server_info()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        check_batch(self.config.batch_size, self.config.group_size)
        self._warn()
        if self.config.group_size == 1 and self.config.ensure_scores_are_not_same:
            raise ConfigError(
                "group_size 1: every group would be dropped, since all its scores are the same; use --env.group_size 2 "
                "or more, or --env.ensure_scores_are_not_same false"
            )
        longest = self.longest_sequence()
        if 0 < self.max_token_len <= longest:
            raise ConfigError(
                f"the trainer takes sequences below {self.max_token_len} tokens, and these reach {longest}: every group "
                f"would be dropped; start it with --max-token-len {longest + 1} or more"
            )

    def _warn(self) -> None:
        """What works, but not as one would think."""
        tokens = self.config.batch_size * self.longest_sequence()
        if tokens > BATCH_TOKENS:
            logger.warning(
                "a batch of %d sequences may have %.1f million tokens, which run-api takes some %.0f s to write; a "
                "trainer that waits only 10 s, as atropos-grpo does, loses it: use a smaller batch",
                self.config.batch_size,
                tokens / 1e6,
                tokens * SECONDS_A_TOKEN,
            )
        if self.server_type == "vllm" and self.config.temperature != 1:
            logger.warning(
                "--env.temperature %g: vLLM reports log-probabilities before temperature, so a trainer's importance "
                "ratios are not those of the policy that sampled; 1 is right",
                self.config.temperature,
            )
