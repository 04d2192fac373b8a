"""A document's keys and values in each layer with a memory, and layers that stand in for these layers for a while.

K: key/value heads, T: tokens, D: head dimension.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lift.memory.tuner import layers
from lift.memory.tuner.model import attention_modules
from longthread.language_model import AdaptedLM


class KeysValues(NamedTuple):
    """One layer's keys (after RoPE) and values of a text."""

    k_KTD: Tensor
    v_KTD: Tensor


@torch.no_grad()
def keys_and_values(model: AdaptedLM, ids: Sequence[int], first: int = 0) -> list[KeysValues]:
    """Read a text in one pass of the base model; its first token has position `first`, which may be negative."""
    row = torch.tensor([list(ids)], device=model.device)
    positions = torch.arange(first, first + len(ids), device=model.device)[None]
    # A sliding window's own cache would drop what has left the window.
    own = DynamicCache() if getattr(model.config.get_text_config(), "sliding_window", None) else None
    with model.disable_adapter():
        cache = model(
            input_ids=row, position_ids=positions, past_key_values=own, use_cache=True, logits_to_keep=1
        ).past_key_values
    cached = [cache.layers[layer.index] for layer in layers(model)]
    return [KeysValues(each.keys[0], each.values[0]) for each in cached]


@contextmanager
def standing_in(model: AdaptedLM, others: Sequence[nn.Module]) -> Iterator[None]:
    """Put the modules `others` in the place of all layers with a memory, in their order, in a `with` block."""
    modules, own = attention_modules(model), layers(model)
    try:
        for module, other in zip(modules, others, strict=True):
            module.o_proj = other
        yield
    finally:
        for module, layer in zip(modules, own, strict=True):
            module.o_proj = layer
