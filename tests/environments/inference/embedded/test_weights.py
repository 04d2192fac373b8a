"""New weights in a running server: all or nothing, between requests, and stated in every reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

torch = pytest.importorskip("torch")

from environments.inference.embedded.batch import ATTENTION  # noqa: E402
from environments.inference.embedded.engine import Engine  # noqa: E402
from environments.inference.embedded.limits import Limits  # noqa: E402
from environments.inference.embedded.protocol import Sampling  # noqa: E402
from environments.inference.embedded.server import background  # noqa: E402
from environments.inference.embedded.weights import base_digest, write_weights  # noqa: E402
from tests.environments.patience import PATIENCE  # noqa: E402
from tests.environments.tiny_model import EOS, save_tiny, tiny_model  # noqa: E402

PROMPT = list(b"Where is the needle?")
GREEDY = Sampling(temperature=0, max_tokens=12)


def changed(seed: int) -> dict[str, Any]:
    """Other values for some of the tiny model's parameters."""
    generator = torch.Generator().manual_seed(seed)
    named = tiny_model().named_parameters()
    return {
        name: 0.3 * torch.randn(p.shape, generator=generator) for name, p in named if "q_proj" in name or "norm" in name
    }


def generated(weights: dict[str, Any]) -> list[int]:
    model = tiny_model(attn_implementation="eager")
    model.load_state_dict(weights, strict=False)
    with torch.inference_mode():
        ids = torch.tensor([PROMPT])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    return out[0, len(PROMPT) :].tolist()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(tiny_model(attn_implementation=ATTENTION), {EOS}, Limits(chunk=16))
    yield engine
    engine.close()


def test_later_requests_have_the_new_weights_and_no_old_prefix(engine: Engine) -> None:
    [first] = engine.submit(PROMPT, GREEDY).result(PATIENCE)
    engine.swap(changed(1), 5).result(PATIENCE)
    [second] = engine.submit(PROMPT, GREEDY).result(PATIENCE)  # the same prompt: its old prefix would serve
    assert (first.ids, first.policy_version) == (generated({}), 0)
    assert (second.ids, second.policy_version) == (generated(changed(1)), 5)
    assert first.ids != second.ids


def test_a_running_request_ends_with_the_weights_it_began_with(engine: Engine) -> None:
    """The swap is asked for at the third token, with another request waiting behind it."""
    later: list[Any] = []

    def at_third(_: int, ids: Any) -> None:
        if len(ids) == 3:
            later.append(engine.swap(changed(1), 1))
            later.append(engine.submit(PROMPT, GREEDY))

    sampling = Sampling(temperature=0, max_tokens=12, on_token=at_third)
    [running] = engine.submit(PROMPT, sampling).result(PATIENCE)
    [waiting] = later[1].result(PATIENCE)
    assert (running.ids, running.policy_version) == (generated({}), 0)
    assert (waiting.ids, waiting.policy_version) == (generated(changed(1)), 1)


def test_closing_cancels_a_swap_that_waits(engine: Engine) -> None:
    engine.close()
    assert not engine.thread.is_alive()


# ---- over HTTP ----


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with background(save_tiny(tmp_path_factory.mktemp("models") / "tiny"), threads=1) as base_url:
        yield base_url.removesuffix("/v1")


async def ask(url: str, method: str, body: Any = None) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.request(method, url, data=data) as reply:
        return reply.status, await reply.json()


async def test_every_reply_states_the_version(url: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    _, before = await ask(f"{url}/weights", "GET")
    assert before["base"] == base_digest(tiny_model()) == base_digest(tiny_model().to(torch.bfloat16))
    version = before["policy_version"] + 3
    write_weights(path, changed(2), before["base"], version)
    assert await ask(f"{url}/weights", "POST", {"path": str(path)}) == (200, before | {"policy_version": version})
    asked = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": 12, "return_token_ids": True}
    _, completion = await ask(f"{url}/v1/completions", "POST", asked)
    assert completion["choices"][0]["token_ids"] == generated(changed(2))
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 2}
    _, chatted = await ask(f"{url}/v1/chat/completions", "POST", chat)
    _, native = await ask(f"{url}/generate", "POST", {"prompt": {"prompt_token_ids": PROMPT}})
    assert [one["policy_version"] for one in (completion, chatted, native)] == [version] * 3
    status, again = await ask(f"{url}/weights", "POST", {"path": str(path)})
    assert status == 409 and f"served is {version}" in again["error"]["message"]


FAULTS = {
    "other_base": (lambda w: w, "0" * 16, 90, "trained from another model"),
    "unknown_name": (lambda w: {"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}, None, 90, "the served model none"),
    "other_shape": (lambda w: {"model.norm.weight": torch.ones(3)}, None, 90, r"shape (3,)"),
    "not_finite": (lambda w: {"model.norm.weight": torch.full((64,), torch.nan)}, None, 90, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_weights_that_do_not_belong_are_refused_in_one_line_and_change_nothing(
    fault: str, url: str, tmp_path: Path
) -> None:
    spoil, base, version, said = FAULTS[fault]
    _, before = await ask(f"{url}/weights", "GET")
    good = changed(4)
    # What is good stands first: it must not be copied before the rest is checked.
    write_weights(tmp_path / "w.safetensors", good | spoil(good), base or before["base"], version)
    asked = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": 12, "return_token_ids": True}
    _, was = await ask(f"{url}/v1/completions", "POST", asked)
    status, answer = await ask(f"{url}/weights", "POST", {"path": str(tmp_path / "w.safetensors")})
    message = answer["error"]["message"]
    assert status == 400 and said in message and "\n" not in message
    _, now = await ask(f"{url}/v1/completions", "POST", asked)
    assert now["choices"] == was["choices"] and await ask(f"{url}/weights", "GET") == (200, before)


@pytest.mark.parametrize("body", [b"{", {}, {"path": 3}, {"path": "/nowhere.safetensors"}], ids=str)
async def test_a_bad_request_is_refused_in_one_line(body: Any, url: str) -> None:
    status, answer = await ask(f"{url}/weights", "POST", body)
    assert status == 400 and "\n" not in answer["error"]["message"]


async def test_many_clients_see_whole_weights_only(url: str, tmp_path: Path) -> None:
    """Replies asked for around a swap are each those of the version that they state."""
    _, before = await ask(f"{url}/weights", "GET")
    version = before["policy_version"] + 1
    write_weights(tmp_path / "w.safetensors", changed(6), before["base"], version)
    asked = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": 12, "return_token_ids": True}
    _, old = await ask(f"{url}/v1/completions", "POST", asked)
    calls = [ask(f"{url}/v1/completions", "POST", asked) for _ in range(6)]
    calls.insert(3, ask(f"{url}/weights", "POST", {"path": str(tmp_path / "w.safetensors")}))
    replies = [reply for _, reply in await asyncio.gather(*calls) if "choices" in reply]
    expected = {before["policy_version"]: old["choices"][0]["token_ids"], version: generated(changed(6))}
    assert len(replies) == 6
    assert all(reply["choices"][0]["token_ids"] == expected[reply["policy_version"]] for reply in replies)
