"""Losses against their definitions."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F

from lift.document.segments import IGNORED
from lift.memory.tuner import GatedMemoryConfig, layers
from lift.training.losses import divergence, logits_at, token_loss, top_logits
from tests.lift.memory.test_tuner import ids, make

FAMILIES = ("Llama", "Qwen3", "Gemma3Text", "SmolLM3", "Olmo2")


def adapted(family: str, **changes: Any) -> Any:
    return get_peft_model(make(family, **changes), GatedMemoryConfig()).eval()


def test_token_loss_is_the_sum_over_targets() -> None:
    logits, targets = torch.randn(6, 11), torch.tensor([3, IGNORED, 0, 10, IGNORED, 7])
    right = sum(F.cross_entropy(logits[at], targets[at]) for at in (0, 2, 3, 5))
    torch.testing.assert_close(token_loss(logits, targets), right)
    assert token_loss(logits, torch.full_like(targets, IGNORED)) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_are_the_models_own_and_so_are_their_gradients(family: str) -> None:
    model, rows, at = adapted(family), ids(2, 9), torch.tensor([3, 0, 17, 3])
    for layer in layers(model):
        layer.gm_memory["default"].share.data.fill_(0.5)
    weights = [p for p in model.parameters() if p.requires_grad]
    found, whole = logits_at(model, rows, at), model(input_ids=rows).logits.flatten(0, 1)[at]
    torch.testing.assert_close(found, whole)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), weights),
        torch.autograd.grad(whole.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert model(input_ids=rows).logits.shape[:2] == rows.shape  # nothing is left behind


def test_divergence_is_kl_when_every_token_is_kept_and_zero_of_itself() -> None:
    teacher, model = torch.randn(5, 11), torch.randn(5, 11)
    kl = F.kl_div(model.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="sum")
    torch.testing.assert_close(divergence(model, top_logits(teacher, 11)).sum(), kl, atol=1e-4, rtol=1e-4)
    few = divergence(model, top_logits(teacher, 3)).sum()
    assert 0 < few < kl  # tokens taken together tell less
    assert divergence(teacher, top_logits(teacher, 3)).abs().max() < 1e-4
