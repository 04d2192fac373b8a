"""Shifted sparse attention (S²-Attn; LongLoRA, arXiv 2309.12307, section 3.2) for any transformers model, in training.

`reference`, with an explicit mask, says what it is; `shifted_sparse_attention` computes the same in chunks, or with
variable-length kernels where rows are packed (fp32 within 1e-5, bf16 within twice SDPA's own error). `interface.py` puts
it into a model.

    python -m trainer_configs.longlora.attention [PICTURE.png]         # draws what either half of the heads sees

Heads are split between key/value groups, so nothing is repeated: straight heads first, the shifted ones behind them.
B: rows, H: query heads, K: key/value heads, L: tokens, D: head dimension, T = B·L.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from trainer_configs.longlora.attention.segments import (
    Segments,
    document_starts,
    positions_in_document,
    segment_starts,
)

# On Hopper cuDNN is 1.6 times as fast as flash for the same work (README, table); what a device lacks is passed over.
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class AttentionError(ValueError):
    """A model or a batch that shifted sparse attention cannot do right: one line."""


def split_heads(heads: int, kv_heads: int) -> tuple[int, int]:
    """Straight query heads, and the key/value heads they use. One key/value head is shared by both halves."""
    if kv_heads == 1:
        return (heads + 1) // 2, 1
    straight = (kv_heads + 1) // 2
    return straight * (heads // kv_heads), straight


def reference(
    q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, positions_BL: Tensor, group_size: int, sink_tokens: int = 0,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """The specification, (B, H, L, D): an explicit mask. A token sees those before it in its segment, and the first
    `sink_tokens` of its document."""
    heads, kv_heads = q_BHLD.shape[1], k_BKLD.shape[1]
    straight, _ = split_heads(heads, kv_heads)
    document_BL = document_starts(positions_BL).cumsum(1)
    sink_BL = positions_in_document(positions_BL) < sink_tokens
    masks = []
    for shifted in (False, True):
        segment_BL = segment_starts(positions_BL, group_size, shifted).cumsum(1)
        sink_BLL = (document_BL[:, :, None] == document_BL[:, None, :]) & sink_BL[:, None, :]
        masks.append(((segment_BL[:, :, None] == segment_BL[:, None, :]) | sink_BLL).tril())
    mask_BHLL = torch.stack([masks[head >= straight] for head in range(heads)], dim=1)
    k_BHLD, v_BHLD = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k_BKLD, v_BKLD))
    return sdpa(q_BHLD, k_BHLD, v_BHLD, attn_mask=mask_BHLL, scale=scale)


def shifted_sparse_attention(
    q_BHLD: Tensor,
    k_BKLD: Tensor,
    v_BKLD: Tensor,
    cuts: Segments,
    group_size: int,
    sink_tokens: int = 0,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The same as `reference`, fast. Raises `AttentionError` for sink tokens in packed rows."""
    straight, kv = split_heads(q_BHLD.shape[1], k_BKLD.shape[1])
    shared = k_BKLD.shape[1] == 1
    attend = partial(_causal, scale=scale, dropout=dropout)
    halves = []
    for shifted, q, k, v in (
        (False, q_BHLD[:, :straight], k_BKLD[:, :kv], v_BKLD[:, :kv]),
        (True, q_BHLD[:, straight:], *((k_BKLD, v_BKLD) if shared else (k_BKLD[:, kv:], v_BKLD[:, kv:]))),
    ):
        lengths = cuts.shifted if shifted else cuts.straight
        if lengths is None:
            first = group_size // 2 if shifted else group_size if sink_tokens else 0
            halves.append(_chunked(q, k, v, first, group_size, sink_tokens, attend))
        elif sink_tokens:
            raise AttentionError(
                "sink_tokens need rows of one document each: set sample_packing false or sink_tokens 0"
            )
        elif q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and not dropout:
            halves.append(_varlen(q, k, v, lengths, group_size, scale))
        else:
            halves.append(_one_by_one(q, k, v, lengths, attend))
    return torch.cat(halves, dim=1)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class _PlainGradient(torch.autograd.Function):
    """The identity; its gradient goes on as a contiguous tensor. Given the strides that a model's next layer leaves, the
    backward pass of cuDNN 9.19 (torch 2.11) gets 6 of 15 heads wrong where rows have an odd length, without a word."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float) -> Tensor:
    with sdpa_kernel(BACKENDS, set_priority=True):
        out = sdpa(q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1])
    return _PlainGradient.apply(out)


def _chunked(q: Tensor, k: Tensor, v: Tensor, first: int, size: int, sinks: int, attend: Attend) -> Tensor:
    """A chunk of `first` tokens, n chunks of `size` folded into the batch, and what is left. To each but the first the
    sink tokens are put in front, queries too: the mask then is causal, and their outputs are dropped."""
    rows, length = q.shape[0], q.shape[2]
    first = min(first, length)
    n = (length - first) // size
    sizes = (first, n * size, length - first - n * size)
    # Split, not sliced: the gradient of every slice would be a tensor of zeros as long as the row, to be filled and added.
    heads, bodies, tails = zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True)
    sink = [x[:, :, :sinks] for x in (q, k, v)]
    outs = []
    if first and sizes[2] == first and not sinks:  # two half groups: one batch
        ends = attend(*(torch.cat(pair) for pair in zip(heads, tails, strict=True)))
        outs = [ends[:rows], ends[rows:]]
    else:
        outs = [attend(*heads)] if first else []
        if sizes[2]:
            outs.append(attend(*(torch.cat(pair, dim=2) for pair in zip(sink, tails, strict=True)))[:, :, sinks:])
    if n:
        body = attend(*(_folded(*pair, n) for pair in zip(sink, bodies, strict=True)))[:, :, sinks:]
        outs.insert(1 if first else 0, body.unflatten(0, (rows, n)).transpose(1, 2).flatten(2, 3))
    return torch.cat(outs, dim=2) if len(outs) > 1 else outs[0]


def _folded(sink_BhsD: Tensor, x_BhLD: Tensor, n: int) -> Tensor:
    """n chunks as rows, sink tokens in front of each: (B·n, h, s + L/n, D)."""
    chunks = x_BhLD.unflatten(2, (n, -1)).transpose(1, 2)  # (B, n, h, L/n, D)
    if sink_BhsD.shape[2]:
        chunks = torch.cat([sink_BhsD[:, None].expand(-1, n, -1, -1, -1), chunks], dim=3)
    return chunks.flatten(0, 1)


def _varlen(q: Tensor, k: Tensor, v: Tensor, cuts: Tensor, size: int, scale: float | None) -> Tensor:
    """Segments of all rows laid end to end, in one kernel; in torch 2.11 it wants as many key heads as query heads."""
    from torch.nn.attention.varlen import varlen_attn

    groups = q.shape[1] // k.shape[1]
    q_THD, k_THD, v_THD = (
        x.repeat_interleave(n, dim=1).transpose(1, 2).flatten(0, 1) for x, n in ((q, 1), (k, groups), (v, groups))
    )
    out = varlen_attn(q_THD, k_THD, v_THD, cuts, cuts, size, size, scale=scale, window_size=(-1, 0))
    assert isinstance(out, Tensor)
    return out.unflatten(0, (q.shape[0], -1)).transpose(1, 2)


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, cuts: Tensor, attend: Attend) -> Tensor:
    """The same, a call a segment."""
    q_hTD, k_hTD, v_hTD = (x.transpose(0, 1).flatten(1, 2)[None] for x in (q, k, v))
    ends = cuts.tolist()
    spans = zip(ends[:-1], ends[1:], strict=True)
    outs = [attend(q_hTD[:, :, a:b], k_hTD[:, :, a:b], v_hTD[:, :, a:b]) for a, b in spans]
    return torch.cat(outs, dim=2)[0].unflatten(1, (q.shape[0], -1)).transpose(0, 1)


def draw(path: str) -> None:
    """A picture of the two patterns, for 32 tokens and groups of 8."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), sharey=True)
    positions_BL = torch.arange(32)[None]
    for axis, shifted in zip(axes, (False, True), strict=True):
        segment_L = segment_starts(positions_BL, 8, shifted).cumsum(1)[0]
        axis.imshow((segment_L[:, None] == segment_L[None]).tril(), cmap="Blues", vmin=-0.2, vmax=1.2)
        axis.set(title=f"{'shifted' if shifted else 'straight'} half of the heads", xlabel="token that is seen")
    axes[0].set_ylabel("token that sees")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(path)
