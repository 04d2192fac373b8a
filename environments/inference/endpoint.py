"""One model server: OpenAI's chat protocol, vLLM's and SGLang's /generate, over one HTTP path.

The kind of an exception says what went wrong, and `completions` decides on it: `ServerUnavailable` (wait for the server),
`BadReply` (try again a few times), `RequestRejected` (no request will pass: stop), `CompletionError` (this one will not
pass). atroposlib's own clients retry each request up to 27 times and hide the cause; its server objects are used for what
the run-api divides among environments, the semaphores.

Why not the openai client: it writes the body on the event loop, which a prompt of 128k tokens then stops for a tenth of a
second; its timeout bounds each read, not the request; it costs twice the CPU; and /generate would need a second HTTP path.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from longthread.chunked_json import dumps, elements
from longthread.errors import RunError
from longthread.files import JsonObject
from longthread.secrets import redact_text

TOKEN_SERVERS = ("vllm", "sglang")  # server types that take token ids and give token ids with log-probabilities
UNAVAILABLE = (408, 425, 429, 502, 503, 504, 529)  # HTTP statuses
COOLDOWN_SECONDS = 30  # a server that was down is asked last for so long
WRONG_KEY = ("set LONGTHREAD_API_KEY", ("openai.api_key",))
REJECTED = {  # HTTP status -> the fix and its settings
    401: WRONG_KEY,
    403: WRONG_KEY,
    404: ("check its address, model and type", ("openai.base_url", "openai.model_name", "openai.server_type")),
}


class CompletionError(RunError):
    """A request failed, so that its group lacks completions."""


class BadReply(CompletionError):
    """The server's reply holds no completion, or did not come in time."""


class ServerUnavailable(CompletionError):
    """The server cannot be reached, or asks to be left alone for `seconds`; it has been down for `lasted` seconds."""

    def __init__(self, message: str, seconds: float = 0.0):
        super().__init__(message)
        self.seconds, self.lasted = seconds, 0.0


class RequestRejected(CompletionError):
    """The server will reject every request: a wrong key, address or model, or no credit."""


class ServerConfig(Protocol):
    """The settings of one model server, as in atroposlib's `APIServerConfig`."""

    @property
    def base_url(self) -> str | None:
        """Address of the server, up to and with `/v1`."""

    @property
    def api_key(self) -> str | None:
        """API key, sent as a Bearer token."""

    @property
    def model_name(self) -> str:
        """The model's name in requests."""

    @property
    def server_type(self) -> str:
        """The kind of server: `openai`, or another of atroposlib's."""

    @property
    def timeout(self) -> float:
        """Seconds that a whole request may take; 0: no limit."""

    @property
    def n_kwarg_is_ignored(self) -> bool:
        """Whether the server gives one reply however many are asked for."""


class Server(Protocol):
    """What is used of atroposlib's `APIServer`: the settings, and the semaphores that bound requests in flight."""

    config: ServerConfig
    sem: asyncio.Semaphore  # of training: the run-api's share under `serve`
    eval_sem: asyncio.Semaphore

    def _inject_reasoning_kwargs(self, kwargs: JsonObject) -> JsonObject: ...


class CompletionTokenizer(Protocol):
    """What is used of a tokenizer: a completion's text as tokens, and back."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of the text."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of the token ids."""


@dataclass(frozen=True)
class CompletionRequest:
    """A prompt, as chat messages and as the tokens that they render to, and how to sample from it."""

    messages: Sequence[Mapping[str, str]]
    prompt: list[int]
    max_tokens: int
    temperature: float
    split: str = "train"

    @property
    def sampling(self) -> JsonObject:
        """The sampling settings under their names in OpenAI's and vLLM's requests."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature}


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, without the prompt: its text, its tokens, and each token's log-probability, None from a chat server."""

    text: str
    tokens: list[int]
    logprobs: list[float] | None
    finish_reason: str | None


