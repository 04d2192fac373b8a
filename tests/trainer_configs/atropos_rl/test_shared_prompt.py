"""A group forwarded at once against each of its sequences forwarded by itself, by transformers' own attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from longthread.errors import ConfigError
from trainer_configs.atropos_rl.shared_prompt import ATTENTION, PromptGroup, Row, logprobs

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
}  # fmt: skip
CONFIGS = {"llama": LlamaConfig(**SHAPE), "qwen2": Qwen2Config(**SHAPE)}
CPU = torch.device("cpu")


def models(family: str) -> tuple[Any, Any]:
    torch.manual_seed(3)
    own = AutoModelForCausalLM.from_config(
        copy.deepcopy(CONFIGS[family]), attn_implementation="sdpa", dtype=torch.float32
    )
    shared = AutoModelForCausalLM.from_config(
        copy.deepcopy(CONFIGS[family]), attn_implementation=ATTENTION, dtype=torch.float32
    )
    shared.load_state_dict(own.state_dict())
    return own, shared


def tokens(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 97, (length,), generator=generator).tolist() for length in lengths]


def row_by_row(model: Any, prompt: list[int], completions: list[list[int]]) -> torch.Tensor:
    """Log-probabilities of each completion's tokens, from a forward pass of its own."""
    found = []
    for completion in completions:
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float()
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).squeeze(1))
    return torch.cat(found)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("lengths", [(1, 1), (5, 1, 9), (40, 7, 7, 7), (17, 3, 12, 1, 6)], ids=str)
def test_the_same_numbers_and_gradients(family: str, lengths: tuple[int, ...]) -> None:
    prompt, *completions = tokens(*lengths)
    own, shared = models(family)
    expected = row_by_row(own, prompt, completions)
    found, entropy = logprobs(shared, Row([PromptGroup(prompt, completions)], CPU))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert entropy.shape == found.shape and bool((entropy > 0).all()) and not entropy.requires_grad
    weights = torch.linspace(-1, 1, len(expected))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for (name, one), other in zip(own.named_parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=5e-5, rtol=1e-3, msg=lambda text, name=name: name + text)


def test_several_groups_in_a_pass_do_not_see_each_other() -> None:
    own, shared = models("llama")
    drawn = [tokens(9, 3, 5), tokens(30, 2, 2, 8), tokens(1, 4)]
    groups = [PromptGroup(prompt, completions) for prompt, *completions in drawn]
    expected = torch.cat([row_by_row(own, group.prompt, group.completions) for group in groups])
    found, _ = logprobs(shared, Row(groups, CPU))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, len(expected))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for one, other in zip(own.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=5e-5, rtol=1e-3)


def test_with_gradient_checkpointing_too() -> None:
    prompt, *completions = tokens(20, 4, 6)
    own, shared = models("llama")
    shared.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    shared.train()
    row_by_row(own, prompt, completions).sum().backward()
    logprobs(shared, Row([PromptGroup(prompt, completions)], CPU))[0].sum().backward()
    for one, other in zip(own.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=5e-5, rtol=1e-3)


def test_an_empty_completion_takes_no_place() -> None:
    prompt, first, last = tokens(6, 3, 2)
    own, shared = models("llama")
    found, _ = logprobs(shared, Row([PromptGroup(prompt, [first, [], last])], CPU))
    torch.testing.assert_close(found, row_by_row(own, prompt, [first, last]), atol=2e-5, rtol=1e-5)


def test_a_pass_without_its_row_is_refused() -> None:
    """Without the row there would be no mask at all: tokens would see what comes behind them."""
    with pytest.raises(ConfigError, match="does not pass on"):
        models("llama")[1](torch.tensor([[1, 2, 3]]))
