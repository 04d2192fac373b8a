"""The shapes a rollout is kept in: Atropos' group, a row of process, a record of evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from environments.haystack.sample import rebuild
from environments.inference.contracts import Completion
from environments.rollouts.rollout import NOT_TRAINED, RolloutGroup, RolloutRequest, finite
from environments.rollouts.scoring import score

ITEM = RolloutRequest(3, 3, "train", "multi_value", 900)


@pytest.fixture
def rollout(haystacks_of: Callable[..., Any]) -> RolloutGroup:
    haystacks = haystacks_of("gpt2")
    sample = haystacks.sample(ITEM.seed, ITEM.split, ITEM.task, ITEM.length)
    prompt = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
    texts = (f"<answer>{'; '.join(sample.answer.values)}</answer>", "", "<answer>wrong</answer>")
    completions = [Completion(t, haystacks.tokens.encode(t), None, "stop") for t in texts]
    return RolloutGroup(ITEM, sample, prompt, completions, [score(t, sample.answer) for t in texts])


def test_group_has_full_tokens_and_masks_only_the_prompt(rollout: RolloutGroup) -> None:
    group = rollout.scored_data()
    assert len(rollout.prompt) == ITEM.length
    for tokens, mask, completion in zip(group["tokens"], group["masks"], rollout.completions, strict=True):
        assert tokens == rollout.prompt + completion.tokens
        assert mask == [NOT_TRAINED] * ITEM.length + completion.tokens
    assert group["scores"] == [1.0, 0.0, 0.0]
    assert [m[-1]["content"] for m in group["messages"]] == [c.text for c in rollout.completions]
    assert all(m[:-1] == rollout.sample.messages for m in group["messages"])
    assert "inference_logprobs" not in group


def test_group_holds_nothing_that_is_none(rollout: RolloutGroup) -> None:
    """Section 2.2: `group_overrides: None` kills atroposlib's run."""
    group = rollout.scored_data()
    assert isinstance(group["group_overrides"], dict) and all(value is not None for value in group.values())
    assert group["group_overrides"]["recipe"] == rollout.sample.recipe
    assert "group_size" not in group["group_overrides"]  # atroposlib would then expect that many
    json.dumps(group, allow_nan=False)


def test_log_probabilities_only_when_all_completions_have_them(rollout: RolloutGroup) -> None:
    """Section 2.6: 1.0 over the prompt, as the managed server has it."""
    exact = [replace(c, logprobs=[-0.25] * len(c.tokens)) for c in rollout.completions]
    group = replace(rollout, completions=exact).scored_data()
    for logprobs, tokens in zip(group["inference_logprobs"], group["tokens"], strict=True):
        assert len(logprobs) == len(tokens) and logprobs[: ITEM.length] == [1.0] * ITEM.length
        assert set(logprobs[ITEM.length :]) <= {-0.25}
    assert "inference_logprobs" not in replace(rollout, completions=[*exact[:2], rollout.completions[2]]).scored_data()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(rollout: RolloutGroup, value: float) -> None:
    """Section 2.2: run-api accepts a NaN and loses the batch that holds it."""
    broken = replace(rollout, scores=[replace(rollout.scores[0], score=value), *rollout.scores[1:]])
    for shape in (broken.scored_data, lambda: broken.row(True), broken.record):
        with pytest.raises(ValueError, match="is not finite"):
            shape()
    assert finite(0.5) == 0.5


def test_full_row(rollout: RolloutGroup) -> None:
    row = rollout.row(full=True)
    group = rollout.scored_data()
    assert {key: row[key] for key in group} == group and row["store"] == "full"
    assert row["completions"] == [c.text for c in rollout.completions] and row["finish_reasons"] == ["stop"] * 3


def test_compact_row_can_be_made_whole_again(rollout: RolloutGroup, gpt2: Any) -> None:
    row = json.loads(json.dumps(rollout.row(full=False), allow_nan=False))
    sample = rebuild(row["recipe"], gpt2)
    assert sample == rollout.sample
    prompt = gpt2.apply_chat_template(sample.messages, add_generation_prompt=True, return_dict=False)
    assert [prompt + tokens for tokens in row["tokens"]] == rollout.scored_data()["tokens"]
    assert row["masks"] == row["tokens"] and row["store"] == "compact"


def test_compact_row_shows_the_needles_and_the_question_and_not_the_haystack(rollout: RolloutGroup) -> None:
    row = rollout.row(full=False)
    shown, whole = row["messages"][0][0]["content"], rollout.sample.messages[0]["content"]
    assert all(needle.text in shown for needle in rollout.sample.needles)
    assert rollout.sample.question in shown and len(shown) < len(whole)
    exact = [replace(c, logprobs=[-1.0] * len(c.tokens)) for c in rollout.completions]
    assert [len(one) for one in replace(rollout, completions=exact).row(False)["inference_logprobs"]] == [
        len(c.tokens) for c in exact
    ]


def test_record_of_evaluation(rollout: RolloutGroup) -> None:
    record = json.loads(json.dumps(rollout.record(), allow_nan=False))
    assert (record["task"], record["length"], record["score"], record["present"]) == ("multi_value", 900, 1.0, True)
    assert record["prompt_tokens"] == 900 and record["error"] is None and record["correct"] is True
    assert record["completion_tokens"] == len(rollout.completions[0].tokens)
    assert rollout.sample.messages[0]["content"] not in json.dumps(record)


def test_an_item_is_short_when_logged_and_keys_are_unique() -> None:
    """Section 2.4: atroposlib prints items at DEBUG."""
    assert len(repr(ITEM)) < 200
    grid = [replace(ITEM, depth=depth, repeat=repeat) for depth in (None, 0.0, 1.0) for repeat in range(3)]
    assert len({item.key for item in grid}) == 9
