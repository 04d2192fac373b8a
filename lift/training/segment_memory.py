"""The compact memory of one segment of a document, while the document is fitted."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lift.library.compact_store import PARTS, POSITIONS, CompactStore
from lift.memory.compact import Slots
from lift.memory.compact_memory import CompactMemory
from lift.memory.tuner import layers
from longthread.files import replacing
from longthread.language_model import AdaptedLM

ADAPTER = "default"
STORED = (*PARTS, POSITIONS)


@dataclass(frozen=True)
class SegmentMemory:
    """The memory of one segment: flat keys, biases and values of each layer, and how many each key/value head has.

    `positions` are the numbers of the slots' tokens in the text, in int32.
    """

    keys: list[Tensor]
    biases: list[Tensor]
    values: list[Tensor]
    positions: list[Tensor]
    slots: list[list[int]]

    @classmethod
    def of(cls, heads: Sequence[Slots], n_layers: int, first: int, dtype: torch.dtype) -> "SegmentMemory":
        """Put the slots of all layers' heads together, layer by layer, in the computer's own memory.

        `first` is the segment's first token, `dtype` that of its keys and values.
        """
        per_layer = len(heads) // n_layers
        by_layer = [heads[at : at + per_layer] for at in range(0, len(heads), per_layer)]
        parts = ([torch.cat([head[i] for head in part]).cpu() for part in by_layer] for i in range(4))
        keys, biases, values, tokens = parts
        return cls(
            [each.to(dtype) for each in keys],
            [each.float() for each in biases],
            [each.to(dtype) for each in values],
            [(each + first).to(torch.int32) for each in tokens],
            [[len(head.b_S) for head in part] for part in by_layer],
        )

    @classmethod
    def stored(cls, store: CompactStore, digest: str) -> "SegmentMemory | None":
        """Return the segment that an earlier fit has written to its adapter under this digest; None if there is none."""
        digests = [each.digest for each in store.sources.segments] if store.sources else []
        if digest not in digests:
            return None
        at = digests.index(digest)
        keys, biases, values = ([store.read(part, layer, at) for layer in store.layers] for part in PARTS)
        positions = [store.sources.positions(layer, at) for layer in store.layers] if store.sources else []
        return cls(keys, biases, values, positions, [store.slots[layer][at] for layer in store.layers])

    def in_layer(self, model: AdaptedLM, number: int) -> CompactMemory:
        """Return the memory of the `number`-th layer that has one, on the model's device."""
        keys, layer = self.keys[number], layers(model)[number]
        memory = CompactMemory(layer.heads, keys.shape[-1], [self.slots[number]], keys.dtype).requires_grad_(False)
        for name in PARTS:
            getattr(memory, name).copy_(getattr(self, name)[number])
        return memory.to(model.device)

    @contextmanager
    def held_by(self, model: AdaptedLM) -> Iterator[None]:
        """Put the memory into the model's adapter in a `with` block."""
        own = [layer.gm_memory[ADAPTER] for layer in layers(model)]
        try:
            for number, layer in enumerate(layers(model)):
                layer.gm_memory[ADAPTER] = self.in_layer(model, number)
            yield
        finally:
            for layer, before in zip(layers(model), own, strict=True):
                layer.gm_memory[ADAPTER] = before

    def as_held_by(self, model: AdaptedLM) -> "SegmentMemory":
        """Return the memory with the keys, biases and values that the model's adapter holds, in their own types."""
        held = [cast(CompactMemory, layer.gm_memory[ADAPTER]) for layer in layers(model)]
        parts = {
            name: [
                getattr(new, name).detach().cpu().to(old) for new, old in zip(held, getattr(self, name), strict=True)
            ]
            for name in PARTS
        }
        return replace(self, **parts)

    def save(self, path: Path, digest: str) -> None:
        """Write the segment atomically, under the digest of its fit."""
        tensors = {f"{name}.{i}": x.contiguous() for name in STORED for i, x in enumerate(getattr(self, name))}
        with replacing(path) as file:
            save_file(tensors, file.name, {"of": digest, "slots": json.dumps(self.slots)})

    @classmethod
    def load(cls, path: Path, digest: str) -> "SegmentMemory | None":
        """Return the segment that this very fit has written to the file; None if there is none."""
        try:
            with safe_open(path, "pt") as file:
                stated = file.metadata()
                if stated["of"] != digest:
                    return None
                slots = json.loads(stated["slots"])
                of_layers = range(len(slots))
                keys, biases, values, at = ([file.get_tensor(f"{name}.{i}") for i in of_layers] for name in STORED)
                return cls(keys, biases, values, at, slots)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError):
            return None
