"""Documents of one row that are read apart, and a tail behind them that sees them all (`longlora.parallel_documents`).

    tokens       document 1     document 2     document 3    tail (questions and answers)
    positions    3 4 5 6        0 1 2 3 4 5 6  5 6           8 9 10 11 …           P = 7, the longest document's length

The documents end at one position, P-1: a reader then meets each at the distance at which it would stand alone. The tail
begins at P+1, a jump that nothing else in a row makes, and ends where positions restart (padding) or with the row. It sees
every document of the row and, causally, itself, in all heads and in every kind of step. Because it stands last in the row,
that is plain causal attention over the row; only the documents' own tokens have to be kept apart.

`parallel_mask` is the specification: see `shifted_sparse.masked_attention`. B: rows, H, h: query heads, k: key/value heads,
L: tokens, D: head dimension.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from longthread.errors import ConfigError
from trainer_configs.longlora.attention.kernels import causal_at_end
from trainer_configs.longlora.attention.segments import document_starts
from trainer_configs.longlora.attention.shifted_sparse import sparse_mask

SETTING = "longlora.parallel_documents"
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of indices: batch, head, query, key


class Tail(NamedTuple):
    """A tail of a batch: its row, the first token that it sees, and its own tokens, from `start` up to `end`."""

    row: int
    first: int
    start: int
    end: int


class Visible(NamedTuple):
    """What the tokens of a batch see in full attention, as int64 tensors (batch, length).

    A token sees its row causally from `first_BL` on (an index into the row). Sliding windows count in `distance_BL`: the
    positions without the gap before the tail, so that every document stands directly before it.
    """

    first_BL: Tensor
    distance_BL: Tensor

    def mask_function(self, window: int | None = None) -> MaskFunction:
        """Return a mask function for transformers, which it has yet to join with the causal one.

        `window` is the length of a layer's sliding window, in tokens.
        """

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            apart = key >= self.first_BL[batch, query]
            if window is None:
                return apart
            return apart & (self.distance_BL[batch, query] - self.distance_BL[batch, key] < window)

        return seen


def in_tail(positions_BL: Tensor) -> Tensor:
    """Return a bool tensor (batch, length) that is True for the tokens of tails: those between a jump and a restart."""
    index_L = torch.arange(positions_BL.shape[1], device=positions_BL.device)
    jumps_BL = torch.zeros_like(positions_BL, dtype=torch.bool)
    jumps_BL[:, 1:] = positions_BL.diff(dim=1) > 1
    return _last(jumps_BL, index_L) > _last(document_starts(positions_BL), index_L)


def visible(positions_BL: Tensor) -> Visible:
    """Return what each token sees in full attention, from the positions of a batch (batch, length)."""
    index_L = torch.arange(positions_BL.shape[1], device=positions_BL.device)
    tail_BL, starts_BL = in_tail(positions_BL), document_starts(positions_BL)
    row_starts_BL = starts_BL.clone()
    row_starts_BL[:, 1:] &= tail_BL[:, :-1]  # a document behind a tail begins another row of documents
    first_BL = torch.where(tail_BL, _last(row_starts_BL, index_L), _last(starts_BL, index_L))
    return Visible(first_BL, positions_BL - tail_BL.long())


def tails(positions_BL: Tensor) -> list[Tail]:
    """Return the tails of a batch, from its positions (batch, length).

    Raises `ConfigError` for rows with a jump whose documents do not all end two positions before the tail.
    """
    tail_BL = in_tail(positions_BL)
    if not bool(tail_BL.any()):
        return []
    starts_BL, ends_BL = tail_BL.clone(), tail_BL.clone()
    starts_BL[:, 1:] &= ~tail_BL[:, :-1]
    ends_BL[:, :-1] &= ~tail_BL[:, 1:]
    first_BL = visible(positions_BL).first_BL
    borders = zip(starts_BL.nonzero().tolist(), ends_BL.nonzero()[:, 1].tolist(), strict=True)
    found = [Tail(row, int(first_BL[row, start]), start, end + 1) for (row, start), end in borders]
    for tail in found:
        _check(positions_BL[tail.row], tail)
    return found


def borders(found: list[Tail]) -> list[tuple[int, int]]:
    """Return the row and the first token of each tail."""
    return [(tail.row, tail.start) for tail in found]


def is_parallel(positions: list[int]) -> bool:
    """Return whether a row's positions are those of two or more parallel documents with a tail."""
    positions_1L = torch.tensor([positions])
    try:
        return any(
            bool(document_starts(positions_1L)[0, tail.first + 1 : tail.start].any()) for tail in tails(positions_1L)
        )
    except ConfigError:
        return False


def see_all(  # noqa: PLR0913  as SDPA has them
    out_BhLD: Tensor, q_BhLD: Tensor, k_BkLD: Tensor, v_BkLD: Tensor, found: list[Tail], scale: float | None,
    dropout: float,
) -> Tensor:  # fmt: skip
    """Return attention in which the outputs of tails are those of causal attention over their whole row.

    `out_BhLD` is attention inside documents and tails, (batch, query heads, length, dim). What it holds for tails is
    dropped.
    """
    rows = list(out_BhLD.split(1))
    for row, first, start, end in found:
        q_1htD = q_BhLD[row : row + 1, :, start:end]
        k_1kSD, v_1kSD = (x[row : row + 1, :, first:end] for x in (k_BkLD, v_BkLD))
        seen = causal_at_end(q_1htD, k_1kSD, v_1kSD, scale, dropout)
        rows[row] = torch.cat([rows[row][:, :, :start], seen, rows[row][:, :, end:]], dim=2)
    return torch.cat(rows)


def parallel_mask(positions_BL: Tensor, heads: int, kv_heads: int, group_size: int | None = None) -> Tensor:
    """Return which tokens each head sees, bool (batch, heads, length that sees, length that is seen): the specification.

    Documents are read in shifted sparse attention with groups of `group_size` tokens, or in full attention without one;
    tails in full attention in both.
    """
    index_L = torch.arange(positions_BL.shape[1], device=positions_BL.device)
    full_BLL = (index_L >= visible(positions_BL).first_BL[:, :, None]).tril()
    full_BHLL = full_BLL[:, None].expand(-1, heads, -1, -1)
    if group_size is None:
        return full_BHLL
    return torch.where(
        in_tail(positions_BL)[:, None, :, None], full_BHLL, sparse_mask(positions_BL, group_size, heads, kv_heads)
    )


def _last(marked_BL: Tensor, index_L: Tensor) -> Tensor:
    """Return the index of the last marked token up to each token, -1 before the first."""
    return torch.where(marked_BL, index_L, -1).cummax(dim=1).values


def _check(positions_L: Tensor, tail: Tail) -> None:
    documents_S, tail_T = positions_L[tail.first : tail.start], positions_L[tail.start : tail.end]
    last = torch.ones_like(documents_S, dtype=torch.bool)
    last[:-1] = documents_S[1:] <= documents_S[:-1]
    ends, begins = sorted(set(documents_S[last].tolist())), int(tail_T[0])
    if ends != [begins - 2] or bool((tail_T.diff() != 1).any()):
        raise ConfigError(
            f"row {tail.row}: documents end at positions {', '.join(map(str, ends))} and the tail begins at {begins}, but "
            "parallel documents end at one position, two before a tail without gaps: make such rows alone, padded on the "
            f"right, or leave out {SETTING}"
        )
