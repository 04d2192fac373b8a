"""Keeps the documents of packed rows apart in a model's own full attention, whatever mask the rows carry.

transformers detects packed rows by their positions, but only where a row has no mask at all: beside a mask of ones it lets
every document see the ones before it, silently (huggingface/transformers PR 46634). It also takes every skipped position
(PoSE) for a new document. Here positions alone decide (segments.py), in every pass: full steps, evaluation, no sparse steps.

Rows of one document each run in the model's own attention, bit for bit. With `parallel`, documents of a row are read apart
and the tail behind them sees them all (parallel_documents.py).
"""

import inspect
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    create_causal_mask,
    packed_sequence_mask_function,
)

from longthread.cache_argument import CACHE
from longthread.errors import ConfigError
from longthread.language_model import CausalLM
from trainer_configs.longlora.attention.kernels import by_segment
from trainer_configs.longlora.attention.parallel_documents import (
    SETTING,
    Tail,
    Visible,
    borders,
    see_all,
    tails,
    visible,
)
from trainer_configs.longlora.attention.segments import document_starts, documents

ONE_DOCUMENT = "make rows of one document each (longthread longlora data --mode window)"


class Pass(NamedTuple):
    """What a forward pass was given, found from its positions.

    `cuts` holds the boundaries of documents and tails, cumulative over the rows laid end to end; None where no row is
    packed. `tails` is empty where there are no parallel documents.
    """

    positions: ReferenceType[Tensor]
    rows: int
    cuts: Tensor | None
    tails: list[Tail]


class DocumentMask:
    """Keeps documents apart by transformers' own detection: takes the mask off packed rows before each forward pass.

    For attention that cannot be replaced (eager, softcapping, learnt sinks). It holds a mask of length² numbers. With
    `parallel`, a tail sees all documents of its row.
    """

    def __init__(self, model: CausalLM, parallel: bool = False):
        self._model, self.base, self.parallel = ref(model), model.config._attn_implementation, parallel
        self._able = bool(getattr(model, "_supports_attention_backend", False))
        self.packed = False  # in this forward pass
        self._pass: Pass | None = None
        self._hook = model.get_decoder().register_forward_pre_hook(self._before, with_kwargs=True)

    def uninstall(self) -> None:
        """Give the model its own forward pass back."""
        self._hook.remove()

    @torch.compiler.disable
    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Look at the positions of a forward pass that begins, and give it the mask that goes with them."""
        self.packed = False
        positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
        masked = isinstance(mask, Tensor) and mask.dim() == 2
        if not isinstance(positions, Tensor) or positions.dim() != 2 or not (mask is None or masked):
            return args, kwargs  # no positions, or several to a token (images), or a mask that is already complete
        if self.parallel:
            _refuse_left_padding(positions, mask)
        cuts = self.document_pass(positions, positions.shape[0]).cuts
        self.packed = cuts is not None and not _in_padding_alone(positions, mask)
        skipping = bool((positions.diff(dim=1) != 1).any()) if self.packed or mask is None else False
        if self.packed:
            return args, self._packed(kwargs, positions)
        if skipping and kwargs.get(CACHE) is None:
            kwargs["attention_mask"] = _ones(positions, kwargs)  # or transformers would cut at every skip
        return args, kwargs

    def _packed(self, kwargs: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        if not self._able:
            raise ConfigError(f"{self._family} cannot keep packed documents apart: {ONE_DOCUMENT}")
        if self.document_pass(positions, positions.shape[0]).tails:
            return kwargs | {"attention_mask": self._masks(kwargs, positions)}
        if bool((positions.diff(dim=1) > 1).any()):
            raise ConfigError(f"packed rows with skipped positions need attention sdpa, not {self.base}: set it")
        return kwargs | {"attention_mask": None, "use_cache": False}  # a cache would switch the detection off too

    def _masks(self, kwargs: dict[str, Any], positions: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the finished mask of rows with parallel documents; one for each kind of layer where the model has kinds."""
        model = self._model()
        assert model is not None
        config = model.config.get_text_config()
        self._refuse_chunks(config)
        seen = visible(positions)
        hidden = torch.empty((_rows(positions, kwargs), positions.shape[1], 0), dtype=model.dtype, device=model.device)

        def mask(window: int | None) -> Tensor:
            made = create_causal_mask(config, hidden, None, None, and_mask_function=seen.mask_function(window))
            assert isinstance(made, Tensor)
            return made

        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None)
        return {kind: mask(window if "sliding" in kind else None) for kind in set(kinds)} if kinds else mask(window)

    def _refuse_chunks(self, config: PretrainedConfig) -> None:
        if getattr(config, "attention_chunk_size", None):
            raise ConfigError(
                f"{self._family} has layers of chunks, where no tail sees every document: leave out {SETTING}"
            )

    def document_pass(self, positions: Tensor, rows: int) -> Pass:
        """Return what is found of documents in the positions (1 or `rows`, length) of a forward pass.

        It is found once a pass, because finding it makes the host wait for the device.
        """
        if self._pass is None or self._pass.positions() is not positions or self._pass.rows != rows:
            positions_BL = positions.expand(rows, -1)
            found = tails(positions_BL) if self.parallel else []
            cuts = documents(positions_BL, borders(found))
            self._pass = Pass(ref(positions), rows, cuts, found)
        return self._pass

    @property
    def _family(self) -> str:
        return type(self._model()).__name__


