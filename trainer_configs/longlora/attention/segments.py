"""Where shifted sparse attention cuts a sequence: two segmentations, one per half of the heads.

    tokens of a document    0 1 2 3 4 5 6 7 8 9 …          group_size g = 4
    straight heads         |0 1 2 3|4 5 6 7|8 9 …           cut at 0, g, 2g, …
    shifted heads          |0 1|2 3 4 5|6 7 8 9|…           cut at 0, g/2, 3g/2, …

Attention is causal inside a segment and nowhere else: nothing is rolled, so nothing wraps and nothing leaks (LongLoRA,
arXiv 2309.12307, table 8, variant 2). A document begins where a position is not one more than the position before it,
which is how rows are packed. Right padding needs nothing, because no token sees what stands behind it.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """The cuts of a batch, for either half of the heads; computed once a forward pass.

    Cumulative lengths of the segments of all rows laid end to end, int32, from 0 to B·L, as variable-length kernels take
    them. None where every row is one document: the group size alone then says where the cuts are.
    """

    straight: Tensor | None
    shifted: Tensor | None


def document_starts(positions_BL: Tensor) -> Tensor:
    """True at the first token of every document, bool (B, L)."""
    starts_BL = torch.ones_like(positions_BL, dtype=torch.bool)
    starts_BL[:, 1:] = positions_BL[:, 1:] != positions_BL[:, :-1] + 1
    return starts_BL


def positions_in_document(positions_BL: Tensor) -> Tensor:
    """0, 1, 2, … from the start of each document, int64 (B, L)."""
    index_L = torch.arange(positions_BL.shape[1], device=positions_BL.device)
    starts_BL = torch.where(document_starts(positions_BL), index_L, 0)
    return index_L - starts_BL.cummax(dim=1).values


def segment_starts(positions_BL: Tensor, group_size: int, shifted: bool) -> Tensor:
    """True at the first token of every segment, bool (B, L)."""
    inside_BL = positions_in_document(positions_BL)
    return (inside_BL == 0) | (inside_BL % group_size == (group_size // 2 if shifted else 0))


def segments(positions_BL: Tensor, group_size: int) -> Segments:
    """The cuts of a batch, from its positions (B, L)."""
    if not document_starts(positions_BL)[:, 1:].any():
        return Segments(None, None)
    return Segments(*(_cumulative(segment_starts(positions_BL, group_size, shifted)) for shifted in (False, True)))


def _cumulative(starts_BL: Tensor) -> Tensor:
    starts = starts_BL.flatten().nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([starts_BL.numel()])]).int()
