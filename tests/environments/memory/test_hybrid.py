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
from environments.memory.hybrid import confirming, following, stated
from environments.memory.memories import Memory
from environments.memory.rollout import group_of
from environments.memory_env import MemoryEnv
from environments.retrieval.chunking import Chunk
from environments.retrieval.ranking import BM25
from environments.rollouts.rollout import RolloutRequest
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


@pytest.mark.parametrize("first", ["", "one"])
@pytest.mark.parametrize("second", ["", "two"])
def test_the_memory_is_asked_only_where_the_passages_say_none(first: str, second: str) -> None:
    assert following("hybrid", []) == "retrieval"
    assert following("hybrid", [first]) == (None if first else "weights")
    assert following("hybrid", [first, second]) is None


@pytest.mark.parametrize("mode", SINGLE)
@pytest.mark.parametrize("reply", ["", "one"])
def test_the_other_modes_ask_once(mode: str, reply: str) -> None:
    assert following(mode, []) == mode and following(mode, [reply]) is None


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


# ---- what the text confirms ----

FACTS = (
    "Ann Lee's safe opens with 4711. The tutor of Ann Lee is Bo Ray. Bo Ray lives at Elm Row. "
    "Kim Dow pays 52 crowns. The password of Bo Ray is red-fox-moon. Nobody knows 9999."
)
SAFE = "Ann Lee's safe opens with 4711. The tutor of Ann Lee is Bo Ray."  # with the neighbours
PASSWORD = "Kim Dow pays 52 crowns. The password of Bo Ray is red-fox-moon. Nobody knows 9999."
CONFIRMED = [
    ("Which number opens Ann Lee's safe?", "4711", (), (SAFE, False)),
    ("Which number opens ANN LEE'S safe?", " 4711", (), (SAFE, False)),
    (
        "Who signed the contract of Ann Lee?",
        "4711",
        (),
        (SAFE, False),
    ),  # another fact of hers: the model has to read it
    ("Which number opens Bo Ray's safe?", "4711", (), None),  # somebody else's
    ("Which number opens Ann Lee's safe?", "471", (), None),  # a part of a value
    ("Which number opens Ann Lee's safe?", "9999", (), None),
    ("Which number opens Ann Lee's safe?", "1234", (), None),  # invented
    ("What is the password of Ann Lee's tutor?", "Red\u2011fox\u2011moon", (), None),
    ("What is the password of Ann Lee's tutor?", "Red\u2011fox\u2011moon", ("Bo Ray",), (PASSWORD, True)),
    ("What is the password of Bo Ray?", "red-fox-moon", ("Bo Ray",), (PASSWORD, True)),
    ("What is the password of Ann Lee's tutor?", "red-fox-moon", ("Kim Dow",), None),
    ("Which number opens Ann Lee's safe?", "", (), None),
]


@pytest.mark.parametrize(("question", "proposed", "passed", "expected"), CONFIRMED)
def test_a_value_is_confirmed_by_a_sentence_with_a_name_that_leads_to_it(
    question: str, proposed: str, passed: Sequence[str], expected: tuple[str, bool] | None
) -> None:
    ranking = BM25()
    ranking.add([Chunk(FACTS, 0, len(FACTS), 60), Chunk("Other people lived there.", 900, 925, 5)])
    found = confirming(ranking, question, proposed, 2, passed)
    assert (found and (found.passage.text, found.followed)) == expected
    if found:
        assert FACTS[found.passage.start : found.passage.end] == found.passage.text


# ---- the stages, at a server ----


WRONG = "98765432100"  # which no document says


def right_value(env: Any, request: RolloutRequest) -> str:
    """What the document says."""
    return str(env.question(request).sample.answer.values[0])


