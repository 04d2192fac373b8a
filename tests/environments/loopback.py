"""A chat server on a real socket whose replies a test decides, and environments that talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from aiohttp import web

from environments import cli
from environments.atropos.base import APIServerConfig, BaseEnv
from environments.haystack_env import HaystackEnv
from environments.inference.completions import request_group
from environments.inference.contracts import Completion, CompletionRequest
from environments.inference.endpoint import Endpoint
from environments.needle_env import NeedleEnv
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import save_tiny, tiny_tokenizer

Reply = Callable[[dict[str, Any], int], Any]
REQUEST = CompletionRequest([{"role": "user", "content": "Where?"}], list(b"Where?"), max_tokens=9, temperature=0.5)
SHORT = "1300"  # tokens (bytes, with the tiny tokenizer) that hold any of the tasks


def tokenizer_folder(folder: Path) -> Path:
    """The byte-level tokenizer alone, as a folder."""
    tiny_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def model_folder(folder: Path) -> Path:
    return save_tiny(folder, max_position_embeddings=8192)


def choice(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}


def said(*texts: str | None) -> Reply:
    """The same texts for every request, as many as asked for."""
    return lambda body, _: [choice(texts[i % len(texts)]) for i in range(body.get("n", 1))]


async def reset(request: web.Request) -> web.StreamResponse:
    """The connection breaks before anything is said."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_off(request: web.Request) -> web.StreamResponse:
    """A reply that ends in the middle of its announced length."""
    response = web.StreamResponse(headers={"Content-Length": "4096", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


class ChatServer:
    """`reply(body, number)` gives choices, any aiohttp response, or a fault (`reset`, `cut_off`); it may be a coroutine
    function."""

    def __init__(self, reply: Reply = said("<answer>none</answer>"), models: Any = ("m",)):  # noqa: B008
        self.reply, self.models = reply, models
        self.completions: Reply | None = None  # of /v1/completions, which most chat servers lack
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: set[str] = set()
        self.now = self.most = 0
        self.loop = asyncio.new_event_loop()
        self.url = ""

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=404) if self.completions is None else await self._answer(request, self.completions)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, self.reply)

    async def _answer(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        self.paths.append(request.path)
        self.keys.add(request.headers.get("Authorization", ""))
        self.requests.append(body := await request.json())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            answer = reply(body, len(self.requests))
            if inspect.isawaitable(answer):
                answer = await answer
        finally:
            self.now -= 1
        if callable(answer):
            return await answer(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, list):
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": answer}
        return web.json_response(answer)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("Authorization", ""))
        if callable(self.models):
            answer = self.models(request)
            return await answer if inspect.isawaitable(answer) else answer
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/generate", self._chat)
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self.runner.setup()
        await self.listen(0)
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/v1"

    async def listen(self, port: int) -> None:
        self.site = web.TCPSite(self.runner, "127.0.0.1", port, shutdown_timeout=0.1)
        await self.site.start()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine in the server's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def go_away(self) -> None:
        """No one listens any more at the server's address."""
        self.call(self.site.stop())

    def come_back(self) -> None:
        self.call(self.listen(int(self.url.split(":")[2].split("/")[0])))

    @contextlib.contextmanager
    def running(self) -> Iterator[ChatServer]:
        thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join()
            self.loop.close()


def make_env(
    tokenizer: Path, url: str, cls: type[NeedleEnv] = NeedleEnv, server: dict | None = None, **env: Any
) -> Any:
    """An environment as the command line would make it: `config_init`, with these settings over it."""
    config, servers = cls.config_init()
    settings = {
        "tokenizer_name": str(tokenizer),
        "lengths": SHORT,
        "tasks": "single",
        "group_size": 3,
        "total_steps": 4,
    }
    config = config.model_copy(update=settings | env)
    one = servers[0].model_copy(update={"base_url": url, "model_name": "m"} | (server or {}))
    made = cls(config, [one])
    made.n_groups_to_process, made.group_size_to_process = config.total_steps, config.group_size
    return made


def make_endpoint(url: str, **settings: Any) -> Endpoint:
    """An endpoint of that server with the tiny tokenizer, and no environment around it."""
    config = APIServerConfig(base_url=url, model_name="m", api_key="x", timeout=1800).model_copy(update=settings)
    semaphores = {"sem": asyncio.Semaphore(512), "eval_sem": asyncio.Semaphore(64)}
    server: Any = SimpleNamespace(config=config, **semaphores, _inject_reasoning_kwargs=lambda body: body)
    return Endpoint(server, tiny_tokenizer())


async def sample(server: ChatServer, n: int, token_exact: bool = False, **settings: Any) -> list[Completion]:
    """`n` completions of `REQUEST`."""
    kind = {"server_type": "vllm"} if token_exact else {}
    return await request_group([make_endpoint(server.url, **kind | settings)], REQUEST, n)


def generated(*texts: str, logprob: float = -0.5) -> web.Response:
    """/generate's reply, as atroposlib's own vLLM server gives it."""
    logprobs = [[[{str(i): logprob}] for i in tiny_tokenizer().encode(text)] for text in texts]
    return web.json_response({"logprobs": logprobs, "finish_reasons": ["stop"] * len(texts)})


def flags(**settings: Any) -> list[str]:
    """`env_x=1, openai_y=2` as `--env.x 1 --openai.y 2`."""
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '.', 1)}", str(value))]


def command(name: str, tokenizer: Path, url: str, **settings: Any) -> list[str]:
    base = {"env_tokenizer_name": tokenizer, "env_lengths": SHORT, "env_tasks": "single", "env_group_size": 2}
    base |= {"env_total_steps": 3, "openai_base_url": url, "openai_model_name": "m"}
    return [name, *flags(**{key: value for key, value in (base | settings).items() if value is not None})]


def run_cli(argv: list[str], cls: type[HaystackEnv] = NeedleEnv) -> int:
    """The exit code of that command line, run in this process."""
    try:
        cli.main(cls.config_init()[0], cls.run, argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True)]


def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once: neither our pauses nor atroposlib's are what a test is about."""
    monkeypatch.setattr("environments.inference.completions.PAUSE", tenacity.wait_none())
    for method in vars(BaseEnv).values():
        if hasattr(method, "retry"):
            monkeypatch.setattr(method.retry, "wait", tenacity.wait_none())
