"""Tail-global attention: a row's context is read in chunks, and what is asked about it at the end sees everything.

    tokens    context (haystack)            | tail (the first question, answers, further questions)
    context   causal in chunks of c tokens, behind the row's first `sink_tokens` tokens
    tail      full causal attention over the whole row, in all heads

Only labelled tokens teach, and those of haystack rows stand in the tail: each of their distances to a needle is trained in
every step, while the many context tokens, which are never asked anything, cost a chunk each (compare Star Attention, arXiv
2411.17116, where blocks are read apart and the question sees all of them). A row with labels from its start, plain text, is
all tail and runs in full attention.

`reference`, with an explicit mask, is the specification; `tail_global_attention` computes the same without one.
B: rows, H: query heads, K: key/value heads, L: tokens, D: head dimension.
"""

from functools import partial

import torch
from torch import Tensor

from trainer_configs.longlora.attention.kernels import causal, causal_at_end
from trainer_configs.longlora.attention.shifted_sparse import chunked, masked_attention

IGNORED = -100  # the label of tokens that are not learnt
QUESTION_TOKENS = 128  # before the first label: the question to it, which has none, must see its answer too


def tail_start(labels_BL: Tensor, question_tokens: int = QUESTION_TOKENS) -> int:
    """Return where the tail of a batch begins: `question_tokens` before the token that predicts the first label.

    All rows of the batch share it; it is their length where nothing is labelled.
    """
    labelled_L = (labels_BL != IGNORED).any(dim=0)
    if not bool(labelled_L.any()):
        return labels_BL.shape[1]
    return max(0, int(labelled_L.int().argmax()) - 1 - question_tokens)


def tail_global_mask(length: int, start: int, chunk_size: int, sink_tokens: int = 0) -> Tensor:
    """Return which tokens each token sees, bool (length that sees, length that is seen)."""
    index_L = torch.arange(length)
    chunk_L = index_L // chunk_size
    seen_LL = (chunk_L[:, None] == chunk_L) | (index_L < sink_tokens) | (index_L[:, None] >= start)
    return seen_LL.tril()


def reference(  # noqa: PLR0913  as SDPA has them
    q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, start: int, chunk_size: int, sink_tokens: int = 0,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Compute tail-global attention by an explicit mask, as its specification. Returns (batch, heads, length, dim)."""
    mask_LL = tail_global_mask(q_BHLD.shape[2], start, chunk_size, sink_tokens).to(q_BHLD.device)
    return masked_attention(q_BHLD, k_BKLD, v_BKLD, mask_LL[None, None], scale)


def tail_global_attention(  # noqa: PLR0913  as SDPA has them
    q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, start: int, chunk_size: int, sink_tokens: int = 0,
    scale: float | None = None, dropout: float = 0.0,
) -> Tensor:  # fmt: skip
    """Compute `reference` fast: the context's chunks as rows of one batch, and the tail against all keys."""
    attend = partial(causal, scale=scale, dropout=dropout)
    if start <= chunk_size:  # one chunk, which the tail goes on: plain causal attention
        return attend(q_BHLD, k_BKLD, v_BKLD)
    rest = q_BHLD.shape[2] - start
    (q_context, k_context, v_context), (q_tail, _, _) = zip(
        *(x.split((start, rest), dim=2) for x in (q_BHLD, k_BKLD, v_BKLD)), strict=True
    )
    first = chunk_size if sink_tokens else 0  # the first chunk holds the sinks itself
    context_BHCD = chunked((q_context, k_context, v_context), first, chunk_size, sink_tokens, attend)
    if not rest:
        return context_BHCD
    tail_BHTD = causal_at_end(q_tail, k_BKLD, v_BKLD, scale, dropout)
    return torch.cat([context_BHCD, tail_BHTD], dim=2)


def tail_density(length: int, tail: int, chunk_size: int) -> float:
    """Return how many pairs of tokens are computed, as a share of those of full causal attention.

    `tail` is the tokens of the tail, `length` those of the row.
    """
    context = length - tail
    local = min(1.0, chunk_size / context) * context**2 / 2 if context else 0.0
    return (local + tail * (length - tail / 2)) / (length**2 / 2)
