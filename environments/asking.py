"""Asks a server for completions: token-exact where it can give tokens, plain chat where it cannot.

One request per group with `n` completions, so that the server reads the prompt once. The caller gets exactly `n`
completions or an `AskError` of one line; atroposlib retries each request by itself and hides the cause, which is dug
out here.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import tenacity

from environments.env_cli import ConfigError, redact

TOKEN_SERVERS = ("vllm", "sglang")  # server types that take token ids and give token ids with log-probabilities
REFILLS = 3  # requests made for one group when a server returns fewer completions than asked
PREFLIGHT_SECONDS = 10


class AskError(RuntimeError):
    """No full group came back: one line."""


@dataclass(frozen=True, slots=True)
class Completion:
    """`tokens` and `logprobs` belong to the completion alone; `logprobs` is None from a server without them."""

    text: str
    tokens: list[int]
    logprobs: list[float] | None
    finish_reason: str | None


async def ask(
    server: Any,
    tokenizer: Any,
    messages: Sequence[dict[str, str]],
    prompt: list[int],
    n: int,
    token_exact: bool,
    **generation: Any,
) -> tuple[list[int], list[Completion]]:
    """The prompt's tokens as the server saw them, and `n` completions. Raises `AskError`."""
    found: list[Completion] = []
    try:
        for _ in range(REFILLS):
            missing = n - len(found)
            if token_exact:
                reply = await server.tokens_and_logprobs_completion(input_ids=list(prompt), n=missing, **generation)
                prompt = list(reply[0])
                found += [_from_tokens(tokenizer, *one) for one in zip(*reply[1:], strict=True)]
            else:
                reply = await server.chat_completion(messages=list(messages), n=missing, **generation)
                found += await asyncio.to_thread(_from_choices, reply.choices, tokenizer)
            if len(found) >= n:
                return prompt, found[:n]
    except Exception as error:
        raise AskError(reason(error)) from error
    raise AskError(f"the server gave {len(found)} completions of {n} in {REFILLS} requests")


def _from_tokens(
    tokenizer: Any, ids: Sequence[int], logprobs: Sequence[float], finish_reason: str | None
) -> Completion:
    if not all(map(math.isfinite, logprobs)):  # Atropos' API would lose the whole batch over one
        raise ValueError("the server gave a log-probability that is not finite")
    return Completion(tokenizer.decode(ids, skip_special_tokens=True), list(ids), list(logprobs), finish_reason)


def _from_choices(choices: Sequence[Any], tokenizer: Any) -> list[Completion]:
    return [_from_choice(choice, tokenizer) for choice in choices]


def _from_choice(choice: Any, tokenizer: Any) -> Completion:
    # Half a surrogate pair, which JSON can carry, can be neither tokenised nor written.
    text = (choice.message.content or "").encode("utf-8", "replace").decode()
    tokens = tokenizer.encode(text, add_special_tokens=False)
    # Only a finished reply ends with the end-of-turn token: a cut one must not teach the model to stop there.
    if choice.finish_reason == "stop" and tokenizer.eos_token_id is not None:
        tokens = [*tokens, tokenizer.eos_token_id]
    return Completion(text, tokens, None, choice.finish_reason)


def reason(error: BaseException) -> str:
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
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
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
