"""`serve` against Atropos' run-api: what is sent and what is not, rows on disk beside it, and an API that comes and goes."""

import asyncio
import json
import logging
import signal
import time
import uuid
from collections import UserDict
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path

from tenacity import RetryError

from environments.atropos.environment import Environment
from environments.atropos.sender import GroupSender, batch_size
from environments.atropos.shared_prefix_gzip import validation_error
from environments.config import HaystackEnvConfig
from environments.config_checks import check_batch
from environments.inference.completions import failure_reason
from environments.reports import wandb_run
from environments.rollouts import row_log
from environments.rollouts.rollout import NOT_TRAINED, PASS, RolloutGroup, RolloutRequest
from environments.rollouts.runner import on_signals
from longthread.errors import ConfigError, RunError
from longthread.files import JsonObject, write_json

logger = logging.getLogger(__name__)
RECONNECT_SECONDS = 3600  # that a run-api, and a trainer that registers with it, may take to come back
DRAIN_SECONDS = 60  # for groups under way when `serve` ends
SECONDS_A_TOKEN = 3.3e-6  # of one core, for run-api to write a batch with log-probabilities and messages
BATCH_TOKENS = 1_500_000  # 5 s, if it has that core to itself
SAME_SCORES = (10, 100, 1000, 10_000)  # groups in a row with nothing to learn, at which a warning is logged


class ScoredGroup(UserDict[str, object]):
    """A rollout group as Atropos' ScoredDataGroup; its lists of tokens are made when something reads them.

    `serve` itself does not: the lists of eight sequences of 128k tokens are millions of references, which are made, looked
    through by every garbage collection, and taken apart again, each time with the event loop standing still.
    """

    def __init__(self, rollout: RolloutGroup, **more: object):
        self.rollout, self.more = rollout, more

    @cached_property
    def data(self) -> JsonObject:  # type: ignore[override]
        """The complete group as a dict, made on first use."""
        return self.rollout.scored_data() | self.more

    def __len__(self) -> int:
        return len(self.rollout.scored_data(with_prompt=False) | self.more)

    def without_prompt(self) -> tuple[JsonObject, list[int]]:
        """Return the group without the prompt's tokens, with which all its sequences begin, and those tokens.

        A group whose `data` was already read may have been changed: it is returned complete, with no tokens.
        """
        if "data" in vars(self):  # it may have been changed
            return self.data, []
        return self.rollout.scored_data(with_prompt=False) | self.more, self.rollout.prompt


