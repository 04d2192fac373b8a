"""What each row of a batch has open, in groups of rows that are computed together: worked out once for all layers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class OpenMemory(NamedTuple):
    """A document's memory as it is open to a row: the name of its adapter, and the segments that the row sees.

    None stands for the segments that the memory itself has open.
    """

    adapter: str
    segments: tuple[int, ...] | None = None


class Group(NamedTuple):
    """A memory, the indices of the rows that have it open, and which of each row's memories it is, from 0."""

    memory: OpenMemory
    rows: Tensor
    places: Tensor


class OpenRows:
    """`adapters`: those that are on for any row. `groups`: what is recalled at once, for all rows that have it open.

    `most`: memories of the row with the most. Where rows open more choices of segments than there are segments, each segment
    is a memory of its own: segments of a row compose as documents do.
    """

    def __init__(self, rows: Sequence[tuple[OpenMemory, ...]], device: torch.device):
        apart = [tuple(part for memory in row for part in _segments(memory)) for row in rows]
        chosen = min(rows, apart, key=lambda each: len({memory for row in each for memory in row}))
        self.adapters = list(dict.fromkeys(memory.adapter for row in chosen for memory in row))
        self.most = max(map(len, chosen), default=0)
        found: dict[OpenMemory, list[tuple[int, int]]] = defaultdict(list)
        for index, memories in enumerate(chosen):
            for place, memory in enumerate(memories):
                found[memory].append((index, place))
        self.groups = []
        for memory, where in found.items():
            of_rows, places = torch.tensor(where, device=device).unbind(1)
            self.groups.append(Group(memory, of_rows, places))


def _segments(memory: OpenMemory) -> list[OpenMemory]:
    if memory.segments is None:
        return [memory]
    return [memory._replace(segments=(number,)) for number in memory.segments]