class Endpoint:
    """Sends requests to one of atroposlib's model servers, past atroposlib's own client.

    `down_since` is the `time.monotonic()` of the failure that began an outage, None while the server is up.
    """

    def __init__(self, server: Server, tokenizer: CompletionTokenizer):
        self.server, self.config, self.tokenizer = server, server.config, tokenizer
        self.takes_n = not self.config.n_kwarg_is_ignored
        self.down_since: float | None = None
        self.failed_at = 0.0
        self.announced = False

    @property
    def url(self) -> str:
        """The base URL, without a slash behind it."""
        return (self.config.base_url or "").rstrip("/")

    def semaphore(self, split: str) -> asyncio.Semaphore:
        """Return the semaphore that bounds the requests in flight: training's for the split "train", else evaluation's."""
        return self.server.sem if split == "train" else self.server.eval_sem

    async def complete(self, request: CompletionRequest, n: int) -> list[Completion]:
        """Return `n` completions of the prompt, or fewer where the server gives fewer. Raises `CompletionError`."""
        complete = self._generate if self.config.server_type in TOKEN_SERVERS else self._chat
        return await complete(request, n)

    async def _chat(self, request: CompletionRequest, n: int) -> list[Completion]:
        body: JsonObject = {"model": self.config.model_name, "messages": list(request.messages), **request.sampling}
        if self.takes_n:
            body["n"] = n
        body = self.server._inject_reasoning_kwargs(body)
        body |= body.pop("extra_body", {})
        reply = await self._post(f"{self.url}/chat/completions", await asyncio.to_thread(dumps, body))
        try:
            texts = [(_text(c["message"].get("content")), _text(c.get("finish_reason"))) for c in reply["choices"]]
        except (AttributeError, KeyError, TypeError):
            raise BadReply(f"{self.url} gave a reply without completions: {_excerpt(reply)}") from None
        if len(texts) == 1 < n:
            self.takes_n = False
        return await asyncio.to_thread(lambda: [self._tokenized(*text) for text in texts])

    async def _generate(self, request: CompletionRequest, n: int) -> list[Completion]:
        vllm = self.config.server_type == "vllm"
        to_body, to_completions = (_vllm_body, _vllm_completions) if vllm else (_sglang_body, _sglang_completions)
        url = f"{self.url.removesuffix('/v1')}/generate"
        reply = await self._post(url, await asyncio.to_thread(to_body, request, n))
        try:
            completions = await asyncio.to_thread(lambda: list(to_completions(reply, self._decoded)))
            if any(c.tokens and not all(map(math.isfinite, c.logprobs or [])) for c in completions):
                raise BadReply(f"{url} gave a log-probability that is not finite")  # the API would lose a whole batch
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise BadReply(
                f"{url} gave no tokens with log-probabilities ({type(error).__name__}: {error}); a server of type "
                f"{self.config.server_type} is {'the one of atroposlib' if vllm else 'SGLang'}, not a chat server",
                setting="openai.server_type",
            ) from None
        prompt = reply.get("prompt_token_ids") if isinstance(reply, dict) else None
        if prompt is not None and prompt != request.prompt:
            raise CompletionError(
                f"{url} read {len(prompt)} prompt tokens that are not the {len(request.prompt)} it was sent"
            )
        return completions

    def _tokenized(self, text: str | None, finish_reason: str | None) -> Completion:
        # Half a surrogate pair, which JSON can carry, can be neither tokenised nor written.
        text = (text or "").encode("utf-8", "replace").decode()
        tokens, eos = self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id
        # Only a finished reply ends with the end-of-turn token: a cut one must not teach the model to stop there.
        if finish_reason == "stop" and eos is not None:
            tokens = [*tokens, eos]
        return Completion(text, tokens, None, finish_reason)

    def _decoded(self, tokens: list[int], server_text: str | None) -> str:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if server_text is not None and _comparable(text) != _comparable(server_text):
            raise CompletionError(
                f"the server's tokens do not decode to its text ({redact_text(text[:40])!r}, not "
                f"{redact_text(server_text[:40])!r}): give the tokenizer of its model",
                setting="tokenizer_name",
            )
        return text

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
            raise BadReply(f"no answer from {url} within {self.config.timeout} s", setting="openai.timeout") from None
        except aiohttp.ClientPayloadError:
            raise BadReply(f"{url} broke off in the middle of a reply") from None
        except aiohttp.InvalidURL:
            raise RequestRejected(f"{url} is not an address; give another", setting="openai.base_url") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailable(f"cannot reach a server at {self.url} ({type(error).__name__})") from None
        if reply.status != 200:
            raise _http_error(url, reply.status, content, reply.headers.get("Retry-After", ""))
        try:
            return json.loads(content)
        except ValueError:
            raise BadReply(f"{url} answered with something that is not JSON: {_excerpt(content)}") from None

    def in_cooldown(self) -> bool:
        """True while other servers should be asked first: until `COOLDOWN_SECONDS` after the last failure of an outage."""
        return self.down_since is not None and time.monotonic() - self.failed_at < COOLDOWN_SECONDS

    def mark_failed(self, error: CompletionError, patience: float) -> bool:
        """Note a failed request. Returns True when an outage has lasted `patience` seconds and was not announced yet."""
        if not isinstance(error, ServerUnavailable):  # it answers
            self.down_since, self.announced = None, False
            return False
        self.failed_at = time.monotonic()
        self.down_since = self.failed_at if self.down_since is None else self.down_since
        error.lasted = self.failed_at - self.down_since
        announce = not self.announced and error.lasted >= patience
        self.announced |= announce
        return announce

    def mark_up(self) -> float | None:
        """Note a reply. Returns how many seconds an announced outage lasted that it ends; None if there was none."""
        since, announced = self.down_since, self.announced
        self.down_since, self.announced = None, False
        return time.monotonic() - since if announced and since is not None else None


