"""Groups to Atropos' API, which may die and come back: encoded and sent off the event loop, kept until they are taken.

The API keeps everything in memory. After a restart it knows neither trainer nor environment, and a group that reaches it
before a trainer has registered spoils it (no trainer can then register). So nothing is sent until the environment is
registered again, and a group that slipped in between is taken back. Groups that the API had taken and no trainer had
pulled are lost with it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine

import aiohttp

from environments.atropos.shared_prefix_gzip import encode_group
from environments.inference.http_client import session
from longthread.files import JsonObject

logger = logging.getLogger(__name__)
SECONDS = 600  # for one POST: the API answers nobody while it writes a batch, 8 s for 8 x 128k tokens
PAUSE = 1.0  # seconds before a group is encoded again
TRIES = 3  # of a group that the API, though registered, answers with an error


class GroupSender:
    """Sends groups to Atropos' API while `connected` is set; `env_id()` returns the environment's present id there."""

    def __init__(self, url: str, env_id: Callable[[], int]):
        self.url, self.env_id = url, env_id
        self.connected = asyncio.Event()
        self.sent = self.dropped = 0  # groups
        self._under_way: set[asyncio.Task[None]] = set()

    async def shielded(self, work: Coroutine[object, None, None]) -> None:
        """Await the work, which goes on in the background when this is cancelled.

        Atropos cancels its workers whenever the queue is full, also those whose group is made and paid for.
        """
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def drain(self, seconds: float) -> int:
        """Wait at most `seconds` for the groups still being sent, and cancel the rest. Returns how many these are."""
        if not self._under_way:
            return 0
        _, late = await asyncio.wait(set(self._under_way), timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)

    async def send(self, group: JsonObject, prompt: list[int]) -> None:
        """Send a group, again and again until the API has taken or refused it.

        `prompt`: tokens that all sequences begin with and `group` leaves out.
        """
        errors, status = 0, None
        while errors < TRIES:
            await self.connected.wait()
            body = await asyncio.to_thread(encode_group, {**group, "env_id": self.env_id()}, prompt)
            status = await self._post(body)
            if status is None:  # away: whoever polls its status finds out, registers again and sets `connected`
                self.connected.clear()
                await asyncio.sleep(PAUSE)
            elif status < 300:
                self.sent += 1
                return
            else:
                errors = errors + 1 if status >= 500 else TRIES
        self.dropped += 1
        logger.warning("run-api at %s refused a group with HTTP %s; it is not sent", self.url, status)

    async def _post(self, body: bytes) -> int | None:
        """Return the HTTP status; None when the API is away, has no trainer, or was reset while a group was on its way."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        async with session(self.url, SECONDS) as client:
            if await _batch_size(client, self.url) in (None, -1):
                return None
            try:
                async with client.post(f"{self.url}/scored_data", data=body, headers=headers) as reply:
                    status = reply.status
            except (aiohttp.ClientError, TimeoutError, OSError):
                return None
            if status < 300 and await _batch_size(client, self.url) == -1:
                logger.warning("run-api at %s was reset; a trainer that gets no batches must register again", self.url)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):  # so that it takes a trainer
                    await client.get(f"{self.url}/reset_data")
                return None
            return status


async def batch_size(url: str) -> int | None:
    """Return the batch size that a trainer has registered at the API; -1 without a trainer, None without an API."""
    async with session(url, SECONDS) as client:
        return await _batch_size(client, url)


async def _batch_size(client: aiohttp.ClientSession, url: str) -> int | None:
    try:
        async with client.get(f"{url}/info") as reply:
            return int((await reply.json())["batch_size"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return None
