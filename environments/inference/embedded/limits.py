"""Bounds of what the engine decodes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from longthread.model_shape import kv_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_SHARE = 0.5  # of a GPU's free memory that keys and values may take; prompts being read take some of the rest


@dataclass(frozen=True)
class Limits:
    """Bounds of what is decoded at a time."""

    requests: int = 8
    chunk: int = 512  # prompt tokens per prefill call: on a CPU as fast as 1024 and 2048, and the masks stay small
    columns: int = 65_536  # key/value columns of a batch, padding included: 3 GB for a 135M model in float32
    together: int = 16_384  # tokens of whole prompts read in one pass, where slots are decoded


def limits_for(model: PreTrainedModel, requests: int) -> Limits:
    """Return the limits of a served model: on a GPU longer passes, and as many columns as its free memory holds."""
    if model.device.type != "cuda":
        return Limits(requests)
    free, _ = torch.cuda.mem_get_info(model.device)
    columns = int(free * CACHE_SHARE) // kv_bytes(model.config, 1, model.dtype.itemsize)
    return Limits(requests, chunk=8192, columns=columns, together=65_536)