def _text(value: object) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError
    return value


def _comparable(text: str) -> str:
    """Drop whitespace and U+FFFD (half a character, cut by a length limit), so that decoded tokens and server text compare
    equal."""
    return "".join(text.replace("\ufffd", "").split())


def _http_error(url: str, status: int, content: bytes, retry_after: str) -> CompletionError:
    excerpt = _excerpt(content)
    message = f"{url} answered HTTP {status}: {excerpt}" if excerpt else f"{url} answered HTTP {status}"
    if status in REJECTED:
        fix, settings = REJECTED[status]
        return RequestRejected(f"{message}; {fix}", setting=settings)
    if status == 429 and "insufficient_quota" in excerpt:
        return RequestRejected(f"{message}; the account has no credit left")
    if status in UNAVAILABLE:
        seconds = float(retry_after) if retry_after.replace(".", "", 1).isdigit() else 0.0  # it may also be a date
        return ServerUnavailable(message, seconds)
    return BadReply(message) if status >= 500 else CompletionError(message)


def _excerpt(reply: object) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else json.dumps(reply)
    return redact_text(" ".join(text.split()))[:160]


# ---- the forms of /generate ----

Decode = Callable[[list[int], str | None], str]  # of a completion's tokens; raises if the server's text is another


def _vllm_body(request: CompletionRequest, n: int) -> bytes:
    rest = dumps({"logprobs": 0, "n": n, **request.sampling})
    return b'{"prompt": {"prompt_token_ids": [' + elements(request.prompt) + b"]}, " + rest[1:]


def _vllm_completions(reply: Any, decode: Decode) -> Iterator[Completion]:
    """Yield the completions of a reply of vLLM's server.

    `logprobs` holds, for each token, a list whose first member is {token id: log-probability} of the chosen one.
    """
    texts = reply.get("text") or [None] * len(reply["logprobs"])
    for entries, finish_reason, text in zip(reply["logprobs"], reply["finish_reasons"], texts, strict=True):
        chosen = [next(iter(entry[0].items())) for entry in entries]
        tokens, logprobs = [int(i) for i, _ in chosen], [float(p) for _, p in chosen]
        yield Completion(decode(tokens, text), tokens, logprobs, finish_reason)


def _sglang_body(request: CompletionRequest, n: int) -> bytes:
    sampling = {"n": n, "max_new_tokens": request.max_tokens, "temperature": request.temperature}
    rest = dumps({"sampling_params": sampling, "return_logprob": True, "return_text_in_logprobs": False})
    return b'{"input_ids": [' + elements(request.prompt) + b"], " + rest[1:]


def _sglang_completions(reply: Any, decode: Decode) -> Iterator[Completion]:
    """Yield the completions of a reply of SGLang's server.

    `meta_info.output_token_logprobs` holds (log-probability, token id, text) for each token.
    """
    for one in reply if isinstance(reply, list) else [reply]:
        reason, chosen = one["meta_info"].get("finish_reason"), one["meta_info"]["output_token_logprobs"]
        tokens, logprobs = [int(c[1]) for c in chosen], [float(c[0]) for c in chosen]
        reason = reason["type"] if isinstance(reason, dict) else reason
        yield Completion(decode(tokens, one.get("text")), tokens, logprobs, reason)
