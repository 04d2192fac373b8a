"""The trained model: what is published is what it computes, a checkpoint is all of it, and a step moves it the right way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from longthread.errors import ConfigError
from tests.environments.tiny_model import save_tiny
from tests.trainer_configs.atropos_rl.test_shared_prompt import row_by_row
from trainer_configs.atropos_rl import checkpoint
from trainer_configs.atropos_rl.checkpoint import State
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.groups import Group, advantages
from trainer_configs.atropos_rl.loss import Clip, token_losses
from trainer_configs.atropos_rl.policy import Policy
from trainer_configs.atropos_rl.shared_prompt import PromptGroup, Row, logprobs
from trainer_configs.atropos_rl.trainer import backward, passes

PROMPT, COMPLETIONS = list(b"Which sign?"), [list(b"one"), list(b"another"), list(b"a")]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tied", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "untied", tie_word_embeddings=False)


def policy(folder: Path, **changes: Any) -> Policy:
    known: dict[str, Any] = {"model": str(folder), "run": "r", "environments": [{"program": "needle"}], "seed": 3}
    known |= {"batch": {"max_tokens": 256}, "optimizer": {"learning_rate": 0.01, "warmup_steps": 0}}
    return Policy(RLConfig.model_validate(known | changes))


def example(made: Policy, policy_version: int = 0) -> Group:
    """A group whose completions the policy itself has scored."""
    with torch.no_grad():
        flat, _ = logprobs(made.adapted, Row([PromptGroup(PROMPT, COMPLETIONS)], CPU))
    old = [piece.tolist() for piece in flat.split([len(one) for one in COMPLETIONS])]
    trained = [[True] * len(one) for one in COMPLETIONS]
    return Group("k", "single", 9, PROMPT, COMPLETIONS, trained, old, [1.0, 0.0, 0.25], policy_version)


def step(made: Policy, group: Group, clip: Clip | None = None) -> float:
    backward(made, [group], clip or Clip(), "std", group.trained_tokens)
    return made.step(0)


@pytest.mark.parametrize("model", ["tied", "untied"])
@pytest.mark.parametrize("full", [True, False], ids=["embeddings_norms", "lora_alone"])
def test_published_weights_are_what_the_policy_computes(model: str, full: bool, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    made = policy(folder, lora={"train_embeddings": full, "train_norms": full})
    for _ in range(3):
        step(made, example(made))
    served = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    weights = made.weights()
    assert set(weights) <= dict(served.named_parameters()).keys()
    assert ("model.norm.weight" in weights) == full == ("model.embed_tokens.weight" in weights)
    before = row_by_row(served, PROMPT, COMPLETIONS)
    served.load_state_dict(weights, strict=False)
    served.tie_weights()
    with torch.no_grad():
        own, _ = logprobs(made.adapted, Row([PromptGroup(PROMPT, COMPLETIONS)], CPU))
    torch.testing.assert_close(row_by_row(served, PROMPT, COMPLETIONS), own, atol=1e-4, rtol=1e-4)
    assert (own - before).abs().max() > 1e-2


def test_a_step_makes_the_better_completion_likelier(tied: Path) -> None:
    made = policy(tied)
    group = example(made)
    norm = step(made, group)
    after = example(made)
    change = [sum(new) - sum(old) for new, old in zip(after.old_logprobs, group.old_logprobs, strict=True)]
    assert change[0] > 0 > change[1] and math.isfinite(norm)


def test_the_step_s_gradient_is_that_of_row_by_row(tied: Path) -> None:
    """LoRA, embeddings and norms: each sequence forwarded alone through the same adapted model in sdpa."""
    made, alone = policy(tied), policy(tied)
    for one in (made, alone):
        step(one, example(one))  # away from the beginning, where half of LoRA has no gradient
    group = example(made)
    clip = Clip(kl=0.1)
    sums = backward(made, [group], clip, "std", group.trained_tokens)
    assert sums.tokens == group.trained_tokens and sums.ratio == pytest.approx(sums.tokens, rel=1e-4)
    alone.model.set_attn_implementation("sdpa")
    with torch.no_grad(), alone.adapted.disable_adapter():
        reference = row_by_row(alone.model, PROMPT, COMPLETIONS)
    new = row_by_row(alone.model, PROMPT, COMPLETIONS)
    old = torch.tensor([value for row in group.old_logprobs for value in row])
    pairs = zip(advantages(group.scores), COMPLETIONS, strict=True)
    advantage = torch.tensor([value for value, one in pairs for _ in one])
    losses, _ = token_losses(new, old, advantage, clip, reference)
    (losses.sum() / group.trained_tokens).backward()
    for (name, one), other in zip(made.parameters().items(), alone.parameters().values(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


def test_groups_in_one_pass_have_the_gradient_of_one_by_one(tied: Path) -> None:
    made, alone = policy(tied), policy(tied)
    for one in (made, alone):
        step(one, example(one))
    first = example(made)
    second = replace(first, prompt=list(b"And which door?"), scores=[0.0, 0.5, 1.0])
    tokens = first.trained_tokens + second.trained_tokens
    together = backward(made, [first, second], Clip(), "none", tokens)
    apart = [backward(alone, [group], Clip(), "none", tokens) for group in (first, second)]
    assert together.tokens == sum(sums.tokens for sums in apart)
    assert together.loss == pytest.approx(sum(sums.loss for sums in apart), abs=1e-4)
    for (name, one), other in zip(made.parameters().items(), alone.parameters().values(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 60))
def test_passes_hold_every_group_once_and_no_more_tokens_than_allowed(lengths: list[int], most: int) -> None:
    groups = [
        Group(str(i), "t", 9, [1] * length, [[2]], [[True]], [[0.0]], [0.0], 0) for i, length in enumerate(lengths)
    ]
    made = passes(groups, most)
    assert sorted(group.key for together in made for group in together) == sorted(group.key for group in groups)
    for together in made:
        assert len(together) == 1 or sum(group.unique_tokens for group in together) <= most
    # No two neighbours would have fitted into one.
    totals = [sum(group.unique_tokens for group in together) for together in made]
    assert all(
        total + min(g.unique_tokens for g in after) > most for total, after in zip(totals, made[1:], strict=False)
    )


def test_a_checkpoint_is_everything(tied: Path, tmp_path: Path) -> None:
    """Two steps, saved after the first, against two steps through the checkpoint: the same weights to the bit."""
    made = policy(tied)
    group = example(made)
    step(made, group)
    state = State(1, 5, {0: 0, 5: 1}, {"a", "b"})
    checkpoint.save(tmp_path, state, made.base, made.parameters(), made.optimizer)
    step(made, group)
    again = policy(tied, seed=9)  # another adapter, which the checkpoint replaces
    assert checkpoint.load(tmp_path, again.base, again.parameters(), again.optimizer) == state
    step(again, group)
    for one, other in zip(made.parameters().values(), again.parameters().values(), strict=True):
        assert torch.equal(one, other)


def test_old_checkpoints_go_and_none_is_half(tied: Path, tmp_path: Path) -> None:
    made = policy(tied)
    for number in (1, 2, 3, 10):
        checkpoint.save(tmp_path, State(number), made.base, made.parameters(), made.optimizer)
    (tmp_path / ".step-000011.x").mkdir()  # what a killed trainer was writing
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000003", "step-000010"]
    assert checkpoint.load(tmp_path, made.base, made.parameters(), made.optimizer).step == 10


def test_a_checkpoint_of_another_model_or_adapter_is_refused(tied: Path, untied: Path, tmp_path: Path) -> None:
    made = policy(tied)
    checkpoint.save(tmp_path, State(1), made.base, made.parameters(), made.optimizer)
    for other in (policy(untied), policy(tied, lora={"r": 4})):
        with pytest.raises(ConfigError, match="of another model or adapter"):
            checkpoint.load(tmp_path, other.base, other.parameters(), other.optimizer)
    assert checkpoint.load(tmp_path / "none", made.base, made.parameters(), made.optimizer) == State()


def test_what_a_model_cannot_do_is_one_line(tied: Path) -> None:
    with pytest.raises(ConfigError, match="sequences of 600 tokens exceed the model's window of 512"):
        policy(tied, batch={"max_tokens": 601})
    with pytest.raises(ConfigError) as caught:
        policy(tied, lora={"target_modules": ["no_such"]})
    assert "\n" not in caught.value.line() and "no_such" in caught.value.line()
    longer = policy(tied, batch={"max_tokens": 601}, context_extension={"method": "yarn", "target_length": 1024})
    assert longer.model.config.max_position_embeddings == 1024
