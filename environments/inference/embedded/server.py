"""A small local model behind the two protocols Atropos speaks: the OpenAI API and vLLM's token-level /generate.

    python -m environments.embedded_server MODEL_DIR --port 9001      # prints: ready http://127.0.0.1:9001/v1

    with background(MODEL_DIR) as base_url: ...                       # in-process, for tests and the demo

The embedded default for a CPU and for tests. For anything larger use vLLM or SGLang: they page, shard and stream.
Decoding is in `embedded_engine.py`, the forms of requests and answers in `embedded_protocol.py`; this file is HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import signal
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from aiohttp import web

from environments.inference.embedded.engine import ATTENTION, Completion, Engine
from environments.inference.embedded.protocol import (
    RequestError,
    Voice,
    chat_messages,
    native_logprobs,
    number,
    sampling_of,
    shown,
    stop_strings,
)

MAX_BODY = 64 * 2**20  # a prompt of 128k token ids is 1 MB of JSON, as escaped text at most 4 MB
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerError(RuntimeError):
    """The server cannot start; one line with the fix."""


class EmbeddedServer:
    """`await start()` gives the base URL (".../v1"), `await stop()` ends it. Options as on the command line."""

    def __init__(
        self,
        model_dir: Path | str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        dtype: str = "auto",
        max_batch: int = 8,
        model_name: str | None = None,
        api_key: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.model_dir, self.host, self.port, self.dtype = Path(model_dir), host, port, dtype
        self.max_batch, self.api_key, self.threads = max_batch, api_key, threads
        self.model_name = model_name or self.model_dir.resolve().name
        self.runner: web.AppRunner | None = None

    async def start(self) -> str:
        model, self.tokenizer, eos_ids = await asyncio.to_thread(load, self.model_dir, self.dtype)
        self.limit: int = model.config.max_position_embeddings
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self.voice = Voice(self.tokenizer, eos_ids)
        self.engine = Engine(model, eos_ids, max_batch=self.max_batch, threads=self.threads)
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/generate", self._generate)
        # handler_cancellation: a client that hangs up cancels its handler, and so its future in the engine.
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self.runner.setup()
        try:
            await web.TCPSite(self.runner, self.host, self.port, shutdown_timeout=1).start()
        except OSError as error:
            await self.stop()
            raise ServerError(f"cannot listen on {self.host}:{self.port} ({error.strerror}): try --port 0") from error
        self.port = self.runner.addresses[0][1]
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    async def stop(self) -> None:
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
            return error.response()
        except web.HTTPException as error:
            return RequestError(
                f"{request.method} {request.path}: {error.reason}", error.status, "http_error"
            ).response()
        except Exception as error:  # out of memory, say; the type and first line only, never a prompt
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            print(f"embedded server: {request.path} failed: {reason}", file=sys.stderr)
            return RequestError(f"the model failed: {reason}", 500, "internal_error").response()

    async def _health(self, _: web.Request) -> web.Response:
        alive = self.engine.thread.is_alive()
        return web.json_response({"status": "ok" if alive else "the engine has ended"}, status=200 if alive else 503)

    async def _models(self, _: web.Request) -> web.Response:
        card = {"id": self.model_name, "object": "model", "created": 0, "owned_by": "longthread"}
        return web.json_response({"object": "list", "data": [card | {"max_model_len": self.limit}]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        messages = chat_messages(body)
        wanted = body.get("logprobs")
        if wanted not in (None, False, True):
            raise RequestError(f"logprobs is {shown(wanted)}: give true or false")
        if not self.tokenizer.chat_template:
            raise RequestError("this model has no chat template: use /v1/completions")
        prompt = await asyncio.to_thread(self._chat_prompt, messages)
        top = number(body, "top_logprobs", 0, int, 0, 20) if wanted else 0
        rows = await self._decode(body, prompt, self.limit - len(prompt), top)
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": self.voice.text(row, stop_strings(body))},
                "logprobs": self.voice.chat_logprobs(row) if wanted else None,
                "finish_reason": row.finish_reason,
            }
            for i, row in enumerate(rows)
        ]
        return self._reply("chatcmpl", "chat.completion", prompt, rows, choices)

    async def _completions(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        prompt = await self._prompt_ids(body.get("prompt"))
        top = number(body, "logprobs", 0, int, 0, 20)
        rows = await self._decode(body, prompt, 16, top)
        choices = [
            {
                "index": i,
                "text": self.voice.text(row, stop_strings(body)),
                "logprobs": self.voice.legacy_logprobs(row) if body.get("logprobs") is not None else None,
                "finish_reason": row.finish_reason,
            }
            for i, row in enumerate(rows)
        ]
        return self._reply("cmpl", "text_completion", prompt, rows, choices)

    async def _generate(self, request: web.Request) -> web.Response:
        """vLLM's token-level form, as atroposlib 0.4.0 sends and reads it (its vllm_server.py)."""
        body = await self._body(request, named=False)
        given = body.get("prompt")
        prompt = await self._prompt_ids(given.get("prompt_token_ids") if isinstance(given, dict) else given)
        number(body, "logprobs", 0, int, 0, 20)  # the chosen token's is given whatever the number
        rows = await self._decode(body, prompt, 16, 0)
        answer = {
            "text": [self.voice.text(row, stop_strings(body)) for row in rows],
            "prompt": given if isinstance(given, str) else None,
            "prompt_token_ids": prompt,
            "token_ids": [row.ids for row in rows],
            "finish_reasons": [row.finish_reason for row in rows],
            "logprobs": [native_logprobs(row) for row in rows],
        }
        return web.json_response(answer)

    async def _body(self, request: web.Request, named: bool = True) -> dict[str, Any]:
        try:
            body = json.loads(await request.read())
        except (UnicodeDecodeError, ValueError) as error:
            raise RequestError(f"the body is not JSON ({error}): send a JSON object") from error
        if not isinstance(body, dict):
            raise RequestError("the body is no JSON object: send one")
        if named and not isinstance(body.get("model"), str):
            raise RequestError(f"model is missing: this server has {self.model_name!r}")
        if named and body["model"] != self.model_name:
            message = f"there is no model {shown(body['model'])} here: this server has {self.model_name!r}"
            raise RequestError(message, 404, "model_not_found")
        return body

    def _chat_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may raise what it likes, for roles out of turn say
            raise RequestError(f"the model's chat template refuses these messages: {error}") from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def _prompt_ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            prompt = await asyncio.to_thread(self.tokenizer.encode, prompt)
        if not isinstance(prompt, list) or not all(type(i) is int and 0 <= i < self.vocabulary for i in prompt):
            raise RequestError(
                f"prompt is no string and no list of token ids below {self.vocabulary}: give one of them"
            )
        if not prompt:
            raise RequestError("prompt is empty: give at least one token")
        return prompt

    async def _decode(self, body: dict[str, Any], prompt: list[int], budget: int, logprobs: int) -> list[Completion]:
        sampling = sampling_of(body, max(budget, 1), logprobs, self.tokenizer)
        if len(prompt) + sampling.max_tokens > self.limit:
            raise RequestError(
                f"the prompt's {len(prompt)} tokens and max_tokens {sampling.max_tokens} exceed the model's context of "
                f"{self.limit} tokens: shorten the prompt or lower max_tokens",
                code="context_length_exceeded",
            )
        return await asyncio.wrap_future(self.engine.submit(prompt, sampling))

    def _reply(
        self, prefix: str, kind: str, prompt: list[int], rows: list[Completion], choices: list[dict[str, Any]]
    ) -> web.Response:
        made = sum(len(row.ids) for row in rows)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": made, "total_tokens": len(prompt) + made}
        head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
        return web.json_response(head | {"model": self.model_name, "choices": choices, "usage": usage})


