"""What an endpoint learns of a server: from its first refusals, and once."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from environments.inference.completions import request_group
from environments.inference.contracts import CompletionRequest
from environments.inference.endpoint import SMALL
from environments.inference.errors import BadReply, CompletionError, RequestRejected
from environments.inference.request_form import NEUTRAL, RequestForm
from tests.environments.loopback import REQUEST, ChatServer, choice, make_endpoint, said

pytestmark = pytest.mark.usefixtures("clean")


def refusing(accepts: Any, message: str, status: int = 400, texts: tuple[str, ...] = ("hi",)) -> Any:
    """A server that answers requests which `accepts`, and refuses others with the message."""

    def reply(body: dict[str, Any], number: int) -> Any:
        if accepts(body):
            return said(*texts)(body, number)
        return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)

    return reply


# One server a report: what it takes, how it refuses, and what one reads of it.
SERVERS = {
    "stanfordnlp/dspy 1155 (Groq)": (lambda b: b.get("n", 1) == 1, "'n' : number must be at most 1", "one reply a request"),
    "algorithmicsuperintelligence/optillm 8 (llama.cpp)": (
        lambda b: b.get("n", 1) == 1, "n > 1 is not supported", "one reply a request"),
    "vibrantlabsai/ragas 1072 (DashScope), which names nothing": (
        lambda b: b.get("n", 1) == 1, "Bad Request", "one reply a request"),
    "sbintuitions/flexeval 111 (o1)": (
        lambda b: "max_tokens" not in b,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "takes max_completion_tokens, not max_tokens"),
    "anomalyco/opencode 37964 (reasoning models)": (
        lambda b: "temperature" not in b,
        "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported.",
        "takes no temperature"),
    "OpenAI, which knows no top_k": (
        lambda b: "top_k" not in b, "Unrecognized request argument supplied: top_k", "takes no top_k"),
    "Mistral, which knows three of them not": (
        lambda b: not {"top_k", "min_p", "repetition_penalty"} & set(b),
        '{"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"]}, {"loc": ["body", "min_p"]}, '
        '{"loc": ["body", "repetition_penalty"]}]}', "takes no min_p, repetition_penalty, top_k"),
}  # fmt: skip


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("name", SERVERS)
async def test_the_first_refusals_teach_what_a_server_takes(
    server: ChatServer, name: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    accepts, message, learnt = SERVERS[name]
    server.reply = refusing(accepts, message, status)
    endpoint = make_endpoint(server.url)
    completions = await request_group([endpoint], REQUEST, 3)
    assert [c.text for c in completions] == ["hi"] * 3
    server.requests.clear()
    await request_group([endpoint], REQUEST, 3)
    assert all(accepts(body) for body in server.requests)  # nothing is tried again
    lines = [r.getMessage() for r in caplog.records if "prompt it read" not in r.getMessage()]
    assert len(lines) == 1 and learnt in lines[0]


async def test_several_lessons_are_one_line(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    def reply(body: dict[str, Any], number: int) -> Any:
        for name, text in (("max_tokens", "use max_completion_tokens instead"), ("temperature", "unsupported")):
            if name in body:
                return web.json_response({"error": f"{name}: {text}"}, status=400)
        if body.get("n", 1) > 1:
            return web.json_response({"error": "only one completion"}, status=400)
        return [choice("hi")]

    server.reply = reply
    await request_group([make_endpoint(server.url)], REQUEST, 2)
    (line,) = (r.getMessage() for r in caplog.records if "takes" in r.getMessage())
    assert "max_completion_tokens" in line and "temperature" in line and "one reply a request" in line


async def test_a_prompt_that_is_too_long_teaches_nothing(server: ChatServer) -> None:
    message = "This model's maximum context length is 4096 tokens; reduce the length of the messages or max_tokens"
    server.reply = refusing(lambda body: False, message)
    endpoint = make_endpoint(server.url)
    with pytest.raises(CompletionError, match="maximum context length"):
        await endpoint.complete(REQUEST, 2)
    assert endpoint.form == RequestForm() and len(server.requests) == 1


async def test_a_field_of_the_users_own_is_never_left_out(server: ChatServer) -> None:
    server.reply = refusing(lambda body: "top_k" not in body, "unknown field top_k")
    own = CompletionRequest(REQUEST.messages, REQUEST.prompt, 9, 0.5, own={"top_k": 20, "seed": 1})
    with pytest.raises(CompletionError, match="unknown field top_k"):
        await make_endpoint(server.url).complete(own, 1)
    assert server.requests[0]["top_k"] == 20 and server.requests[0]["seed"] == 1


async def test_what_a_request_leaves_open_is_not_the_model_folders(server: ChatServer) -> None:
    """vLLM fills it from generation_config.json: a repetition penalty changed 27 of 28 answers at temperature 0."""
    await make_endpoint(server.url).complete(REQUEST, 1)
    assert {name: server.requests[0][name] for name in NEUTRAL} == dict(NEUTRAL)
    assert RequestForm().in_force(0, {}) == "temperature 0, top_p 1.0, top_k -1, min_p 0.0, repetition_penalty 1.0"


# ---- what the server read ----


def counting(tokens: int | None) -> Any:
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens}}
    return lambda body, _: {"choices": [choice("hi")] * body.get("n", 1), **usage}


@pytest.mark.parametrize("n", [1, 3])
async def test_a_prompt_that_was_cut_stops_the_run(server: ChatServer, n: int) -> None:
    """ollama/ollama 3839, 14259, 17427, 17889, itayinbarr/little-coder 128: HTTP 200, and the front of the prompt is gone."""
    long = CompletionRequest(REQUEST.messages, list(range(1024)), 9, 0.5)
    server.reply = counting(300)
    with pytest.raises(
        RequestRejected, match="read 300 prompt tokens of the 1,024 it was sent: it cuts prompts .*num_ctx"
    ):
        await make_endpoint(server.url).complete(long, n)
    for read in (1024, 1024 * n, 1027 * n):  # some count the prompt once for each reply
        server.reply = counting(read)
        assert len(await make_endpoint(server.url).complete(long, n)) == n


async def test_a_constant_difference_is_told_and_another_one_refused(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    """sgl-project/sglang 3296: the server's template has a few tokens more."""
    endpoint, sent = make_endpoint(server.url), len(REQUEST.prompt)
    server.reply = counting(sent + 3)
    for _ in range(2):
        await endpoint.complete(REQUEST, 1)
    assert [r.getMessage() for r in caplog.records if "+3 tokens in every prompt" in r.getMessage()] != []
    server.reply = counting(sent + 4)
    with pytest.raises(RequestRejected, match="another chat template"):
        await endpoint.complete(REQUEST, 1)
    server.reply = counting(sent + SMALL + 1)
    with pytest.raises(RequestRejected, match="another tokenizer"):
        await make_endpoint(server.url).complete(REQUEST, 1)


