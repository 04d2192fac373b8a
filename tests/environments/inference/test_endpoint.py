"""One server over a real socket: what each protocol sends, and what of its replies counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from atroposlib.envs.base import APIServerConfig

from environments.inference.completions import request_group
from environments.inference.endpoint import COOLDOWN_SECONDS
from environments.inference.errors import BadReply, CompletionError, RequestRejected, ServerUnavailable
from environments.inference.preflight import check_server
from tests.environments.loopback import REQUEST, ChatServer, choice, generated, make_endpoint, make_env, said, sample
from tests.environments.tiny_model import EOS, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("clean")


async def test_no_content_and_empty_content(server: ChatServer) -> None:
    """Section 2.6: content may be None."""
    server.reply = lambda body, _: [choice(None), choice(""), choice(None, "length")]
    completions = await sample(server, 3)
    assert [(c.text, c.tokens) for c in completions] == [("", [EOS]), ("", [EOS]), ("", [])]


async def test_only_a_finished_reply_ends_with_the_end_of_turn_token(server: ChatServer) -> None:
    """Section 2.7: a reply cut by its length must not teach the model to stop there."""
    reasons = ("stop", "length", "content_filter", None)
    server.reply = lambda body, _: [choice("hi", why) for why in reasons]
    completions = await sample(server, 4)
    hi = tiny_tokenizer().encode("hi")
    assert [c.tokens for c in completions] == [[*hi, EOS], hi, hi, hi]
    assert [c.finish_reason for c in completions] == list(reasons) and completions[0].logprobs is None


async def test_half_a_surrogate_pair_is_replaced(server: ChatServer) -> None:
    """JSON may carry what is no text: it can be neither tokenised nor written to a UTF-8 file."""
    server.reply = said("ok \ud83d ok")
    completions = await sample(server, 1)
    assert completions[0].text == "ok ? ok"


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
async def test_log_probabilities_that_are_not_finite_are_refused(server: ChatServer, logprob: float) -> None:
    """Section 2.2: run-api takes a NaN, and then fails on the batch that holds it."""
    server.reply = lambda body, _: generated("a", logprob=logprob)
    with pytest.raises(CompletionError, match="log-probability that is not finite"):
        await sample(server, 1, token_exact=True)


async def test_tokens_that_do_not_decode_to_the_text(server: ChatServer) -> None:
    """The server has another tokenizer: every completion would be scored on the wrong text."""
    ids = [*tiny_tokenizer().encode("wrong"), EOS]
    body: dict[str, Any] = {"logprobs": [[[{str(i): -0.5}] for i in ids]], "finish_reasons": ["stop"]}
    server.reply = lambda *_: web.json_response(body | {"text": ["right"]})
    with pytest.raises(
        CompletionError,
        match="do not decode to its text .'wrong', not 'right'.: give .* .tokenizer_name.",
    ):
        await sample(server, 1, token_exact=True)
    server.reply = lambda *_: web.json_response(body | {"text": [" wrong\n"]})  # white space is the server's own affair
    assert (await sample(server, 1, token_exact=True))[0].text == "wrong"


async def test_a_prompt_that_the_server_read_otherwise(server: ChatServer) -> None:
    server.reply = lambda *_: web.json_response(
        {"logprobs": [[]], "finish_reasons": ["stop"], "prompt_token_ids": [1, *REQUEST.prompt]}
    )
    with pytest.raises(CompletionError, match="read 7 prompt tokens that are not the 6 it was sent"):
        await sample(server, 1, token_exact=True)


async def test_a_chat_server_asked_for_tokens_is_named(server: ChatServer) -> None:
    server.reply = lambda *_: web.json_response({"text": ["hi"], "finish_reasons": ["stop"]})
    with pytest.raises(
        CompletionError,
        match="no tokens with log-probabilities .*of type vllm is started by: vllm serve MODEL.* .openai.server_type.",
    ):
        await sample(server, 1, token_exact=True)


async def test_sglang(server: ChatServer) -> None:
    ids = [*tiny_tokenizer().encode("ab"), EOS]
    one = {"text": "ab", "meta_info": {"output_token_logprobs": [[-0.5, i, None] for i in ids]}}
    one["meta_info"]["finish_reason"] = {"type": "stop"}
    server.reply = lambda body, _: web.json_response([one] * body["sampling_params"]["n"])
    completions = await sample(server, 2, True, server_type="sglang")
    assert [(c.text, c.tokens, c.logprobs, c.finish_reason) for c in completions] == [
        ("ab", ids, [-0.5] * 3, "stop")
    ] * 2
    assert server.requests[0]["input_ids"] == REQUEST.prompt and server.requests[0]["return_logprob"] is True
    sent = {"n": 2, "max_new_tokens": 9, "temperature": 0.5}
    assert server.requests[0]["sampling_params"] == sent | {
        "top_p": 1,
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
    }


async def test_a_completion_of_a_megabyte(server: ChatServer) -> None:
    server.reply = said("x" * 2**20)
    completions = await sample(server, 2)
    assert [len(c.tokens) for c in completions] == [2**20 + 1] * 2


async def test_a_key_that_a_server_repeats_stays_hidden(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fact 15."""
    monkeypatch.setenv("LONGTHREAD_API_KEY", "sk-topsecret")
    server.reply = lambda *_: web.json_response({"error": {"message": "bad key sk-topsecret"}}, status=403)
    with pytest.raises(CompletionError) as caught:
        await request_group(make_env(tokenizer, server.url).endpoints, REQUEST, 1)
    assert "sk-topsecret" not in str(caught.value) and "bad key ***" in str(caught.value)
    assert server.keys == {"Bearer sk-topsecret"}


