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


class OpenRows:
    """`adapters`: those that are on for any row. `alike`: each choice of memories, with the indices of its rows.

    `by_segment`: each open segment, with the indices of its rows; a memory that was given no segments counts as one. Rows
    with nothing open are in neither.
    """

    def __init__(self, rows: Sequence[tuple[OpenMemory, ...]], device: torch.device):
        alike: dict[tuple[OpenMemory, ...], list[int]] = defaultdict(list)
        by_segment: dict[OpenMemory, list[int]] = defaultdict(list)
        for index, memories in enumerate(rows):
            if memories:
                alike[memories].append(index)
            for adapter, segments in memories:
                for segment in [None] if segments is None else [(number,) for number in segments]:
                    by_segment[OpenMemory(adapter, segment)].append(index)

        def indices(of: list[int]) -> Tensor:
            return torch.tensor(of, device=device)

        self.adapters = list(dict.fromkeys(memory.adapter for row in rows for memory in row))
        self.alike = [(memories, indices(of)) for memories, of in alike.items()]
        self.by_segment = [(memory, indices(of)) for memory, of in by_segment.items()]