async def test_a_server_that_does_not_count_is_told_of_once(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply, endpoint = counting(None), make_endpoint(server.url)
    for _ in range(3):
        await endpoint.complete(REQUEST, 1)
    assert sum("lengths are not checked" in r.getMessage() for r in caplog.records) == 1


# ---- forms of a reply ----


def message(finish_reason: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish_reason}


@pytest.mark.parametrize(
    ("one", "text", "missing"),
    [
        (message(content="hi"), "hi", ""),
        (message(content=[{"type": "text", "text": "h"}, {"type": "output_text", "text": "i"}]), "hi", ""),
        (message(content=[{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "hi"}]), "hi", ""),
        (message(content=""), "", ""),  # a model that ends at once: its reply
        (message(content=None), "", "no_content"),  # vllm-project/vllm 41902
        (message(), "", "no_content"),
        (message(content=None, reasoning_content="all of it"), "", "no_content"),  # vllm-project/vllm 30139
        (
            message("length", content=None, reasoning_content="so far"),
            "",
            "budget_spent_thinking",
        ),  # ai-twinkle/Eval PR 23
        (message("max_tokens", content="", reasoning="so far"), "", "budget_spent_thinking"),  # vllm-project/vllm 42548
        (message("content_filter", content=None), "", "no_content"),
    ],
)
async def test_every_form_of_content(server: ChatServer, one: dict[str, Any], text: str, missing: str) -> None:
    server.reply = lambda body, _: [one]
    (completion,) = await make_endpoint(server.url).complete(REQUEST, 1)
    assert (completion.text, completion.missing) == (text, missing)


@pytest.mark.parametrize(
    "broken",
    [
        {"error": {"message": "provider down", "code": 502}},
        {"choices": [], "error": {"message": "provider down"}},
        [message("error", content=None) | {"error": {"message": "provider down"}}],
        [message("error", content="half a re")],
        [message("abort", content="half a re")],
    ],
)
async def test_an_error_inside_a_200_is_asked_again(server: ChatServer, broken: Any) -> None:
    """llm-as-a-verifier/llm-as-a-verifier 5; aborts during a weight update (slime PR 2092, rllm PR 542)."""
    answer = web.json_response(broken) if isinstance(broken, dict) else broken
    server.reply = lambda body, number: answer if number == 1 else [choice("whole")]
    if isinstance(broken, dict):
        server.reply = lambda body, number: web.json_response(broken) if number == 1 else [choice("whole")]
    (completion,) = await request_group([make_endpoint(server.url)], REQUEST, 1)
    assert completion.text == "whole" and len(server.requests) == 2
    server.requests.clear()
    server.reply = lambda body, number: web.json_response(broken) if isinstance(broken, dict) else broken
    with pytest.raises(BadReply):
        await request_group([make_endpoint(server.url)], REQUEST, 1)


async def test_of_a_group_only_the_broken_replies_are_asked_again(server: ChatServer) -> None:
    server.reply = lambda body, number: [choice("a"), choice("b", "abort"), choice("c")][: body["n"]]
    completions = await request_group([make_endpoint(server.url)], REQUEST, 3)
    assert [c.text for c in completions] == ["a", "c", "a"] and [b["n"] for b in server.requests] == [3, 1]
