"""Write a compact memory from the files of its segments, a piece at a time: a text of any length takes the same memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lift.library.compact_store import PARTS, POSITIONS, StoredSegment
from lift.library.files import SOURCES, WEIGHTS
from longthread.files import replacing

TYPES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int32: "I32",
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """Where the tokens and sentences of a text stand in its file: its characters, and arrays as `Sources` gives them."""

    characters: int
    token_starts: np.ndarray
    sentences: np.ndarray


def slots_of(files: Sequence[Path], layers: Sequence[int]) -> dict[str, list[list[int]]]:
    """Return the slots of all segments' files for an adapter's config; the i-th of each file are those of `layers[i]`."""
    slots = []
    for file in files:
        with safe_open(file, "pt") as opened:
            slots.append(json.loads(opened.metadata()["slots"]))
    return {str(layer): [of_segment[i] for of_segment in slots] for i, layer in enumerate(layers)}


def write_memory(out: Path, modules: Sequence[str], files: Sequence[Path]) -> None:
    """Write `adapter_model.safetensors` from the segments' files, in their order.

    `modules` names each layer's memory as PEFT saves it. A segment's file holds `keys.i`, `biases.i`, `values.i` and
    `positions.i` of the i-th layer, and all slots in its metadata.
    """
    tensors = {f"{name}.{part}": (part, i) for i, name in enumerate(modules) for part in PARTS}
    _concatenate(out / WEIGHTS, tensors, files, {})


def write_sources(
    out: Path, layers: Sequence[int], files: Sequence[Path], segments: Sequence[StoredSegment], text: Text
) -> None:
    """Write `sources.safetensors`: where the slots of these segments' files stood in the text."""
    stated = {
        "characters": str(text.characters),
        "segments": json.dumps([[each.start, each.stop, each.digest] for each in segments]),
    }
    more = {
        "token_starts": torch.from_numpy(np.asarray(text.token_starts, np.int32)),
        "sentences": torch.from_numpy(np.asarray(text.sentences, np.int32)),
    }
    tensors = {f"{POSITIONS}.{layer}": (POSITIONS, i) for i, layer in enumerate(layers)}
    _concatenate(out / SOURCES, tensors, files, stated, more)


def _concatenate(
    path: Path,
    tensors: Mapping[str, tuple[str, int]],
    files: Sequence[Path],
    stated: Mapping[str, str],
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Write safetensors whose tensors are those `part.i` of all files, one behind the other, and `more`."""
    opened = [safe_open(file, "pt") for file in files]

    def pieces(name: str) -> Iterator[Tensor]:
        if more and name in more:
            yield more[name]
            return
        part, i = tensors[name]
        for file in opened:
            yield file.get_tensor(f"{part}.{i}").contiguous()

    shapes: dict[str, tuple[torch.dtype, list[int]]] = {}
    for name in (*tensors, *(more or {})):
        rows = 0
        for piece in pieces(name):
            rows += len(piece)
        shapes[name] = piece.dtype, [rows, *piece.shape[1:]]
    # The widest elements first, so that each tensor begins at a multiple of its elements' size.
    order = sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **stated}}
    at = 0
    for name in order:
        dtype, shape = shapes[name]
        end = at + dtype.itemsize * int(np.prod(shape))
        header[name] = {"dtype": TYPES[dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with replacing(path) as out:
        out.write(len(written).to_bytes(8, "little") + written)
        for name in order:
            for piece in pieces(name):
                out.write(piece.reshape(-1).view(torch.uint8).numpy().tobytes())