@pytest.mark.parametrize(
    ("replies", "models", "answers"),
    [
        (["11111"], ["m"], "11111"),
        (["none", "The text does not say."], ["m", NAME], "none"),
        (["none", "{right}", "{right}"], ["m", NAME, "m"], "{right}"),
        (["none", "{right}", "none"], ["m", NAME, "m"], "none"),
        (["none", "{wrong}"], ["m", NAME], "none"),
    ],
    ids=["the passages answer", "both say none", "the text confirms", "the model reads otherwise", "the text refutes"],
)
async def test_every_stage(
    server: ChatServer, tokenizer: Path, replies: list[str], models: list[str], answers: str
) -> None:
    env = env_at(server, tokenizer, search_hops=2)
    [request] = env.evaluation_requests()
    right = right_value(env, request)
    replies = [reply.format(right=right, wrong=WRONG) for reply in replies]
    env = env_at(server, tokenizer, *([reply] for reply in replies), search_hops=2)
    env.memories = {NAME: Memory(NAME, "Of the memory: {question}", stored_bytes=1000, seconds=2.5)}
    group = await env.rollout(request, 1)
    assert [body["model"] for body in server.requests] == models
    answer = answers.format(right=right)
    assert [completion.text for completion in group.completions] == [answer] and group.mode == "hybrid"
    question, index = env.question(request), env.passages.index(env.question(request).document)
    found = env.prompts.prepare(question, "retrieval", 0, env.passages.find(question, index)).messages
    assert server.requests[0]["messages"] == found
    if len(models) > 1:
        assert server.requests[1]["messages"][0]["content"].startswith(f"Of the memory: {question.sample.question}")
    if len(models) > 2:
        read = server.requests[2]["messages"][0]["content"]
        assert right in read and len(read) < len(found[0]["content"])
    remembered = answer == right
    assert group.sample.messages == server.requests[remembered]["messages"]
    assert group.prompt == tokens_of(env, server.requests[remembered]) and (group.recall is None) == remembered
    proposed = replies[1] if len(replies) > 1 and replies[1] in (right, WRONG) else ""
    row, record = group.row(False), group.record()
    for line in (row, record):
        assert line.get("memory", "") == ("" if len(models) == 1 else NAME) and line.get("proposed", "") == proposed
        assert line["cost"]["tokens_read"] == sum(len(tokens_of(env, body)) for body in server.requests)
        assert line["cost"]["stored_bytes"] == index.stored_bytes + 1000
        assert line["cost"]["prepare_seconds"] == index.seconds + 2.5
    text = question.document.text
    assert [text[start:end] for start, end in row["passages"]] == [chunk.text for chunk in group.passages]
    assert (
        row["store"] == "full" and text in rebuild(row["recipe"], env.haystacks.tokens.tokenizer).messages[0]["content"]
    )


async def test_a_group_goes_on_together(server: ChatServer, tokenizer: Path) -> None:
    env = env_at(server, tokenizer)
    request = replace(env.evaluation_requests()[0], split="train")
    right = right_value(env, request)
    env = env_at(server, tokenizer, ["none", "11111", "none"], [right, "none", right], [right, right, "none"])
    group = await env.rollout(request, 3)
    assert [(body["model"], body["n"]) for body in server.requests] == [("m", 3), (NAME, 3), ("m", 3)]
    assert [completion.text for completion in group.completions] == [right, "none", right] and len(group.scores) == 3
    assert group.proposed == right and group.prompt == tokens_of(env, server.requests[1])
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
    right = right_value(env_at(server, tokenizer), env_at(server, tokenizer).evaluation_requests()[0])
    replies: list[Any] = [["none"], [right], [right]]
    replies[failing - 1] = web.json_response({"error": {"message": "too hot"}}, status=400)
    env = env_at(server, tokenizer, *replies)
    with pytest.raises(CompletionError, match="too hot"):
        await env.rollout(env.evaluation_requests()[0], 1)
    assert len(server.requests) >= failing


async def test_the_cost_is_that_of_all_requests(server: ChatServer, tokenizer: Path) -> None:
    env = env_at(server, tokenizer, ["none"], ["22222"])
    [request] = env.evaluation_requests()
    question, memory = env.question(request), Memory(NAME)
    made = [await env._exchange(question, mode, memory, "eval", 1) for mode in ("retrieval", "weights")]
    timed = [replace(one, seconds=seconds) for one, seconds in zip(made, (1.0, 2.0), strict=True)]
    for many in (1, 2):
        cost = group_of(request, timed[:many], timed[0], [], memory).cost
        assert cost.seconds == (1.0, 3.0)[many - 1]
        assert cost.tokens_read == sum(len(one.posed.prepared.tokens) for one in timed[:many])
        assert cost.stored_bytes is None and cost.prepare_seconds is None, "the memory's server states neither"


def test_rows_of_an_earlier_hybrid_are_another_run(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hybrid, single = env_at(server, tokenizer), env_at(server, tokenizer, modes="retrieval,weights")
    before = hybrid.run_digest(), single.run_digest()
    monkeypatch.setattr("environments.memory_env.POLICY", "passages are asked of the memory")
    assert hybrid.run_digest() != before[0] and single.run_digest() == before[1]
