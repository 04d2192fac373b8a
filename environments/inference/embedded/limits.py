"""Bounds of what the engine decodes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from longthread.model_shape import kept_numbers, kv_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_SHARE = 0.5  # of a GPU's free memory that keys and values may take; prompts being read take some of the rest
PASS_SHARE = 0.25  # of a GPU's free memory that a layer may take of a prompt that is read in one pass


@dataclass(frozen=True)
class Limits:
    """Bounds of what is decoded at a time."""

    requests: int = 8
    chunk: int = 512  # prompt tokens per prefill call: on a CPU as fast as 1024 and 2048, and the masks stay small
    columns: int = 65_536  # key/value columns of a batch, padding included: 3 GB for a 135M model in float32
    together: int = 16_384  # tokens of whole prompts read in one pass, where slots are decoded
    whole: int = 0  # tokens of the longest prompt that one pass reads, without a mask, where no prefix has half of it


def limits_for(model: PreTrainedModel, requests: int) -> Limits:
    """Return the limits of a served model: on a GPU longer passes, and as many columns as its free memory holds."""
    if model.device.type != "cuda":
        return Limits(requests)
    free, _ = torch.cuda.mem_get_info(model.device)
    columns = int(free * CACHE_SHARE) // kv_bytes(model.config, 1, model.dtype.itemsize)
    return Limits(requests, chunk=8192, columns=columns, together=65_536, whole=whole_prompt(model, free))


def whole_prompt(model: PreTrainedModel, free: int) -> int:
    """Return how many tokens of a prompt are read in one pass, with `free` bytes of memory.

    In chunks of 8,192 a prompt of 131,072 tokens takes masks of 1 GB, which kernels without masks need not read. Where the
    model's attention wants a mask for a whole prompt too (eager, sliding layers), 0.
    """
    text = model.config.get_text_config()
    if text._attn_implementation == "eager" or getattr(text, "sliding_window", None):
        return 0
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)
    return int(free * PASS_SHARE) // (kept_numbers(text.hidden_size, inner) * model.dtype.itemsize)
