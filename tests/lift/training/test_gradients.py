"""An optimizer step's gradients against those of its rows one by one."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model

from lift.document.segments import IGNORED
from lift.memory.tuner import GatedMemoryConfig, layers
from lift.training import gradients
from lift.training.batches import RegularizationRow, SupervisedRow
from lift.training.gradients import Gradients, MicroBatch
from lift.training.losses import TOP, TopLogits
from lift.training.recipes import RECIPES
from tests.environments.tiny_model import tiny_model

RECIPE = replace(RECIPES["lse"], kl_rows=4, kl_weight=3.0)
SHARE = 0.25
GPU = pytest.param("cuda", "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def answered(length: int, places: int) -> SupervisedRow:
    ids = torch.randint(5, 250, (length,)).tolist()
    return SupervisedRow(ids, [IGNORED] * (length - places) + ids[length - places :])


def quiet(length: int, kept: int, device: str) -> RegularizationRow:
    """Of another model, whose logits are far from this one's."""
    log_p, ids = torch.randn(kept, 260, device=device).log_softmax(-1).topk(TOP)
    return RegularizationRow(torch.randint(5, 250, (length,)).tolist(), kept, TopLogits(ids, log_p))


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    made = get_peft_model(tiny_model(vocab_size=260), GatedMemoryConfig())
    for layer in layers(made):
        torch.nn.init.normal_(layer.gm_memory["default"].share, std=0.3)
    return made


def slow(
    model: torch.nn.Module, steps: list[MicroBatch], trained: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Token by token, as it is written in the recipes: cross entropies of answers, and the mean divergence of rows."""
    device = trained[0].device
    losses, nothing = torch.zeros(2, device=device), torch.zeros((), device=device)
    for row in [row for part in steps for row in (*part.supervised, *part.regularization)]:
        log_p = model(input_ids=torch.tensor([list(row.ids)], device=device)).logits[0].log_softmax(-1)
        if isinstance(row, SupervisedRow):
            for t, label in enumerate(row.labels[1:]):
                if label != IGNORED:
                    losses = losses - SHARE * torch.stack([log_p[t, label], nothing])
        elif row.teacher:
            ids, told = row.teacher
            here = log_p[-row.kept :]
            rest, mine = (torch.log1p(-each.exp().sum(-1)) for each in (told, here.gather(1, ids)))
            kl = (told.exp() * (told - here.gather(1, ids))).sum(-1) + rest.exp() * (rest - mine)
            losses = losses + torch.stack([nothing, kl.mean() / RECIPE.kl_rows])
    return losses, list(torch.autograd.grad(losses[0] + RECIPE.kl_weight * losses[1], trained))


@pytest.mark.parametrize(("device", "captured_on"), [("cpu", "cpu"), ("cpu", "nowhere"), GPU])
@pytest.mark.parametrize("tokens", [30, 10_000])
def test_passes_add_up_to_the_rows_one_by_one(
    model: torch.nn.Module, device: str, captured_on: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "CAPTURED_ON", captured_on)
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    made = Gradients(model, RECIPE, trained, tokens, answer_tokens=3)
    for _ in range(3):
        steps = [
            MicroBatch(16, [answered(9, 2), answered(12, 3)], 3, [quiet(10, 4, device), quiet(16, 4, device)]),
            MicroBatch(40, [answered(33, 3)], 1, [quiet(40, 8, device), quiet(24, 8, device)]),
        ]
        figures = made.accumulate(steps, SHARE)
        losses, right_gradients = slow(model, steps, trained)
        torch.testing.assert_close(figures, losses.detach(), atol=1e-5, rtol=1e-4)
        for p, right in zip(trained, right_gradients, strict=True):
            torch.testing.assert_close(p.grad, right, atol=1e-5, rtol=1e-3)
    # Shapes are captured once for all steps, where they hold enough, and indeed as graphs where there is a GPU.
    assert len(made.graphs) == (2 if captured_on != "nowhere" and tokens > 1000 else 0)
    assert all((each.graph is not None) == (device == "cuda") for each in made.graphs.values())


def test_a_step_without_other_text_has_one_pass(model: torch.nn.Module) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    figures = Gradients(model, RECIPE, trained, 999, answer_tokens=3).accumulate(
        [MicroBatch(0, [answered(9, 2)], 1, []), MicroBatch(0, [], 0, [])], 1
    )
    assert figures[0] > 1 and figures[1] == 0
