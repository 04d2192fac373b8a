"""Asks servers for full groups of completions: token-exact where they can give tokens, plain chat where they cannot.

One request per group with `n` completions, so that the server reads the prompt once. The caller gets exactly `n`
completions or an `CompletionError` of one line. What is tried again, and for how long, is decided here and nowhere else:

- a server that is away (no connection, 429, 502-504): until it has been away for `AWAY_SECONDS`, `Retry-After` respected;
- a bad reply (5xx, no answer in time, broken off, no JSON, no completions): `TRIES` times in all;
- a refusal (401, 403, 404, no credit): not at all, and the run stops; any other 4xx: not at all, and the item fails.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import tenacity

from environments.cli import redact
from environments.inference.endpoint import BadReply, CompletionError, Endpoint, Reply, ServerUnavailable
from longthread.errors import ConfigError

logger = logging.getLogger(__name__)
REFILLS = 3  # rounds of requests for one group when a server returns fewer completions than asked
TRIES = 3  # of a request that gets a bad reply
AWAY_SECONDS = 600.0  # a server may be restarted, and load its model, within them
ANNOUNCED_SECONDS = 5.0  # an outage that is over sooner is not worth a line: a busy endpoint has one a second
PAUSE = tenacity.wait_random_exponential(multiplier=1, max=30)
PREFLIGHT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Completion:
    """`tokens` and `logprobs` belong to the completion alone; `logprobs` is None from a server without them."""

    text: str
    tokens: list[int]
    logprobs: list[float] | None
    finish_reason: str | None


async def request_group(
    endpoints: Sequence[Endpoint],
    tokenizer: Any,
    messages: Sequence[dict[str, str]],
    prompt: list[int],
    n: int,
    token_exact: bool,
    split: str = "train",
    **generation: Any,
) -> list[Completion]:
    """`n` completions of the prompt: `messages` as text, `prompt` as tokens. Raises `CompletionError`."""

    async def call(endpoint: Endpoint, missing: int) -> list[Reply]:
        if token_exact:
            return await endpoint.generate(prompt, missing, **generation)
        return await endpoint.chat(messages, missing, **generation)

    found: list[Completion] = []
    for _ in range(REFILLS):
        missing = n - len(found)
        shares = [missing] if all(e.takes_n for e in endpoints) else [1] * missing
        rounds = await asyncio.gather(*(_retry(endpoints, split, call, share) for share in shares))
        replies = [reply for replies in rounds for reply in replies]
        found += await asyncio.to_thread(_completions, replies, tokenizer)
        if len(found) >= n:
            return found[:n]
    raise CompletionError(f"the server gave {len(found)} completions of {n} in {REFILLS} requests")


async def _retry(
    endpoints: Sequence[Endpoint],
    split: str,
    call: Callable[[Endpoint, int], Awaitable[list[Reply]]],
    n: int,
) -> list[Reply]:
    """`call` on the endpoint with most room, again for as long as its failures deserve."""
    bad = 0

    def enough(state: tenacity.RetryCallState) -> bool:
        nonlocal bad
        error = state.outcome.exception() if state.outcome else None
        bad += isinstance(error, BadReply)
        if isinstance(error, ServerUnavailable):
            return error.lasted >= AWAY_SECONDS and all(e.away_since is not None for e in endpoints)
        return bad >= TRIES

    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type((ServerUnavailable, BadReply)), stop=enough, wait=_pause, reraise=True
    ):
        with attempt:
            endpoint = min(endpoints, key=lambda e: (e.in_cooldown(), -e.semaphore(split)._value))
            async with endpoint.semaphore(split):
                try:
                    replies = await call(endpoint, n)
                except CompletionError as error:
                    if endpoint.mark_failed(error, ANNOUNCED_SECONDS):
                        logger.warning("%s; waiting for it, up to %.0f s", error, AWAY_SECONDS)
                    raise
            if (lasted := endpoint.mark_up()) is not None:
                logger.warning("%s answers again after %.0f s", endpoint.url, lasted)
    return replies


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.seconds if isinstance(error, ServerUnavailable) else 0.0
    return min(max(asked, PAUSE(state)), AWAY_SECONDS)


def _completions(replies: Sequence[Reply], tokenizer: Any) -> list[Completion]:
    return [_from_text(r, tokenizer) if r.tokens is None else _from_tokens(r, tokenizer) for r in replies]


def _from_tokens(reply: Reply, tokenizer: Any) -> Completion:
    text = tokenizer.decode(reply.tokens, skip_special_tokens=True)
    if reply.text is not None and _bare(text) != _bare(reply.text):
        raise CompletionError(
            f"the server's tokens do not decode to its text ({redact(text[:40])!r}, not {redact(reply.text[:40])!r}): "
            "--env.tokenizer_name is not its tokenizer"
        )
    return Completion(text, list(reply.tokens or []), list(reply.logprobs or []), reply.finish_reason)


def _bare(text: str) -> str:
    """What servers leave alone: not white space at the ends, nor the halves of a character cut by a length limit."""
    return "".join(text.replace("\ufffd", "").split())


def _from_text(reply: Reply, tokenizer: Any) -> Completion:
    # Half a surrogate pair, which JSON can carry, can be neither tokenised nor written.
    text = (reply.text or "").encode("utf-8", "replace").decode()
    tokens = tokenizer.encode(text, add_special_tokens=False)
    # Only a finished reply ends with the end-of-turn token: a cut one must not teach the model to stop there.
    if reply.finish_reason == "stop" and tokenizer.eos_token_id is not None:
        tokens = [*tokens, tokenizer.eos_token_id]
    return Completion(text, tokens, None, reply.finish_reason)


def failure_reason(error: BaseException) -> str:
    """The cause of a failed request in one line of at most 300 characters."""
    while isinstance(error, tenacity.RetryError) and (cause := error.last_attempt.exception()):
        error = cause
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


async def check_server(config: Any) -> None:
    """One request before any work starts. Raises `ConfigError` if the server is away, refuses, or lacks the model."""
    url, fix = (config.base_url or "").rstrip("/"), "start the server, or give another --openai.base_url"
    if not url:
        return
    path = f"{url}/models"
    headers = {"Authorization": f"Bearer {config.api_key}"}
    timeout = aiohttp.ClientTimeout(total=PREFLIGHT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session:
            async with session.get(path) as reply:
                status, models = reply.status, (await reply.json(content_type=None) if reply.status == 200 else {})
            if status == 404 and not url.endswith("/v1"):
                async with session.get(f"{url}/v1/models") as reply:
                    status = 0 if reply.status == 200 else 404
    except TimeoutError:
        raise ConfigError(f"no answer from {url} within {PREFLIGHT_SECONDS} s; {fix}") from None
    except aiohttp.ClientError as error:
        raise ConfigError(f"cannot reach a server at {url} ({type(error).__name__}); {fix}") from None
    except ValueError:
        raise ConfigError(f"{path} answered with something that is not JSON; {fix}") from None
    if not status:
        raise ConfigError(f"there is no {path}, but there is {url}/v1/models; give --openai.base_url {url}/v1")
    if status in (401, 403):
        raise ConfigError(f"{url} refused the API key (HTTP {status}); set LONGTHREAD_API_KEY or --openai.api_key")
    if status >= 500:
        raise ConfigError(f"{url} answered HTTP {status}; {fix}")
    # A server without a list of models (atroposlib's own vLLM server is one) answers 404: nothing to compare with.
    data = models.get("data") if isinstance(models, dict) else None
    served = [m.get("id") for m in data if isinstance(m, dict)] if isinstance(data, list) else []
    if served and config.model_name not in served:
        raise ConfigError(
            f"model {config.model_name!r} is not served at {url}; give --openai.model_name one of "
            f"{', '.join(map(str, served[:5]))}"
        )
