"""A group on its way to the API: what packs it equals what json and gzip say, and nothing flawed gets through."""

from __future__ import annotations

import gzip
import json
import math
from copy import deepcopy
from typing import Any

import pytest
from atroposlib.api.server import ScoredData
from hypothesis import given
from hypothesis import strategies as st

from environments.atropos import shared_prefix_gzip
from environments.atropos.shared_prefix_gzip import Block, common_length, encode_group, validation_error
from environments.rollouts.rollout import NOT_TRAINED
from longthread.chunked_json import PIECE


def make_group(prompt: list[int], completions: list[list[int]], logprobs: bool = True, said: str = "é\n😀") -> Any:
    group: dict[str, Any] = {
        "tokens": [prompt + c for c in completions],
        "masks": [[NOT_TRAINED] * len(prompt) + c for c in completions],
        "scores": [i / len(completions) for i in range(len(completions))],
        "messages": [
            [{"role": "user", "content": said}, {"role": "assistant", "content": str(c)}] for c in completions
        ],
        "overrides": [{"details": {"n": i}} for i in range(len(completions))],
        "group_overrides": {"recipe": {"seed": 3, "options": {"a": None}}},
        "env_id": 0,
    }
    if logprobs:
        group["inference_logprobs"] = [[1.0] * len(prompt) + [-0.1 * i for i in range(len(c))] for c in completions]
    return group


ids = st.lists(st.integers(0, 200_000), max_size=40)
groups = st.builds(make_group, ids, st.lists(ids, min_size=1, max_size=5), st.booleans(), st.text(max_size=30))


@given(groups, st.sampled_from([1, 6, 9]))
def test_packed_is_gzipped_json_of_the_group(group: Any, level: int) -> None:
    body = gzip.decompress(encode_group(group, level=level))
    assert json.loads(body) == group
    ScoredData.model_validate_json(body)  # what run-api makes of it


@given(ids, groups)
def test_a_group_without_its_prompt_is_packed_as_if_it_had_it(prompt: list[int], group: Any) -> None:
    whole = group | {
        "tokens": [prompt + one for one in group["tokens"]],
        "masks": [[NOT_TRAINED] * len(prompt) + one for one in group["masks"]],
    }
    if "inference_logprobs" in group:
        whole["inference_logprobs"] = [[1.0] * len(prompt) + one for one in group["inference_logprobs"]]
    assert json.loads(gzip.decompress(encode_group(group, prompt))) == whole


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_long_prompts_are_written_in_pieces(length: int) -> None:
    group = make_group([*range(length)], [[1, 2], [1, 3], []])
    assert json.loads(gzip.decompress(encode_group(group))) == group


def test_a_shared_prompt_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, compress = [], shared_prefix_gzip.compress

    def counted(text: bytes, level: int) -> Block:
        sizes[-1] += len(text)
        return compress(text, level)

    monkeypatch.setattr(shared_prefix_gzip, "compress", counted)
    for n in (1, 8):
        sizes.append(0)
        encode_group(make_group([*range(5000)], [[i] for i in range(n)]))
    assert sizes[1] < 1.05 * sizes[0] and sizes[0] > 5000


@given(st.lists(st.lists(st.integers(0, 2), max_size=30), max_size=5))
def test_common_is_the_longest_shared_beginning(lists: list[list[int]]) -> None:
    slow = 0
    while lists and all(len(one) > slow and one[slow] == lists[0][slow] for one in lists):
        slow += 1
    assert common_length(lists) == slow


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_json_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        encode_group(make_group([1], [[2]]) | {"scores": [value]})


@given(groups)
def test_a_whole_group_has_no_flaw(group: Any) -> None:
    assert validation_error(group, len(group["tokens"]), -1) is None


def broken(path: tuple[Any, ...], value: Any) -> Any:
    group = deepcopy(make_group([5, 6, 7], [[1, 2], [3], [4, 4]]))
    at = group
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value(at[path[-1]]) if callable(value) else value
    return group


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("tokens",), lambda all_: all_[:2], "2 sequences and 3 scores instead of 3"),
        (("scores",), lambda all_: [*all_, 1.0], "3 sequences and 4 scores instead of 3"),
        (("messages",), lambda all_: all_[1:], "instead of 3"),
        (("scores", 1), math.nan, "a score that is not finite"),
        (("masks", 1), lambda mask: mask[:-1], "masks that do not mask exactly the prompt"),
        (("masks", 2, 1), 6, "masks that do not mask exactly the prompt"),  # a trained token of the prompt
        (("masks", 1, 3), 9, "masks that do not mask exactly the prompt"),  # another token than the sequence's
        (("masks", 2, 4), NOT_TRAINED, "masks that do not mask exactly the prompt"),
        (("inference_logprobs",), lambda all_: all_[:2], "do not match the tokens"),
        (("inference_logprobs", 0), lambda one: one[:-1], "do not match the tokens"),
        (("inference_logprobs", 0, 4), math.inf, "a log-probability that is not finite"),
    ],
)
def test_flaws(path: tuple[Any, ...], value: Any, said: str) -> None:
    """Section 2.2: the API checks none of them."""
    assert said in (validation_error(broken(path, value), 3, -1) or "none")


@pytest.mark.parametrize(("longest", "ok"), [(-1, True), (0, True), (6, True), (5, False), (4, False)])
def test_sequences_that_the_trainer_would_not_take(longest: int, ok: bool) -> None:
    """Section 2.3: a sequence of `max_token_len` tokens is already too long for it."""
    found = validation_error(make_group([5, 6, 7], [[1, 2], [3]]), 2, longest)
    assert (found is None) == ok and (ok or "start it with a longer maximum" in str(found))
