"""Divide sequences into segments for shifted sparse attention, in two ways: one for each half of the attention heads.

    tokens of a document    0 1 2 3 4 5 6 7 8 9 …          group_size g = 4
    straight heads         |0 1 2 3|4 5 6 7|8 9 …           cut at 0, g, 2g, …
    shifted heads          |0 1|2 3 4 5|6 7 8 9|…           cut at 0, g/2, 3g/2, …

Attention is causal inside a segment and nowhere else: nothing is rolled, so nothing wraps and nothing leaks (LongLoRA,
arXiv 2309.12307, table 8, variant 2). Right padding needs nothing, because no token sees what stands behind it.

Documents are told apart by positions alone, whatever mask a row carries. A document begins where positions restart: where
one is not above the position before it. A position that skips ahead (PoSE, arXiv 2309.10400) begins none, and segments
count tokens, not positions: a skip moves no border.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Borders = Sequence[tuple[int, int]]  # (row, token) where a segment begins


class Segments(NamedTuple):
    """The segment boundaries of a batch, one tensor for each half of the attention heads (straight and shifted).

    Each tensor (int32) holds cumulative segment lengths over all rows laid end to end, from 0 to batch * length.
    Variable-length kernels take them in this form. They are computed once a forward pass. None stands where every row
    is one document: the group size alone then gives the boundaries.
    """

    straight: Tensor | None
    shifted: Tensor | None


def document_starts(positions_BL: Tensor) -> Tensor:
    """Return a bool tensor (batch, length) that is True at the first token of every document: where positions restart."""
    starts_BL = torch.ones_like(positions_BL, dtype=torch.bool)
    starts_BL[:, 1:] = positions_BL[:, 1:] <= positions_BL[:, :-1]
    return starts_BL


def positions_in_document(positions_BL: Tensor) -> Tensor:
    """Return each token's position in its document, 0, 1, 2, …, int64 (batch, length)."""
    index_L = torch.arange(positions_BL.shape[1], device=positions_BL.device)
    starts_BL = torch.where(document_starts(positions_BL), index_L, 0)
    return index_L - starts_BL.cummax(dim=1).values


def segment_starts(positions_BL: Tensor, group_size: int, shifted: bool) -> Tensor:
    """Return a bool tensor (batch, length) that is True at the first token of every segment.

    Segments begin at a document's start and every `group_size` tokens; with `shifted`, half a group later.
    """
    inside_BL = positions_in_document(positions_BL)
    return (inside_BL == 0) | (inside_BL % group_size == (group_size // 2 if shifted else 0))


def segments(positions_BL: Tensor, group_size: int, further: Borders = ()) -> Segments:
    """Return a batch's segment boundaries for both halves of the heads, from its positions (batch, length).

    `further` adds boundaries to them. Both are None if every row is one document.
    """
    if documents(positions_BL) is None:
        return Segments(None, None)
    starts = (segment_starts(positions_BL, group_size, shifted) for shifted in (False, True))
    return Segments(*(_cumulative(starts_BL, further) for starts_BL in starts))


def documents(positions_BL: Tensor, further: Borders = ()) -> Tensor | None:
    """Return the documents' boundaries as `Segments` holds its own; None if every row is one document.

    `further` adds boundaries to them.
    """
    starts_BL = document_starts(positions_BL)
    return _cumulative(starts_BL, further) if bool(starts_BL[:, 1:].any()) else None


def _cumulative(starts_BL: Tensor, further: Borders) -> Tensor:
    for row, token in further:
        starts_BL[row, token] = True
    starts = starts_BL.flatten().nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([starts_BL.numel()])]).int()
