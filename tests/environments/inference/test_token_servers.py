"""Which way a server gives tokens is found out by asking."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from environments.inference.errors import RequestRejected
from tests.environments.loopback import REQUEST, ChatServer, generated, make_endpoint
from tests.environments.tiny_model import EOS, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("clean")


def vllm_completions(body: dict[str, Any]) -> web.Response:
    """vLLM 0.32's answer to `/v1/completions` with a prompt of token ids."""
    ids = [*tiny_tokenizer().encode("hi"), EOS]
    one = {"text": "hi", "token_ids": ids, "prompt_token_ids": body["prompt"], "finish_reason": "stop"}
    one["logprobs"] = {"token_logprobs": [-0.5] * len(ids), "tokens": [], "top_logprobs": [], "text_offset": []}
    return web.json_response({"choices": [one | {"index": i} for i in range(body["n"])]})


async def test_a_plain_vllm_serve_gives_tokens(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.completions = lambda body, _: vllm_completions(body)
    endpoint = make_endpoint(server.url, server_type="vllm")
    completions = await endpoint.complete(REQUEST, 2)
    ids = [*tiny_tokenizer().encode("hi"), EOS]
    assert [(c.text, c.tokens, c.logprobs, c.finish_reason) for c in completions] == [
        ("hi", ids, [-0.5] * 3, "stop")
    ] * 2
    await endpoint.complete(REQUEST, 1)
    assert server.paths == ["/v1/completions"] * 2
    sent = {
        "prompt": REQUEST.prompt,
        "n": 2,
        "max_tokens": 9,
        "temperature": 0.5,
        "logprobs": 0,
        "return_token_ids": True,
    }
    sent |= {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "add_special_tokens": False, "model": "m"}
    assert server.requests[0] == sent
    assert [r.getMessage().partition(" ")[2] for r in caplog.records] == [
        "gives tokens with log-probabilities by vLLM's /v1/completions"
    ]


async def test_atroposlibs_own_server_still_does(server: ChatServer) -> None:
    server.reply = lambda body, _: generated("a")
    completions = await make_endpoint(server.url, server_type="vllm").complete(REQUEST, 1)
    assert completions[0].text == "a" and server.paths[-1] == "/generate"


async def test_a_completions_answer_without_token_ids_is_no_answer(server: ChatServer) -> None:
    """A server that ignores `return_token_ids`, as vLLM before 0.10.2, llama.cpp and the embedded server do."""
    choice = {"text": "hi", "finish_reason": "stop", "logprobs": {}}
    server.completions = lambda body, _: web.json_response({"choices": [choice]})
    server.reply = lambda body, _: generated("a")
    assert (await make_endpoint(server.url, server_type="vllm").complete(REQUEST, 1))[0].text == "a"


@pytest.mark.parametrize("status", [400, 404, 405])
@pytest.mark.parametrize(("kind", "command"), [("vllm", "vllm serve MODEL"), ("sglang", "sglang.launch_server")])
async def test_a_server_without_tokens_is_refused_with_the_command(
    server: ChatServer, status: int, kind: str, command: str
) -> None:
    server.reply = server.completions = lambda *_: web.json_response({"detail": "Not Found"}, status=status)
    with pytest.raises(RequestRejected, match=rf"gives no tokens with log-probabilities .*started by: .*{command}"):
        await make_endpoint(server.url, server_type=kind).complete(REQUEST, 1)
