"""Groups as run-api hands them out, and what is said of those that cannot be trained on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.rollouts.rollout import NOT_TRAINED
from longthread.errors import RunError
from trainer_configs.atropos_rl.groups import Flat, read_group

RECIPE = {"task": "single", "length": 5, "seed": 3, "split": "train"}


def group(prompt: list[int], completions: list[list[int]], **changes: Any) -> dict[str, Any]:
    """A group as `GET /batch` has it: unset keys are null."""
    return {
        "tokens": [prompt + one for one in completions],
        "masks": [[NOT_TRAINED] * len(prompt) + one for one in completions],
        "inference_logprobs": [[1.0] * len(prompt) + [-0.5] * len(one) for one in completions],
        "scores": [float(i) for i in range(len(completions))],
        "group_overrides": {"recipe": RECIPE},
        "generation_params": {"policy_version": 4, "flat": [["single", 5, 2, 1.5, 1]]},
        "advantages": None,
    } | changes


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(TOKENS, st.lists(TOKENS, min_size=2, max_size=4))
def test_nothing_is_lost_and_the_prompt_is_shared(prompt: list[int], completions: list[list[int]]) -> None:
    read = read_group(group(prompt, completions), 100)
    assert read.prompt == prompt and read.completions == completions
    assert read.trained_tokens == sum(map(len, completions)) and all(map(all, read.trained))
    assert read.unique_tokens == len(prompt) + sum(map(len, completions))
    assert read.all_tokens == sum(len(prompt + one) for one in completions)
    assert all(p == -0.5 for row in read.old_logprobs for p in row)


def test_what_a_group_says_of_itself() -> None:
    read = read_group(group([1, 2], [[3], [4]]), 100)
    assert (read.task, read.length, read.policy_version) == ("single", 5, 4)
    assert read.flat == [Flat("single", 5, 2, 1.5, 1)]
    drawn = {"recipe": RECIPE | {"length": 7}, "counted_task": "chain", "length": 6}
    other = read_group(group([1, 2], [[3], [4]], group_overrides=drawn), 100)
    assert (other.task, other.length) == ("chain", 6) and other.key != read.key


def test_tokens_of_others_between_turns_are_not_trained() -> None:
    """An episode of reading: reply, tool's answer, reply. What the model did not write has -100."""
    given = group([1], [[2, 9, 3], [2, 9, 4]])
    for mask in given["masks"]:
        mask[2] = NOT_TRAINED
    read = read_group(given, 100)
    assert read.trained == [[True, False, True]] * 2 and read.prompt == [1] and read.trained_tokens == 4


SAID = {
    "no_logprobs": ({"inference_logprobs": None}, "--openai.server_type vllm"),
    "no_version": ({"generation_params": None}, "no policy_version"),
    "no_recipe": ({"group_overrides": None}, "no recipe"),
    "no_prompt": ({"tokens": [[1, 3], [2, 4]]}, "share no prompt"),
}


@pytest.mark.parametrize("fault", SAID)
def test_what_cannot_be_trained_on_ends_the_run_in_one_line(fault: str) -> None:
    changes, said = SAID[fault]
    with pytest.raises(RunError) as caught:
        read_group(copy.deepcopy(group([1], [[3], [4]]) | changes), 100)
    assert said in caught.value.line() and "\n" not in caught.value.line()


def test_a_sequence_longer_than_the_trainer_takes() -> None:
    with pytest.raises(RunError, match="a sequence of 4 tokens, and the trainer takes fewer than 4: raise it to 5"):
        read_group(group([1, 2], [[3], [4, 5]]), 4)
    assert read_group(group([1, 2], [[3], [4, 5]]), 5).unique_tokens == 5
