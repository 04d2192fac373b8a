"""Puts a sparse attention pattern into a transformers model: in training, on full-attention layers.

Evaluation, generation, sliding-window layers and the steps that are to run in full attention are the model's own, bit for
bit where each row is one document; packed documents are kept apart in all of them (documents.py). Tails behind parallel
documents see everything in all of them, and in sparse steps too (parallel_documents.py).
"""

from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from longthread.errors import ConfigError
from longthread.language_model import CausalLM
from trainer_configs.longlora.attention.documents import ONE_DOCUMENT, DocumentAttention, Pass, why_not_replaceable
from trainer_configs.longlora.attention.parallel_documents import borders, see_all
from trainer_configs.longlora.attention.segments import Segments, segments
from trainer_configs.longlora.attention.shifted_sparse import shifted_sparse_attention
from trainer_configs.longlora.attention.tail_global import tail_global_attention, tail_start


class SparseAttention(DocumentAttention):
    """A sparse pattern in the training of one model. While `sparse` is False, training runs in full attention.

    `calls` counts the calls in sparse attention, `group_size` is the tokens of a group or chunk.
    """

    prefix = "sparse"
    label = "sparse"  # as errors and the startup table call it

    def __init__(self, model: CausalLM, group_size: int, sink_tokens: int = 0, parallel: bool = False):
        self.group_size, self.sink_tokens = group_size, sink_tokens
        self.sparse, self.calls = True, 0
        super().__init__(model, parallel)

    def watch(self, model: CausalLM | nn.Module) -> None:
        """Look at what `model`, a wrapper of this one such as PEFT's, is given; patterns that need nothing of it do not."""

    def mask(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the model's own attention mask, or None where the sparse pattern needs none.

        transformers calls it once a forward pass for each kind of layer. Raises `ConfigError` for padding on the left.
        """
        model, padding = self._model(), kwargs.get("attention_mask")
        if model is None or not (self.sparse and model.training) or kwargs.get("local_size") is not None:
            return super().mask(*args, **kwargs)
        if padding is not None and padding.dim() == 2 and not padding[:, 0].all():
            raise ConfigError(
                f"{self.label} attention takes rows padded on the right: set tokenizer.padding_side right"
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
                raise ConfigError(f"{self.label} attention has no {name}: set longlora.attention full for this model")
        found = self._documents(query, kwargs)
        self.calls += 1
        return self._pattern(query, key, value, found, scaling, dropout).transpose(1, 2).contiguous(), None

    def _pattern(  # noqa: PLR0913  as SDPA has them
        self, query: Tensor, key: Tensor, value: Tensor, found: Pass | None, scaling: float | None, dropout: float
    ) -> Tensor:  # fmt: skip
        """Compute the pattern, (batch, heads, length, dim)."""
        raise NotImplementedError


class ShiftedSparse(SparseAttention):
    """Shifted sparse attention (shifted_sparse.py). With `parallel`, tails see all documents of their row."""

    prefix = "shifted_sparse"
    label = "shifted sparse"

    def __init__(self, model: CausalLM, group_size: int, sink_tokens: int = 0, parallel: bool = False):
        self._segments_of: tuple[ReferenceType[Tensor], Segments] | None = None  # the positions of this forward pass
        super().__init__(model, group_size, sink_tokens, parallel)

    def _pattern(  # noqa: PLR0913  as SDPA has them
        self, query: Tensor, key: Tensor, value: Tensor, found: Pass | None, scaling: float | None, dropout: float
    ) -> Tensor:  # fmt: skip
        cuts = self._segments(found, query)
        out = shifted_sparse_attention(query, key, value, cuts, self.group_size, self.sink_tokens, scaling, dropout)
        if found is not None and found.tails:
            out = see_all(out, query, key, value, found.tails, scaling, dropout)
        return out

    def _segments(self, found: Pass | None, query: Tensor) -> Segments:
        """Return the segment boundaries of this forward pass, found once a pass."""
        positions = None if found is None or found.cuts is None else found.positions()
        if found is None or positions is None:
            return Segments(None, None)
        if self._segments_of is None or self._segments_of[0]() is not positions:
            positions_BL = positions.expand(query.shape[0], -1)
            self._segments_of = ref(positions), segments(positions_BL, self.group_size, borders(found.tails))
        return self._segments_of[1]


class TailGlobal(SparseAttention):
    """Tail-global attention (tail_global.py), with the tail found from the labels that the model is called with."""

    prefix = "tail_global"
    label = "tail-global"

    def __init__(self, model: CausalLM, group_size: int, sink_tokens: int = 0):
        super().__init__(model, group_size, sink_tokens)
        self._tail: tuple[int, int] | None = None  # where it begins, and the length of the rows, in this forward pass
        self._hooks: list[RemovableHandle] = []
        self.watch(model)

    def watch(self, model: CausalLM | nn.Module) -> None:
        """Read the labels that `model` is called with: PEFT calls the model below it in a way that no hook sees."""
        assert isinstance(model, nn.Module)
        self._hooks.append(model.register_forward_pre_hook(self._read, with_kwargs=True))

    def uninstall(self) -> None:
        """Give the model its own attention back."""
        super().uninstall()
        while self._hooks:
            self._hooks.pop().remove()

    @torch.compiler.disable
    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        labels = kwargs.get("labels")
        self._tail = None
        if isinstance(labels, Tensor) and labels.dim() == 2 and self.sparse and module.training:
            self._tail = tail_start(labels), labels.shape[1]

    def _pattern(  # noqa: PLR0913  as SDPA has them
        self, query: Tensor, key: Tensor, value: Tensor, found: Pass | None, scaling: float | None, dropout: float
    ) -> Tensor:  # fmt: skip
        if self.packed:
            raise ConfigError(f"tail-global attention takes rows of one document each: {ONE_DOCUMENT}")
        if self._tail is None or self._tail[1] != query.shape[2]:
            raise ConfigError(
                "tail-global attention was given no labels, and does not know where the tail begins: leave out label "
                "smoothing and losses that take them away, or set longlora.attention shifted"
            )
        return tail_global_attention(
            query, key, value, self._tail[0], self.group_size, self.sink_tokens, scaling, dropout
        )


def install(
    model: CausalLM, group_size: int, sink_tokens: int = 0, parallel: bool = False, pattern: str = "shifted"
) -> SparseAttention:
    """Put sparse attention into the model's training, and return it.

    `pattern` is shifted or tail_global. With `parallel` (shifted alone), tails see all documents of their row, in every
    kind of step. Raises `ConfigError` for a model that cannot have it.
    """
    if group_size < 2 or group_size % 2:
        raise ConfigError(f"group_size {group_size} must be an even number of tokens: set longlora.group_size")
    if not 0 <= sink_tokens <= group_size // 2:
        raise ConfigError(f"sink_tokens {sink_tokens} must be 0 to {group_size // 2}, half of group_size")
    _check_model(model)
    if pattern == "tail_global":
        return TailGlobal(model, group_size, sink_tokens)
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
