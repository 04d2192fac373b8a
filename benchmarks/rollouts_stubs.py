"""What `benchmarks.rollouts` runs against: a model server and a run-api that answer at once, in a process of their own, and
an environment written as Atropos' own are."""

import asyncio
import contextlib
import gzip
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from aiohttp import web
from atroposlib.envs.base import BaseEnv, ScoredDataGroup

from longthread.files import JsonObject

GROUP = 8
WARM = 4  # groups before the clock starts
PATIENCE = 300  # seconds for the first groups to arrive
REPLY = "I looked for it from the first page to the last. <answer>The {} one, found near the end of the text.</answer>"
REGISTERED = {"status": "success", "env_id": 0, "wandb_name": "stub", "starting_step": 0, "num_steps": 1}
REGISTERED |= {"checkpoint_dir": "", "checkpoint_interval": -1}
INFO = {"batch_size": 8 * GROUP, "max_token_len": -1}
STATUS = {
    "queue_size": 0,
    "self_queue_size": 0,
    "unallocated_fraction": 1.0,
    "max_group_size": GROUP,
    "env_weight": 1.0,
}


# ---- the other side: a model server and a run-api, in a process of their own ----


class Stubs:
    """Answers at once with `GROUP` replies of that tokenizer, over the OpenAI API and over vLLM's `/generate`, and takes
    groups as Atropos' API does, with a trainer that has had enough after `/begin`'s `groups` or `seconds` of them. `/end`
    says when they came and whether they can be read."""

    def __init__(self, texts: list[str], ids: list[list[int]]):
        self.texts, self.ids = texts, ids
        self.arrived: list[float] = []  # time.monotonic() of each group
        self.bytes, self.most, self.seconds, self.began = 0, 0, 0.0, 0.0
        self.last: tuple[bytes, str] = (b"", "")

    def app(self) -> web.Application:
        """The routes of both servers."""
        app = web.Application(client_max_size=2**30)
        app.add_routes([web.get("/v1/models", _says({"object": "list", "data": [{"id": "stub"}]}))])
        app.add_routes([web.post("/v1/chat/completions", self._chat), web.post("/generate", self._generate)])
        app.add_routes([web.post("/register-env", _says(REGISTERED)), web.get("/info", _says(INFO))])
        app.add_routes([web.get("/status-env", self._status), web.post("/scored_data", self._take)])
        app.add_routes([web.get("/begin", self._begin), web.get("/end", self._end)])
        return app

    async def _chat(self, request: web.Request) -> web.Response:
        n = json.loads(await request.read()).get("n", 1)
        messages = [{"role": "assistant", "content": self.texts[i % GROUP]} for i in range(n)]
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i, message in enumerate(messages)]
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub", "choices": choices}
        return web.json_response(reply)

    async def _generate(self, request: web.Request) -> web.Response:
        n = json.loads(await request.read()).get("n", 1)
        logprobs = [[[{str(token): -0.123456789}] for token in self.ids[i % GROUP]] for i in range(n)]
        texts = [self.texts[i % GROUP] for i in range(n)]
        return web.json_response({"text": texts, "logprobs": logprobs, "finish_reasons": ["stop"] * n})

    async def _status(self, request: web.Request) -> web.Response:
        enough = len(self.arrived) >= WARM + self.most or time.monotonic() > self.began + PATIENCE
        if len(self.arrived) > WARM:
            enough |= time.monotonic() > self.arrived[WARM - 1] + self.seconds
        return web.json_response(STATUS | {"current_step": 10**9 if enough else 0})

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.last = (body, request.headers.get("Content-Encoding", ""))
        self.arrived.append(time.monotonic())
        self.bytes += len(body)
        return web.json_response({"status": "received"})

    async def _begin(self, request: web.Request) -> web.Response:
        self.arrived, self.bytes, self.last, self.began = [], 0, (b"", ""), time.monotonic()
        self.most, self.seconds = int(request.query["groups"]), float(request.query["seconds"])
        return web.json_response({})

    async def _end(self, request: web.Request) -> web.Response:
        tokens = read_group(*self.last) if self.arrived else 0
        return web.json_response({"arrived": self.arrived, "bytes": self.bytes, "tokens": tokens})


def _says(answer: JsonObject) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler


def read_group(body: bytes, encoding: str) -> int:
    """Tokens of the shortest sequence of a posted group. Raises ValueError if it is none that a trainer could use."""
    group = json.loads(gzip.decompress(body) if encoding == "gzip" else body)
    lengths = [[len(sequence) for sequence in group[key]] for key in ("tokens", "masks", "inference_logprobs")]
    if any(each != lengths[0] for each in lengths) or not len(group["scores"]) == len(lengths[0]) == GROUP:
        raise ValueError(f"tokens, masks and log-probabilities of {lengths} tokens for {len(group['scores'])} scores")
    return min(lengths[0])


def _serve_stubs(stubs: Stubs, pipe: Connection) -> None:
    async def run() -> None:
        # Bodies stay as they came: undoing gzip is the trainer's cost.
        runner = web.AppRunner(stubs.app(), access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.contextmanager
def stubs(tokenizer: Any) -> Iterator[str]:
    """The address of running stubs whose replies are that tokenizer's."""
    texts = [REPLY.format(word) for word in "first second third fourth fifth sixth seventh eighth".split()]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    fork = multiprocessing.get_context("fork")  # spawned, it would import all of this module again for nothing
    receiving, sending = fork.Pipe(duplex=False)
    process = fork.Process(target=_serve_stubs, args=(Stubs(texts, ids), sending), daemon=True)
    process.start()
    try:
        yield receiving.recv()
    finally:
        process.terminate()
        process.join()


# ---- the environment that it is compared with ----


class DefaultEnv(BaseEnv):
    """The rollouts of Atropos' gsm8k_server.py, over prompts that are there already."""

    name = "default"
    items: Iterator[dict[str, str]]

    async def setup(self) -> None:
        """Nothing to set up."""

    async def evaluate(self, *args: object, **kwargs: object) -> None:
        """Nothing to evaluate."""

    async def get_next_item(self) -> dict[str, str]:
        """A question and its answer."""
        return next(self.items)

    async def collect_trajectories(self, item: dict[str, str]) -> tuple[ScoredDataGroup, list[dict[str, str]]]:
        """A scored group of completions, through atroposlib's managed server."""
        messages = [{"role": "user", "content": item["question"]}]
        async with self.server.managed_server(tokenizer=self.tokenizer) as managed:
            completions = await managed.chat_completion(
                messages=messages,
                n=self.config.group_size,
                max_tokens=self.config.max_token_length,
                temperature=1.0,
            )
            nodes = managed.get_state()["nodes"]
        group = ScoredDataGroup(tokens=[], masks=[], scores=[], inference_logprobs=[])
        for choice, node in zip(completions.choices, nodes, strict=True):
            group["tokens"].append(node.tokens)
            group["masks"].append(node.masked_tokens)
            group["inference_logprobs"].append(node.logprobs)
            group["scores"].append(1.0 if item["answer"] in (choice.message.content or "") else -1.0)
        return group, []
