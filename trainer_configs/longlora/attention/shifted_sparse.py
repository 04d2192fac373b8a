"""Shifted sparse attention (S²-Attn; LongLoRA, arXiv 2309.12307, section 3.2) for any transformers model, in training.

`reference`, with an explicit mask, is the specification. `shifted_sparse_attention` computes the same in chunks, or with
variable-length kernels where rows are packed (fp32 within 1e-5, bf16 within twice SDPA's own error).

    python -m trainer_configs.longlora.attention [PICTURE.png]         # draws what either half of the heads sees

Heads are split between key/value groups, so nothing is repeated: straight heads first, the shifted ones behind them.
B: rows, H: query heads, K: key/value heads, L: tokens, D: head dimension; h, k: heads of one half.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from longthread.errors import ConfigError
from trainer_configs.longlora.attention.kernels import Attend, by_segment, causal
from trainer_configs.longlora.attention.segments import Segments, document_starts, positions_in_document, segment_starts


def split_heads(heads: int, kv_heads: int) -> tuple[int, int]:
    """Return how many query heads are straight (not shifted), and how many key/value heads these use.

    One key/value head is shared by both halves.
    """
    if kv_heads == 1:
        return (heads + 1) // 2, 1
    straight = (kv_heads + 1) // 2
    return straight * (heads // kv_heads), straight


def reference(  # noqa: PLR0913  as SDPA has them
    q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, positions_BL: Tensor, group_size: int, sink_tokens: int = 0,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Compute shifted sparse attention by an explicit mask, as its specification. Returns (batch, heads, length, dim).

    A token sees those before it in its segment, and its document's first `sink_tokens` tokens.
    """
    mask_BHLL = sparse_mask(positions_BL, group_size, q_BHLD.shape[1], k_BKLD.shape[1], sink_tokens)
    return masked_attention(q_BHLD, k_BKLD, v_BKLD, mask_BHLL, scale)


def masked_attention(
    q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, mask_BHLL: Tensor, scale: float | None = None
) -> Tensor:
    """Compute attention by an explicit mask, True where a token is seen. Returns (batch, heads, length, dim)."""
    k_BHLD, v_BHLD = (x.repeat_interleave(q_BHLD.shape[1] // x.shape[1], dim=1) for x in (k_BKLD, v_BKLD))
    return sdpa(q_BHLD, k_BHLD, v_BHLD, attn_mask=mask_BHLL, scale=scale)


def sparse_mask(positions_BL: Tensor, group_size: int, heads: int, kv_heads: int, sink_tokens: int = 0) -> Tensor:
    """Return which tokens each head sees, bool (batch, heads, length that sees, length that is seen)."""
    straight, _ = split_heads(heads, kv_heads)
    document_BL = document_starts(positions_BL).cumsum(1)
    sink_BL = positions_in_document(positions_BL) < sink_tokens
    sink_BLL = (document_BL[:, :, None] == document_BL[:, None, :]) & sink_BL[:, None, :]
    masks = []
    for shifted in (False, True):
        segment_BL = segment_starts(positions_BL, group_size, shifted).cumsum(1)
        masks.append(((segment_BL[:, :, None] == segment_BL[:, None, :]) | sink_BLL).tril())
    return torch.stack([masks[head >= straight] for head in range(heads)], dim=1)


def shifted_sparse_attention(  # noqa: PLR0913  as SDPA has them
    q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, cuts: Segments, group_size: int, sink_tokens: int = 0,
    scale: float | None = None, dropout: float = 0.0,
) -> Tensor:  # fmt: skip
    """Compute `reference` fast, from the segment boundaries. Raises `ConfigError` for sink tokens in packed rows."""
    straight, kv = split_heads(q_BHLD.shape[1], k_BKLD.shape[1])
    shifted_kv = 0 if k_BKLD.shape[1] == 1 else kv
    halves = (
        ((q_BHLD[:, :straight], k_BKLD[:, :kv], v_BKLD[:, :kv]), cuts.straight, group_size if sink_tokens else 0),
        ((q_BHLD[:, straight:], k_BKLD[:, shifted_kv:], v_BKLD[:, shifted_kv:]), cuts.shifted, group_size // 2),
    )
    attend = partial(causal, scale=scale, dropout=dropout)
    outs = []
    for qkv, half_cuts, first in halves:
        if half_cuts is None:
            outs.append(chunked(qkv, first, group_size, sink_tokens, attend))
        elif sink_tokens:
            raise ConfigError("sink_tokens need rows of one document each: set sample_packing false or sink_tokens 0")
        else:
            outs.append(by_segment(*qkv, half_cuts, group_size, scale, dropout))
    return torch.cat(outs, dim=1)


def chunked(qkv: tuple[Tensor, Tensor, Tensor], first: int, size: int, sink_tokens: int, attend: Attend) -> Tensor:
    """Attend in rows of one document each, cut into a first chunk, n chunks of `size`, which become rows, and a tail.

    tokens  |0 … first|first …  |         |      … L|         head (B, h, first, D): attends as it is
            |  head   | chunk 1 |   …     | chunk n | tail |  body (B·n, h, size, D), tail (B, h, rest, D): behind the sinks
    """
    rows, _, length, _ = qkv[0].shape
    first = min(first, length)
    n = (length - first) // size
    rest = length - first - n * size
    # Split, not sliced: the gradient of every slice would be a tensor of zeros as long as the row, to be filled and added.
    head, body, tail = zip(*(x.split((first, n * size, rest), dim=2) for x in qkv), strict=True)
    sinks = [x[:, :, :sink_tokens] for x in qkv] if sink_tokens else None
    outs = []
    if first and rest == first and not sinks:  # two half groups: one batch
        ends = attend(*(torch.cat(pair) for pair in zip(head, tail, strict=True)))
        outs = [ends[:rows], ends[rows:]]
    else:
        outs = [attend(*head)] if first else []
        outs += [_behind_sinks([x[:, None] for x in tail], sinks, attend).squeeze(1)] if rest else []
    if n:
        out_BnhlD = _behind_sinks([x.unflatten(2, (n, -1)).transpose(1, 2) for x in body], sinks, attend)
        outs.insert(1 if first else 0, out_BnhlD.transpose(1, 2).flatten(2, 3))
    return torch.cat(outs, dim=2) if len(outs) > 1 else outs[0]


def _behind_sinks(chunks_BnhlD: list[Tensor], sinks_BhsD: list[Tensor] | None, attend: Attend) -> Tensor:
    """Compute attention (B, n, h, l, D) of n chunks, each of which sees the sink tokens too.

    They are put in front of it, queries too. The mask then is causal, and the sinks' own outputs are dropped.
    """
    rows, n = chunks_BnhlD[0].shape[:2]
    if not sinks_BhsD:
        return attend(*(x.flatten(0, 1) for x in chunks_BnhlD)).unflatten(0, (rows, n))
    sinks = [x[:, None].expand(-1, n, -1, -1, -1) for x in sinks_BhsD]
    joined = [torch.cat(pair, dim=3).flatten(0, 1) for pair in zip(sinks, chunks_BnhlD, strict=True)]
    return attend(*joined)[:, :, sinks_BhsD[0].shape[2] :].unflatten(0, (rows, n))
