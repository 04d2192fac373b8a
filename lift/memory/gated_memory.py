"""The gated memory of one layer: what a document would add to its attention, without the document (LIFT, arXiv 2502.14644v3).

Softmax attention over a document C and a window W splits exactly, with m the attention over C alone:

    o = (1 - g) o_W + g m,   g = Z_C / (Z_C + Z_W) = sigmoid(LSE_C - LSE_W)                                              (1)

The memory and the score that makes its gate are small networks for each query head h, of the query before RoPE:

    m_h(q) = SiLU(q A_h) B_h,   x_h(q) = SiLU(q C_h) c_h                                                                 (2)

Gate "lse" is ours: s(q) = x(q) + q a + b is learnt to be LSE_C(q). It stands against the window's own log-sum-exp, so the
gate falls as the window fills, and documents compose, each opened by a share e_i (0: closed):

    w = softmax[LSE_W, s_1 + log e_1, ..., s_n + log e_n],   o = w_0 o_W + w_1 m_1 + ... + w_n m_n                       (3)

Gate "query" is the published one, g = e sigmoid(3 (x(q) - 1)) (4), which cannot know how much the window holds.
B: rows, L: tokens, T = B L, H: query heads, D: head dimension.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lift.memory.log_sum_exp import NOTHING

Gate = Literal["lse", "query"]


class Recalled(NamedTuple):
    """One document's memory for every query: m, its gate's score (s of (3), the logit of (4)), and the share e.

    Of `of_rows` the share has (B, 1, H): it is a row's own.
    """

    memory_BLHD: Tensor
    score_BLH: Tensor
    share_H: Tensor


class GatedMemory(nn.Module):
    """Networks (2) to (4) of one layer, for every query head, in fp32 whatever the model's dtype.

    A new one is closed (share 0) and leaves the model exactly as it was. With `published` it starts as the authors': open
    at 0.047, weights 1/sqrt(D) times too small, since torch takes in x out for the fan-in of a 3-D tensor.
    """

    after_rope = False

    def __init__(self, heads: int, dim: int, gate: Gate = "lse", width: int = 2, published: bool = False):
        super().__init__()
        self.gate, narrow = gate, int(dim**0.5)
        self.w_in = nn.Parameter(_uniform(heads, dim, width * dim, published))
        self.w_out = nn.Parameter(_uniform(heads, width * dim, dim, published))
        self.gate_in = nn.Parameter(_uniform(heads, dim, narrow, published))
        self.gate_out = nn.Parameter(_uniform(heads, narrow, 1, published))
        if published:  # not a parameter: PEFT turns on the gradients of all that an active adapter has
            self.register_buffer("share", torch.ones(heads))
        else:
            self.share = nn.Parameter(torch.zeros(heads))
        if gate == "lse":  # the log-sum-exp is nearly linear in the query wherever one key outweighs the others
            self.slope = nn.Parameter(torch.zeros(heads, dim))
            self.level = nn.Parameter(torch.zeros(heads))

    def keep_dtype(self) -> None:
        """Cast the weights to fp32, whatever the model's dtype."""
        self.float()

    def forward(self, q_BLHD: Tensor) -> Recalled:
        """Return memory m, gate score and share for queries before RoPE, (B, L, H, D)."""
        rows, weights = q_BLHD.shape[:2], dict(self.named_parameters())
        if torch.is_grad_enabled():
            # Row by row and contiguous: a weight's gradient is then many short sums, which fill a GPU.
            q_BHLD = q_BLHD.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
            return Recalled._make((*(x.transpose(1, 2) for x in recall(q_BHLD, weights, self.gate)), self.share))
        recalled = recall(q_BLHD.float().flatten(0, 1).transpose(0, 1), weights, self.gate)
        return Recalled._make((*(x_HT.transpose(0, 1).unflatten(0, rows) for x_HT in recalled), self.share))


def _uniform(heads: int, into: int, out: int, published: bool) -> Tensor:
    bound = (into * out if published else into) ** -0.5
    return torch.empty(heads, into, out).uniform_(-bound, bound)


