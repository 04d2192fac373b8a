"""A small local model behind the two protocols Atropos speaks: the OpenAI API and vLLM's token-level /generate.

    python -m environments.embedded_server MODEL_DIR --port 9001      # prints: ready http://127.0.0.1:9001/v1

    with background(MODEL_DIR) as base_url: ...                       # in-process, for tests and the demo

The embedded default for a CPU and for tests. For anything larger use vLLM or SGLang: they page, shard and stream.
`engine` decodes, `protocol` has the forms of requests and answers; this file is HTTP. torch is imported when a model is
loaded. Not `transformers serve`, which has no /generate with token ids and log-probabilities, and no `n`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from aiohttp import web

from environments.inference.embedded.demo_model import check_folder
from environments.inference.embedded.protocol import (
    Formatter,
    Generation,
    RequestError,
    Sampling,
    chat_messages,
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
from longthread.errors import ConfigError, exit_on_error, option
from longthread.files import JsonObject

if TYPE_CHECKING:
    from torch.nn import Embedding

MAX_BODY = 64 * 2**20  # a prompt of 128k token ids is 1 MB of JSON, as escaped text at most 4 MB
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_MAX_TOKENS = 16  # of /v1/completions and /generate, as OpenAI and vLLM have it


@dataclass
class EmbeddedServer:
    """Serves a model over HTTP: `await start()` gives the base URL (".../v1"), `await stop()` ends it.

    The options are those of the command line.
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
        from environments.inference.embedded.engine import Engine, Limits, load
        from environments.inference.embedded.weights import add_weight_routes

        model, self.tokenizer, eos_ids = await asyncio.to_thread(load, Path(self.model_dir), self.dtype)
        self.limit: int = model.config.max_position_embeddings
        self.vocabulary = cast("Embedding", model.get_input_embeddings()).num_embeddings
        self.formatter = Formatter(self.tokenizer, eos_ids)
        self.engine = Engine(model, eos_ids, Limits(requests=self.max_batch), self.threads)
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/generate", self._generate)
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
        card = {"id": self.model_name, "object": "model", "created": 0, "owned_by": "longthread"}
        return web.json_response({"object": "list", "data": [card | {"max_model_len": self.limit}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        messages = chat_messages(body)
        wanted = body.get("logprobs")
        if wanted not in (None, False, True):
            raise RequestError(f"logprobs is {shortened(wanted)}: give true or false")
        if not self.tokenizer.chat_template:
            raise RequestError("this model has no chat template: use /v1/completions")
        prompt = await asyncio.to_thread(self._chat_prompt, messages, template_variables(body))
        if wants_stream(body):
            return await self._stream(request, body, prompt, self.limit - len(prompt), chat=True)
        top = number(body, "top_logprobs") if wanted else 0
        generations = await self._decode(body, prompt, self.limit - len(prompt), top)
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": self.formatter.text(generation, stop_strings(body))},
                "logprobs": self.formatter.chat_logprobs(generation) if wanted else None,
                "finish_reason": generation.finish_reason,
            }
            for i, generation in enumerate(generations)
        ]
        return self._reply("chatcmpl", "chat.completion", prompt, generations, choices)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        prompt = await self._prompt_ids(body.get("prompt"))
        if wants_stream(body):
            return await self._stream(request, body, prompt, DEFAULT_MAX_TOKENS, chat=False)
        top = number(body, "logprobs")
        generations = await self._decode(body, prompt, DEFAULT_MAX_TOKENS, top)
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
        return self._reply("cmpl", "text_completion", prompt, generations, choices)

    async def _generate(self, request: web.Request) -> web.Response:
        """vLLM's token-level form, as atroposlib 0.4.0 sends and reads it (its vllm_server.py)."""
        body = await self._body(request, named=False)
        given = body.get("prompt")
        prompt = await self._prompt_ids(given.get("prompt_token_ids") if isinstance(given, dict) else given)
        number(body, "logprobs")  # checked only: the chosen token's is given whatever the number
        generations = await self._decode(body, prompt, DEFAULT_MAX_TOKENS, 0)
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
        if named and not isinstance(body.get("model"), str):
            raise RequestError(f"model is missing: this server has {self.model_name!r}")
        if named and body["model"] != self.model_name:
            message = f"there is no model {shortened(body['model'])} here: this server has {self.model_name!r}"
            raise RequestError(message, 404, "model_not_found")
        return body

    async def _stream(
        self, request: web.Request, body: JsonObject, prompt: list[int], budget: int, chat: bool
    ) -> web.StreamResponse:
        """Answer in events: pieces of text, then how each reply ended, then the usage if `stream_options` wants it."""
        stops = stop_strings(body)
        stream = TextStream(self.formatter.decode, stops, number(body, "n"))
        sampling = replace(self._sampling(body, prompt, budget, 0), on_token=stream.on_token)
        running = asyncio.wrap_future(self.engine.submit(prompt, sampling))

        def close(done: asyncio.Future[list[Generation]]) -> None:
            whole = [] if done.cancelled() or done.exception() else done.result()
            stream.end([self.formatter.text(generation, stops) for generation in whole])

        running.add_done_callback(close)
        head = self._head("chatcmpl", "chat.completion.chunk") if chat else self._head("cmpl", "text_completion")

        usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        return await stream.answer(request, running, head, prompt if usage_wanted else None)

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

    async def _decode(self, body: JsonObject, prompt: list[int], budget: int, logprobs: int) -> list[Generation]:
        return await asyncio.wrap_future(self.engine.submit(prompt, self._sampling(body, prompt, budget, logprobs)))

    def _sampling(self, body: JsonObject, prompt: list[int], budget: int, logprobs: int) -> Sampling:
        sampling = sampling_of(body, max(budget, 1), logprobs, self.tokenizer)
        if len(prompt) + sampling.max_tokens > self.limit:
            raise RequestError(
                f"the prompt's {len(prompt)} tokens and max_tokens {sampling.max_tokens} exceed the model's context of "
                f"{self.limit} tokens: shorten the prompt or lower max_tokens",
                code="context_length_exceeded",
            )
        return sampling

    def _head(self, prefix: str, kind: str) -> JsonObject:
        name = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
        return name | {"model": self.model_name}

    def _reply(
        self, prefix: str, kind: str, prompt: list[int], generations: list[Generation], choices: list[JsonObject]
    ) -> web.Response:
        more = {"usage": usage(prompt, generations), "policy_version": generations[0].policy_version}
        return web.json_response(self._head(prefix, kind) | {"choices": choices} | more)


def _refusal(error: RequestError) -> web.Response:
    return web.json_response(error.to_json(), status=error.status)


@contextlib.contextmanager
def background(model_dir: Path | str, **options: Any) -> Iterator[str]:
    """Serve `model_dir` from a thread with its own event loop; yields the base URL (".../v1")."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded-server", daemon=True)
    thread.start()
    server = EmbeddedServer(model_dir, **options)
    try:
        yield asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def serve(server: EmbeddedServer) -> None:
    """Start the server, print its base URL, and stop it on SIGTERM or SIGINT."""
    done = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, done.set)
    print(
        "embedded server: a small model on this machine, for tests and the demo; for more use vLLM or SGLang",
        file=sys.stderr,
    )
    if server.host not in LOOPBACK:
        print(f"embedded server: bound to {server.host}, so others on the network can reach it", file=sys.stderr)
    print(f"ready {await server.start()}", flush=True)
    await done.wait()
    await server.stop()


# No locals in a traceback: they hold the key.
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    model_dir: Annotated[Path, typer.Argument(help="a local Hugging Face folder with safetensors")],
    port: Annotated[int, typer.Option(help="0 picks a free one")] = 9001,
    host: Annotated[str, typer.Option(help="anything but loopback is reachable by others")] = "127.0.0.1",
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16")
    ] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, help="requests decoded together")] = 8,
    model_name: Annotated[str | None, typer.Option(help="what clients call it [default: the folder's name]")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LONGTHREAD_API_KEY", show_default=False, help="the Bearer token to ask for")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads [default: one a core]")] = None,
) -> None:
    """Serve a small local model to Atropos; SIGTERM and SIGINT end it."""
    named: JsonObject = {"host": host, "port": port, "dtype": dtype, "max_batch": max_batch, "model_name": model_name}
    server = EmbeddedServer(model_dir, **named, api_key=api_key, threads=threads)
    with exit_on_error(option):
        asyncio.run(serve(server))
