"""Full groups of completions: exactly `n` of a prompt, or a `CompletionError` of one line.

One request asks for the whole group, so that the server reads the prompt once. What is tried again, and for how long, is
decided here and nowhere else:

- a server that is down (no connection, 429, 502-504): until it has been down for `OUTAGE_SECONDS`; `Retry-After` counts;
- a bad reply (5xx, no answer in time, broken off, not JSON, no completions): `TRIES` times in all;
- a rejection (401, 403, 404, no credit): never, and the run stops; any other 4xx: never, and this group fails.
"""

import asyncio
import json
import logging
from collections.abc import Sequence

import aiohttp
import tenacity

from environments.inference.contracts import Completion, CompletionRequest, ServerConfig
from environments.inference.endpoint import Endpoint
from environments.inference.errors import BadReply, CompletionError, ServerUnavailable
from environments.inference.http_client import session, through_proxy
from longthread.errors import ConfigError
from longthread.secrets import redact_text

logger = logging.getLogger(__name__)
ROUNDS = 3  # of requests for one group, when a server returns fewer completions than asked
TRIES = 3  # of a request that gets a bad reply
OUTAGE_SECONDS = 600.0  # within them a server may be restarted and load its model
ANNOUNCED_SECONDS = 5.0  # an outage that ends sooner is not worth a line: a busy endpoint has one a second
PAUSE = tenacity.wait_random_exponential(multiplier=1, max=30)
PREFLIGHT_SECONDS = 10
# What /v1/models calls a model's window: vLLM and SGLang, OpenRouter, LM Studio, others.
WINDOWS = ("max_model_len", "context_length", "max_context_length", "context_window")
START_SERVER = "start the server, or give another address"


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


async def check_server(config: ServerConfig, longest: int = 0) -> None:
    """Ask for the list of models before any work starts.

    Raises `ConfigError` if the server is down, rejects the key, does not serve the model, or serves it with a window of
    fewer than `longest` tokens.
    """
    url = (config.base_url or "").rstrip("/")
    if not url:
        return
    try:
        status, content, has_v1 = await _list_models(url, config.api_key)
        models = json.loads(content or b"{}") if status == 200 else {}
    except TimeoutError:
        raise _address_error(f"no answer from {url} within {PREFLIGHT_SECONDS} s; {START_SERVER}") from None
    except aiohttp.ClientError as error:
        raise _address_error(
            f"cannot reach a server at {url} ({type(error).__name__}); {START_SERVER}{through_proxy(url)}"
        ) from None
    except ValueError:
        raise _address_error(f"{url}/models answered with something that is not JSON; {START_SERVER}") from None
    if has_v1:
        raise _address_error(f"there is no {url}/models, but there is {url}/v1/models; give {url}/v1")
    if status in (401, 403):
        message = f"{url} refused the API key (HTTP {status}); set LONGTHREAD_API_KEY{through_proxy(url)}"
        raise ConfigError(message, setting="openai.api_key")
    if status >= 500:
        raise _address_error(f"{url} answered HTTP {status}; {START_SERVER}{through_proxy(url)}")
    _check_model(config.model_name, models, url)
    _check_window(config.model_name, models, url, longest)


async def _list_models(url: str, api_key: str | None) -> tuple[int, bytes, bool]:
    """Status and body of `{url}/models`, and whether `/v1` is all that the address lacks."""
    async with session(url, PREFLIGHT_SECONDS, {"Authorization": f"Bearer {api_key}"}) as client:
        async with client.get(f"{url}/models") as reply:
            status, content = reply.status, await reply.read()
        if status != 404 or url.endswith("/v1"):
            return status, content, False
        async with client.get(f"{url}/v1/models") as reply:
            return status, content, reply.status == 200


def _check_model(model: str, models: object, url: str) -> None:
    # A server without a list of models (atroposlib's own vLLM server is one) answers 404: nothing to compare with.
    data = models.get("data") if isinstance(models, dict) else None
    served = [entry.get("id") for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    if served and model not in served:
        names = ", ".join(map(str, served[:5]))
        raise ConfigError(
            f"{url} does not serve the model {model!r}: it must be one of {names}", setting="openai.model_name"
        )


def _check_window(model: str, models: object, url: str, longest: int) -> None:
    data = models.get("data") if isinstance(models, dict) else None
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    windows = [entry[name] for entry in entries if entry.get("id") == model for name in WINDOWS if name in entry]
    if windows and isinstance(windows[0], int) and windows[0] < longest:
        raise ConfigError(
            f"{url} serves {model!r} with a window of {windows[0]:,} tokens, and the longest prompt with its completion "
            f"has {longest:,}: ask for less, or serve it with a longer window",
            setting=("lengths", "max_new_tokens"),
        )


def _address_error(message: str) -> ConfigError:
    return ConfigError(message, setting="openai.base_url")