def recall(q_HTD: Tensor, weights: Mapping[str, Tensor], gate: Gate) -> tuple[Tensor, Tensor]:
    """Return memory (H, T, D) and gate score (H, T) of queries. H may be the heads of all layers, with rows before it."""
    memory_HTD = F.silu(q_HTD @ weights["w_in"]) @ weights["w_out"]
    score_HT = (F.silu(q_HTD @ weights["gate_in"]) @ weights["gate_out"])[..., 0]
    if gate == "query":
        return memory_HTD, 3 * (score_HT - 1)
    return memory_HTD, score_HT + (q_HTD @ weights["slope"][..., None])[..., 0] + weights["level"][:, None]


def gates(recalled: Sequence[Recalled], gate: Gate, lse_BLH: Tensor | None) -> list[Tensor]:
    """Return each document's weight in the attention, (B, L, H): w of (3), g of (4). The rest to 1 is the window's."""
    if gate == "query":
        return [_clamped(document.share_H, 1.0) * torch.sigmoid(document.score_BLH) for document in recalled]
    assert lse_BLH is not None
    top_BLH = torch.stack([lse_BLH, *(document.score_BLH for document in recalled)]).amax(0).detach()
    parts = [_clamped(document.share_H) * torch.exp(document.score_BLH - top_BLH) for document in recalled]
    whole_BLH = torch.exp(lse_BLH - top_BLH) + torch.stack(parts).sum(0)
    return [part_BLH / whole_BLH.clamp(min=1e-30) for part_BLH in parts]


def _clamped(share_H: Tensor, most: float | None = None) -> Tensor:
    """Clamp the share to 0 and `most`, but not its gradient: a memory that goes below 0 could never open again."""
    return share_H + (share_H.clamp(0, most) - share_H).detach()


def mix(o_BLHD: Tensor, recalled: Sequence[Recalled], gate: Gate, lse_BLH: Tensor | None) -> Tensor:
    """Return o + sum of g_i (m_i - o), computed in fp32, in o's dtype: with no memory open that is o, bit for bit."""
    o32_BLHD = mixed_BLHD = o_BLHD.float()
    for g_BLH, document in zip(gates(recalled, gate, lse_BLH), recalled, strict=True):
        mixed_BLHD = torch.addcmul(mixed_BLHD, g_BLH[..., None], document.memory_BLHD - o32_BLHD)
    return mixed_BLHD.to(o_BLHD.dtype)


def of_rows(recalled: Sequence[tuple[Tensor, Tensor, Recalled]], most: int, like_BLHD: Tensor) -> list[Recalled]:
    """Return, for `mix`, the first, second, … memory of every row, closed where a row has none.

    `recalled`: the indices of some rows, the place that the memory has among those of each, and what it recalls there.
    """
    batch, length, heads, dim = like_BLHD.shape
    memory_SBLHD = like_BLHD.new_zeros(most, batch, length, heads, dim, dtype=torch.float32)
    score_SBLH = memory_SBLHD.new_full((most, batch, length, heads), NOTHING)
    share_SBLH = memory_SBLHD.new_zeros(most, batch, 1, heads)
    for rows, places, found in recalled:
        memory_SBLHD[places, rows] = found.memory_BLHD
        score_SBLH[places, rows] = found.score_BLH
        share_SBLH[places, rows] = found.share_H
    return [Recalled(*each) for each in zip(memory_SBLHD, score_SBLH, share_SBLH, strict=True)]


def reference_mix(o_BLHD: Tensor, q_BLHD: Tensor, memories: Sequence[GatedMemory], lse_BLH: Tensor) -> Tensor:
    """Compute `mix` with gate "lse" slowly, as its specification: (2) and (3) head by head."""
    heads = []
    for h in range(o_BLHD.shape[2]):
        q_BLD, values, logits = q_BLHD[:, :, h].float(), [o_BLHD[:, :, h].float()], [lse_BLH[:, :, h]]
        for m in memories:
            values.append(F.silu(q_BLD @ m.w_in[h]) @ m.w_out[h])
            score_BL = (F.silu(q_BLD @ m.gate_in[h]) @ m.gate_out[h])[..., 0] + q_BLD @ m.slope[h] + m.level[h]
            logits.append(score_BL + m.share[h].log())
        heads.append((torch.stack(logits).softmax(0)[..., None] * torch.stack(values)).sum(0))
    return torch.stack(heads, dim=2)
