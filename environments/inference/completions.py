"""Full groups of completions: exactly `n` of a prompt, or a `CompletionError` of one line.

One request asks for the whole group, so that the server reads the prompt once. What is tried again, and for how long, is
decided here and nowhere else:

- a server that is down (no connection, 429, 502-504): until it has been down for `OUTAGE_SECONDS`; `Retry-After` counts;
- a bad reply (5xx, no answer in time, broken off, not JSON, no completions): `TRIES` times in all;
- a rejection (401, 403, 404, no credit): never, and the run stops; any other 4xx: never, and this group fails.
"""

import asyncio
import logging
from collections.abc import Sequence

import tenacity

from environments.inference.contracts import Completion, CompletionRequest
from environments.inference.endpoint import Endpoint
from environments.inference.errors import BadReply, CompletionError, ServerUnavailable
from longthread.secrets import redact_text

logger = logging.getLogger(__name__)
ROUNDS = 3  # of requests for one group, when a server returns fewer completions than asked
TRIES = 3  # of a request that gets a bad reply
OUTAGE_SECONDS = 600.0  # within them a server may be restarted and load its model
ANNOUNCED_SECONDS = 5.0  # an outage that ends sooner is not worth a line: a busy endpoint has one a second
PAUSE = tenacity.wait_random_exponential(multiplier=1, max=30)


async def request_group(endpoints: Sequence[Endpoint], request: CompletionRequest, n: int) -> list[Completion]:
    """`n` completions of one prompt. Raises `CompletionError`."""
    completions: list[Completion] = []
    for _ in range(ROUNDS):
        missing = n - len(completions)
        shares = [missing] if all(endpoint.takes_n for endpoint in endpoints) else [1] * missing
        for replies in await asyncio.gather(*(_retry(endpoints, request, share) for share in shares)):
            completions += replies
        if len(completions) >= n:
            return completions[:n]
    raise CompletionError(f"the server gave {len(completions)} completions of {n} in {ROUNDS} requests")


async def _retry(endpoints: Sequence[Endpoint], request: CompletionRequest, n: int) -> list[Completion]:
    """One request to the endpoint with the most room, repeated for as long as its failures deserve."""
    bad_replies = 0

    def give_up(state: tenacity.RetryCallState) -> bool:
        nonlocal bad_replies
        error = state.outcome.exception() if state.outcome else None
        bad_replies += isinstance(error, BadReply)
        if isinstance(error, ServerUnavailable):
            return error.lasted >= OUTAGE_SECONDS and all(e.down_since is not None for e in endpoints)
        return bad_replies >= TRIES

    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type((ServerUnavailable, BadReply)), stop=give_up, wait=_pause, reraise=True
    ):
        with attempt:
            endpoint = min(endpoints, key=lambda e: (e.in_cooldown(), -e.semaphore(request.split)._value))
            async with endpoint.semaphore(request.split):
                try:
                    completions = await endpoint.complete(request, n)
                except CompletionError as error:
                    if endpoint.mark_failed(error, ANNOUNCED_SECONDS):
                        logger.warning("%s; waiting for it, up to %.0f s", error, OUTAGE_SECONDS)
                    raise
            if (lasted := endpoint.mark_up()) is not None:
                logger.warning("%s answers again after %.0f s", endpoint.url, lasted)
    return completions


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    wanted = error.seconds if isinstance(error, ServerUnavailable) else 0.0
    return min(max(wanted, PAUSE(state)), OUTAGE_SECONDS)


def failure_reason(error: BaseException) -> str:
    """The cause of a failed request, in one line of at most 300 characters."""
    while isinstance(error, tenacity.RetryError) and (cause := error.last_attempt.exception()):
        error = cause
    return redact_text(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]
