"""The gated memory of one layer: what a document would add to its attention, without the document (LIFT, arXiv 2502.14644v3).

Softmax attention over a document C and a window W splits exactly: o = (1 - g) o_W + g m, with m the attention over C alone
and g = Z_C / (Z_C + Z_W) = sigmoid(LSE_C - LSE_W). The memory m(q) is a small network for each query head, of the query
before RoPE. The gate:

    lse     ours: s(q), learnt to be LSE_C(q), against the window's own log-sum-exp: it falls as the window fills, and
            several documents compose as softmax over [LSE_W, s_1, ..., s_n].
    query   the published one: sigmoid(3 (x(q) - 1)), which cannot know how much the window holds.

B: rows, L: tokens, H: query heads, D: head dimension, S: keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Gate = Literal["lse", "query"]
SCORES = 1 << 26  # attention scores in memory at a time, when the log-sum-exp takes a pass of its own
NOTHING = -1e30  # the log-sum-exp of a query that sees no key: finite, so that no gradient is not a number


class Recalled(NamedTuple):
    """What one document's memory says to a query. `score` is s(q), or the published gate's logit; `share` how far the
    memory is opened, 0 to 1."""

    memory_BLHD: Tensor
    score_BLH: Tensor
    share_H: Tensor


class GatedMemory(nn.Module):
    """m_h(q) = SiLU(q A_h) B_h and the gate's net for every query head, in fp32 whatever the model's dtype.

    A new one is closed (`share` 0), so that the model is what it was, exactly. `published`: the authors' instead, which is
    open at 0.047 and whose weights are 1/sqrt(D) times too small, since torch takes in x out for the fan-in of a 3-D tensor.
    """

    def __init__(self, heads: int, dim: int, gate: Gate = "lse", width: int = 2, published: bool = False):
        super().__init__()
        self.gate, narrow = gate, int(dim**0.5)
        self.w_in = nn.Parameter(_uniform(heads, dim, width * dim, published))
        self.w_out = nn.Parameter(_uniform(heads, width * dim, dim, published))
        self.gate_in = nn.Parameter(_uniform(heads, dim, narrow, published))
        self.gate_out = nn.Parameter(_uniform(heads, narrow, 1, published))
        if published:  # no parameter: PEFT turns on the gradients of all that an active adapter has
            self.register_buffer("share", torch.ones(heads))
        else:
            self.share = nn.Parameter(torch.zeros(heads))
        if gate == "lse":  # the log-sum-exp is nearly linear in the query wherever one key outweighs the others
            self.slope = nn.Parameter(torch.zeros(heads, dim))
            self.level = nn.Parameter(torch.zeros(heads))

    def forward(self, q_BLHD: Tensor) -> Recalled:
        rows, weights = q_BLHD.shape[:2], dict(self.named_parameters())
        if torch.is_grad_enabled():
            # Row by row: a weight's gradient is many short sums, which fill a device, and not a long one for each head.
            # Queries are laid out so once, not by each product.
            q_BHLD = q_BLHD.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
            memory_BHLD, score_BHL = recall(q_BHLD, weights, self.gate)
            return Recalled(memory_BHLD.transpose(1, 2), score_BHL.transpose(1, 2), self.share)
        memory_HTD, score_HT = recall(q_BLHD.float().flatten(0, 1).transpose(0, 1), weights, self.gate)  # T = B L
        memory_BLHD = memory_HTD.transpose(0, 1).unflatten(0, rows)
        return Recalled(memory_BLHD, score_HT.transpose(0, 1).unflatten(0, rows), self.share)


def _uniform(heads: int, into: int, out: int, published: bool) -> Tensor:
    bound = (into * out if published else into) ** -0.5
    return torch.empty(heads, into, out).uniform_(-bound, bound)


def recall(q_HTD: Tensor, weights: Mapping[str, Tensor], gate: Gate) -> tuple[Tensor, Tensor]:
    """The memory and the gate's score (H, T). H may be all layers' heads: distillation trains them at once. Rows may stand
    before H."""
    memory_HTD = F.silu(q_HTD @ weights["w_in"]) @ weights["w_out"]
    score_HT = (F.silu(q_HTD @ weights["gate_in"]) @ weights["gate_out"])[..., 0]
    if gate == "query":
        return memory_HTD, 3 * (score_HT - 1)
    return memory_HTD, score_HT + (q_HTD @ weights["slope"][..., None])[..., 0] + weights["level"][:, None]


def gates(recalled: Sequence[Recalled], gate: Gate, lse_BLH: Tensor | None) -> list[Tensor]:
    """The share of each document in the attention, (B, L, H) each; what is left to 1 is the window's."""
    if gate == "query":
        return [_within(each.share_H, 1.0) * torch.sigmoid(each.score_BLH) for each in recalled]
    assert lse_BLH is not None
    top = torch.stack([lse_BLH, *(each.score_BLH for each in recalled)]).amax(0).detach()
    documents = [_within(each.share_H) * torch.exp(each.score_BLH - top) for each in recalled]
    whole = torch.exp(lse_BLH - top) + torch.stack(documents).sum(0)
    return [each / whole.clamp(min=1e-30) for each in documents]


def _within(share_H: Tensor, most: float | None = None) -> Tensor:
    """The share between 0 and `most`; its gradient is as if it were not held there, or a memory whose first step is towards
    less than nothing would stay closed for good."""
    return share_H + (share_H.clamp(0, most) - share_H).detach()


