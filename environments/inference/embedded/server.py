"""A small local model behind the two protocols Atropos speaks: the OpenAI API and vLLM's token-level /generate.

    python -m environments.embedded_server MODEL_DIR --port 9001      # prints: ready http://127.0.0.1:9001/v1

    with background(MODEL_DIR) as base_url: ...                       # in-process, for tests and the demo

The embedded default for a CPU and for tests. For anything larger use vLLM or SGLang: they page, shard and stream.
`engine` decodes, `protocol` has the forms of requests and answers, `command` is the command line; this file is HTTP.
torch is imported when a model is loaded. Not `transformers serve`, which has no /generate with token ids and
log-probabilities, and no `n`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from environments.inference.embedded.demo_model import check_folder
from environments.inference.embedded.protocol import (
    Formatter,
    Generation,
    RequestError,
    Sampling,
    chat_messages,
    last_user_text,
    native_logprobs,
    number,
    sampling_of,
    shortened,
    stop_strings,
    template_variables,
    usage,
    wants_stream,
)
from environments.inference.embedded.stream import TextStream
from environments.inference.embedded.variants import BASE, Variants
from longthread.errors import ConfigError
from longthread.files import JsonObject

if TYPE_CHECKING:
    from torch.nn import Embedding
    from transformers import PreTrainedModel

MAX_BODY = 64 * 2**20  # a prompt of 128k token ids is 1 MB of JSON, as escaped text at most 4 MB
DEFAULT_MAX_TOKENS = 16  # of /v1/completions and /generate, as OpenAI and vLLM have it


@dataclass(frozen=True)
class Asked:
    """A request as it is decoded: its body, its prompt's token ids, `max_tokens` if it has none, and its variant."""

    body: JsonObject
    prompt: list[int]
    budget: int
    variant: Hashable = BASE


