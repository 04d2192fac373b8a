"""Libraries of compact memories with random slots, for tests of what opens them."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import get_peft_model

from lift.library import segment_terms
from lift.library.library import Library
from lift.memory.compact_memory import CompactMemory
from lift.memory.tuner import GatedMemoryConfig, layers
from tests.environments.tiny_model import tiny_model
from tests.lift.shelf import entry_for

ONE = {"0": [[3, 2]], "1": [[4, 1]]}  # slots of two key/value heads, in both layers of the tiny model
SEGMENTS = (
    "the lighthouse and its keeper",
    "the harbour and its ships",
    "the market and its bread",
    "the mill, the miller",
)


def compact_adapter(folder: Path, seed: int, texts: Sequence[str] = ()) -> Path:
    """A compact memory that does something; of several segments where it has `texts`."""
    slots = {layer: counts * max(1, len(texts)) for layer, counts in ONE.items()}
    model = get_peft_model(tiny_model(), GatedMemoryConfig(slots=slots, precision="float32"))  # type: ignore[arg-type]
    torch.manual_seed(seed)
    for layer in layers(model):  # type: ignore[arg-type]
        memory = cast(CompactMemory, layer.gm_memory["default"])
        memory.keys.data.normal_()
        memory.values.data.normal_(std=2.0)
        memory.biases.data.normal_().add_(3.0)  # beside a window of dozens of tokens, it is heard
    model.save_pretrained(str(folder))
    if texts:
        segment_terms.write(folder, texts)
    return folder


def compact_library(folder: Path, base: str, base_model: str = "tiny") -> Library:
    """Documents a and b of one segment, and `long` of four."""
    library = Library(folder / "books")
    for seed, (name, texts) in enumerate([("a", ()), ("b", ()), ("long", SEGMENTS)]):
        adapter = compact_adapter(folder / name, seed, texts)
        library.add(adapter, entry_for(base, name, recipe="compact", base_model=base_model))
    return library
