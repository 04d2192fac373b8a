"""What a document costs a model in its window: time, keys and values; and whether it fits there at all."""

import math
import time
from collections.abc import Sequence
from typing import Any

import psutil
import torch

from lift import LiftError

BATCH_TOKENS = 24_576  # where a GPU is busy
# Of a batch of prompts with their replies, padding included: on a GPU a step takes as long for many rows as for one.
REPLIED_TOKENS = {"cuda": 65_536, "cpu": 16_384}
LEARNT_POSITIONS = ("wpe", "embed_positions", "position_embeddings")  # GPT-2's, OPT's, others'


def head_size(config: Any) -> int:
    text = config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def kv_bytes(config: Any, tokens: int, itemsize: int = 2) -> int:
    """Of a document's keys and values in bf16."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_size(config) * tokens * itemsize


@torch.no_grad()
def prefill_seconds(model: Any, ids: Sequence[int]) -> float:
    """The second of two readings of the whole document, what a prompt would cost."""
    row = torch.tensor([ids], device=model.device)
    for _ in range(2):
        wait(model.device)
        began = time.perf_counter()
        model(input_ids=row, use_cache=True, logits_to_keep=1)
        wait(model.device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_length(tokens: int, model: Any, row: int = 0) -> None:
    """Raises `LiftError` for a document that the model has no positions for, or whose keys and values, which prefill and
    teacher hold, cannot fit. `row`: tokens of what else it is to read."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in LEARNT_POSITIONS:
            continue
        learnt = getattr(module, "num_embeddings", math.inf)
        if max(tokens, row) > learnt:
            what, fix = f"{tokens:,} tokens", "split the document"
            if row > tokens:
                what, fix = f"the recipe reads {row:,} tokens at a time", "use --recipe raw-lora or published-v4"
            raise LiftError(
                f"{what}, and the model has learnt {learnt:,} positions: {fix}, or use a model with rotary positions"
            )
    free, needed = free_bytes(model.device), 2 * kv_bytes(model.config, tokens)
    if needed > free:
        raise LiftError(
            f"{tokens:,} tokens need {needed / 2**30:.1f} GiB for keys and values, {free / 2**30:.1f} are free: "
            "split the document, one adapter a part, and ask one after the other"
        )


def activation_bytes(config: Any) -> int:
    """Of one token in a training step: what autograd keeps in all layers, counted on SmolLM2-135M in fp32 (2.0 MB)."""
    text = config.get_text_config()
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)
    return 4 * text.num_hidden_layers * (18 * text.hidden_size + 4 * inner)


def batch_tokens(model: Any) -> int:
    """Of a pass forward and back that takes half of the memory that is free, at most `BATCH_TOKENS`."""
    return max(1, min(BATCH_TOKENS, free_bytes(model.device) // 2 // activation_bytes(model.config)))


def replied_tokens(model: Any) -> int:
    """Of a batch of prompts with their replies, whose keys and values take at most a quarter of the memory that is free."""
    device, each = model.device, kv_bytes(model.config, 1, model.dtype.itemsize)
    return max(1, min(REPLIED_TOKENS.get(device.type, REPLIED_TOKENS["cpu"]), free_bytes(device) // 4 // each))


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
