"""What the engine asks of whatever decodes its requests: `batch.GrowingDecoder` or `slots.SlotDecoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from environments.inference.embedded.batch import Prompt
from environments.inference.embedded.request import Request


class Decoder(Protocol):
    """Holds the requests that are being decoded. Called from the engine's thread alone."""

    @property
    def requests(self) -> list[Request]:
        """All requests, in a fixed order."""
        ...

    def has_room(self, joining: Sequence[Request], request: Request) -> bool:
        """Return whether a request may join, with others that are about to; an empty decoder takes any one."""
        ...

    def add(self, prompt: Prompt) -> None:
        """Take in a request whose prompt has been read."""
        ...

    def step(self) -> None:
        """Append one token to every running branch of every request."""
        ...

    def settle(self) -> None:
        """Drop the requests that have no running branch."""
        ...

    def clear(self) -> None:
        """Drop all requests."""
        ...
