"""The loss against the papers' formulas written out token by token, and its gradients against autograd through those."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_configs.atropos_rl.groups import advantages
from trainer_configs.atropos_rl.loss import Clip, token_losses

LOGPROB = st.floats(-8, -0.01)
ROW = st.tuples(LOGPROB, LOGPROB, st.floats(-3, 3), LOGPROB)


def slow_loss(
    new: list[torch.Tensor], old: list[float], advantage: list[float], reference: list[float], clip: Clip
) -> torch.Tensor:
    """DAPO's equation 8 with GRPO's distance (equation 4), one token at a time, with branches for min and clip."""
    total = torch.zeros((), dtype=torch.float64)
    for p, p_old, a, p_ref in zip(new, old, advantage, reference, strict=True):
        r = torch.exp(p - p_old)
        bounded = r
        if float(r.detach()) > 1 + clip.high:
            bounded = torch.tensor(1 + clip.high, dtype=torch.float64)
        if float(r.detach()) < 1 - clip.low:
            bounded = torch.tensor(1 - clip.low, dtype=torch.float64)
        total = total - (r * a if float((r * a).detach()) <= float((bounded * a).detach()) else bounded * a)
        total = total + clip.kl * (torch.exp(p_ref - p) - (p_ref - p) - 1)
    return total


@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from([0.0, 0.05]))
def test_loss_and_gradients_are_the_papers(rows: list[tuple[float, float, float, float]], kl: float) -> None:
    clip = Clip(kl=kl)
    new = torch.tensor([row[0] for row in rows], dtype=torch.float64, requires_grad=True)
    old, advantage, reference = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in (1, 2, 3))
    loss, sums = token_losses(new, old, advantage, clip, reference)
    loss.sum().backward()
    slow = [torch.tensor(row[0], dtype=torch.float64, requires_grad=True) for row in rows]
    expected = slow_loss(slow, old.tolist(), advantage.tolist(), reference.tolist(), clip)
    expected.backward()
    torch.testing.assert_close(loss.sum(), expected)
    assert new.grad is not None
    for got, one in zip(new.grad, slow, strict=True):
        torch.testing.assert_close(got, one.grad if one.grad is not None else torch.zeros_like(got))
    assert sums.tokens == len(rows) and sums.loss == pytest.approx(float(expected.detach()), rel=1e-6, abs=1e-9)


def test_clip_is_higher_than_low_and_counted() -> None:
    """Ratios 1.25 and 0.75: within 1.28 above, beyond 0.8 below; each pushes only where its advantage would not."""
    new = torch.tensor([1.25, 1.3, 0.75, 0.75], dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    loss, sums = token_losses(new, torch.zeros(4, dtype=torch.float64), advantage, Clip())
    loss.sum().backward()
    assert new.grad is not None and [bool(value) for value in new.grad] == [True, False, False, True]
    assert (sums.clipped_low, sums.clipped_high) == (1, 1) and sums.ratio_max == pytest.approx(1.3)


def test_before_any_step_the_gradient_is_the_policy_gradient() -> None:
    new = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 0.5])
    loss, sums = token_losses(new, new.detach(), advantage, Clip())
    loss.sum().backward()
    torch.testing.assert_close(new.grad, -advantage)
    assert sums.ratio == sums.tokens and sums.moved == 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_advantages_are_normalised_by_the_group(scores: list[float]) -> None:
    values = advantages(scores)
    deviation = statistics.pstdev(scores)
    assert math.fsum(values) == pytest.approx(0, abs=1e-6)
    expected = [(score - statistics.fmean(scores)) / (deviation + 1e-4) for score in scores]
    assert values == pytest.approx(expected, abs=1e-9)
    plain = advantages(scores, "none")
    assert plain == pytest.approx([score - statistics.fmean(scores) for score in scores], abs=1e-9)
