"""The log-sum-exp of attention scores, over a window (with a gradient, which torch's kernels do not offer) or a document.

B: rows, L: queries, S: keys, H: query heads, K: key/value heads, D: head dimension.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SCORES = 1 << 26  # attention scores in memory at a time, when the log-sum-exp takes a pass of its own
NOTHING = -1e30  # the log-sum-exp of a query that sees no key: finite, so that gradients are never NaN


def log_sum_exp(q_BHLD: Tensor, k_BKSD: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """Return the log-sum-exp of each query's scores over the keys it sees: (batch, length, heads), fp32,
    differentiable.

    `mask` is boolean or additive, (B or 1, 1 or H, L, S). With `causal` and no mask, the queries are the last L of S
    tokens. Uses flash attention's own log-sum-exp where there is one, else computes it from the keys alone, piece by
    piece.
    """
    rows, heads, length, _ = q_BHLD.shape
    kv_heads, keys = k_BKSD.shape[1], k_BKSD.shape[2]
    causal = causal and length > 1
    if mask is None and (length == keys or not causal) and _flash_takes(q_BHLD):
        k_BHSD = k_BKSD.repeat_interleave(heads // kv_heads, dim=1)
        return _FlashLogSumExp.apply(q_BHLD, k_BHSD, scale, causal).transpose(1, 2).float()
    q = q_BHLD.float().unflatten(1, (kv_heads, -1)) * scale  # (B, K, H/K, L, D)
    k = k_BKSD.float()[:, :, None].transpose(-1, -2)  # (B, K, 1, D, S)
    step = max(1, SCORES // max(1, rows * heads * keys))
    pieces = []
    for first in range(0, length, step):
        scores = (q[:, :, :, first : first + step] @ k).flatten(1, 2)  # (B, H, piece, S)
        if mask is not None:
            part = mask[..., first : first + step, :keys]
            scores = scores.masked_fill(~part, NOTHING) if part.dtype == torch.bool else scores + part.float()
        elif causal:
            last = torch.arange(first, first + scores.shape[2], device=q.device)[:, None] + keys - length
            scores = scores.masked_fill(torch.arange(keys, device=q.device) > last, NOTHING)
        pieces.append(scores.logsumexp(-1))
    return torch.cat(pieces, dim=2).clamp(min=NOTHING).transpose(1, 2)


def attention_and_log_sum_exp(
    q_BHLD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor] | None:
    """Return attention, (B, L, H, D), and its `log_sum_exp`, (B, L, H), of one kernel, which saves the pass over the keys.

    None where no kernel gives both: with a gradient, and on a GPU, where none does so under a mask. Takes what `log_sum_exp`
    takes; with `causal` and no mask there are as many keys as queries.
    """
    if torch.is_grad_enabled() or q_BHLD.device.type != "cpu":
        return None
    additive, blind_BL1 = mask, None
    if mask is not None and mask.dtype == torch.bool:
        additive = torch.zeros_like(mask, dtype=q_BHLD.dtype).masked_fill_(~mask, -torch.inf)
        blind_BL1 = ~mask.any(-1).transpose(1, 2)  # for which the kernel gives 0
    k, v = (x.repeat_interleave(q_BHLD.shape[1] // x.shape[1], dim=1) for x in (k_BKSD, v_BKSD))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = kernel(q_BHLD, k, v, 0.0, causal and mask is None, attn_mask=additive, scale=scale)
    lse_BLH = lse.transpose(1, 2).float().clamp(min=NOTHING)
    lse_BLH = lse_BLH if blind_BL1 is None else lse_BLH.masked_fill(blind_BL1, NOTHING)
    return out.transpose(1, 2).contiguous(), lse_BLH


class _FlashLogSumExp(torch.autograd.Function):
    """Flash attention's log-sum-exp, (B, H, L), with the gradient that the kernel lacks.

    The kernel's backward pass computes the gradient of the scores as P (dO V^T - rowsum(dO O)). With V = 0, dO = e_1 and
    O = -dLSE e_1 this is P dLSE, the gradient of the log-sum-exp.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
        _, lse, *rest = _flash_attention(q, k, k, scale, causal)
        ctx.bounds, ctx.random = rest[:4], rest[4:6]  # rows' bounds and lengths; the state of a dropout of 0
        ctx.save_for_backward(q, k, lse)
        ctx.scale, ctx.causal = scale, causal
        return lse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, lse = ctx.saved_tensors
        out, d_out = torch.zeros_like(q), torch.zeros_like(q)
        out[..., 0], d_out[..., 0] = -gradients[0], 1
        inputs = (d_out, q, k, torch.zeros_like(k), out, lse)
        if q.is_cuda:
            backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
            d_q, d_k, _ = backward(*inputs, *ctx.bounds, 0.0, ctx.causal, *ctx.random, scale=ctx.scale)
        else:
            backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            d_q, d_k, _ = backward(*inputs, 0.0, ctx.causal, scale=ctx.scale)
        return d_q, d_k, None, None


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Any, ...]:
    """Return attention and its log-sum-exp, (B, H, L); on a GPU also what the backward pass needs."""
    if q.is_cuda:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)


def _flash_takes(q: Tensor) -> bool:
    if q.is_cuda:
        return q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    return q.device.type == "cpu"


def document_attention(q_BHLD: Tensor, k_KSD: Tensor, v_KSD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend with every query to all keys of a document.

    Returns the output, (batch, length, heads, dim) in fp32, and its log-sum-exp, (batch, length, heads). Both with a
    gradient for the queries, where these have one.
    """
    rows, heads, length, dim = q_BHLD.shape
    k, v = (x.repeat_interleave(heads // x.shape[0], dim=0)[None] for x in (k_KSD, v_KSD))  # (1, H, S, D)
    if _flash_takes(q_BHLD):
        q = q_BHLD.transpose(0, 1).reshape(1, heads, rows * length, dim)
        out, lse, *_ = _flash_attention(q, k, v, scale, causal=False)
        if q.requires_grad:  # the kernel gives its log-sum-exp none
            lse = _FlashLogSumExp.apply(q, k, scale, False)
        out, lse = out[0].unflatten(1, (rows, length)), lse[0].float().unflatten(1, (rows, length))
        return out.permute(1, 2, 0, 3).float(), lse.permute(1, 2, 0)
    out = F.scaled_dot_product_attention(q_BHLD, k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1), scale=scale)
    lse = log_sum_exp(q_BHLD, k.expand(rows, -1, -1, -1), None, scale, causal=False)
    return out.transpose(1, 2).float(), lse