async def test_a_trailing_slash_is_no_other_server(server: ChatServer) -> None:
    """atroposlib makes /generate's address by cutting "/v1" out of the URL: a slash behind it doubled."""
    server.reply = lambda body, _: generated("a")
    await check_server(APIServerConfig(base_url=server.url + "/", model_name="m"))
    completions = await sample(server, 1, token_exact=True, base_url=server.url + "/")
    assert completions[0].text == "a" and server.paths == ["/generate"]


# ---- outages ----


def test_an_outage_is_announced_once_and_its_end_told() -> None:
    endpoint = make_endpoint("http://127.0.0.1:1/v1")
    assert endpoint.mark_up() is None and not endpoint.in_cooldown()
    first, second = ServerUnavailable("down"), ServerUnavailable("down")
    assert not endpoint.mark_failed(first, patience=60) and endpoint.in_cooldown() and first.lasted == 0
    assert endpoint.mark_failed(second, patience=0) and second.lasted >= 0
    assert not endpoint.mark_failed(ServerUnavailable("down"), patience=0)
    lasted = endpoint.mark_up()
    assert lasted is not None and lasted >= 0 and not endpoint.in_cooldown() and endpoint.down_since is None
    assert endpoint.mark_up() is None


def test_a_reply_of_any_kind_ends_an_outage() -> None:
    endpoint = make_endpoint("http://127.0.0.1:1/v1")
    endpoint.mark_failed(ServerUnavailable("down"), patience=0)
    assert not endpoint.mark_failed(BadReply("half a JSON"), patience=0)
    assert endpoint.down_since is None and not endpoint.in_cooldown()


def test_after_the_cooldown_a_server_is_asked_again() -> None:
    endpoint = make_endpoint("http://127.0.0.1:1/v1")
    endpoint.mark_failed(ServerUnavailable("down"), patience=60)
    endpoint.failed_at -= COOLDOWN_SECONDS
    assert not endpoint.in_cooldown() and endpoint.down_since is not None


def test_training_and_evaluation_have_semaphores_of_their_own() -> None:
    endpoint = make_endpoint("http://127.0.0.1:1/v1")
    assert endpoint.semaphore("train") is endpoint.server.sem
    assert endpoint.semaphore("eval") is endpoint.server.eval_sem


async def test_reasoning_settings_of_atroposlib_reach_the_body(server: ChatServer) -> None:
    """`extra_body` is the openai client's way to add fields: they stand in the body itself."""
    endpoint = make_endpoint(server.url)
    endpoint.server._inject_reasoning_kwargs = lambda body: body | {"extra_body": {"reasoning": {"effort": "low"}}}  # type: ignore[method-assign]
    await endpoint.complete(REQUEST, 1)
    assert server.requests[0]["reasoning"] == {"effort": "low"} and "extra_body" not in server.requests[0]


async def test_an_address_that_is_not_one_is_a_rejection() -> None:
    with pytest.raises(RequestRejected, match="is not an address; give another .openai.base_url."):
        await make_endpoint("nonsense").complete(REQUEST, 1)


async def test_token_ids_beyond_any_vocabulary_are_a_bad_reply(server: ChatServer) -> None:
    server.reply = lambda *_: web.json_response({"logprobs": [[[{str(2**70): -0.5}]]], "finish_reasons": ["stop"]})
    with pytest.raises(BadReply, match="no tokens with log-probabilities"):
        await make_endpoint(server.url, server_type="vllm").complete(REQUEST, 1)