def load(model_dir: Path, dtype: str = "auto") -> tuple[Any, Any, set[int]]:
    """Model, tokenizer and end-of-text ids of a local folder. Safetensors only, no remote code, no network."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not (model_dir / "config.json").is_file():
        raise ServerError(
            f"{model_dir} holds no model (no config.json): `python -m environments.demo_model` fetches one"
        )
    cuda = torch.cuda.is_available()
    if dtype == "auto":
        dtype = "bfloat16" if cuda else "float32"  # a CPU without bfloat16 units is twice as slow in it
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ServerError(f"dtype is {dtype!r}: give auto, float32, bfloat16 or float16")
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        if not any(str(name).endswith("ForCausalLM") for name in config.architectures or []):
            raise ServerError(
                f"{model_dir} is not a causal LM (architectures {config.architectures}): give another folder"
            )
        if not _attends_fully(config):
            raise ServerError(f"{model_dir} has layers that do not attend to the whole context: serve it with vLLM")
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION,  # sdpa underneath
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ServerError(f"cannot load {model_dir} as a causal LM ({reason}): give a complete folder") from error
    model.eval().to("cuda" if cuda else "cpu")
    configured = model.generation_config.eos_token_id
    eos_ids = {configured} if isinstance(configured, int) else set(configured or [])
    return model, tokenizer, eos_ids | ({tokenizer.eos_token_id} - {None})


def _attends_fully(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) == {"full_attention"}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return window is None or window >= config.max_position_embeddings


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
    """Run until SIGTERM or SIGINT."""
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
    server = EmbeddedServer(
        model_dir,
        host=host,
        port=port,
        dtype=dtype,
        max_batch=max_batch,
        model_name=model_name,
        api_key=api_key,
        threads=threads,
    )
    try:
        asyncio.run(serve(server))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
