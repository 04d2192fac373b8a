"""One server that is asked for completions: OpenAI's chat protocol, vLLM's and SGLang's /generate, over one HTTP path.

The kind of an exception says what went wrong, and `completions` decides on it: `ServerUnavailable` (not the request's fault:
wait for the server), `BadReply` (try again a few times), `RequestRejected` (no request will pass: stop), `CompletionError`
(this one will not pass). atroposlib's own clients retry each request up to 27 times and hide the cause; its server objects
are used for what the run-api divides among environments, the semaphores.
"""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from environments.cli import redact
from longthread.chunked_json import dumps, elements

TOKEN_SERVERS = ("vllm", "sglang")  # server types that take token ids and give token ids with log-probabilities
AWAY = (408, 425, 429, 502, 503, 504, 529)
REFUSED = (401, 403, 404)
PROBE_SECONDS = 30
FIXES = {
    401: "set LONGTHREAD_API_KEY or --openai.api_key",
    403: "set LONGTHREAD_API_KEY or --openai.api_key",
    404: "check --openai.base_url, --openai.model_name and --openai.server_type",
}


class CompletionError(RuntimeError):
    """No full group came back: one line."""


class BadReply(CompletionError):
    """A reply that is no completion, or none in time."""


class ServerUnavailable(CompletionError):
    """The server cannot be reached, or asks to be left alone for `seconds`; it has been away for `lasted` seconds."""

    def __init__(self, message: str, seconds: float = 0.0):
        super().__init__(message)
        self.seconds, self.lasted = seconds, 0.0


class RequestRejected(CompletionError):
    """The server will refuse every request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion as the server gave it; `tokens` and `logprobs` are None from a server that speaks text alone."""

    text: str | None
    finish_reason: str | None
    tokens: list[int] | None = None
    logprobs: list[float] | None = None


class Endpoint:
    """A server of atroposlib's, asked directly. `away_since` is the `time.monotonic()` of the failure it is away since."""

    def __init__(self, server: Any):
        self.server, self.config = server, server.config
        self.takes_n = not self.config.n_kwarg_is_ignored
        self.away_since: float | None = None
        self.failed_at = 0.0
        self.announced = False

    @property
    def url(self) -> str:
        return str(self.config.base_url or "")

    def semaphore(self, split: str) -> Any:
        """The semaphore that bounds the requests at a time: the run-api's share under `serve`."""
        return self.server.sem if split == "train" else self.server.eval_sem

    async def chat(self, messages: Sequence[dict[str, str]], n: int, **generation: Any) -> list[Reply]:
        """`n` or fewer completions of a chat."""
        body: dict[str, Any] = {"model": self.config.model_name, "messages": list(messages), **generation}
        if self.takes_n:
            body["n"] = n
        body = self.server._inject_reasoning_kwargs(body)
        body |= body.pop("extra_body", {})
        reply = await self._post(f"{self.url}/chat/completions", await asyncio.to_thread(dumps, body))
        try:
            replies = [
                Reply(_text(c["message"].get("content")), _text(c.get("finish_reason"))) for c in reply["choices"]
            ]
        except (AttributeError, KeyError, TypeError):
            raise BadReply(f"{self.url} gave a reply without completions: {_shortened(reply)}") from None
        self.takes_n &= not (len(replies) == 1 < n)
        return replies

    async def generate(self, prompt: list[int], n: int, **generation: Any) -> list[Reply]:
        """`n` or fewer completions of the prompt's tokens, with their tokens and log-probabilities."""
        vllm = self.config.server_type == "vllm"
        url = f"{self.url.removesuffix('/v1')}/generate"
        reply = await self._post(
            url, await asyncio.to_thread(_vllm_body if vllm else _sglang_body, prompt, n, generation)
        )
        try:
            replies = (_vllm_replies if vllm else _sglang_replies)(reply)
            if any(r.tokens and not all(map(math.isfinite, r.logprobs or [])) for r in replies):
                raise BadReply(f"{url} gave a log-probability that is not finite")  # the API would lose a whole batch
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BadReply(
                f"{url} gave no tokens with log-probabilities ({type(error).__name__}: {error}); --openai.server_type "
                f"{self.config.server_type} wants {'the server of atroposlib' if vllm else 'SGLang'}, not a chat server"
            ) from None
        sent = reply.get("prompt_token_ids") if isinstance(reply, dict) else None
        if sent is not None and sent != prompt:
            raise CompletionError(f"{url} read {len(sent)} prompt tokens that are not the {len(prompt)} it was sent")
        return replies

    async def _post(self, url: str, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.config.api_key:
            headers["Authorization"] = f"Bearer {self.config.api_key}"
        timeout = aiohttp.ClientTimeout(total=self.config.timeout or None)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session,
                session.post(url, data=body) as reply,
            ):
                content = await reply.read()
        except TimeoutError:
            raise BadReply(f"no answer from {url} within --openai.timeout {self.config.timeout} s") from None
        except aiohttp.ClientPayloadError:
            raise BadReply(f"{url} broke off in the middle of a reply") from None
        except aiohttp.InvalidURL:
            raise RequestRejected(f"{url} is no address; give another --openai.base_url") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailable(f"cannot reach a server at {self.url} ({type(error).__name__})") from None
        if reply.status != 200:
            raise _failure(url, reply.status, content, reply.headers.get("Retry-After", ""))
        try:
            return json.loads(content)
        except ValueError:
            raise BadReply(f"{url} answered with something that is not JSON: {_shortened(content)}") from None

    def in_cooldown(self) -> bool:
        """Whether to ask another first. A server that was away is tried again every `PROBE_SECONDS`."""
        return self.away_since is not None and time.monotonic() - self.failed_at < PROBE_SECONDS

    def mark_failed(self, error: CompletionError, patience: float) -> bool:
        """Notes a failure. True once an outage, when it has lasted for `patience` seconds."""
        if not isinstance(error, ServerUnavailable):  # it answers
            self.away_since, self.announced = None, False
            return False
        self.failed_at = time.monotonic()
        self.away_since = self.failed_at if self.away_since is None else self.away_since
        error.lasted = self.failed_at - self.away_since
        worth_it = not self.announced and error.lasted >= patience
        self.announced |= worth_it
        return worth_it

    def mark_up(self) -> float | None:
        """Notes a reply. The seconds of the announced outage that it ends."""
        since, announced = self.away_since, self.announced
        self.away_since, self.announced = None, False
        return time.monotonic() - since if announced and since is not None else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError
    return value


