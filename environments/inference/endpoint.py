"""One model server, asked over one HTTP path: OpenAI's chat protocol, or tokens with log-probabilities (`token_servers`).

The kind of an exception says what went wrong, and `completions` decides on it: `ServerUnavailable` (wait for the server),
`BadReply` (try again a few times), `RequestRejected` (no request will pass: stop), `CompletionError` (this one will not
pass). What a server takes and says is learnt from its first replies (`request_form`, `chat_reply`) and said once.
atroposlib's own clients retry each request up to 27 times and hide the cause; its server objects are used for what the
run-api divides among environments, the semaphores.

Why not the openai client: it writes the body on the event loop, which a prompt of 128k tokens then stops for a tenth of a
second; its timeout bounds each read, not the request; it costs twice the CPU; and tokens would need a second HTTP path.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from environments.inference import chat_reply, http_client
from environments.inference.contracts import Completion, CompletionRequest, CompletionTokenizer, Server
from environments.inference.errors import (
    BadReply,
    CompletionError,
    RequestRefused,
    RequestRejected,
    ServerUnavailable,
    excerpt,
    http_error,
)
from environments.inference.finish_reason import Ending, ending
from environments.inference.request_form import TOO_LONG, RequestForm
from environments.inference.token_servers import APIS, COMMANDS, TOKEN_SERVERS, TokenApi, TokenReply, TokenRequest
from longthread.chunked_json import dumps
from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.secrets import redact_text

logger = logging.getLogger(__name__)
COOLDOWN_SECONDS = 30  # a server that was down is asked last for so long
SMALL = 16  # tokens by which a server may read every prompt longer or shorter than it was sent


class Endpoint:
    """A server of atroposlib's, asked directly.

    `down_since` is the `time.monotonic()` of the failure that began an outage, None while the server is up. `form` is what
    its chat requests take as far as is known, `token_api` the way it gives tokens once that is known, `offset` the tokens
    by which it reads prompts longer than they were sent.
    """

    def __init__(self, server: Server, tokenizer: CompletionTokenizer | None):
        """Without a tokenizer completions of a chat server have no tokens."""
        self.server, self.config, self.tokenizer = server, server.config, tokenizer
        self.form = self.first_form = RequestForm(takes_n=not self.config.n_kwarg_is_ignored)
        self.proven = False  # one request in this form has passed
        self.token_api: TokenApi | None = None
        self.offset: int | None = None
        self.down_since: float | None = None
        self.failed_at = 0.0
        self.announced = False
        self._said: set[str] = set()

    @property
    def url(self) -> str:
        """The base URL, without a slash behind it."""
        return (self.config.base_url or "").rstrip("/")

    @property
    def takes_n(self) -> bool:
        """Whether one request may ask for several replies."""
        return self.form.takes_n

    def semaphore(self, split: str) -> asyncio.Semaphore:
        """The semaphore that bounds the requests in flight."""
        return self.server.sem if split == "train" else self.server.eval_sem

    async def complete(self, request: CompletionRequest, n: int) -> list[Completion]:
        """`n` completions, or fewer. Raises `CompletionError`."""
        return await (self._tokens if self.config.server_type in TOKEN_SERVERS else self._chat)(request, n)

    # ---- chat ----

    async def _chat(self, request: CompletionRequest, n: int) -> list[Completion]:
        reply = await self._post_chat(request, n)
        replies = chat_reply.parse(reply, self.url)
        self._check_length(reply.get("usage"), len(request.prompt), n)
        if len(replies) == 1 < n and self.form.takes_n:
            self.form = self.form.one_by_one()
            self._say("gives one reply a request, not n")
        whole = [reply for reply in replies if ending(reply.finish_reason) is not Ending.BROKEN_OFF]
        if replies and not whole:
            raise BadReply(f"{self.url} broke the reply off ({replies[0].finish_reason}{replies[0].error})")
        return await asyncio.to_thread(lambda: [self._tokenized(reply) for reply in whole])

    async def _post_chat(self, request: CompletionRequest, n: int) -> JsonObject:
        """The answer to a request in the form that the server takes, found out from its first refusals."""
        while True:
            form = self.form
            try:
                reply = await self._post_form(form, request, n)
            except RequestRefused as error:
                if form != self.form:
                    continue  # another request has learnt meanwhile
                if self.proven or not (better := form.after(error.text, request.own)):
                    if self.proven or n == 1 or not form.takes_n or TOO_LONG.search(error.text):
                        raise
                    # The refusal names nothing: some say so of n. If it was not that, its error stands.
                    better = form.one_by_one()
                    try:
                        reply = await self._post_form(better, request, 1)
                    except RequestRefused:
                        raise error from None
                self.form = better
                continue
            if not self.proven:
                self.proven = True
                if learnt := self.form.learnt(self.first_form):
                    self._say(learnt)
            return reply

    async def _post_form(self, form: RequestForm, request: CompletionRequest, n: int) -> JsonObject:
        fields = form.fields(request.max_tokens, request.temperature, n, request.own)
        body = {"model": request.model or self.config.model_name, "messages": list(request.messages), **fields}
        body = self.server._inject_reasoning_kwargs(body)
        body |= body.pop("extra_body", {})
        reply = await self._post(f"{self.url}/chat/completions", await asyncio.to_thread(dumps, body))
        return chat_reply.checked(reply, self.url)

    def _check_length(self, usage: object, sent: int, n: int) -> None:
        """Raises `RequestRejected` if the server read another prompt than it was sent; `sent` is 0 if that is not known."""
        if not sent:
            return
        read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if not isinstance(read, int) or read <= 0:
            self._say("does not say how many tokens of a prompt it read: lengths are not checked")
            return
        each = read // n if abs(read - sent) > SMALL and read % n == 0 else read  # some count it once for each reply
        if self.offset is None and abs(each - sent) <= SMALL:
            self.offset = each - sent
            if self.offset:
                self._say(
                    f"reads {self.offset:+d} tokens in every prompt: its chat template differs a little from yours"
                )
        if each - sent == self.offset:
            return
        raise RequestRejected(
            f"{self.url} read {read:,} prompt tokens of the {sent:,} it was sent: it cuts prompts (give it a longer "
            "window: num_ctx, --max-model-len) or it renders another chat template or has another tokenizer",
            setting=("tokenizer_name", "lengths"),
        )

    def _tokenized(self, reply: chat_reply.ChatReply) -> Completion:
        # Half a surrogate pair, which JSON can carry, can be neither tokenised nor written.
        text = reply.text.encode("utf-8", "replace").decode()
        if self.tokenizer is None:
            return Completion(text, [], None, reply.finish_reason, reply.missing, reply.thought, reply.tool_calls)
        tokens, eos = self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id
        # Only a finished reply ends with the end-of-turn token: a cut one must not teach the model to stop there.
        if ending(reply.finish_reason) is Ending.FINISHED and eos is not None:
            tokens = [*tokens, eos]
        return Completion(text, tokens, None, reply.finish_reason, reply.missing, reply.thought, reply.tool_calls)

    # ---- tokens ----

    async def _tokens(self, request: CompletionRequest, n: int) -> list[Completion]:
        if self.token_api:
            return await self._ask_tokens(self.token_api, request, n)
        faults: list[CompletionError] = []
        for api in APIS[self.config.server_type]:
            try:
                completions = await self._ask_tokens(api, request, n)
            except (RequestRefused, RequestRejected, BadReply) as error:
                if isinstance(error, RequestRefused) and TOO_LONG.search(error.text):
                    raise
                faults.append(error)
                continue
            self.token_api = api
            self._say(f"gives tokens with log-probabilities by {api.name}")
            return completions
        for fault in faults:
            if getattr(fault, "status", 0) not in (400, 404, 405, 422):  # not only another way of asking
                raise fault
        kind = self.config.server_type
        raise RequestRejected(
            f"{self.url} gives no tokens with log-probabilities ({faults[0].message}); a server of type {kind} is started "
            f"by: {COMMANDS[kind]}",
            setting=("openai.server_type", "openai.base_url"),
        )

    async def _ask_tokens(self, api: TokenApi, request: CompletionRequest, n: int) -> list[Completion]:
        asked = TokenRequest(
            self.config.model_name, request.prompt, request.max_tokens, request.temperature, n, _sampled(request.own)
        )
        url = f"{self.url.removesuffix('/v1')}{api.path}"
        reply = await self._post(url, await asyncio.to_thread(api.body, asked))
        try:
            completions = await asyncio.to_thread(lambda: [self._completion(one) for one in api.replies(reply)])
            read = api.prompt_read(reply)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise BadReply(
                f"{url} gave no tokens with log-probabilities ({type(error).__name__}: {error}); a server of type "
                f"{self.config.server_type} is started by: {COMMANDS[self.config.server_type]}",
                setting="openai.server_type",
            ) from None
        if any(not math.isfinite(logprob) for one in completions for logprob in one.logprobs or ()):
            raise BadReply(f"{url} gave a log-probability that is not finite")  # the API would lose a whole batch
        if read is not None and read != request.prompt:
            raise CompletionError(
                f"{url} read {len(read)} prompt tokens that are not the {len(request.prompt)} it was sent"
            )
        whole = [one for one in completions if ending(one.finish_reason) is not Ending.BROKEN_OFF]
        if completions and not whole:
            raise BadReply(f"{url} broke the reply off ({completions[0].finish_reason})")
        return whole

    def _completion(self, reply: TokenReply) -> Completion:
        text, version = self._decoded(reply.tokens, reply.text), reply.policy_version
        return Completion(text, reply.tokens, reply.logprobs, reply.finish_reason, policy_version=version)

    def _decoded(self, tokens: list[int], server_text: str | None) -> str:
        if self.tokenizer is None:
            raise ConfigError("tokens need a tokenizer: give the model's own", setting="tokenizer_name")
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
        try:
            async with (
                http_client.session(url, self.config.timeout or None, headers) as session,
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
            raise ServerUnavailable(
                f"cannot reach a server at {self.url} ({type(error).__name__}){http_client.through_proxy(url)}"
            ) from None
        if reply.status != 200:
            raise http_error(url, reply.status, content, reply.headers.get("Retry-After", ""))
        try:
            return json.loads(content)
        except ValueError:
            raise BadReply(f"{url} answered with something that is not JSON: {excerpt(content)}") from None

    def _say(self, lesson: str) -> None:
        """Say what was learnt of the server, once."""
        if lesson not in self._said:
            self._said.add(lesson)
            logger.warning("%s %s", self.url, lesson)

    def in_cooldown(self) -> bool:
        """True while other servers should be asked first: until `COOLDOWN_SECONDS` after the last failure of an outage."""
        return self.down_since is not None and time.monotonic() - self.failed_at < COOLDOWN_SECONDS

    def mark_failed(self, error: CompletionError, patience: float) -> bool:
        """Note a failure. Returns True once an outage, when it has lasted for `patience` seconds: time to announce it."""
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
        """Note a reply. Returns the seconds of the announced outage that it ends, if there was one."""
        since, announced = self.down_since, self.announced
        self.down_since, self.announced = None, False
        return time.monotonic() - since if announced and since is not None else None


def _comparable(text: str) -> str:
    """Drop whitespace and U+FFFD (half a character, cut by a length limit), so that decoded tokens and server text compare
    equal."""
    return "".join(text.replace("\ufffd", "").split())


def _sampled(own: Mapping[str, object]) -> dict[str, object]:
    """The user's fields that a request of tokens takes: the template is applied already."""
    return {name: value for name, value in own.items() if name != "chat_template_kwargs"}
