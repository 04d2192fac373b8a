"""Draw the next token of several branches at once: temperature, top_k and top_p, then one uniform number each.

Shapes: R branches, V vocabulary. The same code runs on a CPU and inside a captured CUDA graph, so a branch's draw depends on
its logits and its own number, and on nothing else of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CANDIDATES = 1024  # on a CPU a sort of the whole vocabulary takes 4 ms a branch


class Choice(NamedTuple):
    """How each branch draws: one number a branch in every field, shape (R,)."""

    temperature: Tensor  # 0: the likeliest token
    top_k: Tensor  # 0: all tokens
    top_p: Tensor
    uniform: Tensor  # float64, at least 0 and below 1


def draw(logits_RV: Tensor, choice: Choice, filtered: bool) -> tuple[Tensor, Tensor]:
    """Return each branch's next token and its log-probability at temperature 1 before any filter, both of shape (R,).

    The token is the first, in the vocabulary's order, whose cumulative probability passes the branch's uniform number.
    `logits_RV`: float32. `filtered`: whether any branch has a top_k or top_p; without them no sort is needed.
    """
    logprobs_RV = logits_RV.log_softmax(dim=-1)
    best_R1 = logits_RV.argmax(dim=-1, keepdim=True)
    greedy_R1 = choice.temperature[:, None] == 0
    temperature_R1 = choice.temperature[:, None].float().masked_fill(greedy_R1, 1).clamp(min=1e-30)
    probs_RV = ((logits_RV - logits_RV.gather(1, best_R1)) / temperature_R1).softmax(dim=-1)
    if filtered:
        probs_RV = _filtered(probs_RV, choice)
    cumulative_RV = probs_RV.double().cumsum(dim=-1)  # float32 would lose the unlikely tokens of a large vocabulary
    total_R1 = cumulative_RV[:, -1:]
    below_R1 = torch.minimum(choice.uniform[:, None] * total_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    drawn_R1 = (cumulative_RV <= below_R1).sum(dim=-1, keepdim=True)
    token_R1 = torch.where(greedy_R1, best_R1, drawn_R1)
    return token_R1[:, 0], logprobs_RV.gather(1, token_R1)[:, 0]


def _filtered(probs_RV: Tensor, choice: Choice) -> Tensor:
    """Return the probabilities with 0 for what top_k leaves out, and then for what top_p does (in this order, as vLLM).

    The token that crosses top_p stays, and so does the likeliest.
    """
    size = probs_RV.shape[1]
    top_k_R1 = choice.top_k[:, None].long()
    top_k_R1 = torch.where(top_k_R1 == 0, size, top_k_R1)
    sorted_RK, order_RK = _likeliest(probs_RV, top_k_R1, choice.top_p)
    rank_K = torch.arange(sorted_RK.shape[1], device=probs_RV.device)
    sorted_RK = sorted_RK.masked_fill(rank_K >= top_k_R1, 0)
    # top_p is a share of what top_k left; a branch with top_k alone keeps all of it whatever the rounding.
    mass_R1 = torch.where(choice.top_k[:, None] > 0, sorted_RK.sum(dim=-1, keepdim=True), 1.0)
    top_p_R1 = choice.top_p[:, None].float()
    beyond_RK = (sorted_RK.cumsum(dim=-1) - sorted_RK >= top_p_R1 * mass_R1) & (top_p_R1 < 1)
    beyond_RK[:, 0] = False
    return torch.zeros_like(probs_RV).scatter(1, order_RK, sorted_RK.masked_fill(beyond_RK, 0))


def _likeliest(probs_RV: Tensor, top_k_R1: Tensor, top_p_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities in falling order with their tokens, at least as many of each branch as its filters can keep."""
    if probs_RV.device.type == "cpu" and probs_RV.shape[1] > CANDIDATES:
        sorted_RK, order_RK = probs_RV.topk(CANDIDATES)
        enough_R = (top_k_R1[:, 0] <= CANDIDATES) | ((top_p_R < 1) & (sorted_RK.sum(dim=-1) >= top_p_R))
        if bool(enough_R.all()):
            return sorted_RK, order_RK
    return probs_RV.sort(dim=-1, descending=True)