def _failure(url: str, status: int, content: bytes, retry_after: str) -> CompletionError:
    said = _shortened(content)
    message = f"{url} answered HTTP {status}: {said}" if said else f"{url} answered HTTP {status}"
    if status in REFUSED:
        return RequestRejected(f"{message}; {FIXES[status]}")
    if status == 429 and "insufficient_quota" in said:
        return RequestRejected(f"{message}; the account has no credit left")
    if status in AWAY:
        return ServerUnavailable(message, float(retry_after) if retry_after.replace(".", "", 1).isdigit() else 0.0)
    return BadReply(message) if status >= 500 else CompletionError(message)


def _shortened(reply: Any) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else json.dumps(reply)
    return redact(" ".join(text.split()))[:160]


def _vllm_body(prompt: list[int], n: int, generation: dict[str, Any]) -> bytes:
    rest = dumps({"logprobs": 0, "n": n, **generation})
    return b'{"prompt": {"prompt_token_ids": [' + elements(prompt) + b"]}, " + rest[1:]


def _vllm_replies(reply: Any) -> list[Reply]:
    """One entry a token: a list whose first member is {token id: log-probability}, the chosen one first."""
    replies = []
    texts = reply.get("text") or [None] * len(reply["logprobs"])
    for entries, why, text in zip(reply["logprobs"], reply["finish_reasons"], texts, strict=True):
        chosen = [next(iter(entry[0].items())) for entry in entries]
        replies.append(Reply(text, why, [int(i) for i, _ in chosen], [float(p) for _, p in chosen]))
    return replies


def _sglang_body(prompt: list[int], n: int, generation: dict[str, Any]) -> bytes:
    names = {"max_tokens": "max_new_tokens"}
    sampling = {"n": n} | {names.get(name, name): value for name, value in generation.items()}
    rest = dumps({"sampling_params": sampling, "return_logprob": True, "return_text_in_logprobs": False})
    return b'{"input_ids": [' + elements(prompt) + b"], " + rest[1:]


def _sglang_replies(reply: Any) -> list[Reply]:
    """`meta_info.output_token_logprobs`: (log-probability, token id, text) a token."""
    replies = []
    for one in reply if isinstance(reply, list) else [reply]:
        why = one["meta_info"].get("finish_reason")
        chosen = one["meta_info"]["output_token_logprobs"]
        tokens, logprobs = [int(c[1]) for c in chosen], [float(c[0]) for c in chosen]
        replies.append(Reply(one.get("text"), why["type"] if isinstance(why, dict) else why, tokens, logprobs))
    return replies
