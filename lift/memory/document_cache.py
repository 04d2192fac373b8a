"""Keys and values of a document, or of what rows begin with; and layers that stand in for a memory's for a while.

K: key/value heads, T: tokens, D: head dimension.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lift.memory.tuner import layers
from lift.memory.tuner.model import attention_modules
from longthread.cache_argument import CACHE
from longthread.language_model import AdaptedLM, CausalLM

LEAST_SAVED = 0.2  # of the rows' tokens, for what they begin with to be read once: it takes a pass, and a mask, more


def nothing_predicted(model: CausalLM) -> dict[str, Tensor]:
    """Return the argument of a forward pass that is only read: the places at which the head gives logits, none.

    With `logits_to_keep=1`, torch multiplies each row of a batch by the whole head on its own: 17 ms a row of SmolLM2-135M
    on one CPU thread, a tenth of the pass over a short question.
    """
    return {"logits_to_keep": torch.empty(0, dtype=torch.long, device=model.device)}


class KeysValues(NamedTuple):
    """One layer's keys (after RoPE) and values of a text."""

    k_KTD: Tensor
    v_KTD: Tensor


@torch.no_grad()
def keys_and_values(model: AdaptedLM, ids: Sequence[int], first: int = 0) -> list[KeysValues]:
    """Read a text in one pass of the base model; its first token has position `first`, which may be negative."""
    row = torch.tensor([list(ids)], device=model.device)
    positions = torch.arange(first, first + len(ids), device=model.device)[None]
    with model.disable_adapter():
        out = model(
            input_ids=row,
            position_ids=positions,
            **{CACHE: _whole(model)},
            use_cache=True,
            **nothing_predicted(model),
        )
    cache = getattr(out, CACHE)
    cached = [cache.layers[layer.index] for layer in layers(model)]
    return [KeysValues(each.keys[0], each.values[0]) for each in cached]


def common_tokens(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens the rows begin with in common; at least one of each is left."""
    return min(len(os.path.commonprefix([list(row) for row in rows])), min(map(len, rows)) - 1)


def shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens the rows begin with in common, if reading these once saves `LEAST_SAVED`; else 0."""
    shared = common_tokens(rows)
    return shared if shared * (len(rows) - 1) >= LEAST_SAVED * sum(map(len, rows)) else 0


def beginning(model: CausalLM, ids: Sequence[int]) -> Any:
    """Read what rows begin with in common, and return its cache; `before_each` gives it to a batch of them."""
    row = torch.tensor([list(ids)], device=model.device)
    out = model(input_ids=row, **{CACHE: _whole(model)}, use_cache=True, **nothing_predicted(model))
    return getattr(out, CACHE)


def before_each(cache: Any, rows: int) -> Any:
    """Return the cache of a beginning for a batch of so many rows, which goes on from it; None for None."""
    repeated = deepcopy(cache)
    if repeated is not None:
        repeated.batch_repeat_interleave(rows)
    return repeated


def _whole(model: CausalLM) -> DynamicCache | None:
    """Return the cache of a model with a sliding window, whose own would drop what has left the window."""
    return DynamicCache() if getattr(model.config.get_text_config(), "sliding_window", None) else None


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
