"""The loss of pairs from the logits of completions alone is the loss from all of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tests.environments.tiny_model import tiny_model
from trainer_configs.longlora.pair_logits import can_keep, completions_alone, first_kept


class Trainer:
    """As TRL computes it: policy and reference, which is the model without its adapter."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: Any = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        self.args = SimpleNamespace()
        self.seen: list[int] = []

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Tensor:
        given = {name: value for name, value in inputs.items() if name != "completion_mask"}
        labels, mask = inputs["input_ids"][:, 1:], inputs["completion_mask"][:, 1:]
        sums = []
        for disabled in (False, True):
            with self.model.disable_adapter() if disabled else torch.enable_grad():
                logits = (self.model if disabled else model)(**given).logits[:, :-1]
            self.seen.append(logits.shape[1] + 1)
            chosen = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
            sums.append((chosen * mask).sum(1))
        margins = sums[0] - sums[1].detach()
        return -torch.nn.functional.logsigmoid(margins[0] - margins[1])


def pair(prompt: int, completions: tuple[int, int]) -> dict[str, Tensor]:
    length = prompt + max(completions)
    ids = torch.randint(0, 250, (2, length), generator=torch.Generator().manual_seed(1))
    at = torch.arange(length)
    ends = torch.tensor([prompt + n for n in completions])[:, None]
    present = (at < ends).long()
    return {"input_ids": ids, "attention_mask": present, "completion_mask": present * (at >= prompt)}


@pytest.mark.parametrize(("prompt", "completions"), [(60, (4, 9)), (60, (9, 4)), (1, (7, 7)), (5, (0, 3))])
def test_loss_and_gradients_are_those_of_all_logits(prompt: int, completions: tuple[int, int]) -> None:
    found = []
    for alone in (False, True):
        trainer = Trainer()
        compute = completions_alone(trainer) if alone else trainer._compute_loss
        loss = compute(trainer.model, pair(prompt, completions))
        loss.backward()
        found.append([loss, *(p.grad for p in trainer.model.parameters() if p.requires_grad)])
        kept = max(completions) + 1 if alone else prompt + max(completions)
        assert trainer.seen == [kept, kept]  # the reference's too
        assert not trainer.model._forward_pre_hooks
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_rows_without_completions_are_computed_whole() -> None:
    assert first_kept(None) == first_kept(torch.zeros(2, 5)) == first_kept(torch.ones(2, 5)) == 0
    assert first_kept(torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]])) == 1
    trainer, inputs = Trainer(), pair(20, (4, 4))
    inputs["completion_mask"] *= 0
    completions_alone(trainer)(trainer.model, inputs)
    assert trainer.seen == [24, 24]


def test_other_losses_are_left_alone() -> None:
    assert can_keep(trainer := Trainer())
    trainer.args.padding_free = True
    assert not can_keep(trainer)
    trainer.args = SimpleNamespace(use_liger_kernel=True)
    assert not can_keep(trainer)
