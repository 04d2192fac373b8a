"""Mode hybrid: the memory proposes, the text confirms; at a chat server whose reply to each request a test decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from environments.datasets.process_rows import parse_row
from environments.haystack.sample import rebuild
from environments.inference.errors import CompletionError
from environments.memory.hybrid import Ask, answering, following, stated
from environments.memory.memories import Memory
from environments.memory.rollout import group_of
from environments.memory_env import MemoryEnv
from longthread.errors import DataError
from tests.environments.loopback import ChatServer, choice, make_env

SMALL = {
    "modes": "hybrid", "depths": "0.5", "repeats": 1, "absent_share": 0, "lengths": "3000", "value_kind": "numbers",
    "chunk_tokens": 300, "overlap": 50, "passages": 1, "max_new_tokens": 40,
}  # fmt: skip
SINGLE = ("context", "retrieval", "weights")
NAME = "single-3000-0"  # of the document, and so of its memory


def env_at(server: ChatServer, tokenizer: Path, *replies: Sequence[str] | web.Response, **more: Any) -> Any:
    """An environment whose server gives its n-th request the n-th of these groups of replies."""
    server.reply = lambda _, number: (
        one if isinstance(one := replies[number - 1], web.Response) else list(map(choice, one))
    )
    return make_env(tokenizer, server.url, MemoryEnv, **SMALL | more)


def tokens_of(env: Any, body: dict[str, Any]) -> list[int]:
    return env.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)


# ---- what is asked next ----


@given(st.lists(st.sampled_from(["", "one", "two"]), min_size=3, max_size=3))
def test_the_memory_is_asked_only_where_the_text_says_none_and_never_has_the_last_word(replies: list[str]) -> None:
    asks: list[Ask] = []
    while ask := following("hybrid", replies[: len(asks)]):
        asks.append(ask)
    first, proposed, _ = replies
    expected = [Ask("retrieval"), Ask("weights"), Ask("retrieval", proposed)]
    assert asks == expected[: 1 if first else 3 if proposed else 2]
    assert answering(asks) == (2 if len(asks) == 3 else 0)


@pytest.mark.parametrize("mode", SINGLE)
@pytest.mark.parametrize("reply", ["", "one"])
def test_the_other_modes_ask_once(mode: str, reply: str) -> None:
    assert following(mode, []) == Ask(mode) and following(mode, [reply]) is None and answering([Ask(mode)]) == 0


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["12345"], "12345"),
        (["none"], ""),
        ([" None. "], ""),
        (["The text does not say."], ""),
        ([""], ""),
        (["none", "12345", "none"], ""),
        (["none", " Ochre Lantern.", "ochre lantern"], "Ochre Lantern."),
        (["none", "12345"], ""),
        (["12345", "none"], "12345"),
        (["1", "2", "3"], "1"),
    ],
)
def test_a_group_states_what_most_of_it_states(replies: list[str], expected: str) -> None:
    assert stated(replies) == expected


@given(st.lists(st.sampled_from(["none", "red fox", "4711", "Not stated."]), min_size=1, max_size=9))
def test_no_value_is_more_frequent_than_the_one_stated(replies: list[str]) -> None:
    votes = Counter("" if reply in ("none", "Not stated.") else reply for reply in replies)
    assert votes[stated(replies)] == max(votes.values())


# ---- the stages, at a server ----


@pytest.mark.parametrize(
    ("replies", "models", "answer", "proposed"),
    [
        (["11111"], ["m"], "11111", ""),
        (["none", "The text does not say."], ["m", NAME], "none", ""),
        (["none", "22222", "22222"], ["m", NAME, "m"], "22222", "22222"),
        (["none", "22222", "none"], ["m", NAME, "m"], "none", "22222"),
    ],
    ids=["the passages answer", "both say none", "the text confirms", "the text refutes"],
)
async def test_every_stage(
    server: ChatServer, tokenizer: Path, replies: list[str], models: list[str], answer: str, proposed: str
) -> None:
    env = env_at(server, tokenizer, *([reply] for reply in replies), search_hops=2)
    env.memories = {NAME: Memory(NAME, "Of the memory: {question}", stored_bytes=1000, seconds=2.5)}
    [request] = env.evaluation_requests()
    group = await env.rollout(request, 1)
    assert [body["model"] for body in server.requests] == models
    assert [completion.text for completion in group.completions] == [answer] and group.mode == "hybrid"
    question, index = env.question(request), env.passages.index(env.question(request).document)
    shown = [
        env.prompts.prepare(question, "retrieval", 0, env.passages.find(question, index, found)).messages
        for found in ("", proposed)
    ]
    assert server.requests[0]["messages"] == shown[0]
    if len(models) > 1:
        assert server.requests[1]["messages"][0]["content"].startswith(f"Of the memory: {question.sample.question}")
    if len(models) == 3:
        assert server.requests[2]["messages"] == shown[1]
    assert group.prompt == tokens_of(env, {"messages": shown[1]}) and group.sample.messages == shown[1]
    row, record = group.row(False), group.record()
    for line in (row, record):
        assert line.get("memory", "") == ("" if len(models) == 1 else NAME) and line.get("proposed", "") == proposed
        assert line["cost"]["tokens_read"] == sum(len(tokens_of(env, body)) for body in server.requests)
        assert line["cost"]["stored_bytes"] == index.stored_bytes + 1000
        assert line["cost"]["prepare_seconds"] == index.seconds + 2.5
    text = question.document.text
    assert [text[start:end] for start, end in row["passages"]] == [chunk.text for chunk in group.passages]
    assert row["store"] == "full" and row["messages"][0][0]["content"] == shown[1][0]["content"]
    assert text in rebuild(row["recipe"], env.haystacks.tokens.tokenizer).messages[0]["content"]


async def test_a_proposal_is_looked_up(server: ChatServer, tokenizer: Path) -> None:
    env = env_at(server, tokenizer)
    [request] = env.evaluation_requests()
    text = env.question(request).document.text
    begins = text[:200]
    server.reply = lambda body, _: [choice(begins if body["model"] == NAME else "none")]
    group = await env.rollout(request, 1)
    first, _, last = (body["messages"][0]["content"] for body in server.requests)
    assert begins.strip() in last and begins.strip() not in first
    assert group.passages[0].start == 0 and group.recall.needles == 0, (
        "what the memory invents is refuted by its own place"
    )


async def test_a_group_goes_on_together(server: ChatServer, tokenizer: Path) -> None:
    replies = [["none", "11111", "none"], ["22222", "none", "22222"], ["22222", "none", "33333"]]
    env = env_at(server, tokenizer, *replies)
    request = replace(env.evaluation_requests()[0], split="train")
    group = await env.rollout(request, 3)
    assert [(body["model"], body["n"]) for body in server.requests] == [("m", 3), (NAME, 3), ("m", 3)]
    assert [completion.text for completion in group.completions] == replies[2] and len(group.scores) == 3
    assert group.proposed == "22222" and group.prompt == tokens_of(env, server.requests[2])
    assert group.cost.tokens_read == sum(len(tokens_of(env, body)) for body in server.requests)
    with pytest.raises(DataError, match=f"asked of the memory '{NAME}'"):
        parse_row(group.row(True), "here")


async def test_a_group_that_mostly_answers_asks_once(server: ChatServer, tokenizer: Path) -> None:
    env = env_at(server, tokenizer, ["11111", "none", "11111"])
    group = await env.rollout(replace(env.evaluation_requests()[0], split="train"), 3)
    assert len(server.requests) == 1 and [c.text for c in group.completions] == ["11111", "none", "11111"]
    assert parse_row(group.row(True), "here"), "the model's own replies to passages may be trained on"


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_a_request_that_fails_fails_the_question(server: ChatServer, tokenizer: Path, failing: int) -> None:
    replies: list[Any] = [["none"], ["22222"], ["22222"]]
    replies[failing - 1] = web.json_response({"error": {"message": "too hot"}}, status=400)
    env = env_at(server, tokenizer, *replies)
    with pytest.raises(CompletionError, match="too hot"):
        await env.rollout(env.evaluation_requests()[0], 1)
    assert len(server.requests) >= failing


async def test_the_cost_is_that_of_all_requests(server: ChatServer, tokenizer: Path) -> None:
    env = env_at(server, tokenizer, ["none"], ["22222"], ["none"])
    [request] = env.evaluation_requests()
    question, asks = env.question(request), [Ask("retrieval"), Ask("weights"), Ask("retrieval", "22222")]
    memory = Memory(NAME)
    made = [await env._exchange(question, ask, memory, "eval", 1) for ask in asks]
    timed = [replace(one, seconds=seconds) for one, seconds in zip(made, (1.0, 2.0, 4.0), strict=True)]
    for many in (1, 2, 3):
        cost = group_of(request, timed[:many], [], memory).cost
        assert cost.seconds == (1.0, 3.0, 7.0)[many - 1]
        assert cost.tokens_read == sum(len(one.posed.prepared.tokens) for one in timed[:many])
        assert cost.stored_bytes is None and cost.prepare_seconds is None, "the memory's server states neither"


def test_rows_of_an_earlier_hybrid_are_another_run(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hybrid, single = env_at(server, tokenizer), env_at(server, tokenizer, modes="retrieval,weights")
    before = hybrid.run_digest(), single.run_digest()
    monkeypatch.setattr("environments.memory_env.POLICY", "passages are asked of the memory")
    assert hybrid.run_digest() != before[0] and single.run_digest() == before[1]
