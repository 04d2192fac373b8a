"""Causal attention inside segments, by PyTorch's fastest kernels.

B: rows, h: query heads, k: key/value heads, L: tokens, D: head dimension, T = B·L: the tokens of all rows, laid end to end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils._python_dispatch import _disable_current_modes

# On Hopper cuDNN is 1.6 times as fast as flash for the same work (docs/speed.md). What a device lacks is passed over.
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # of queries, keys and values


class _PlainGradient(torch.autograd.Function):
    """The identity; its gradient goes on as a contiguous tensor.

    Given the strides that a model's next layer leaves, the backward pass of cuDNN 9.19 (torch 2.11) silently gets 6 of 15
    heads wrong where rows have an odd length.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


def causal(q_BhLD: Tensor, k_BkLD: Tensor, v_BkLD: Tensor, scale: float | None, dropout: float) -> Tensor:
    """Compute causal attention, with each row as one segment. Returns (batch, query heads, length, dim)."""
    with sdpa_kernel(BACKENDS, set_priority=True):
        out = sdpa(
            q_BhLD, k_BkLD, v_BkLD, is_causal=True, scale=scale, dropout_p=dropout,
            enable_gqa=q_BhLD.shape[1] != k_BkLD.shape[1],
        )  # fmt: skip
    return _PlainGradient.apply(out)


def causal_at_end(q_BhtD: Tensor, k_BkLD: Tensor, v_BkLD: Tensor, scale: float | None, dropout: float) -> Tensor:
    """Compute causal attention for the last t tokens of rows of L. Returns (batch, query heads, t, dim).

    On CUDA no mask is held; PyTorch's kernels for this want as many key heads as query heads.
    """
    groups = q_BhtD.shape[1] // k_BkLD.shape[1]
    k_BhLD, v_BhLD = (x.repeat_interleave(groups, dim=1) for x in (k_BkLD, v_BkLD))
    with _disable_current_modes():  # selective checkpointing is a mode in which PyTorch cannot make the bias
        bias = causal_lower_right(q_BhtD.shape[2], k_BkLD.shape[2])
    return _PlainGradient.apply(sdpa(q_BhtD, k_BhLD, v_BhLD, attn_mask=bias, scale=scale, dropout_p=dropout))


def by_segment(  # noqa: PLR0913  as the kernels have them
    q_BhLD: Tensor, k_BkLD: Tensor, v_BkLD: Tensor, cuts: Tensor, longest: int, scale: float | None, dropout: float
) -> Tensor:  # fmt: skip
    """Compute causal attention inside segments of at most `longest` tokens, in one kernel where the device has it.

    `cuts` (int32, from 0 to T) holds the start of every segment, and T. Returns (batch, query heads, length, dim).
    """
    if q_BhLD.is_cuda and q_BhLD.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return packed(q_BhLD, k_BkLD, v_BkLD, cuts, longest, scale)
    return one_by_one(q_BhLD, k_BkLD, v_BkLD, cuts, partial(causal, scale=scale, dropout=dropout))


def packed(q_BhLD: Tensor, k_BkLD: Tensor, v_BkLD: Tensor, cuts: Tensor, longest: int, scale: float | None) -> Tensor:  # noqa: PLR0913  as the kernel has them
    """Compute causal attention inside segments in one CUDA kernel. Returns (batch, query heads, length, dim).

    The rows are laid end to end. `cuts` (int32, from 0 to T = batch * length) holds the start of every segment, and T.
    A segment has at most `longest` tokens. In torch 2.11 the kernel wants as many key heads as query heads.
    """
    from torch.nn.attention.varlen import varlen_attn

    groups = q_BhLD.shape[1] // k_BkLD.shape[1]
    q_ThD, k_ThD, v_ThD = (
        x.repeat_interleave(n, dim=1).transpose(1, 2).flatten(0, 1)
        for x, n in ((q_BhLD, 1), (k_BkLD, groups), (v_BkLD, groups))
    )
    out_ThD = varlen_attn(q_ThD, k_ThD, v_ThD, cuts, cuts, longest, longest, scale=scale, window_size=(-1, 0))
    assert isinstance(out_ThD, Tensor)
    return out_ThD.unflatten(0, (q_BhLD.shape[0], -1)).transpose(1, 2)


def one_by_one(q_BhLD: Tensor, k_BkLD: Tensor, v_BkLD: Tensor, cuts: Tensor, attend: Attend) -> Tensor:
    """Compute the same as `packed` on any device, with one call of `attend` for each segment."""
    qkv = [x.transpose(0, 1).flatten(1, 2)[None] for x in (q_BhLD, k_BkLD, v_BkLD)]  # (1, h, T, D)
    ends = cuts.tolist()
    outs = [attend(*(x[:, :, a:b] for x in qkv)) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return torch.cat(outs, dim=2)[0].unflatten(1, (q_BhLD.shape[0], -1)).transpose(0, 1)
