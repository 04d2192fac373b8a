"""Full groups over real sockets, or one line: what is tried again, for how long, and the check before the start."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
import tenacity
from aiohttp import web

from environments.config import ServerSettings
from environments.inference.completions import TRIES, failure_reason, request_group
from environments.inference.errors import CompletionError, RequestRejected
from environments.inference.preflight import check_server
from longthread.errors import ConfigError
from tests.environments.loopback import (
    REQUEST,
    ChatServer,
    choice,
    cut_off,
    generated,
    make_endpoint,
    reset,
    said,
    sample,
)
from tests.environments.tiny_model import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize("n", [1, 5, 20])
async def test_one_request_for_the_whole_group(server: ChatServer, n: int) -> None:
    """Section 7: one prefill a group. Beyond n=8 atroposlib splits a group over several requests."""
    server.reply = lambda body, _: [choice(f"{i}") for i in range(body["n"])]
    completions = await sample(server, n)
    assert [request["n"] for request in server.requests] == [n]
    assert [c.text for c in completions] == [str(i) for i in range(n)]
    sent = server.requests[0]
    assert sent["messages"] == REQUEST.messages and (sent["max_tokens"], sent["temperature"]) == (9, 0.5)


@pytest.mark.parametrize("n", [1, 5, 20])
async def test_one_token_exact_request_for_the_whole_group(server: ChatServer, n: int) -> None:
    server.reply = lambda body, _: generated(*("ab" for _ in range(body["n"])))
    completions = await sample(server, n, token_exact=True)
    assert [request["n"] for request in server.requests] == [n] and server.paths == ["/generate"]
    assert server.requests[0]["prompt"] == {"prompt_token_ids": REQUEST.prompt}
    assert [c.tokens for c in completions] == [tiny_tokenizer().encode("ab")] * n
    assert completions[0].logprobs == [-0.5, -0.5] and completions[0].text == "ab"


async def test_a_server_that_ignores_n_still_gives_full_groups(server: ChatServer) -> None:
    """Section 2.6. What it gave counts; the rest is asked for one by one, and so is the next group."""
    server.reply = lambda body, number: [choice(f"{number}")]
    endpoint = make_endpoint(server.url)
    for _ in range(2):
        assert len(await request_group([endpoint], REQUEST, 4)) == 4
    assert [request.get("n") for request in server.requests] == [4] + [None] * 7


async def test_n_kwarg_is_ignored_as_a_setting(server: ChatServer) -> None:
    """Section 2.6: with n=1 atroposlib sends every request twice."""
    server.reply = lambda body, number: [choice(f"{number}")]
    for n in (3, 1):
        completions = await sample(server, n, n_kwarg_is_ignored=True)
        assert len(completions) == n
    assert len(server.requests) == 4 and all("n" not in request for request in server.requests)


@pytest.mark.parametrize("token_exact", [False, True])
async def test_fewer_completions_than_asked_are_refilled(server: ChatServer, token_exact: bool) -> None:
    """Section 2.6: atroposlib fails when it gets two of five."""

    def reply(body: dict[str, Any], number: int) -> Any:
        texts = [f"{number}", f"{number}"]
        return generated(*texts) if token_exact else [choice(text) for text in texts]

    server.reply = reply
    completions = await sample(server, 5, token_exact)
    assert [c.text for c in completions] == ["1", "1", "2", "2", "3"]
    assert [request["n"] for request in server.requests] == [5, 3, 1]


async def test_refilling_ends(server: ChatServer) -> None:
    server.reply = lambda body, _: generated()
    with pytest.raises(CompletionError, match="^the server gave 0 completions of 2 in 3 requests$"):
        await sample(server, 2, token_exact=True)
    assert len(server.requests) == 3


async def test_more_choices_than_asked_are_cut(server: ChatServer) -> None:
    server.reply = lambda body, _: generated("a", "b", "c")
    completions = await sample(server, 2, token_exact=True)
    assert [c.text for c in completions] == ["a", "b"]


# ---- what is tried again ----


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses asked for, which then take no time."""
    seconds, sleep = [], asyncio.sleep

    async def at_once(length: float, *_: Any) -> None:
        seconds.append(length)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    return seconds


def faulty(fault: Any, times: int, token_exact: bool = False) -> Any:
    """The fault so many times, then completions."""

    def reply(body: dict[str, Any], number: int) -> Any:
        if number <= times:
            return fault
        texts = ["late"] * body.get("n", 1)
        return generated(*texts) if token_exact else said(*texts)(body, number)

    return reply


def answer(status: int, body: Any = None, **headers: str) -> Any:
    shown = {"error": {"message": "no\nroom " + "x" * 900}} if body is None else body
    return text(json.dumps(shown), status=status, headers=headers)


