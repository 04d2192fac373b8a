"""The policy loss: clipped importance ratios against the policy that sampled, a token each, clipped higher than low.

    r_t  = exp(log p(t) - log p_old(t))
    d_t  = log p_ref(t) - log p(t)
    L    = - 1/T sum_t min(r_t A, clip(r_t, 1 - low, 1 + high) A)  +  kl/T sum_t (exp(d_t) - d_t - 1)

The sum goes over all T trained tokens of a step: DAPO, arXiv 2503.14476, equations 8 (token level) and 10 (clip-higher). The
distance from the reference is the estimator of DeepSeekMath, arXiv 2402.03300, equation 4; DAPO leaves it out. `old` are the
server's own log-probabilities, so the ratio also corrects what server and trainer compute differently.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_configs.atropos_rl.health import Sums


@dataclass(frozen=True)
class Clip:
    """How far a ratio may move from 1 before a token stops pushing it, and the weight of the distance from the base."""

    low: float = 0.2
    high: float = 0.28
    kl: float = 0.0


def token_losses(
    new_T: Tensor, old_T: Tensor, advantage_T: Tensor, clip: Clip, reference_T: Tensor | None = None
) -> tuple[Tensor, Sums]:
    """Return the loss of each trained token (T,), not yet averaged, and the sums of the health.

    All arguments are (T,): log-probabilities now, when sampled, and of the base model; and the advantages.
    """
    difference_T = new_T - old_T
    ratio_T = difference_T.exp()
    clipped_T = ratio_T.clamp(1 - clip.low, 1 + clip.high)
    loss_T = -torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)
    if reference_T is not None and clip.kl:
        distance_T = reference_T - new_T
        loss_T = loss_T + clip.kl * (distance_T.exp() - distance_T - 1)
    with torch.no_grad():
        sums = Sums(
            tokens=len(new_T),
            ratio=float(ratio_T.sum()),
            ratio_max=float(ratio_T.max()) if len(ratio_T) else 0.0,
            clipped_low=float(((ratio_T < 1 - clip.low) & (advantage_T < 0)).sum()),
            clipped_high=float(((ratio_T > 1 + clip.high) & (advantage_T > 0)).sum()),
            moved=float((ratio_T - 1 - difference_T).sum()),
            loss=float(loss_T.sum()),
        )
    return loss_T, sums
