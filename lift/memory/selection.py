"""Which keys of a document a compact memory keeps: those that its reference queries attend to most.

Attention here is that of the whole head, over window and document, p_ij = exp(s_ij - LSE_i). Over the document alone it would
be as large in heads that spend everything on the window's first token, which a memory does not hold.

G: key/value heads of all layers, N: reference queries, T: tokens of the document, D: head dimension.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lift.memory.log_sum_exp import document_attention

ELEMENTS = {"cuda": 1 << 27}  # attention scores in memory at a time
ELEMENTS_ELSEWHERE = 1 << 20  # what stays near a CPU
LOG_2 = math.log(2)


class Given(NamedTuple):
    """What the document gave to reference queries that were read beside all of it: those where `known` is True."""

    memory_GND: Tensor
    lse_GN: Tensor
    known_N: Tensor


class Reference(NamedTuple):
    """Reference queries of key/value heads, after RoPE, with the attention over their windows and its log-sum-exp.

    The queries of all query heads of a key/value head stand one behind the other. Where `heard` is False the document
    should say nothing. Of the model's dtype; `weight_GN`, what each query counts in all sums of squares, in fp32. `given`
    spares `attend` a part of its work.
    """

    q_GND: Tensor
    window_GND: Tensor
    lse_window_GN: Tensor
    weight_GN: Tensor
    heard_N: Tensor
    given: Given | None = None

    def heads(self, chosen: Tensor) -> "Reference":
        """Return the reference queries of the chosen key/value heads alone, without what was given."""
        q_GND, window_GND, lse_window_GN, weight_GN, heard_N, _ = self
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
    of_rows = max(1, min(rows, most // keys))
    of_groups = max(1, most // (of_rows * keys))
    for first in range(0, groups, of_groups):
        for at in range(0, rows, of_rows):
            yield slice(first, first + of_groups), slice(at, at + of_rows)


def attend(reference: Reference, k_GTD: Tensor, v_GTD: Tensor) -> DocumentAttention:
    """Return the attention of all reference queries over the document. The attention's scale is in the keys."""
    memory_GND, lse_GN = _output(reference, k_GTD, v_GTD)
    groups, tokens, _ = k_GTD.shape
    squares_GT = torch.zeros(groups, tokens, device=k_GTD.device)
    heard = reference.heard_N.nonzero()[:, 0]
    for g, n in pieces(groups, len(heard), tokens, k_GTD.device):
        q, lse = reference.q_GND[g, heard[n]].float(), lse_GN[g, heard[n]]
        gate = torch.sigmoid(lse - reference.lse_window_GN[g, heard[n]].float())
        counted = gate.square() * reference.weight_GN[g, heard[n]]
        # sum_i c_i exp(s_i - LSE_i)^2 as exponentials of one product; those of base 2 take a CPU half as long
        shift = counted.log2() - 2 / LOG_2 * lse
        keys = k_GTD[g].float().transpose(1, 2)
        squares_GT[g] += torch.baddbmm(shift[..., None], 2 / LOG_2 * q, keys).exp2_().sum(1)
    return DocumentAttention(memory_GND, lse_GN, (squares_GT / max(1, len(heard))).sqrt())


def _output(reference: Reference, k_GTD: Tensor, v_GTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the document gives to all reference queries, and its log-sum-exp: (G, N, D) and (G, N)."""
    groups, rows, dim = reference.q_GND.shape
    if reference.given is None:
        memory_GND, lse_GN = k_GTD.new_empty(groups, rows, dim).float(), k_GTD.new_empty(groups, rows).float()
        missing = torch.arange(rows, device=k_GTD.device)
    else:
        memory_GND, lse_GN, missing = *reference.given[:2], (~reference.given.known_N).nonzero()[:, 0]
    if not len(missing):
        return memory_GND, lse_GN
    for g in range(groups):
        q_ND, k_TD, v_TD = reference.q_GND[g, missing], k_GTD[g], v_GTD[g]
        memory_1N1D, lse_1N1 = document_attention(q_ND[None, None], k_TD[None].to(q_ND), v_TD[None].to(q_ND), 1.0)
        memory_GND[g, missing], lse_GN[g, missing] = memory_1N1D[0, :, 0], lse_1N1[0, :, 0]
    return memory_GND, lse_GN


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