def text(body: str, **options: Any) -> Any:
    async def fault(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json", **options)

    return fault


BAD = {
    "500": answer(500),
    "broken off": cut_off,
    "no JSON": text("<html>oops</html>"),
    "half a JSON": text("{"),
    "no object": text('"text"'),
    "no completions": text("{}"),
}
AWAY = {"reset": reset, "429": answer(429), "502": answer(502), "503": answer(503), "504": answer(504)}


@pytest.mark.parametrize("token_exact", [False, True])
@pytest.mark.parametrize("fault", BAD)
async def test_a_bad_reply_is_tried_three_times(server: ChatServer, fault: str, token_exact: bool) -> None:
    """atroposlib and the openai client try 27 times."""
    server.reply = faulty(BAD[fault], 2, token_exact)
    completions = await sample(server, 2, token_exact)
    assert [c.text for c in completions] == ["late"] * 2 and len(server.requests) == 3
    server.requests.clear()
    server.reply = faulty(BAD[fault], 9, token_exact)
    with pytest.raises(CompletionError) as caught:
        await sample(server, 2, token_exact)
    assert len(server.requests) == TRIES == 3
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400 and server.url[:-3] in str(caught.value)


@pytest.mark.parametrize("token_exact", [False, True])
@pytest.mark.parametrize("fault", AWAY)
async def test_a_server_that_is_away_is_waited_for(
    server: ChatServer,
    fault: str,
    token_exact: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More often than a bad reply would be borne, said once, until it has been away for too long."""
    monkeypatch.setattr("environments.inference.completions.ANNOUNCED_SECONDS", 0.0)  # shorter outages are not told
    server.reply = faulty(AWAY[fault], 7, token_exact)
    completions = await sample(server, 2, token_exact)
    assert [c.text for c in completions] == ["late"] * 2 and len(server.requests) == 8
    said_so = [record.getMessage() for record in caplog.records]
    said_so = [line for line in said_so if "answers again" in line or "waiting" in line]
    assert len(said_so) == 2 and said_so[0].endswith("; waiting for it, up to 600 s")
    assert re.search("answers again after 0 s", said_so[1])
    monkeypatch.setattr("environments.inference.completions.OUTAGE_SECONDS", 0.0)
    server.requests.clear()
    with pytest.raises(CompletionError):
        server.reply = faulty(AWAY[fault], 9, token_exact)
        await sample(server, 2, token_exact)
    assert len(server.requests) == 1


async def test_nobody_listens_and_then_somebody_does(
    server: ChatServer, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = make_endpoint(server.url)
    server.go_away()

    def again(state: Any) -> float:
        if state.attempt_number == 4:
            server.come_back()
        return 0.25

    monkeypatch.setattr("environments.inference.completions.PAUSE", again)
    completions = await request_group([endpoint], REQUEST, 1)
    assert completions[0].text == "<answer>none</answer>" and slept == [0.25] * 4 and len(server.requests) == 1


async def test_retry_after_is_respected(server: ChatServer, slept: list[float]) -> None:
    """Section 2.6: 429 gets no special care there."""
    server.reply = faulty(answer(429, **{"Retry-After": "17"}), 2)
    await sample(server, 1)
    assert slept == [17.0, 17.0]
    slept.clear()
    server.requests.clear()
    server.reply = faulty(answer(503, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1)  # a date: our own pause
    await sample(server, 1)
    assert slept == [0.0]


@pytest.mark.parametrize("token_exact", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "fix"),
    [
        (401, None, "set LONGTHREAD_API_KEY"),
        (403, None, "set LONGTHREAD_API_KEY"),
        (404, None, "check its address, model and type .openai.base_url, "),
        (429, {"error": {"code": "insufficient_quota"}}, "no credit left"),
    ],
)
async def test_a_refusal_is_not_tried_again(
    server: ChatServer, status: int, body: Any, fix: str, token_exact: bool
) -> None:
    server.reply = faulty(answer(status, body), 9)
    if status == 404 and token_exact:  # each way to get tokens is tried
        fix = "a server of type vllm is started by: vllm serve MODEL"
    with pytest.raises(RequestRejected, match=f"HTTP {status}.*{fix}") as caught:
        await sample(server, 2, token_exact)
    assert len(server.requests) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_wrong_is_not_tried_again(server: ChatServer, status: int) -> None:
    server.reply = faulty(answer(status), 9)
    with pytest.raises(CompletionError, match=f"HTTP {status}: .*no.nroom") as caught:
        await sample(server, 1)
    assert len(server.requests) == 1 and not isinstance(caught.value, RequestRejected)


async def test_a_server_that_hangs_runs_into_the_timeout(server: ChatServer) -> None:
    server.reply = lambda *_: server.loop.create_future()
    with pytest.raises(CompletionError, match="no answer from .* within 0.05 s .openai.timeout."):
        await sample(server, 1, timeout=0.05)


async def test_another_server_steps_in(server: ChatServer) -> None:
    """Of two servers one goes away: its requests go to the other, and it is asked again when it may be back."""
    with ChatServer(said("other")).running() as other:
        endpoints = [make_endpoint(server.url), make_endpoint(other.url)]
        server.go_away()
        texts = [(await request_group(endpoints, REQUEST, 1))[0].text for _ in range(3)]
        assert texts == ["other"] * 3 and len(other.requests) == 3
        assert endpoints[0].in_cooldown() and not endpoints[1].in_cooldown()
        server.come_back()
        endpoints[0].failed_at -= 31
        assert (await request_group(endpoints, REQUEST, 1))[0].text == "<answer>none</answer>"


def test_reason_digs_through_nested_retries() -> None:
    error: BaseException = KeyError("deep\n  down")
    for _ in range(3):
        attempt = tenacity.Future(1)
        attempt.set_exception(error)
        error = tenacity.RetryError(attempt)
    assert failure_reason(error) == "KeyError: 'deep\\n down'"


# ---- the check before the start ----


async def checked(url: str, model: str = "m", key: str = "x") -> None:
    config = ServerSettings(base_url=url, model_name=model, api_key=key)
    await check_server(config)


async def test_a_server_that_is_there(server: ChatServer) -> None:
    """Fact 6: one request before the start instead of one a second."""
    await checked(server.url, key="sk-1")
    assert server.keys == {"Bearer sk-1"} and not server.requests


@pytest.mark.parametrize(
    "models",
    [
        lambda _: web.Response(status=404),
        lambda _: web.json_response([]),
        lambda _: web.json_response({"data": None}),
        lambda _: web.json_response({"data": ["m"]}),
        lambda _: web.json_response({"data": 3}),
        lambda _: web.json_response({"data": []}),
    ],
)
async def test_a_server_without_a_list_of_models_passes(server: ChatServer, models: Any) -> None:
    server.models = models
    await checked(server.url)


async def test_a_list_of_models_that_fails_is_told_and_passes(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`transformers serve` without a network: it looks for the hub's list, and answers chats all the same."""
    server.models = lambda _: web.Response(status=500)
    await checked(server.url)
    assert "cannot list its models (HTTP 500)" in caplog.text


async def test_a_model_that_is_served_and_not_listed_passes() -> None:
    """Several names in one, say, which no list can hold: the server is asked for that name."""
    asked: list[str] = []

    async def one(request: web.Request) -> web.Response:
        asked.append(request.match_info["name"])
        known = asked[-1] == "a+m"
        return web.json_response({"id": asked[-1], "max_model_len": 64}, status=200 if known else 404)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "a"}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/models/{name:.+}", one)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        await checked(url, "a+m")
        with pytest.raises(ConfigError, match="does not serve the model 'x'"):
            await checked(url, "x")
    finally:
        await runner.cleanup()
    assert asked == ["a+m", "x"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("a", "b"), "does not serve the model 'm': it must be one of a, b .openai.model_name."),
        (lambda _: web.Response(status=401), r"refused the API key \(HTTP 401\); set LONGTHREAD_API_KEY"),
        (lambda _: web.Response(status=403), r"refused the API key \(HTTP 403\)"),
        (lambda _: web.Response(status=502), "answered HTTP 502; start the server"),
        (lambda _: web.Response(text="<html>"), "not JSON"),
        (lambda _: web.Response(body=b"\xff\xfe\xfa"), "not JSON"),
    ],
)
async def test_a_server_that_cannot_serve(server: ChatServer, models: Any, message: str) -> None:
    server.models = models
    with pytest.raises(ConfigError, match=message) as caught:
        await checked(server.url)
    assert "\n" not in str(caught.value)


async def test_a_server_that_is_away(unused_tcp_port: int) -> None:
    with pytest.raises(ConfigError, match="cannot reach a server at .*; start the server"):
        await checked(f"http://127.0.0.1:{unused_tcp_port}/v1")


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1/v1"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot reach"):
        await checked(url)


async def test_a_url_without_v1_is_named(server: ChatServer) -> None:
    """The commonest slip: every request would be answered 404, and tried nine times."""
    with pytest.raises(ConfigError, match=f"give {server.url} .openai.base_url.$"):
        await checked(server.url.removesuffix("/v1"))


async def test_a_server_that_does_not_answer(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.models = lambda _: server.loop.create_future()
    monkeypatch.setattr("environments.inference.preflight.PREFLIGHT_SECONDS", 0.05)
    with pytest.raises(ConfigError, match="no answer from .* within 0.05 s"):
        await checked(server.url)
