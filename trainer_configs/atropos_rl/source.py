"""Batches of groups from Atropos' run-api, which may be restarted, hold groups too old, and hand a group out twice.

run-api keeps everything in memory: after a restart it knows no trainer, so this one registers again. It hands a batch out
once; a trainer that dies with one has lost it, and trains others instead.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp

from environments.inference.http_client import session
from environments.rollouts.rollout import PASS
from longthread.errors import ConfigError, RunError
from longthread.files import JsonObject
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.groups import Flat, Group, read_group

PAUSE = 0.2  # seconds between two requests for a batch
IDLE = 5.0  # seconds between two calls of `on_idle`
PATIENCE = 600.0  # seconds that run-api may be away
REQUEST_SECONDS = 600  # run-api answers nobody while it writes a batch
STALE_LIMIT = 50  # batches' worth of groups in a row, all dropped, before the run ends


class BatchSource:
    """Groups that a policy may learn from, each once.

    `steps_of` maps versions of the policy to the trainer's step at which each was published; a version that is not there
    was written by a trainer whose work is lost. `seen` holds the keys of the samples that were trained on.
    """

    def __init__(self, config: RLConfig, steps_of: dict[int, int], seen: set[str]) -> None:
        self.config, self.steps_of, self.seen = config, steps_of, seen
        self.url, self.size = config.api_url, config.batch.groups * config.batch.group_size
        self.ready: list[Group] = []
        self.counts: Counter[str] = Counter()  # of groups since `take` was last called, by what became of them
        self.completion_tokens = 0  # of all that came, dropped ones too
        self.dropped_in_a_row = 0
        self.narrow: list[Flat] = []  # groups since `take` was last called
        self.ahead: asyncio.Task[None] | None = None  # what fetches the next batch

    def staleness(self, group: Group, step: int) -> int:
        """Return how many steps the group's policy lies behind."""
        return step - self.steps_of[group.policy_version]

    async def take(self, step: int, on_idle: Callable[[], Awaitable[None]]) -> list[Group]:
        """Return the groups of one step, waiting for them; `on_idle` is called while there are none.

        Raises `RunError` when they do not come.
        """
        while True:
            if self.ahead is not None:
                ahead, self.ahead = self.ahead, None
                await ahead
            self.ready = [group for group in self.ready if self._usable(group, step)]
            if len(self.ready) >= self.config.batch.groups:
                taken, self.ready = self.ready[: self.config.batch.groups], self.ready[self.config.batch.groups :]
                self.seen |= {group.key for group in taken}
                taken[0].flat.extend(self.narrow)
                self.narrow = []
                self.dropped_in_a_row = 0
                return taken
            self._check_dropping()
            await self._fetch(on_idle)

    def fetch_ahead(self, on_idle: Callable[[], Awaitable[None]]) -> None:
        """Begin to fetch what the next step needs, while this one is computed: run-api takes a while to write a batch."""
        if self.ahead is None and len(self.ready) < self.config.batch.groups:
            self.ahead = asyncio.create_task(self._fetch(on_idle))

    def close(self) -> None:
        """End what is being fetched."""
        if self.ahead is not None:
            self.ahead.cancel()

    async def _fetch(self, on_idle: Callable[[], Awaitable[None]]) -> None:
        """Wait for one batch of run-api, and keep its groups."""
        keys = {group.key for group in self.ready}
        for given in await self._batch(on_idle):
            group = read_group(given, self.config.batch.max_tokens)
            self.completion_tokens += sum(map(len, group.completions))
            if group.key in keys:
                self.counts["repeated"] += 1
                continue
            keys.add(group.key)
            if max(group.scores) - min(group.scores) < self.config.batch.least_spread:
                self._count_narrow(group)
            else:
                self.ready.append(group)

    def _count_narrow(self, group: Group) -> None:
        """Count a group like those that its environment did not send, since there is little to learn from it."""
        score = sum(group.scores) / len(group.scores)
        self.narrow += [*group.flat, Flat(group.task, group.length, 1, score, int(score >= PASS))]
        self.counts["narrow"] += 1
        self.dropped_in_a_row += 1

    def _usable(self, group: Group, step: int) -> bool:
        reason = ""
        if group.key in self.seen:
            reason = "repeated"
        elif group.policy_version not in self.steps_of:
            reason = "unknown"
        elif self.staleness(group, step) > self.config.batch.max_staleness:
            reason = "stale"
        self.counts[reason] += bool(reason)
        self.dropped_in_a_row += bool(reason)
        return not reason

    def _check_dropping(self) -> None:
        if self.dropped_in_a_row >= STALE_LIMIT * self.config.batch.groups:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.counts.items() if reason)
            raise RunError(
                f"the last {self.dropped_in_a_row} groups were dropped ({counts}; max_staleness is "
                f"{self.config.batch.max_staleness}): raise it, lower max_batches_offpolicy of the environments, or ask for "
                "what passes more often",
                setting="batch.max_staleness",
            )

    # ---- run-api ----

    async def _batch(self, on_idle: Callable[[], Awaitable[None]]) -> list[JsonObject]:
        start = idle = away = time.monotonic()
        async with session(self.url, REQUEST_SECONDS) as http:
            while True:
                now = time.monotonic()
                try:
                    batch = await self._poll(http)
                    away = now
                    if batch:
                        return batch
                except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                    if now - away > min(PATIENCE, self.config.batch.starve_seconds):
                        raise RunError(f"no run-api at {self.url} ({error}): start it: run-api --port "
                                       f"{self.config.api_port}") from None  # fmt: skip
                if now - start > self.config.batch.starve_seconds:
                    raise RunError(await self._starved(http), setting="batch.starve_seconds")
                if now - idle > IDLE:
                    await on_idle()
                    idle = time.monotonic()
                await asyncio.sleep(PAUSE)

    async def _poll(self, http: aiohttp.ClientSession) -> list[JsonObject] | None:
        async with http.get(f"{self.url}/batch") as reply:
            answer: JsonObject = await reply.json() if reply.status == 200 else {"status": "error"}
        if answer.get("status") == "error":  # started anew, or reset
            await self._register(http)
            return None
        batch: list[JsonObject] | None = answer["batch"]
        return batch

    async def _register(self, http: aiohttp.ClientSession) -> None:
        registration: JsonObject = {
            "wandb_group": "longthread",
            "wandb_project": "longthread-rl",
            "batch_size": self.size,
            "max_token_len": self.config.batch.max_tokens,
            "checkpoint_dir": "",  # the environments keep their own state
            "save_checkpoint_interval": -1,
            "starting_step": 0,
            "num_steps": self.config.steps,
        }
        async with http.post(f"{self.url}/register", json=registration) as reply:
            reply.raise_for_status()

    async def check_batch_size(self) -> None:
        """Register if nobody has. Raises `ConfigError` where run-api forms other batches, for a trainer before this one."""
        async with session(self.url, REQUEST_SECONDS) as http:
            start = time.monotonic()
            while True:
                try:
                    async with http.get(f"{self.url}/info") as reply:
                        size = (await reply.json())["batch_size"]
                    if size == -1:
                        await self._register(http)
                        continue
                    break
                except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                    if time.monotonic() - start > min(PATIENCE, self.config.batch.starve_seconds):
                        raise RunError(
                            f"no run-api at {self.url} ({error}): start it: run-api --port {self.config.api_port}"
                        ) from None
                    await asyncio.sleep(PAUSE)
        if size != self.size:
            raise ConfigError(
                f"run-api at {self.url} forms batches of {size} sequences, this one takes {self.size}: start run-api anew",
                setting=("batch.groups", "batch.group_size"),
            )

    async def _starved(self, http: aiohttp.ClientSession) -> str:
        async with http.get(f"{self.url}/status") as reply:
            waiting = (await reply.json()).get("queue_size", 0)
        return (
            f"no batch within {self.config.batch.starve_seconds:g} s: run-api has {waiting} groups of the "
            f"{self.config.batch.groups} that a batch needs; is an environment on serve, and do its scores differ?"
        )
