"""The trainer: takes groups from run-api, moves the weights, publishes them, and can be killed at any time.

The loop is our own, not TRL's AsyncGRPOTrainer: that one resumes by counting prompts of its own data set and reads a
micro-batch ahead, so "no sample trained twice" could not be kept where a served environment decides what comes.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from environments.reports import wandb_run
from longthread.errors import RunError
from trainer_configs.atropos_rl import checkpoint, health
from trainer_configs.atropos_rl.config import WEIGHTS, RLConfig
from trainer_configs.atropos_rl.groups import Group, advantages
from trainer_configs.atropos_rl.health import Sums
from trainer_configs.atropos_rl.loss import Clip, token_losses
from trainer_configs.atropos_rl.policy import Policy
from trainer_configs.atropos_rl.processes import Processes
from trainer_configs.atropos_rl.publisher import Publisher
from trainer_configs.atropos_rl.shared_prompt import PromptGroup, Row, logprobs
from trainer_configs.atropos_rl.source import PATIENCE, BatchSource

logger = logging.getLogger(__name__)


def backward(policy: Policy, groups: Sequence[Group], clip: Clip, scale: str, tokens: int) -> Sums:
    """Add the gradients of groups, forwarded together, to those of the step. `tokens`: trained ones of the whole step."""
    row = Row([PromptGroup(group.prompt, group.completions) for group in groups], policy.device)
    reference_C: Tensor | None = None
    if clip.kl:
        with torch.no_grad(), policy.adapted.disable_adapter():
            reference_C, _ = logprobs(policy.adapted, row)
    new_C, entropy_C = logprobs(policy.adapted, row)
    trained_C = _flat([one for group in groups for one in group.trained], torch.bool, new_C.device)
    old_C = _flat([one for group in groups for one in group.old_logprobs], torch.float32, new_C.device)
    each = [
        [value] * len(one)
        for group in groups
        for value, one in zip(advantages(group.scores, scale), group.completions, strict=True)
    ]
    advantage_C = _flat(each, torch.float32, new_C.device)
    reference_T = None if reference_C is None else reference_C[trained_C]
    loss_T, sums = token_losses(new_C[trained_C], old_C[trained_C], advantage_C[trained_C], clip, reference_T)
    (loss_T.sum() / tokens).backward()
    sums.entropy = float(entropy_C[trained_C].sum())
    return sums


def passes(groups: Sequence[Group], tokens: int) -> list[list[Group]]:
    """Return the groups of a step in passes of at most `tokens` unique tokens; a longer group has one to itself."""
    found: list[list[Group]] = []
    used = 0
    for group in sorted(groups, key=lambda group: group.unique_tokens):
        used += group.unique_tokens
        if not found or used > tokens:
            found.append([])
            used = group.unique_tokens
        found[-1].append(group)
    return found


def _flat(values: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([value for one in values for value in one], dtype=dtype, device=device)


class Trainer:
    """One run, from its newest checkpoint on."""

    def __init__(self, config: RLConfig) -> None:
        """Load the model and the newest checkpoint. Raises `ConfigError`."""
        self.processes = Processes()  # before the policy, which goes to this process's GPU
        self.config, self.policy = config, Policy(config)
        self.checkpoints = config.run / "checkpoints"
        self.state = checkpoint.load(
            self.checkpoints, self.policy.base, self.policy.parameters(), self.policy.optimizer
        )
        self.clip = Clip(config.loss.clip_low, config.loss.clip_high, config.loss.kl)
        patience = min(PATIENCE, config.batch.starve_seconds)
        self.publisher = Publisher(config.server_url, config.run / WEIGHTS, self.policy.base, patience)
        self.source = BatchSource(config, self.state.steps_of, self.state.seen)
        if self.processes.rank == 0:
            self.log = health.HealthLog(config.run, self.state.step)
        self.pass_tokens = config.batch.pass_tokens

    async def run(self, until: float = math.inf) -> None:
        """Train to the last step, or `until` that time, as of time.time(). Raises `RunError` and `ConfigError`, one line."""
        if self.processes.rank:
            await asyncio.to_thread(self._work)
            return
        with wandb_run.start_run(self.config, "rl", self.config.model) as self.wandb:
            await self._train(until)
        self.processes.share(None)

    async def _train(self, until: float) -> None:
        begun = self.state.step
        await self.source.check_batch_size()
        await self._publish_first()
        try:
            while self.state.step < self.config.steps and time.time() < until:
                start = time.monotonic()
                if (groups := await self._take(until)) is None:
                    break
                await self._step(groups, start)
        finally:
            self.source.close()
        if self.state.steps_of[self.state.version] != self.state.step:
            await self._publish()
        if self.state.step > begun and self.state.step % self.config.checkpoint_every:
            self._save()
        adapter = self.config.run / f"adapter-{self.state.step}"
        if not adapter.exists():  # of this very step, when a run that is done is run again
            self.policy.save_adapter(adapter)

    def _work(self) -> None:
        """Take the steps of the first process, until it is done."""
        while (groups := self.processes.share(None)) is not None:
            self._update(groups)
            self.state.step += 1

    async def _publish_first(self) -> None:
        """Have the server serve this trainer's weights under a version that no trainer before it has used."""
        served = await self.publisher.served()
        if served == 0 and self.state.step == 0:  # both are the base model
            self.state.steps_of[0] = 0
            return
        self.state.version = max(served, self.state.version)
        await self._publish()

    async def _publish(self) -> None:
        self.state.version += 1
        await self.publisher.publish(self.policy.weights(), self.state.version)
        self.state.steps_of[self.state.version] = self.state.step

    async def _take(self, until: float) -> list[Group] | None:
        """Return the groups of a step; None where they have not come by that time."""
        try:
            async with asyncio.timeout(None if until == math.inf else until - time.time()):
                return await self.source.take(self.state.step, self.publisher.ensure)
        except TimeoutError:
            logger.warning("the time was up before there was another batch")
            return None

    async def _step(self, groups: Sequence[Group], start: float) -> None:
        """Learn from the groups, for which the trainer has waited since `start`."""
        config, came = self.config, time.monotonic()
        staleness = [self.source.staleness(group, self.state.step) for group in groups]
        self.source.fetch_ahead(self.publisher.ensure)
        sums, norm = await asyncio.to_thread(self._shared_update, groups)
        trained = time.monotonic()
        self.state.step += 1
        if self.state.step % config.publish_every == 0:
            await self._publish()
        timing = health.Timing(came - start, trained - came, time.monotonic() - trained, self.source.completion_tokens)
        dropped = {reason: count for reason, count in self.source.counts.items() if reason}
        numbers = health.row(self.state.step, groups, dropped, staleness, sums, timing) | {"grad_norm": norm}
        self.log.add(numbers | {"version": self.state.version, "keys": [group.key for group in groups]})
        if self.wandb is not None:
            self.wandb.log(health.flattened(numbers), step=self.state.step)
        self.source.counts.clear()
        self.source.completion_tokens = 0
        # Behind the line: a later trainer drops lines beyond its checkpoint, and could not write a missing one.
        if self.state.step % config.checkpoint_every == 0:
            self._save()

    def _save(self) -> None:
        checkpoint.save(self.checkpoints, self.state, self.policy.base, self.policy.parameters(), self.policy.optimizer)

    def _halve_passes(self) -> None:
        """Make room for smaller passes: the gradients of the one that did not fit are half added, so all of them go."""
        self.pass_tokens //= 2
        self.policy.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        logger.warning("a pass does not fit into the GPU's memory; passes of %d tokens from now on", self.pass_tokens)

    def _shared_update(self, groups: Sequence[Group]) -> tuple[Sums, float]:
        self.processes.share(groups)
        return self._update(groups)

    def _update(self, groups: Sequence[Group]) -> tuple[Sums, float]:
        tokens, sums, most = sum(group.trained_tokens for group in groups), Sums(), self.pass_tokens
        own, fits = self.processes.own(groups), True
        try:
            for together in passes(own, most):
                sums.add(backward(self.policy, together, self.clip, self.config.loss.scale, tokens))
        except torch.OutOfMemoryError:
            if len(passes(own, most)) == len(own):
                raise
            fits = False
        if not fits:  # outside of the handler: the error's traceback holds the activations
            self._halve_passes()
            return self._update(groups)
        self.processes.add_up(self.policy.parameters().values(), sums)
        norm = self.policy.step(self.state.step)
        if not norm < float("inf"):
            raise RunError(f"step {self.state.step + 1}: the gradients are not finite; lower the learning rate, and start "
                           "again from the last checkpoint", setting="optimizer.learning_rate")  # fmt: skip
        return sums, norm
