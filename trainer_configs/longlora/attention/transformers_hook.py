"""Puts shifted sparse attention into a transformers model: in training, on full-attention layers.

Evaluation, generation, sliding-window layers and the steps that are to run in full attention are the model's own, bit for
bit. The hook is registered in the attention *and* in the mask interface: without the latter transformers hands out no mask
at all, and padding and packing would be ignored silently.
"""

from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from longthread.errors import ConfigError
from longthread.language_model import CausalLM
from trainer_configs.longlora.attention.segments import Segments, segments
from trainer_configs.longlora.attention.shifted_sparse import shifted_sparse_attention


class ShiftedSparse:
    """The shifted sparse attention of one model. While `sparse` is False, training runs in full attention.

    `calls` counts the calls in sparse attention.
    """

    def __init__(self, model: CausalLM, group_size: int, sink_tokens: int = 0):
        self.group_size, self.sink_tokens = group_size, sink_tokens
        self.sparse, self.calls, self.packed = True, 0, False
        self._model, self.base = ref(model), model.config._attn_implementation
        self._attention = AttentionInterface()[self.base]
        self._mask = AttentionMaskInterface()[self.base]
        self._cuts: tuple[ReferenceType[Tensor], Segments] | None = None  # of the positions of this forward pass
        self.name = f"shifted_sparse_{id(model):x}"
        AttentionInterface.register(self.name, self.attention)
        AttentionMaskInterface.register(self.name, self.mask)

    def uninstall(self) -> None:
        """Give the model its own attention back."""
        if (model := self._model()) is not None:
            model.set_attn_implementation(self.base)

    def mask(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the model's own attention mask, or None where the sparse pattern needs none.

        transformers calls it once a forward pass for each kind of layer. Raises `ConfigError` for padding on the left.
        """
        model, padding = self._model(), kwargs.get("attention_mask")
        self.packed = kwargs.get("mask_function", causal_mask_function) is not causal_mask_function
        if model is None or not (self.sparse and model.training) or kwargs.get("local_size") is not None:
            return self._mask(*args, **kwargs)
        if padding is not None and padding.dim() == 2 and not padding[:, 0].all():
            raise ConfigError(
                "shifted sparse attention takes rows padded on the right: set tokenizer.padding_side right"
            )
        return None

    @torch.compiler.disable
    def attention(  # noqa: PLR0913  transformers calls it so
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Compute one layer's attention, sparse in training and the model's own elsewhere.

        Takes (batch, heads, length, dim) and returns (batch, length, heads, dim), as transformers calls it.
        """
        local = kwargs.get("sliding_window") is not None or attention_mask is not None
        if not (self.sparse and module.training) or local or query.shape[2] != key.shape[2]:
            return self._attention(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
            )
        for name in ("softcap", "s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise ConfigError(f"shifted sparse attention has no {name}: set longlora.attention full for this model")
        cuts = self._segments(kwargs.get("position_ids"), query)
        self.calls += 1
        out = shifted_sparse_attention(query, key, value, cuts, self.group_size, self.sink_tokens, scaling, dropout)
        return out.transpose(1, 2).contiguous(), None

    def _segments(self, positions: Tensor | None, query: Tensor) -> Segments:
        """Return the segment boundaries of this forward pass.

        They are found once a pass, because finding documents makes the host wait for the device.
        """
        if positions is None:
            if self.packed:
                raise ConfigError("this model does not hand position_ids to its attention: set sample_packing false")
            return Segments(None, None)
        if self._cuts is None or self._cuts[0]() is not positions:
            positions_BL = positions.reshape(-1, positions.shape[-1]).expand(query.shape[0], -1)
            self._cuts = ref(positions), segments(positions_BL, self.group_size)
        return self._cuts[1]


def install(model: CausalLM, group_size: int, sink_tokens: int = 0) -> ShiftedSparse:
    """Put sparse attention into the model's training, and return it.

    Raises `ConfigError` for a model that cannot have it.
    """
    if group_size < 2 or group_size % 2:
        raise ConfigError(f"group_size {group_size} must be an even number of tokens: set longlora.group_size")
    if not 0 <= sink_tokens <= group_size // 2:
        raise ConfigError(f"sink_tokens {sink_tokens} must be 0 to {group_size // 2}, half of group_size")
    _check_model(model)
    sparse = ShiftedSparse(model, group_size, sink_tokens)
    model.set_attn_implementation(sparse.name)
    return sparse


def _check_model(model: CausalLM) -> None:
    family, text = type(model).__name__, model.config.get_text_config()
    full = "set longlora.attention full"
    if not getattr(model, "_supports_attention_backend", False):
        raise ConfigError(f"{family} does not take attention from transformers' interface: {full}")
    if getattr(text, "attn_logit_softcapping", None) or any(hasattr(module, "sinks") for module in model.modules()):
        raise ConfigError(f"{family} has softcapping or learnt sinks, which SDPA lacks: {full}")
    if text.num_attention_heads < 2:
        raise ConfigError(f"{family} has one head, and halves of the heads are needed: {full}")
    if (base := model.config._attn_implementation) not in AttentionInterface() or base not in AttentionMaskInterface():
        raise ConfigError(f"attention {base} cannot run the steps that are not sparse: set attn_implementation sdpa")
