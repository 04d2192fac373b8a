"""Weights to the inference server: written, swapped in at once, and again when the server was started anew without them."""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from torch import Tensor

from environments.inference.embedded.weights import write_weights
from environments.inference.http_client import session
from longthread.errors import ConfigError, RunError
from longthread.files import JsonObject

logger = logging.getLogger(__name__)
PAUSE = 0.5  # seconds between two requests to a server that is away


class Publisher:
    """The trainer's side of `/weights`. `path`: the file that the server reads, so both are on one machine."""

    def __init__(self, url: str, path: Path, base: str, patience: float) -> None:
        """`base`: digest of the model before training. `patience`: seconds that the server may be away."""
        self.url, self.path, self.base, self.patience = url, path, base, patience
        self.version = 0
        self.posting = asyncio.Lock()  # `ensure` is called while a step is computed, and must not meet `publish`

    async def served(self) -> int:
        """Return the version that the server has. Raises `ConfigError` for a server that takes no weights of this model."""
        state = await self._ask("GET", None)
        if state.get("base") != self.base:
            raise ConfigError(
                f"{self.url} serves another model (base {state.get('base')}, trained is {self.base}): start it with the "
                "model that is trained",
                setting="model",
            )
        return int(state["policy_version"])

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Write the weights, and have the server take them. Raises `RunError` if it refuses them."""
        async with self.posting:
            await asyncio.to_thread(write_weights, self.path, weights, self.base, version)
            self.version = version
            await self._post()

    async def ensure(self) -> None:
        """Give the server the last weights again if it was started anew since."""
        async with self.posting:
            if await self.served() < self.version:
                logger.warning("%s came back without the weights; giving it version %d again", self.url, self.version)
                await self._post()

    async def _post(self) -> None:
        if await self.served() != self.version:  # a request whose answer was lost may have done it
            await self._ask("POST", {"path": str(self.path.resolve())})

    async def _ask(self, method: str, body: JsonObject | None) -> JsonObject:
        start = time.monotonic()
        async with session(self.url, self.patience) as http:
            while True:
                try:
                    async with http.request(method, f"{self.url}/weights", json=body) as reply:
                        answer: JsonObject = await reply.json() if reply.content_type == "application/json" else {}
                        status = reply.status
                    break
                except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                    if time.monotonic() - start > self.patience:
                        raise RunError(f"no answer from the server at {self.url} ({error}): start it again") from None
                    await asyncio.sleep(PAUSE)
        if status == 404 and "base" not in answer and "error" not in answer:
            raise ConfigError(f"{self.url} takes no weights (no /weights): use the embedded server")
        if status != 200:
            message = (answer.get("error") or {}).get("message", f"status {status}")
            raise RunError(f"{self.url} refuses the weights: {message}")
        return answer
