"""A compact memory on disk, read segment by segment: of a long text no more is in memory than what is opened.

`adapter_model.safetensors` holds each layer's keys, biases and values one segment behind the other, as PEFT loads them;
`sources.safetensors` says where in the text each slot's token stood, so that an answer can be cited.

S: slots, D: head dimension.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lift.library.files import CONFIG, SOURCES, WEIGHTS
from lift.memory.compact_memory import CompactMemory
from longthread.errors import DataError

PARTS = ("keys", "biases", "values")  # of a layer
POSITIONS = "positions"  # of each slot: the number of its token in the text, in the order of the keys


@dataclass(frozen=True)
class StoredSegment:
    """The tokens [start, stop) that a segment of a text has, and the digest of its fit."""

    start: int
    stop: int
    digest: str


class CompactStore:
    """The compact memory in an adapter's folder. Methods raise `DataError` where its files cannot be read."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            self.slots = {int(layer): counts for layer, counts in config["slots"].items()}
            self.dtype: torch.dtype = getattr(torch, config["precision"])
            self._weights: Any = safe_open(folder / WEIGHTS, "pt")
            self._names = {_place(name): name for name in self._weights.keys()}  # noqa: SIM118 (not a dict)
            self._firsts = {
                layer: [0, *accumulate(sum(counts) for counts in of_layer)] for layer, of_layer in self.slots.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError):
            raise DataError(
                f"{folder} has no readable compact memory: fit the document again", setting="replace"
            ) from None

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the model's layers that have a memory, first to last."""
        return sorted(self.slots)

    @property
    def segments(self) -> int:
        """Return how many segments the text has."""
        return len(next(iter(self.slots.values())))

    @property
    def slots_per_head(self) -> float:
        """Return how many slots a key/value head has in a segment, on average."""
        counts = [count for of_layer in self.slots.values() for of_segment in of_layer for count in of_segment]
        return sum(counts) / max(1, len(counts))

    def read(self, part: str, layer: int, segment: int, head: int | None = None) -> Tensor:
        """Return the keys, biases or values of one segment in a layer, or of one of its key/value heads: (S, ...)."""
        first, last = self.rows(layer, segment, head)
        return self._weights.get_slice(self._names[layer, part])[first:last]

    def rows(self, layer: int, segment: int, head: int | None = None) -> tuple[int, int]:
        """Return the first row of a segment in a layer's tensors, or of one of its key/value heads, and the one behind."""
        first, counts = self._firsts[layer][segment], self.slots[layer][segment]
        if head is None:
            return first, first + sum(counts)
        first += sum(counts[:head])
        return first, first + counts[head]

    def memory(self, heads: int, layer: int, segments: Sequence[int]) -> CompactMemory:
        """Return the memory of a layer with these segments alone, in this order, for `heads` query heads."""
        parts = {name: [self.read(name, layer, segment) for segment in segments] for name in PARTS}
        counts = [self.slots[layer][segment] for segment in segments]
        memory = CompactMemory(heads, parts["keys"][0].shape[-1] if segments else 1, counts, self.dtype)
        for name in PARTS if segments else ():
            getattr(memory, name).data.copy_(torch.cat(parts[name]))
        return memory.requires_grad_(False)

    # ---- where it stood ----

    @cached_property
    def sources(self) -> "Sources | None":
        """Return where the slots' tokens stood in the text; None for a memory of before this was stored."""
        path = self.folder / SOURCES
        if not path.is_file():
            return None
        try:
            return Sources(self, safe_open(path, "pt"))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError):
            raise DataError(f"{path} is damaged: fit the document again", setting="replace") from None


class Sources:
    """Where the slots of a compact memory stood in its text.

    `characters` is the length of the text, `segments` its segments, `token_starts` the character at which each token
    begins, (T,), `sentences` the characters of each sentence, (n, 2).
    """

    def __init__(self, store: CompactStore, file: Any):
        stated = file.metadata()
        self.characters = int(stated["characters"])
        self.segments = [StoredSegment(*each) for each in json.loads(stated["segments"])]
        self.token_starts, self.sentences = file.get_tensor("token_starts"), file.get_tensor("sentences")
        self._store, self._file = store, file

    def positions(self, layer: int, segment: int) -> Tensor:
        """Return the number of each slot's token in the text, in the order of the segment's keys, (S,)."""
        first, last = self._store.rows(layer, segment)
        return self._file.get_slice(f"{POSITIONS}.{layer}")[first:last]


def is_compact(folder: Path) -> bool:
    """Return whether an adapter is a compact memory, by its config file."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("slots") is not None
    except (OSError, ValueError, AttributeError):
        return False


def _place(name: str) -> tuple[int, str]:
    """Return layer and part of a tensor, from PEFT's name for it."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]), parts[-1]
