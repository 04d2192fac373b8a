"""The text as a file: its passages, what a search finds against the text itself, and what the tools return and count."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.sample import NEEDED, Haystacks, Options, Sample
from environments.haystack.tokens import Tokens
from environments.reading.text_file import TextFile, join
from environments.reading.tools import MAX_CALLS, TextTools, ToolCall, ToolResult, openai_calls, plain_calls
from tests.environments.tiny_model import tiny_tokenizer

TOKENS = Tokens(tiny_tokenizer())


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Haystacks(tiny_tokenizer(), Options(pool_tokens=40_000)).sample(0, "train", "multi_key", 12_000, [0.5])


@pytest.fixture(scope="module")
def tools_of(sample: Sample) -> Any:
    file = TextFile.of(sample)
    return lambda limit=10_000: TextTools(file, TOKENS, limit)


def run(tools: TextTools, name: str, **arguments: object) -> ToolResult:
    return tools.run([ToolCall(name, {key.rstrip("_"): value for key, value in arguments.items()})])[0]


def test_the_file_is_the_haystack_and_nothing_else(sample: Sample) -> None:
    file, content = TextFile.of(sample), sample.messages[0]["content"]
    assert "\n\n".join(file.passages) == file.text
    assert content.split("\n\n", 1)[1] == f"{file.text}\n\n{file.question}"
    assert file.question.startswith("Question: ") and "Question: " not in file.text


@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_passages_have_the_numbers_that_are_to_be_cited(depth: float) -> None:
    haystacks = Haystacks(tiny_tokenizer(), Options(pool_tokens=40_000, numbered=True))
    numbered = haystacks.sample(1, "train", "multi_key", 12_000, [depth])
    file = TextFile.of(numbered)
    assert all(needle.text in file.passages[needle.passage - 1] for needle in numbered.needles)
    assert join(file.read(1, len(file.passages))) == file.text


def test_a_search_for_who_is_asked_about_finds_the_needle(sample: Sample) -> None:
    (needle,) = (n for n in sample.needles if n.role in NEEDED)
    name = re.search("[A-Z][a-z]+ [A-Z][a-z]+", sample.question)
    assert name is not None
    hits = TextFile.of(sample).search(name.group(), 5)
    assert hits[0].text == needle.text
    assert TextFile.of(sample).search("zzz", 5) == [] and TextFile.of(sample).search("?!", 5) == []


def test_hits_are_ranked_and_each_passage_once(sample: Sample) -> None:
    file = TextFile.of(sample)
    scores, hits = file.ranks("the price of the"), file.search("the price of the", 100)
    assert [scores[hit.number] for hit in hits] == sorted((s for s in scores.values() if s > 0), reverse=True)[:100]
    assert len({hit.number for hit in hits}) == len(hits)
    assert all(hit.text.strip("…") in file.passages[hit.number - 1] for hit in hits)


def shown_tokens(result: ToolResult) -> int:
    """The tokens of the passages in a result, counted again: all but the note behind them."""
    passages = [part for part in result.text.split("\n\n") if not part.startswith("(")]
    return sum(len(TOKENS.encode(part)) for part in passages)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3000), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=6))
def test_what_is_read_is_counted_exactly_and_bounded(tools_of: Any, limit: int, reads: list[tuple[int, int]]) -> None:
    tools = tools_of(limit)
    results = [run(tools, "read", from_=first, to=first + more) for first, more in reads]
    results.append(run(tools, "search", query="price of the"))
    assert tools.tokens_read == sum(result.tokens for result in results) <= limit
    assert all(result.tokens == shown_tokens(result) for result in results if not result.faulty)
    assert tools.errors == sum(result.faulty for result in results)


def test_reading_everything_is_cut_at_the_limit(tools_of: Any) -> None:
    tools = tools_of(500)
    whole = run(tools, "read", from_=1, to=9_999_999)
    assert tools.tokens_read == 500 and "limit of reading is reached: answer now" in whole.text
    again = run(tools, "read", from_=1, to=1)
    assert again.faulty and "all 500 tokens" in again.text and tools.tokens_read == 500


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("read", {"from": 0, "to": 1}, "numbers from 1 to"),
        ("read", {"from": 5, "to": 4}, "in order (got 5 and 4)"),
        ("read", {"from": 10**9, "to": 10**9}, "numbers from 1 to"),
        ("read", {"from": "1", "to": 2}, "two passage numbers"),
        ("read", {"from": True, "to": 2}, "two passage numbers"),
        ("read", {}, "two passage numbers"),
        ("search", {}, "search takes a query"),
        ("search", {"query": "  "}, "search takes a query"),
        ("search", {"query": 7}, "search takes a query"),
        ("search", {"query": "x" * 501}, "at most 500 characters"),
        ("open", {}, "there is no tool 'open': the tools are search, read"),
    ],
)
def test_what_is_wrong_with_a_call_is_its_result(tools_of: Any, name: str, arguments: Any, said: str) -> None:
    tools = tools_of()
    (result,) = tools.run([ToolCall(name, arguments)])
    assert result.faulty and said in result.text and tools.errors == 1 and tools.tokens_read == 0
    assert (tools.searches, tools.reads) == (0, 0)


def test_calls_beyond_the_most_of_a_reply_are_answered_but_not_carried_out(tools_of: Any) -> None:
    tools = tools_of()
    results = tools.run([ToolCall("read", {"from": 1, "to": 1})] * (MAX_CALLS + 3))
    assert len(results) == MAX_CALLS + 3 and tools.reads == MAX_CALLS and tools.errors == 3


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("<search>a key</search>", True, [("search", {"query": "a key"})]),
        ("I look. <SEARCH> a key </Search> and <read>3-5</read>", True, ["search", ("read", {"from": 3, "to": 5})]),
        ("<read>7</read>", True, [("read", {"from": 7, "to": 7})]),
        ("<read>[3] to [5]</read>", True, [("read", {"from": 3, "to": 5})]),
        ("<read>3 – 5</read>", True, [("read", {"from": 3, "to": 5})]),
        ("<search>a key", True, [("search", {"query": "a key"})]),
        ("<search>a key", False, []),  # cut in the middle
        ("<search>a</search> <search>b", False, [("search", {"query": "a"})]),
        ("<answer>7</answer>", True, []),
        ("search for a key", True, []),
    ],
)
def test_calls_in_plain_text(text: str, finished: bool, expected: list[Any]) -> None:
    calls = plain_calls(text, finished)
    assert len(calls) == len(expected)
    for call, want in zip(calls, expected, strict=True):
        assert (call.name if isinstance(want, str) else (call.name, call.arguments)) == want


def test_a_range_that_is_none_is_a_fault() -> None:
    assert "passage numbers like 3-5" in plain_calls("<read>the first</read>", True)[0].fault


@given(st.text(alphabet="<>/searchd 1-", max_size=200), st.booleans())
def test_any_text_is_parsed(text: str, finished: bool) -> None:
    assert all(call.name in ("search", "read") for call in plain_calls(text, finished))


def test_a_megabyte_of_open_tags_is_one_call() -> None:
    assert len(plain_calls("<search>" * 125_000, True)) == 1


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ({"id": "a", "function": {"name": "search", "arguments": '{"query": "x"}'}}, ""),
        ({"id": "a", "function": {"name": "search", "arguments": {"query": "x"}}}, ""),
        ({"id": "a", "function": {"name": "search", "arguments": "{"}}, "must be JSON"),
        ({"id": "a", "function": {"name": "search", "arguments": "[1]"}}, "must be a JSON object"),
        ({"id": "a", "function": {"arguments": "{}"}}, "must name a function"),
        ({"id": "a"}, "must name a function"),
    ],
)
def test_calls_of_openai(call: dict[str, Any], fault: str) -> None:
    (parsed,) = openai_calls([call])
    assert fault in parsed.fault and bool(parsed.fault) == bool(fault) and parsed.id == "a"
    assert parsed.to_openai()["function"]["arguments"] == ('{"query": "x"}' if not fault else "{}")


def test_calls_without_ids_get_one_each() -> None:
    assert [call.id for call in openai_calls([{}, {"id": ""}])] == ["call_0", "call_1"]
