"""Asking, over real sockets: full groups or one line, tokens as a trainer needs them, and the check before the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from aiohttp import web
from loopback import ChatServer, choice, make_env, no_waiting, said, tokenizer_folder
from tiny_model import EOS, tiny_tokenizer

from environments import env_cli
from environments.asking import AskError, ask, check_server, reason
from environments.env_cli import ConfigError

MESSAGES = [{"role": "user", "content": "Where?"}]
PROMPT = list(b"Where?")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    for name in env_cli.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer().running() as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


async def asked(server: ChatServer, tokenizer: Path, n: int, token_exact: bool = False, **options: Any) -> Any:
    kind = {"server_type": "vllm"} if token_exact else {}
    env = make_env(tokenizer, server.url, server=kind | options, group_size=n)
    return await ask(env.server, env.tokenizer, MESSAGES, PROMPT, n, token_exact, max_tokens=9, temperature=0.5)


def generated(*texts: str, logprob: float = -0.5) -> web.Response:
    """/generate's reply, as atroposlib's own vLLM server gives it."""
    logprobs = [[[{str(i): logprob}] for i in tiny_tokenizer().encode(text)] for text in texts]
    return web.json_response({"logprobs": logprobs, "finish_reasons": ["stop"] * len(texts)})


@pytest.mark.parametrize("n", [1, 5, 20])
async def test_one_request_for_the_whole_group(server: ChatServer, tokenizer: Path, n: int) -> None:
    """Section 7: one prefill a group. Beyond n=8 atroposlib splits a group over several requests."""
    server.reply = lambda body, _: [choice(f"{i}") for i in range(body["n"])]
    prompt, completions = await asked(server, tokenizer, n)
    assert [request["n"] for request in server.requests] == [n]
    assert prompt == PROMPT and [c.text for c in completions] == [str(i) for i in range(n)]
    sent = server.requests[0]
    assert sent["messages"] == MESSAGES and (sent["max_tokens"], sent["temperature"]) == (9, 0.5)


@pytest.mark.parametrize("n", [1, 5, 20])
async def test_one_token_exact_request_for_the_whole_group(server: ChatServer, tokenizer: Path, n: int) -> None:
    server.reply = lambda body, _: generated(*("ab" for _ in range(body["n"])))
    prompt, completions = await asked(server, tokenizer, n, token_exact=True)
    assert [request["n"] for request in server.requests] == [n] and server.paths == ["/generate"]
    assert server.requests[0]["prompt"] == {"prompt_token_ids": PROMPT} and prompt == PROMPT
    assert [c.tokens for c in completions] == [tiny_tokenizer().encode("ab")] * n
    assert completions[0].logprobs == [-0.5, -0.5] and completions[0].text == "ab"


async def test_a_server_that_ignores_n_still_gives_full_groups(server: ChatServer, tokenizer: Path) -> None:
    """Section 2.6: atroposlib asks again, once for each completion that is missing."""
    server.reply = lambda body, number: [choice(f"{number}")]
    with pytest.warns(UserWarning, match="n kwarg is ignored"):
        _, completions = await asked(server, tokenizer, 4)
    assert sorted(c.text for c in completions) == ["1", "2", "3", "4"] and len(server.requests) == 4


async def test_n_kwarg_is_ignored_as_a_setting(server: ChatServer, tokenizer: Path) -> None:
    server.reply = lambda body, number: [choice(f"{number}")]
    _, completions = await asked(server, tokenizer, 3, n_kwarg_is_ignored=True)
    assert len(completions) == len(server.requests) == 3
    assert all("n" not in request for request in server.requests)


async def test_fewer_choices_than_asked_are_one_clean_failure(server: ChatServer, tokenizer: Path) -> None:
    server.reply = lambda body, _: [choice("a"), choice("b")]
    with pytest.raises(AskError, match="^ValueError: Expected 1 or 3 completions, got 2!$"):
        await asked(server, tokenizer, 3)
    server.reply = lambda body, _: []
    with pytest.raises(AskError, match="got 0"):
        await asked(server, tokenizer, 3)


async def test_fewer_token_completions_are_refilled(server: ChatServer, tokenizer: Path) -> None:
    server.reply = lambda body, number: generated("a" * number)
    _, completions = await asked(server, tokenizer, 3, token_exact=True)
    assert [c.text for c in completions] == ["a", "aa", "aaa"]
    assert [request["n"] for request in server.requests] == [3, 2, 1]


async def test_refilling_ends(server: ChatServer, tokenizer: Path) -> None:
    server.reply = lambda body, _: generated()
    with pytest.raises(AskError, match="^the server gave 0 completions of 2 in 3 requests$"):
        await asked(server, tokenizer, 2, token_exact=True)
    assert len(server.requests) == 3


async def test_more_choices_than_asked_are_cut(server: ChatServer, tokenizer: Path) -> None:
    server.reply = lambda body, _: generated("a", "b", "c")
    _, completions = await asked(server, tokenizer, 2, token_exact=True)
    assert [c.text for c in completions] == ["a", "b"]


async def test_no_content_and_empty_content(server: ChatServer, tokenizer: Path) -> None:
    """Section 2.6: content may be None."""
    server.reply = lambda body, _: [choice(None), choice(""), choice(None, "length")]
    _, completions = await asked(server, tokenizer, 3)
    assert [(c.text, c.tokens) for c in completions] == [("", [EOS]), ("", [EOS]), ("", [])]


async def test_only_a_finished_reply_ends_with_the_end_of_turn_token(server: ChatServer, tokenizer: Path) -> None:
    """Section 2.7: a reply cut by its length must not teach the model to stop there."""
    reasons = ("stop", "length", "content_filter", None)
    server.reply = lambda body, _: [choice("hi", why) for why in reasons]
    _, completions = await asked(server, tokenizer, 4)
    hi = tiny_tokenizer().encode("hi")
    assert [c.tokens for c in completions] == [[*hi, EOS], hi, hi, hi]
    assert [c.finish_reason for c in completions] == list(reasons) and completions[0].logprobs is None


async def test_half_a_surrogate_pair_is_replaced(server: ChatServer, tokenizer: Path) -> None:
    """JSON may carry what is no text: it can be neither tokenised nor written to a UTF-8 file."""
    server.reply = said("ok \ud83d ok")
    _, completions = await asked(server, tokenizer, 1)
    assert completions[0].text == "ok ? ok"


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
async def test_log_probabilities_that_are_not_finite_are_refused(
    server: ChatServer, tokenizer: Path, logprob: float
) -> None:
    """Section 2.2: run-api takes a NaN, and then fails on the batch that holds it."""
    server.reply = lambda body, _: generated("a", logprob=logprob)
    with pytest.raises(AskError, match="log-probability that is not finite"):
        await asked(server, tokenizer, 1, token_exact=True)


@pytest.mark.parametrize("token_exact", [False, True])
@pytest.mark.parametrize(
    ("status", "word"), [(400, "400|BadRequest"), (500, "500|InternalServer"), (429, "429|RateLimit")]
)
async def test_an_error_is_one_line_that_names_its_cause(
    server: ChatServer, tokenizer: Path, status: int, word: str, token_exact: bool
) -> None:
    """Section 2.6: tenacity.RetryError hides the cause."""
    server.reply = lambda *_: web.json_response({"error": {"message": "no\nroom " + "x" * 900}}, status=status)
    with pytest.raises(AskError, match=word) as caught:
        await asked(server, tokenizer, 2, token_exact)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300 and "RetryError" not in str(caught.value)


@pytest.mark.parametrize("body", ["<html>oops</html>", "{", '"text"', "{}"])
async def test_a_reply_that_is_no_completion(server: ChatServer, tokenizer: Path, body: str) -> None:
    server.reply = lambda *_: web.Response(text=body, content_type="application/json")
    with pytest.raises(AskError):
        await asked(server, tokenizer, 1)
    with pytest.raises(AskError):
        await asked(server, tokenizer, 1, token_exact=True)


async def test_a_server_that_hangs_runs_into_the_timeout(server: ChatServer, tokenizer: Path) -> None:
    """The timeout is the openai client's: `--openai.timeout`."""
    server.reply = lambda *_: server.loop.create_future()
    with pytest.raises(AskError, match="[Tt]ime"):
        await asked(server, tokenizer, 1, timeout=0.02)


