"""Which keys of a document a compact memory keeps: those that its reference queries attend to most.

Attention here is that of the whole head, over window and document, p_ij = exp(s_ij - LSE_i). Over the document alone it would
be as large in heads that spend everything on the window's first token, which a memory does not hold.

G: key/value heads of all layers, N: reference queries, T: tokens of the document, D: head dimension.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ELEMENTS = {"cuda": 1 << 27}  # attention scores in memory at a time
ELEMENTS_ELSEWHERE = 1 << 22  # what stays near a CPU


class Reference(NamedTuple):
    """Reference queries of key/value heads, after RoPE, with the attention over their windows and its log-sum-exp.

    The queries of all query heads of a key/value head stand one behind the other. Where `heard` is False the document
    should say nothing. Of the model's dtype; `weight_GN`, what each query counts in all sums of squares, in fp32.
    """

    q_GND: Tensor
    window_GND: Tensor
    lse_window_GN: Tensor
    weight_GN: Tensor
    heard_N: Tensor

    def heads(self, chosen: Tensor) -> "Reference":
        """Return the reference queries of the chosen key/value heads alone."""
        q_GND, window_GND, lse_window_GN, weight_GN, heard_N = self
        return Reference(q_GND[chosen], window_GND[chosen], lse_window_GN[chosen], weight_GN[chosen], heard_N)


class DocumentAttention(NamedTuple):
    """The attention of reference queries over all keys of the document, in fp32.

    `score_GT` is each key's root mean square of attention, over the queries that the document should answer, by weight.
    """

    memory_GND: Tensor
    lse_GN: Tensor
    score_GT: Tensor


def pieces(groups: int, rows: int, keys: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield slices of groups and of rows, so that a piece with all `keys` has no more scores than fit at a time."""
    most = ELEMENTS.get(device.type, ELEMENTS_ELSEWHERE)
    of_rows = min(rows, max(1, most // keys))
    of_groups = max(1, most // (of_rows * keys))
    for first in range(0, groups, of_groups):
        for at in range(0, rows, of_rows):
            yield slice(first, first + of_groups), slice(at, at + of_rows)


def attend(reference: Reference, k_GTD: Tensor, v_GTD: Tensor) -> DocumentAttention:
    """Return the attention of all reference queries over the document. The attention's scale is in the keys."""
    groups, rows, dim = reference.q_GND.shape
    tokens = k_GTD.shape[1]
    memory_GND = torch.empty(groups, rows, dim, device=k_GTD.device)
    lse_GN = torch.empty(groups, rows, device=k_GTD.device)
    squares_GT = torch.zeros(groups, tokens, device=k_GTD.device)
    for g, n in pieces(groups, rows, tokens, k_GTD.device):
        scores = reference.q_GND[g, n].float() @ k_GTD[g].float().transpose(1, 2)
        highest = scores.amax(-1, keepdim=True)
        powers = scores.sub_(highest).exp_()  # once for both: on a CPU it takes as long as the products
        total = powers.sum(-1, keepdim=True)
        lse_GN[g, n] = lse = (highest + total.log())[..., 0]
        memory_GND[g, n] = (powers @ v_GTD[g].float()) / total
        gate = torch.sigmoid(lse - reference.lse_window_GN[g, n].float()) * reference.heard_N[n]
        counted = (gate / total[..., 0]).square() * reference.weight_GN[g, n]
        squares_GT[g] += (powers.square_().transpose(1, 2) @ counted[..., None])[..., 0]
    return DocumentAttention(memory_GND, lse_GN, (squares_GT / reference.heard_N.sum().clamp(min=1)).sqrt())


def select(score_GT: Tensor, total: int, least: int) -> Tensor:
    """Return which keys to keep, (G, T): the best `least` of each head, and the best of all heads up to `total`.

    How many a head keeps is what its keys are worth: with as many in every head, nothing was recalled.
    """
    groups, tokens = score_GT.shape
    total = min(total, groups * tokens)
    first = score_GT.topk(min(least, total // groups, tokens), dim=1).indices
    ranked = score_GT.scatter(1, first, torch.inf)
    kept = torch.zeros(groups * tokens, dtype=torch.bool, device=score_GT.device)
    kept[ranked.flatten().topk(total).indices] = True
    return kept.view(groups, tokens)