class DocumentAttention(DocumentMask):
    """Keeps documents apart in attention itself, document by document: no mask held, no pair across documents computed.

    The hook is registered in the attention *and* in the mask interface: without the latter transformers hands out no mask
    at all, and padding would be ignored silently.
    """

    prefix = "documents_apart"

    def __init__(self, model: CausalLM, parallel: bool = False):
        super().__init__(model, parallel)
        self._attention = AttentionInterface()[self.base]
        self._mask = AttentionMaskInterface()[self.base]
        self._document_BL: Tensor | None = None  # number of each token's document, where the pass is packed
        self._visible: Visible | None = None  # in its place, where there are parallel documents
        self.name = f"{self.prefix}_{id(model):x}"
        AttentionInterface.register(self.name, self.attention)
        AttentionMaskInterface.register(self.name, self.mask)
        model.set_attn_implementation(self.name)

    def uninstall(self) -> None:
        """Give the model its own attention back."""
        super().uninstall()
        if (model := self._model()) is not None:
            model.set_attn_implementation(self.base)

    def _packed(self, kwargs: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        self._document_BL = document_starts(positions).cumsum(1)
        self._visible = visible(positions) if self.document_pass(positions, positions.shape[0]).tails else None
        ones = {} if kwargs.get("attention_mask") is not None else {"attention_mask": _ones(positions, kwargs)}
        return kwargs | ones  # transformers' own detection stays out of it

    def mask(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the model's own attention mask; of packed rows None where attention goes document by document.

        transformers calls it once a forward pass for each kind of layer. Layers with a window of their own, and models that
        widen the causal mask, get a mask with the documents in it.
        """
        plain = kwargs.get("mask_function", causal_mask_function) is causal_mask_function
        if not self.packed or kwargs.get("q_length") != kwargs.get("kv_length"):
            return self._mask(*args, **kwargs)
        if plain and kwargs.get("local_size") is None:
            return None
        if self._visible is not None:
            return self._mask(*args, **kwargs | self._parallel_mask(self._visible, kwargs))
        if "flash" in self.base:  # it takes no such mask, and finds documents by position in one row alone
            if kwargs.get("batch_size", 1) > 1:
                raise ConfigError(
                    f"{self._family} has sliding layers, where {self.base} mixes packed documents of several rows: "
                    "set attn_implementation sdpa or micro_batch_size 1"
                )
            return None
        assert self._document_BL is not None
        document_BL = self._document_BL.expand(kwargs["batch_size"], -1)
        apart = and_masks(kwargs["mask_function"], packed_sequence_mask_function(document_BL))
        return self._mask(*args, **kwargs | {"mask_function": apart, "allow_is_causal_skip": False})

    def _parallel_mask(self, seen: Visible, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return what to change in a call for a mask, for rows with parallel documents."""
        if "flash" in self.base:
            raise ConfigError(
                f"{self._family} has sliding layers, whose tails {self.base} would cut: set attn_implementation sdpa"
            )
        self._refuse_chunks(kwargs["config"])
        window, function = kwargs.get("local_size"), kwargs["mask_function"]
        rows = [x.expand(kwargs["batch_size"], -1) for x in seen]
        # A window counts from each document's end on: over a row's tokens it would end in the last document.
        apart = and_masks(causal_mask_function if window else function, Visible(*rows).mask_function(window))
        return {"mask_function": apart, "allow_is_causal_skip": False}

    @torch.compiler.disable
    def attention(  # noqa: PLR0913  transformers calls it so
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Compute one layer's attention: the model's own, or that inside each document of packed rows.

        Takes (batch, heads, length, dim) and returns (batch, length, heads, dim), as transformers calls it.
        """
        found = None if self._has_own_mask(query, key, attention_mask, kwargs) else self._documents(query, kwargs)
        if found is None or found.cuts is None:
            return self._attention(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
            )
        out = by_segment(query, key, value, found.cuts, query.shape[2], scaling, dropout)
        if found.tails:
            out = see_all(out, query, key, value, found.tails, scaling, dropout)
        return out.transpose(1, 2).contiguous(), None

    def _has_own_mask(self, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
        """Return whether a call must be computed as it is: with a mask, a window, or keys of tokens before."""
        return mask is not None or kwargs.get("sliding_window") is not None or query.shape[2] != key.shape[2]

    def _documents(self, query: Tensor, kwargs: dict[str, Any]) -> Pass | None:
        """Return the documents of a layer's call, for all its rows; None if it was given no positions."""
        positions = self.positions(kwargs)
        return None if positions is None else self.document_pass(positions, query.shape[0])

    def positions(self, kwargs: dict[str, Any]) -> Tensor | None:
        """Return the positions (rows, length) that a layer was given. Raises `ConfigError` where documents need them."""
        positions = kwargs.get("position_ids")
        if positions is None and (self.packed or self.parallel):
            fix = f"leave out {SETTING}" if self.parallel else ONE_DOCUMENT
            raise ConfigError(f"{self._family} does not hand position_ids to its attention: {fix}")
        return positions if isinstance(positions, Tensor) and positions.dim() == 2 else None


def keep_documents_apart(model: CausalLM, parallel: bool = False) -> DocumentMask:
    """Keep packed documents apart in the model's own attention, in training and evaluation, and return the hook.

    With `parallel`, tails see all documents of their row.
    """
    return (DocumentMask if why_not_replaceable(model) else DocumentAttention)(model, parallel)


def takes_positions(model: CausalLM) -> bool:
    """Return whether a model is told positions, by which packed documents are known; those of Bloom and MPT are dropped."""
    return "position_ids" in inspect.signature(model.get_decoder().forward).parameters


def why_not_replaceable(model: CausalLM) -> str:
    """Return why a model's attention cannot be replaced by PyTorch's, as a clause; "" where it can be."""
    text = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return "does not take attention from transformers' interface"
    if getattr(text, "attn_logit_softcapping", None) or any(hasattr(module, "sinks") for module in model.modules()):
        return "has softcapping or learnt sinks, which SDPA lacks"
    base = model.config._attn_implementation
    return "" if base in AttentionInterface() and base in AttentionMaskInterface() else f"runs attention {base}"


def _in_padding_alone(positions_BL: Tensor, mask_BL: Tensor | None) -> bool:
    """Return whether positions restart in padding alone, which makes no documents: the model's own mask then serves."""
    if mask_BL is None or mask_BL.shape[1] != positions_BL.shape[1]:
        return False
    present_BL = mask_BL.bool()
    highest_BL = torch.where(present_BL, positions_BL, -1).cummax(dim=1).values
    restarts_BL = positions_BL[:, 1:] <= highest_BL[:, :-1]
    return not bool((restarts_BL & present_BL[:, 1:]).any())


def _refuse_left_padding(positions_BL: Tensor, mask_BL: Tensor | None) -> None:
    if mask_BL is not None and bool((positions_BL.diff(dim=1) > 1).any()) and not bool(mask_BL[:, 0].all()):
        raise ConfigError("parallel documents take rows padded on the right: set tokenizer.padding_side right")


def _ones(positions_BL: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return torch.ones_like(positions_BL).expand(_rows(positions_BL, kwargs), -1)


def _rows(positions_BL: Tensor, kwargs: dict[str, Any]) -> int:
    inputs = kwargs.get("input_ids")
    return int((positions_BL if inputs is None else inputs).shape[0])
