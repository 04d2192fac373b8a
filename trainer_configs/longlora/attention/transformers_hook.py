"""Puts shifted sparse attention into a transformers model: in training, on full-attention layers.

Evaluation, generation, sliding-window layers and the steps that are to run in full attention are the model's own, bit for
bit where each row is one document; packed documents are kept apart in all of them (documents.py). Tails behind parallel
documents see everything in all of them, and in sparse steps too (parallel_documents.py).
"""

from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from longthread.errors import ConfigError
from longthread.language_model import CausalLM
from trainer_configs.longlora.attention.documents import DocumentAttention, Pass, why_not_replaceable
from trainer_configs.longlora.attention.parallel_documents import borders, see_all
from trainer_configs.longlora.attention.segments import Segments, segments
from trainer_configs.longlora.attention.shifted_sparse import shifted_sparse_attention


class ShiftedSparse(DocumentAttention):
    """The shifted sparse attention of one model. While `sparse` is False, training runs in full attention.

    `calls` counts the calls in sparse attention. With `parallel`, tails see all documents of their row.
    """

    prefix = "shifted_sparse"

    def __init__(self, model: CausalLM, group_size: int, sink_tokens: int = 0, parallel: bool = False):
        self.group_size, self.sink_tokens = group_size, sink_tokens
        self.sparse, self.calls = True, 0
        self._segments_of: tuple[ReferenceType[Tensor], Segments] | None = None  # the positions of this forward pass
        super().__init__(model, parallel)

    def mask(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the model's own attention mask, or None where the sparse pattern needs none.

        transformers calls it once a forward pass for each kind of layer. Raises `ConfigError` for padding on the left.
        """
        model, padding = self._model(), kwargs.get("attention_mask")
        if model is None or not (self.sparse and model.training) or kwargs.get("local_size") is not None:
            return super().mask(*args, **kwargs)
        if padding is not None and padding.dim() == 2 and not padding[:, 0].all():
            raise ConfigError(
                "shifted sparse attention takes rows padded on the right: set tokenizer.padding_side right"
            )
        return None

    @torch.compiler.disable
    def attention(  # noqa: PLR0913  transformers calls it so
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Compute one layer's attention, sparse in training and full elsewhere.

        Takes (batch, heads, length, dim) and returns (batch, length, heads, dim), as transformers calls it.
        """
        if not (self.sparse and module.training) or self._has_own_mask(query, key, attention_mask, kwargs):
            return super().attention(module, query, key, value, attention_mask, scaling, dropout, **kwargs)
        for name in ("softcap", "s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise ConfigError(f"shifted sparse attention has no {name}: set longlora.attention full for this model")
        found = self._documents(query, kwargs)
        cuts = self._segments(found, query)
        self.calls += 1
        out = shifted_sparse_attention(query, key, value, cuts, self.group_size, self.sink_tokens, scaling, dropout)
        if found is not None and found.tails:
            out = see_all(out, query, key, value, found.tails, scaling, dropout)
        return out.transpose(1, 2).contiguous(), None

    def _segments(self, found: Pass | None, query: Tensor) -> Segments:
        """Return the segment boundaries of this forward pass, found once a pass."""
        positions = None if found is None or found.cuts is None else found.positions()
        if found is None or positions is None:
            return Segments(None, None)
        if self._segments_of is None or self._segments_of[0]() is not positions:
            positions_BL = positions.expand(query.shape[0], -1)
            self._segments_of = ref(positions), segments(positions_BL, self.group_size, borders(found.tails))
        return self._segments_of[1]


def install(model: CausalLM, group_size: int, sink_tokens: int = 0, parallel: bool = False) -> ShiftedSparse:
    """Put sparse attention into the model's training, and return it.

    With `parallel`, tails see all documents of their row, in every kind of step. Raises `ConfigError` for a model that
    cannot have it.
    """
    if group_size < 2 or group_size % 2:
        raise ConfigError(f"group_size {group_size} must be an even number of tokens: set longlora.group_size")
    if not 0 <= sink_tokens <= group_size // 2:
        raise ConfigError(f"sink_tokens {sink_tokens} must be 0 to {group_size // 2}, half of group_size")
    _check_model(model)
    return ShiftedSparse(model, group_size, sink_tokens, parallel)


def _check_model(model: CausalLM) -> None:
    family, reason, base = type(model).__name__, why_not_replaceable(model), model.config._attn_implementation
    full = "set longlora.attention full"
    if reason and not reason.startswith("runs attention"):
        raise ConfigError(f"{family} {reason}: {full}")
    if model.config.get_text_config().num_attention_heads < 2:
        raise ConfigError(f"{family} has one head, and halves of the heads are needed: {full}")
    if reason:
        raise ConfigError(f"attention {base} cannot run the steps that are not sparse: set attn_implementation sdpa")