async def test_a_key_that_a_server_repeats_stays_hidden(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fact 15."""
    monkeypatch.setenv("LONGTHREAD_API_KEY", "sk-topsecret")
    server.reply = lambda *_: web.json_response({"error": {"message": "bad key sk-topsecret"}}, status=403)
    with pytest.raises(AskError) as caught:
        await asked(server, tokenizer, 1)
    assert "sk-topsecret" not in str(caught.value) and "[API key]" in str(caught.value)
    assert server.keys == {"Bearer sk-topsecret"}


def test_reason_digs_through_nested_retries() -> None:
    error: BaseException = KeyError("deep\n  down")
    for _ in range(3):
        attempt = tenacity.Future(1)
        attempt.set_exception(error)
        error = tenacity.RetryError(attempt)
    assert reason(error) == "KeyError: 'deep\\n down'"


# ---- the check before the start ----


async def checked(url: str, model: str = "m", key: str = "x") -> None:
    config = env_cli.APIServerConfig(base_url=url, model_name=model, api_key=key)
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


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("a", "b"), "model 'm' is not served at .*; give --openai.model_name one of a, b"),
        (lambda _: web.Response(status=401), r"refused the API key \(HTTP 401\); set LONGTHREAD_API_KEY"),
        (lambda _: web.Response(status=403), r"refused the API key \(HTTP 403\)"),
        (lambda _: web.Response(status=500), "answered HTTP 500; start the server"),
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
    with pytest.raises(ConfigError, match=f"give --openai.base_url {server.url}$"):
        await checked(server.url.removesuffix("/v1"))


async def test_a_server_that_does_not_answer(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.models = lambda _: server.loop.create_future()
    monkeypatch.setattr("environments.asking.PREFLIGHT_SECONDS", 0.05)
    with pytest.raises(ConfigError, match="no answer from .* within 0.05 s"):
        await checked(server.url)


async def test_a_trailing_slash_is_no_other_server(server: ChatServer, tokenizer: Path) -> None:
    """atroposlib makes /generate's address by cutting "/v1" out of the URL: a slash behind it doubled."""
    server.reply = lambda body, _: generated("a")
    await checked(server.url + "/")
    _, completions = await asked(server, tokenizer, 1, token_exact=True, base_url=server.url + "/")
    assert completions[0].text == "a" and server.paths == ["/generate"]
