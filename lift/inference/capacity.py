"""How many tokens a device can process at a time, and whether a document fits on it at all."""

import math
import time
from collections.abc import Sequence

import psutil
import torch

from longthread.errors import ConfigError
from longthread.language_model import CausalLM
from longthread.model_shape import activation_bytes, kv_bytes

TRAINED_TOKENS = 24_576  # of a pass forward and back, at which a GPU is busy
# Of a batch of prompts with their replies, padding included. On a GPU a step of many rows takes as long as one of a row.
REPLIED_TOKENS = {"cuda": 65_536, "cpu": 16_384}
# Of a batch that is only read, where no GPU has to be kept busy: rows of unlike lengths in it are padded to the longest.
READ_TOKENS = 1024
LEARNT_POSITIONS = ("wpe", "embed_positions", "position_embeddings")  # GPT-2's, OPT's, others'


@torch.no_grad()
def prefill_seconds(model: CausalLM, ids: Sequence[int]) -> float:
    """Measure how many seconds the model takes to read the whole document in one pass.

    On a GPU the second of two runs counts: the first one loads kernels.
    """
    row = torch.tensor([ids], device=model.device)
    for _ in range(2 if model.device.type == "cuda" else 1):
        synchronize(model.device)
        began = time.perf_counter()
        model(input_ids=row, use_cache=True, logits_to_keep=1)
        synchronize(model.device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done all work given to it; other devices need no wait."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_length(tokens: int, model: CausalLM, row_tokens: int = 0) -> None:
    """Raise `ConfigError` if the model has too few learnt positions, or the device too little memory, for so many
    tokens.

    `tokens` is the length of the document, `row_tokens` that of the longest training row of the recipe.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in LEARNT_POSITIONS:
            continue
        learnt = getattr(module, "num_embeddings", math.inf)
        rotary = "or use a model with rotary positions"
        if tokens > learnt:
            raise ConfigError(
                f"{tokens:,} tokens, and the model has learnt {learnt:,} positions: split the document, {rotary}"
            )
        if row_tokens > learnt:
            raise ConfigError(
                f"the recipe reads {row_tokens:,} tokens at a time, and the model has learnt {learnt:,} positions: "
                f"use recipe raw-lora or published-v4, {rotary}",
                setting="recipe",
            )
    free, needed = free_bytes(model.device), 2 * kv_bytes(model.config, tokens)  # prefill and teacher hold one each
    if needed > free:
        raise ConfigError(
            f"{tokens:,} tokens need {needed / 2**30:.1f} GiB for keys and values, {free / 2**30:.1f} are free: "
            "split the document, one adapter a part, and ask one after the other"
        )


def trained_tokens(model: CausalLM) -> int:
    """Return how many tokens a training pass takes: what half of the free memory holds, at most `TRAINED_TOKENS`."""
    return max(1, min(TRAINED_TOKENS, free_bytes(model.device) // 2 // activation_bytes(model.config)))


def replied_tokens(model: CausalLM) -> int:
    """Return how many tokens, replies included, a generation batch takes.

    They are as many as a quarter of the free memory holds keys and values of, at most `REPLIED_TOKENS`.
    """
    device, of_token = model.device, kv_bytes(model.config, 1, model.dtype.itemsize)
    most = REPLIED_TOKENS.get(device.type, REPLIED_TOKENS["cpu"])
    return max(1, min(most, free_bytes(device) // 4 // of_token))


def read_tokens(model: CausalLM) -> int:
    """Return how many tokens a batch takes that is only read: on a GPU as many as with replies, else `READ_TOKENS`."""
    most = replied_tokens(model)
    return most if model.device.type == "cuda" else min(READ_TOKENS, most)


def free_bytes(device: torch.device) -> int:
    """Return how many bytes of the device's memory are free."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