class ServeSession:
    """One run of `serve`: groups to run-api and rows to the disk, through restarts of run-api."""

    def __init__(self, env: Environment):
        self.env = env
        self.sender = GroupSender(env.config.rollout_server_url, lambda: env.env_id)
        self.rows: row_log.RowLog | None = None
        self.same_scores = 0  # groups in a row
        # (task, length) -> of the groups not sent since the last one that was: their number, scores, and how many passed.
        self.flat: dict[tuple[str, int], tuple[int, float, int]] = {}
        self.kept = -1  # requests drawn, as the state file says

    async def run(self, env_manager: Callable[[], Awaitable[None]]) -> None:
        """Run Atropos' main loop to its end. Raises `RunError` where there is no run-api."""
        task = asyncio.current_task()
        assert task is not None
        try:
            self._continue()
            if out := self.env.config.data_path_to_save_groups:
                # A file of its own: what the model of another moment said is no continuation.
                self.rows = row_log.RowLog(Path(out), f"{self.env.run_digest()}-{uuid.uuid4().hex[:8]}", [])
            # As Ctrl-C does: systemd, Slurm and docker send SIGTERM.
            with on_signals([signal.SIGTERM], task.cancel), wandb_run.finishing(self.env.config):
                await env_manager()
        except RetryError as error:
            message = f"{self._no_api(error)}; start it, or give another address"
            raise RunError(message, setting="rollout_server_url") from None
        finally:
            lost = await self.sender.drain(DRAIN_SECONDS if self.sender.connected.is_set() else 0)
            if lost:
                logger.warning("%d groups were not sent", lost)
            if self.rows:
                self.rows.close()
                print(f"rollouts  {self.rows.path}")

    async def deliver(self, scored: JsonObject | ScoredGroup, request: RolloutRequest) -> None:
        """Keep the group's row, and send the group if a trainer can learn from it. Goes on when this is cancelled."""
        await self.sender.shielded(self._deliver(scored, request))

    async def _deliver(self, scored: JsonObject | ScoredGroup, request: RolloutRequest) -> None:
        group, prompt = scored.without_prompt() if isinstance(scored, ScoredGroup) else (scored, [])
        await asyncio.to_thread(self._write_row, scored, group, request)
        several_turns = isinstance(scored, ScoredGroup) and bool(scored.rollout.transcripts)
        error = await asyncio.to_thread(
            validation_error, group, self.env.config.group_size, self.env.max_token_len, prompt, several_turns
        )
        if error:
            logger.warning("item %s is not sent: %s", request.index, error)
        elif self.env.config.ensure_scores_are_not_same and len(set(group["scores"])) == 1:
            self._count_same_scores(group["scores"][0], request)
        else:
            self.same_scores = 0
            self.env.items_sent_this_step += 1
            if isinstance(scored, ScoredGroup):
                self._state_origin(group, scored.rollout)
            await self.sender.send(group, prompt)

    def _state_origin(self, group: JsonObject, rollout: RolloutGroup) -> None:
        """Add to a group what trainers of ours read: which weights wrote it, how hard it was, and what was not sent.

        `generation_params` and `group_overrides` are what run-api passes on as it is.
        """
        versions = [c.policy_version for c in rollout.completions if c.policy_version is not None]
        # The oldest of several, so that a trainer never takes a group for fresher than it is.
        origin: JsonObject = {"policy_version": min(versions)} if len(versions) == len(rollout.completions) else {}
        origin["flat"] = [[*key, *counts] for key, counts in self.flat.items()]
        if self.env.curriculum:
            origin["levels"] = {task: self.env.curriculum.level(task) for task in self.env.curriculum.state()["tasks"]}
        self.flat = {}
        request = rollout.request
        group["generation_params"] = {**(group.get("generation_params") or {}), **origin}
        drawn = {"counted_task": request.counted_task or request.task, "length": request.length}
        group["group_overrides"] = {**group["group_overrides"], **drawn}

    def _count_same_scores(self, score: float, request: RolloutRequest) -> None:
        self.same_scores += 1
        key = request.counted_task or request.task, request.length
        groups, total, passed = self.flat.get(key, (0, 0.0, 0))
        self.flat[key] = groups + 1, total + score, passed + (score >= PASS)
        if self.same_scores in SAME_SCORES:
            logger.warning(
                "%d groups in a row are not sent, since all scores of a group are the same (%.2f): nothing to learn; "
                "make the task easier or harder, or use --env.curriculum true",
                self.same_scores,
                score,
            )

    def _write_row(self, scored: JsonObject | ScoredGroup, group: JsonObject, request: RolloutRequest) -> None:
        self.env.completion_lengths += [len(mask) - mask.count(NOT_TRAINED) for mask in group["masks"]]
        if self.rows and isinstance(scored, ScoredGroup):
            try:
                self.rows.add(request.index, scored.rollout.row(self.env.config.store == "full"))
            except row_log.RowLost as error:  # the trainer still gets its groups
                self.rows = None
                logger.warning("%s; serving goes on without keeping rows", error)

    def _continue(self) -> None:
        """Go on where the state file says; a new one begins with the first request."""
        path = Path(self.env.config.state_path)
        if not self.env.config.state_path or not path.exists():
            return
        try:
            state = json.loads(path.read_bytes())
            if not isinstance(state, dict) or not isinstance(state.get("next_index"), int):
                raise ValueError("no next_index")
            self.env.restore({name: state[name] for name in ("next_index", "curriculum_state") if name in state})
        except (OSError, ValueError, TypeError) as error:
            message = f"{path} is not a state that serve wrote ({error}); give another file"
            raise ConfigError(message, setting="state_path") from None
        self.kept = self.env.next_index

    def _keep_state(self) -> None:
        if self.env.config.state_path and self.kept != self.env.next_index:
            self.kept = self.env.next_index
            write_json(Path(self.env.config.state_path), self.env.state())

    async def poll(self, get_status: Callable[[], Awaitable[None]]) -> None:
        """Ask run-api for its status, as Atropos does ten times a second; wait for one that is away or was restarted."""
        try:
            await get_status()
        except RetryError as error:
            await self._reconnect(error)
            await get_status()
        self.sender.connected.set()
        self._keep_state()

    async def _reconnect(self, error: RetryError) -> None:
        self.sender.connected.clear()
        logger.warning("%s; waiting for it and for a trainer, up to %d s", self._no_api(error), RECONNECT_SECONDS)
        start, registration = time.monotonic(), JsonObject()
        while registration.get("status") != "success":
            if time.monotonic() - start > RECONNECT_SECONDS:
                raise RunError(f"{self._no_api(error)} for {RECONNECT_SECONDS} s; start it, and then this again")
            await asyncio.sleep(1)
            # Asked first: atroposlib logs each failure.
            if await batch_size(self.env.config.rollout_server_url) not in (None, -1):
                registration = await self.env._register_env()
        # Not the step: it belongs to what has been learnt and drawn so far. A checkpoint would be loaded over it.
        self.env.env_id, self.env.wandb_prepend = registration["env_id"], registration["wandb_name"]
        await self.env.get_server_info()
        logger.warning("run-api is back; registered again as %s", self.env.wandb_prepend)

    def _no_api(self, error: RetryError) -> str:
        return f"no answer from run-api at {self.env.config.rollout_server_url} ({failure_reason(error)})"


def check_trainer(config: HaystackEnvConfig, longest_taken: int, longest: int, server_type: str) -> None:
    """Check a config against the trainer, which takes sequences below `longest_taken` tokens (-1: any).

    Raises `ConfigError` if the trainer would never get a batch; warns of what works, but not as expected. `longest`:
    tokens of the longest sequence.
    """
    check_batch(config.batch_size, config.group_size)
    if config.group_size == 1 and config.ensure_scores_are_not_same:
        raise ConfigError(
            "group_size 1: every group would be dropped, since all its scores are the same; use a group_size of 2 or "
            "more, or set ensure_scores_are_not_same to false",
            setting=("group_size", "ensure_scores_are_not_same"),
        )
    if 0 < longest_taken <= longest:
        raise ConfigError(
            f"the trainer takes sequences below {longest_taken} tokens, and these reach {longest}: every group would be "
            f"dropped; start it with --max-token-len {longest + 1} or more"
        )
    tokens = config.batch_size * longest
    if tokens > BATCH_TOKENS:
        logger.warning(
            "a batch of %d sequences may have %.1f million tokens, which run-api takes some %.0f s to write; a trainer that "
            "waits only 10 s, as atropos-grpo does, loses it: use a smaller batch",
            config.batch_size,
            tokens / 1e6,
            tokens * SECONDS_A_TOKEN,
        )
    if server_type == "vllm" and config.temperature != 1:
        logger.warning(
            "--env.temperature %g: vLLM reports log-probabilities before temperature, so a trainer's importance ratios are "
            "not those of the policy that sampled; 1 is right",
            config.temperature,
        )