@dataclass
class EmbeddedServer:
    """Serves a model over HTTP: `await start()` gives the base URL (".../v1"), `await stop()` ends it.

    The options are those of the command line. `make_variants` is called with the loaded model, and gives what is served
    beside it under names of its own.
    """

    model_dir: Path | str
    _: KW_ONLY
    host: str = "127.0.0.1"
    port: int = 0
    dtype: str = "auto"
    max_batch: int = 8
    model_name: str | None = None
    api_key: str | None = None
    threads: int | None = None
    make_variants: Callable[[PreTrainedModel], Variants] | None = None
    runner: web.AppRunner | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.model_dir = Path(self.model_dir)
        self.model_name = self.model_name or self.model_dir.resolve().name

    async def start(self) -> str:
        """Load the model and listen. Returns the base URL; raises `ConfigError` when either is impossible."""
        # A torch thread that spins for a partner whose core another process holds stalls both. On two busy cores a
        # 1024-token prefill fell from 800 to 20-120 tok/s; waiting passively it keeps 360-600. Read when torch is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        check_folder(Path(self.model_dir))  # before torch is imported, which takes ten seconds
        from environments.inference.embedded.engine import Engine, load
        from environments.inference.embedded.limits import limits_for
        from environments.inference.embedded.weights import add_weight_routes

        model, self.tokenizer, eos_ids = await asyncio.to_thread(load, Path(self.model_dir), self.dtype)
        self.limit: int = model.config.max_position_embeddings
        self.vocabulary = cast("Embedding", model.get_input_embeddings()).num_embeddings
        self.formatter = Formatter(self.tokenizer, eos_ids)
        self.variants = await asyncio.to_thread(self.make_variants, model) if self.make_variants else None
        forward = self.variants.forward if self.variants else None
        self.engine = Engine(model, eos_ids, limits_for(model, self.max_batch), self.threads, forward)
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._model)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/generate", self._generate)
        if self.variants is None:  # which were made for the weights as loaded
            add_weight_routes(app, self.engine)
        # handler_cancellation: a client that hangs up cancels its handler, and so its future in the engine.
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self.runner.setup()
        try:
            await web.TCPSite(self.runner, self.host, self.port, shutdown_timeout=1).start()
        except OSError as error:
            await self.stop()
            message = f"cannot listen on {self.host}:{self.port} ({error.strerror}): port 0 picks a free one"
            raise ConfigError(message, setting="port") from error
        self.port = self.runner.addresses[0][1]
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    async def stop(self) -> None:
        """Cancel what is running and stop listening."""
        if self.runner is not None:
            await asyncio.to_thread(self.engine.close)
            await self.runner.cleanup()
            self.runner = None

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Check the key, and turn every failure into OpenAI's error body."""
        try:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            open_door = not self.api_key or request.path == "/health"
            if not open_door and not hmac.compare_digest(given.encode(), str(self.api_key).encode()):
                raise RequestError("wrong or missing API key: send Authorization: Bearer KEY", 401, "invalid_api_key")
            return await handler(request)
        except RequestError as error:
            return _refusal(error)
        except web.HTTPException as error:
            return _refusal(
                RequestError(f"{request.method} {request.path}: {error.reason}", error.status, "http_error")
            )
        except Exception as error:  # out of memory, say; the type and first line only, never a prompt
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            print(f"embedded server: {request.path} failed: {reason}", file=sys.stderr)
            return _refusal(RequestError(f"the model failed: {reason}", 500, "internal_error"))

    async def _health(self, _: web.Request) -> web.Response:
        alive = self.engine.thread.is_alive()
        return web.json_response({"status": "ok" if alive else "the engine has ended"}, status=200 if alive else 503)

    async def _models(self, _: web.Request) -> web.Response:
        listed = await asyncio.to_thread(self.variants.cards) if self.variants else []
        cards = [self._card(str(self.model_name)), *(self._card(card["id"]) | card for card in listed)]
        return web.json_response({"object": "list", "data": cards})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._variant({"model": name}, "")
        return web.json_response(self._card(name))

    def _card(self, name: str) -> JsonObject:
        return {"id": name, "object": "model", "created": 0, "owned_by": "longthread", "max_model_len": self.limit}

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        messages = chat_messages(body)
        wanted = body.get("logprobs")
        if wanted not in (None, False, True):
            raise RequestError(f"logprobs is {shortened(wanted)}: give true or false")
        if not self.tokenizer.chat_template:
            raise RequestError("this model has no chat template: use /v1/completions")
        prompt = await asyncio.to_thread(self._chat_prompt, messages, template_variables(body))
        asked = Asked(body, prompt, self.limit - len(prompt), await self._variant(body, last_user_text(messages)))
        if wants_stream(body):
            return await self._stream(request, asked, chat=True)
        generations = await self._decode(asked, number(body, "top_logprobs") if wanted else 0)
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": self.formatter.text(generation, stop_strings(body))},
                "logprobs": self.formatter.chat_logprobs(generation) if wanted else None,
                "finish_reason": generation.finish_reason,
            }
            for i, generation in enumerate(generations)
        ]
        return self._reply("chatcmpl", "chat.completion", asked, generations, choices)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        prompt = await self._prompt_ids(body.get("prompt"))
        variant = await self._variant(body, self.formatter.decode(prompt) if self.variants else "")
        asked = Asked(body, prompt, DEFAULT_MAX_TOKENS, variant)
        if wants_stream(body):
            return await self._stream(request, asked, chat=False)
        generations = await self._decode(asked, number(body, "logprobs"))
        choices = [
            {
                "index": i,
                "text": self.formatter.text(generation, stop_strings(body)),
                "logprobs": self.formatter.legacy_logprobs(generation) if body.get("logprobs") is not None else None,
                "finish_reason": generation.finish_reason,
                # vLLM's way to give tokens, as the environments ask for them.
                **({"token_ids": generation.ids, "prompt_token_ids": prompt} if body.get("return_token_ids") else {}),
            }
            for i, generation in enumerate(generations)
        ]
        return self._reply("cmpl", "text_completion", asked, generations, choices)

    async def _generate(self, request: web.Request) -> web.Response:
        """vLLM's token-level form, as atroposlib 0.4.0 sends and reads it (its vllm_server.py): of the base model."""
        body = await self._body(request, named=False)
        given = body.get("prompt")
        prompt = await self._prompt_ids(given.get("prompt_token_ids") if isinstance(given, dict) else given)
        number(body, "logprobs")  # checked only: the chosen token's is given whatever the number
        generations = await self._decode(Asked(body, prompt, DEFAULT_MAX_TOKENS), 0)
        answer = {
            "text": [self.formatter.text(generation, stop_strings(body)) for generation in generations],
            "prompt": given if isinstance(given, str) else None,
            "prompt_token_ids": prompt,
            "token_ids": [generation.ids for generation in generations],
            "finish_reasons": [generation.finish_reason for generation in generations],
            "logprobs": [native_logprobs(generation) for generation in generations],
            "policy_version": generations[0].policy_version,
        }
        return web.json_response(answer)

    async def _body(self, request: web.Request, named: bool = True) -> JsonObject:
        try:
            body = json.loads(await request.read())
        except (UnicodeDecodeError, ValueError) as error:
            raise RequestError(f"the body is not JSON ({error}): send a JSON object") from error
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        if named and (not (names := body.get("model")) or not all(isinstance(name, str) for name in _listed(names))):
            raise RequestError(f"model is missing: this server has {self.model_name!r}")
        return body

    async def _variant(self, body: JsonObject, text: str) -> Hashable:
        """Return the variant that the request names, for a question that stands in `text`."""
        names = _listed(body["model"])
        if names == [self.model_name]:
            return BASE
        if self.variants is not None:
            return await asyncio.to_thread(self.variants.variant, names, text)
        message = f"there is no model {shortened(body['model'])} here: this server has {self.model_name!r}"
        raise RequestError(message, 404, "model_not_found")

    async def _stream(self, request: web.Request, asked: Asked, chat: bool) -> web.StreamResponse:
        """Answer in events: pieces of text, then how each reply ended, then the usage if `stream_options` wants it."""
        stops = stop_strings(asked.body)
        stream = TextStream(self.formatter.decode, stops, number(asked.body, "n"))
        sampling = replace(self._sampling(asked, 0), on_token=stream.on_token)
        running = asyncio.wrap_future(self.engine.submit(asked.prompt, sampling, asked.variant))

        def close(done: asyncio.Future[list[Generation]]) -> None:
            whole = [] if done.cancelled() or done.exception() else done.result()
            stream.end([self.formatter.text(generation, stops) for generation in whole])

        running.add_done_callback(close)
        prefix, kind = ("chatcmpl", "chat.completion.chunk") if chat else ("cmpl", "text_completion")
        usage_wanted = bool((asked.body.get("stream_options") or {}).get("include_usage"))
        return await stream.answer(request, running, _head(prefix, kind, asked), asked.prompt if usage_wanted else None)

    def _chat_prompt(self, messages: list[dict[str, str]], variables: JsonObject) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        except Exception as error:  # a template may raise what it likes, for roles out of turn say
            raise RequestError(f"the model's chat template refuses these messages: {error}") from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def _prompt_ids(self, prompt: object) -> list[int]:
        if isinstance(prompt, str):
            prompt = await asyncio.to_thread(self.tokenizer.encode, prompt)
        if not isinstance(prompt, list) or not all(type(i) is int and 0 <= i < self.vocabulary for i in prompt):
            raise RequestError(f"prompt must be a string or a list of token ids below {self.vocabulary}")
        if not prompt:
            raise RequestError("prompt must hold at least one token")
        return prompt

    async def _decode(self, asked: Asked, logprobs: int) -> list[Generation]:
        sampling = self._sampling(asked, logprobs)
        return await asyncio.wrap_future(self.engine.submit(asked.prompt, sampling, asked.variant))

    def _sampling(self, asked: Asked, logprobs: int) -> Sampling:
        sampling = sampling_of(asked.body, max(asked.budget, 1), logprobs, self.tokenizer)
        if len(asked.prompt) + sampling.max_tokens > self.limit:
            raise RequestError(
                f"the prompt's {len(asked.prompt)} tokens and max_tokens {sampling.max_tokens} exceed the model's context "
                f"of {self.limit} tokens: shorten the prompt or lower max_tokens",
                code="context_length_exceeded",
            )
        return sampling

    def _reply(
        self, prefix: str, kind: str, asked: Asked, generations: list[Generation], choices: list[JsonObject]
    ) -> web.Response:
        more = {"usage": usage(asked.prompt, generations), "policy_version": generations[0].policy_version}
        return web.json_response(_head(prefix, kind, asked) | {"choices": choices} | more)


def _listed(names: object) -> list[Any]:
    return names if isinstance(names, list) else [names]


def _head(prefix: str, kind: str, asked: Asked) -> JsonObject:
    name = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
    return name | {"model": "+".join(_listed(asked.body["model"]))}


def _refusal(error: RequestError) -> web.Response:
    return web.json_response(error.to_json(), status=error.status)


@contextlib.contextmanager
def background(model_dir: Path | str, **options: Any) -> Iterator[str]:
    """Serve `model_dir` from a thread with its own event loop; yields the base URL (".../v1")."""
    with running(EmbeddedServer(model_dir, **options)) as base_url:
        yield base_url


@contextlib.contextmanager
def running(server: EmbeddedServer) -> Iterator[str]:
    """Run the server in a thread with its own event loop; yields the base URL (".../v1")."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded-server", daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