def mixed(o_BLHD: Tensor, recalled: Sequence[Recalled], gate: Gate, lse_BLH: Tensor | None) -> Tensor:
    """o + sum of g_i (m_i - o), in fp32 and back: where no memory is open that is o, bit for bit."""
    o = out = o_BLHD.float()
    for g_BLH, each in zip(gates(recalled, gate, lse_BLH), recalled, strict=True):
        out = torch.addcmul(out, g_BLH[..., None], each.memory_BLHD - o)
    return out.to(o_BLHD.dtype)


def log_sum_exp(
    q_BHLD: Tensor, k_BKSD: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> Tensor:  # fmt: skip
    """Of a query's scores over the keys that it sees, (B, L, H) in fp32. `mask` is boolean or additive, (B or 1, 1 or H, L,
    S); None with `causal`: the last L of S tokens ask. Differentiable. Flash attention's own, where it takes them; else a
    pass over the keys alone, in pieces."""
    rows, heads, length, _ = q_BHLD.shape
    kv_heads, keys = k_BKSD.shape[1], k_BKSD.shape[2]
    causal = causal and length > 1
    if mask is None and (length == keys or not causal) and _flash_takes(q_BHLD):
        k = k_BKSD.repeat_interleave(heads // kv_heads, dim=1)
        return _FlashLogSumExp.apply(q_BHLD, k, scale, causal).transpose(1, 2).float()
    q = q_BHLD.float().unflatten(1, (kv_heads, -1)) * scale  # (B, K, H/K, L, D)
    k = k_BKSD.float()[:, :, None].transpose(-1, -2)  # (B, K, 1, D, S)
    step = max(1, SCORES // max(1, rows * heads * keys))
    pieces = []
    for a in range(0, length, step):
        scores = (q[:, :, :, a : a + step] @ k).flatten(1, 2)  # (B, H, l, S)
        if mask is not None:
            part = mask[..., a : a + step, :keys]
            scores = scores.masked_fill(~part, NOTHING) if part.dtype == torch.bool else scores + part.float()
        elif causal:
            last = torch.arange(a, a + scores.shape[2], device=q.device)[:, None] + keys - length
            scores = scores.masked_fill(torch.arange(keys, device=q.device) > last, NOTHING)
        pieces.append(scores.logsumexp(-1))
    return torch.cat(pieces, dim=2).clamp(min=NOTHING).transpose(1, 2)


class _FlashLogSumExp(torch.autograd.Function):
    """Flash attention's log-sum-exp, (B, H, L), with a gradient, which the kernel has none for. Its backward pass takes the
    scores' to be P (dO V^T - rowsum(dO O)): with V = 0, dO = e_1 and O = -dLSE e_1 that is P dLSE, which is wanted."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
        _, lse, *rest = _flash_attention(q, k, k, scale, causal)
        ctx.where, ctx.random = rest[:4], rest[4:6]  # rows' bounds and lengths; the state of a dropout that is none
        ctx.save_for_backward(q, k, lse)
        ctx.scale, ctx.causal = scale, causal
        return lse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, lse = ctx.saved_tensors
        out, seen = torch.zeros_like(q), torch.zeros_like(q)
        out[..., 0], seen[..., 0] = -gradients[0], 1
        given = (seen, q, k, torch.zeros_like(k), out, lse)
        if q.is_cuda:
            backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
            d_q, d_k, _ = backward(*given, *ctx.where, 0.0, ctx.causal, *ctx.random, scale=ctx.scale)
        else:
            backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            d_q, d_k, _ = backward(*given, 0.0, ctx.causal, scale=ctx.scale)
        return d_q, d_k, None, None


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Any, ...]:
    """Attention and its log-sum-exp, (B, H, L); on a GPU also what the backward pass asks for."""
    if q.is_cuda:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)


def _flash_takes(q: Tensor) -> bool:
    if q.is_cuda:
        return q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    return q.device.type == "cpu"


# ---- what a teacher sees: the document itself -------------------------------------------------------------------


class Observed(NamedTuple):
    """Of one layer: queries before RoPE, what they find in the window and in the document. Logs are fp32."""

    q_HTD: Tensor
    window_HTD: Tensor
    lse_window_HT: Tensor
    memory_HTD: Tensor
    lse_document_HT: Tensor


def document_attention(q_BHLD: Tensor, k_KSD: Tensor, v_KSD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of every query over a document's keys, (B, L, H, D) fp32, and its log-sum-exp, (B, L, H)."""
    rows, heads, length, dim = q_BHLD.shape
    k, v = (x.repeat_interleave(heads // x.shape[0], dim=0)[None] for x in (k_KSD, v_KSD))
    if _flash_takes(q_BHLD):
        q = q_BHLD.transpose(0, 1).reshape(1, heads, rows * length, dim)
        out, lse, *_ = _flash_attention(q, k, v, scale, causal=False)
        out, lse = out[0].unflatten(1, (rows, length)), lse[0].float().unflatten(1, (rows, length))
        return out.permute(1, 2, 0, 3).float(), lse.permute(1, 2, 0)
    out = F.scaled_dot_product_attention(q_BHLD, k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1), scale=scale)
    lse = log_sum_exp(q_BHLD, k.expand(rows, -1, -1, -1), None, scale, causal=False)
    return out.transpose(1, 2).float(), lse
