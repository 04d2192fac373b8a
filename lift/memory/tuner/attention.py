"""The model's own attention, which also fills the probe of the layer around `o_proj`.

The masks of transformers' sdpa show which keys a query sees, those of flash attention do not. A model with eager or flash
attention is therefore switched to sdpa until its adapters are unloaded; any attention that takes the masks of sdpa stays.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from lift.memory.log_sum_exp import NOTHING, attention_and_log_sum_exp, log_sum_exp
from longthread.errors import ConfigError
from longthread.language_model import CausalLM

BASE, PROBED = "sdpa", "lift_sdpa"
RIGHT_PADDED = "lift_sdpa_right_padded"  # the same, without masks
EVERYTHING = -NOTHING  # the log-sum-exp of a window that leaves a document nothing: finite too
HIDDEN = -1e4  # an additive mask gives less than this, in any dtype, to a key that is not to be seen


@dataclass
class AttentionProbe:
    """What one attention layer computes in a forward pass, for the layer around its `o_proj` to read.

    `q` is written by a hook on `q_proj`; `q_rope`, `lse` and `scale` by the attention function.
    """

    q_norm: nn.Module | None  # of the model, before RoPE
    attention: str = BASE  # the implementation that does the work
    q: Tensor | None = None  # before norm and RoPE, (B, L, H D)
    q_rope: Tensor | None = None  # after both, (B, H, L, D)
    lse: Tensor | None = None  # of the window, (B, L, H)
    scale: float = 1.0

    def keep_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Store the output of `q_proj`, of which this is a forward hook."""
        self.q = output

    def query(self, heads: int) -> Tensor:
        """Return the stored query before RoPE, (batch, length, heads, dim), normalised as the model does it."""
        if self.q is None:
            raise ConfigError("the model's attention did not ask for a query: gated memory does not fit this model")
        # Normalised here once more: models differ in whether a norm puts out heads or tokens first.
        q_BLHD = self.q.unflatten(-1, (heads, -1))
        if self.q_norm is None:
            return q_BLHD
        weight: Any = self.q_norm.weight
        if weight.shape[-1] == q_BLHD.shape[-1]:
            return self.q_norm(q_BLHD)
        return self.q_norm(self.q).unflatten(-1, (heads, -1))

    def clear(self) -> None:
        """Drop the stored queries and log-sum-exp, so that their memory is freed."""
        self.q = self.q_rope = self.lse = None


def install(model: CausalLM) -> str:
    """Switch the model to attention that stores queries and log-sum-exps in the probes of its layers.

    Returns the implementation that does the work underneath.
    """
    if PROBED not in AttentionInterface():
        for name, mask in ((PROBED, AttentionMaskInterface()[BASE]), (RIGHT_PADDED, _sliding_mask)):
            AttentionInterface.register(name, probed_attention)
            AttentionMaskInterface.register(name, mask)
    own = model.config._attn_implementation
    if own != PROBED:
        model.set_attn_implementation(PROBED)
    masks = AttentionMaskInterface()
    return own if own != PROBED and own in masks and masks[own] is masks[BASE] else BASE


@contextmanager
def right_padded(model: CausalLM) -> Iterator[None]:
    """Run the model without attention masks in a `with` block, for rows without padding on the left.

    Causal attention needs no mask for these. In a CUDA graph transformers makes one nevertheless, and with a mask no kernel
    returns its log-sum-exp.
    """
    before = model.config._attn_implementation
    if before != PROBED:
        yield
        return
    model.set_attn_implementation(RIGHT_PADDED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _sliding_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    window = kwargs.get("local_size")
    if window is None or kwargs["kv_length"] < window:
        return None
    return AttentionMaskInterface()[BASE](*args, **kwargs)


def probed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Run the attention underneath; store query (after RoPE) and log-sum-exp for a layer that needs them.

    `query` is (batch, heads, length, dim), `key` and `value` are (batch, key/value heads, keys, dim).
    """
    reader = getattr(module, "o_proj", None)
    probe_of_layer: AttentionProbe | None = getattr(reader, "probe", None)
    underneath = probe_of_layer.attention if probe_of_layer else BASE
    both = None
    if getattr(reader, "needs_lse", False):
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        causal = attention_mask is None
        first = causal and query.shape[2] > 1  # of a static cache: the places behind are still empty
        keys, values = (x[:, :, : query.shape[2]] if first else x for x in (key, value))
        if underneath == BASE and not kwargs.get("dropout"):
            both = attention_and_log_sum_exp(query, keys, values, attention_mask, scale, first)
        lse = log_sum_exp(query, keys, attention_mask, scale, causal) if both is None else both[1]
        probe: AttentionProbe = reader.probe  # type: ignore[union-attr]
        probe.q_rope, probe.scale = query, scale
        probe.lse = lse.masked_fill(_sees_itself_alone(query, keys.shape[2], attention_mask)[..., None], EVERYTHING)
    if both is not None:
        return both[0], None
    return AttentionInterface()[underneath](module, query, key, value, attention_mask, **kwargs)


def _sees_itself_alone(q_BHLD: Tensor, keys: int, mask: Tensor | None) -> Tensor:
    """Return which tokens see only themselves, (batch or 1, length). A memory is closed to them.

    Other tokens spend spare attention on them, and they would stand before a document in the window. (With a memory open to
    them, distillation of SmolLM2-135M costs other text 0.41 nats a token; closed, none.)
    """
    if mask is None:
        before = torch.arange(q_BHLD.shape[2], device=q_BHLD.device) + keys - q_BHLD.shape[2]
        return (before == 0)[None]
    sees = mask if mask.dtype == torch.bool else mask > HIDDEN
    return sees[:, 0].sum(-1) <= 1
