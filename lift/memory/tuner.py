"""The gated memory as a PEFT method: `o_proj` takes each head's attention output, mixes the memory in, and projects.

    model = get_peft_model(model, GatedMemoryConfig(gate="lse"))        # importing this module registers it with PEFT

Works on any decoder with separate q_proj and o_proj: Llama, Qwen2, Qwen3, Gemma3, SmolLM3, Mistral, OLMo2. The query before
RoPE is what `q_proj` puts out, through `q_norm` where there is one; the window's log-sum-exp is taken where attention is
computed, in transformers' attention interface: a model of eager or flash attention is asked for sdpa until `unload`. Several
active adapters are several documents at once (gate "lse"). Not under `nn.DataParallel`, whose replicas would share what they
see.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from lift import LiftError
from lift.memory.gated_memory import (
    NOTHING,
    Gate,
    GatedMemory,
    Observed,
    Recalled,
    document_attention,
    gates,
    log_sum_exp,
    mixed,
)

METHOD = "gated_memory"
PREFIX = "gm_"
BASE, WATCHED = "sdpa", "lift_sdpa"  # its masks say which keys a query sees; flash attention's do not
EVERYTHING = -NOTHING  # the log-sum-exp of a window that leaves a document nothing: finite too
HIDDEN = -1e4  # what an additive mask gives a key that is not to be seen is less, in any dtype
_UNMASKED = ContextVar("unmasked", default=False)


@dataclass
class GatedMemoryConfig(PeftConfig):
    """`width`: of the memory's hidden layer, in head dimensions. `published_init`: the authors' initial weights."""

    target_modules: list[str] | str | None = None
    gate: str = field(default="lse", metadata={"help": "lse, or query as published"})
    width: int = field(default=2, metadata={"help": "hidden layer of the memory, in head dimensions"})
    published_init: bool = field(default=False, metadata={"help": "the initial weights of the published code"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.GATED_MEMORY  # type: ignore[attr-defined]
        if self.gate not in ("lse", "query"):
            raise LiftError(f"gate {self.gate!r} is neither lse nor query")
        if self.target_modules is None:
            self.target_modules = ["o_proj"]


class Tap:
    """What one attention layer saw in this forward pass, kept until `o_proj` has used it."""

    def __init__(self, norm: nn.Module | None) -> None:
        self.norm = norm  # of queries, before RoPE
        self.hook: Any = None  # on q_proj
        self.wanted = False  # by an open document: the log-sum-exp
        self.query: Tensor | None = None  # before norm and RoPE, (B, L, H D)
        self.turned: Tensor | None = None  # after it, (B, H, L, D)
        self.scale = 1.0
        self.lse: Tensor | None = None  # (B, L, H)

    def take(self, heads: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The query as it is before RoPE, (B, L, H, D), the window's log-sum-exp, and the query as attention had it."""
        query, lse, turned = self.query, self.lse, self.turned
        self.query = self.lse = self.turned = None
        if query is None:
            raise LiftError("the model's attention did not ask for a query: gated memory does not fit this model")
        # Normalised here once more: models differ in whether a norm puts out heads or tokens first.
        parts = query.unflatten(-1, (heads, -1))
        if self.norm is None:
            return parts, lse, turned
        whole: Tensor = self.norm.weight  # type: ignore[assignment]
        if whole.shape[-1] == parts.shape[-1]:
            return self.norm(parts), lse, turned
        return self.norm(query).unflatten(-1, (heads, -1)), lse, turned

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.query = output


class GatedMemoryLayer(nn.Module, BaseTunerLayer):
    """Around `o_proj`, with a memory for each document."""

    adapter_layer_names = ("gm_memory",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, attention: Any, heads: int):
        super().__init__()
        self.base_layer = base_layer
        self.gm_memory = nn.ModuleDict({})
        self.heads, self.index, self.merged_adapters = heads, attention.layer_idx, []
        self.tap: Tap = attention.lift_tap
        self.gate: Gate = "lse"
        self.watching, self.seen = False, torch.empty(0)  # the gates of the last forward pass, (B, L, H), if watched
        # A teacher's keys and values of the document, (K, S, D), in place of the memory; and what is observed with them.
        self.exact: tuple[Tensor, Tensor, list[Any]] | None = None

    def update_layer(self, name: str, config: GatedMemoryConfig) -> None:
        base: Any = self.get_base_layer()
        dim = base.in_features // self.heads
        if self.gm_memory and config.gate != self.gate:
            raise LiftError(f"gate {config.gate} beside an adapter of gate {self.gate}: ask one document at a time")
        self.gate = config.gate  # type: ignore[assignment]
        self.gm_memory[name] = GatedMemory(self.heads, dim, self.gate, config.width, config.published_init)
        self._move_adapter_to_device_of_base_layer(name)
        self.gm_memory[name].float()  # a bf16 base keeps its memory in fp32
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def documents(self) -> list[str]:
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in self.gm_memory]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = self.documents
        if not (names or self.exact):
            self.tap.query = None
            return self.base_layer(x, *args, **kwargs)
        if self.gate == "query" and len(names) > 1:
            raise LiftError("gates of kind query do not compose: ask one document at a time")
        query, lse, turned = self.tap.take(self.heads)
        if lse is None and self.tap.wanted:
            raise LiftError(
                f"the model's attention was changed after its memory was attached: set_attn_implementation({WATCHED!r})"
            )
        o_BLHD = x.unflatten(-1, (self.heads, -1))
        recalled = (
            [self._exactly(o_BLHD, query, lse, turned)] if self.exact else [self.gm_memory[n](query) for n in names]
        )
        gate: Gate = "lse" if self.exact else self.gate
        if self.watching:
            self.seen = torch.stack(gates(recalled, gate, lse)).sum(0).detach()
        return self.base_layer(mixed(o_BLHD, recalled, gate, lse).flatten(-2), *args, **kwargs)

    def _exactly(self, o_BLHD: Tensor, query_BLHD: Tensor, lse: Any, turned: Any) -> Recalled:
        """The document's own attention, as a memory that recalls everything; also written down for a student."""
        assert self.exact is not None
        k, v, seen = self.exact
        memory_BLHD, lse_BLH = document_attention(turned, k, v, self.tap.scale)
        heads_first = [x.float().flatten(0, 1).transpose(0, 1) for x in (query_BLHD, o_BLHD, lse, memory_BLHD, lse_BLH)]
        seen.append(Observed(*heads_first))
        return Recalled(memory_BLHD, lse_BLH, torch.ones(self.heads, device=o_BLHD.device))

    def merge(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("a gated memory is no matrix: it cannot be merged")

    unmerge = merge

    # The log-sum-exp is computed only where a document asks for it.

    def tell(self) -> None:
        self.tap.wanted = self.exact is not None or (self.gate == "lse" and bool(self.documents))

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self.tell()

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self.tell()

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.tell()


class GatedMemoryModel(BaseTuner):
    prefix = PREFIX
    tuner_layer_cls = GatedMemoryLayer
    target_module_mapping: dict[str, list[str]] = {}
    before: str | None = None  # the model's own attention implementation

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        check(model.config)

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        parent, _, name = key.rpartition(".")
        wanted = peft_config.target_modules
        if name not in ([wanted] if isinstance(wanted, str) else wanted):
            return False
        attention = self.model.get_submodule(parent)
        return hasattr(attention, "q_proj") and layer_has_memory(self.model.config, getattr(attention, "layer_idx", 0))

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: Any, current_key: str,
        parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(target, GatedMemoryLayer):
            self.before = self.before or self.model.config._attn_implementation
            install(self.model)
            parent.lift_tap = Tap(getattr(parent, "q_norm", None))
            parent.lift_tap.hook = parent.q_proj.register_forward_hook(parent.lift_tap.keep)
            target = GatedMemoryLayer(target, parent, self.model.config.get_text_config().num_attention_heads)
            setattr(parent, target_name, target)
        target.update_layer(adapter_name, peft_config)

    def unload(self) -> nn.Module:
        """The base model as it was: its own attention, nothing tapped."""
        for module in self.model.modules():
            if isinstance(tap := getattr(module, "lift_tap", None), Tap):
                tap.hook.remove()
                del module.lift_tap
        if self.before:
            self.model.set_attn_implementation(self.before)
        return super().unload()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """It is fp32 already, and stays so."""


# ---- into a model -----------------------------------------------------------------------------------------------


def check(config: Any) -> None:
    """Raises `LiftError` for a model that cannot have a gated memory, from its config alone."""
    text, kind = config.get_text_config(), type(config).__name__.removesuffix("Config")
    if getattr(text, "kv_lora_rank", None):
        raise LiftError(
            f"{kind} compresses keys and values (MLA): gated memory needs q_proj, use --recipe published-v4"
        )
    modules = _modules(config)
    names = {name for name, _ in modules}
    if not {"q_proj", "o_proj"} <= names:
        raise LiftError(
            f"{kind} has no q_proj and o_proj of its own: gated memory needs both, use --recipe published-v4"
        )
    attention: Any
    for _, attention in modules:
        both = hasattr(attention, "q_proj") and hasattr(attention, "o_proj")
        if both and attention.q_proj.out_features != attention.o_proj.in_features:
            raise LiftError(f"{kind} has more than queries in its q_proj: use --recipe published-v4")
    if getattr(text, "attn_logit_softcapping", None) or "sinks" in names:
        raise LiftError(f"{kind} has softcapping or learnt sinks in its attention: use --recipe published-v4")


def _modules(config: Any) -> list[tuple[str, nn.Module]]:
    """Last names of all modules and parameters, of a model without weights."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):  # a copy, or the model whose config this is would be asked for eager attention too
            model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager")
    except ValueError:
        raise LiftError(f"{config.model_type} is no decoder: give a causal language model") from None
    named = [*model.named_modules(), *model.named_parameters()]
    return [(name.rpartition(".")[2], module) for name, module in named]


def layer_has_memory(config: Any, layer: int) -> bool:
    """All, but where some layers look through a sliding window: they never see far back, with or without a memory."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or []
    return not kinds or "full_attention" not in kinds or kinds[layer] == "full_attention"


def install(model: Any) -> None:
    """The model's attention also takes the log-sum-exp, where a tap wants it."""
    if WATCHED not in AttentionInterface():
        AttentionInterface.register(WATCHED, _watched)
        AttentionMaskInterface.register(WATCHED, _mask)
    if model.config._attn_implementation != WATCHED:
        model.set_attn_implementation(WATCHED)


@contextmanager
def unmasked() -> Iterator[None]:
    """Forward passes of rows with nothing in front of them, padded on the right: causal attention needs no mask. In a CUDA
    graph transformers makes one all the same, and with one no kernel says its log-sum-exp."""
    token = _UNMASKED.set(True)
    try:
        yield
    finally:
        _UNMASKED.reset(token)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    window = kwargs.get("local_size")  # a sliding one is a mask's
    if _UNMASKED.get() and (window is None or kwargs["kv_length"] < window):
        return None
    return AttentionMaskInterface()[BASE](*args, **kwargs)


def _watched(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    tap: Tap | None = getattr(module, "lift_tap", None)
    if tap is not None and tap.wanted:
        tap.scale, tap.turned = kwargs.get("scaling") or query.shape[-1] ** -0.5, query
        first = mask is None and query.shape[2] > 1  # of a static cache: what is behind is still empty
        seen = key[:, :, : query.shape[2]] if first else key
        lse = log_sum_exp(query, seen, mask, tap.scale, causal=mask is None)
        tap.lse = lse.masked_fill(_alone(query, seen.shape[2], mask)[..., None], EVERYTHING)
    return AttentionInterface()[BASE](module, query, key, value, mask, **kwargs)


def _alone(query_BHLD: Tensor, keys: int, mask: Tensor | None) -> Tensor:
    """Which tokens see nothing but themselves, (B or 1, L). They take the attention that others have to spare, and stand
    before a document that is in the window: a memory is closed to them. (Open, distillation of SmolLM2-135M costs other
    text 0.41 nats a token; closed, none.)"""
    if mask is None:
        before = torch.arange(query_BHLD.shape[2], device=query_BHLD.device) + keys - query_BHLD.shape[2]
        return (before == 0)[None]
    sees = mask if mask.dtype == torch.bool else mask > HIDDEN
    return sees[:, 0].sum(-1) <= 1


def layers(model: nn.Module) -> list[GatedMemoryLayer]:
    return [module for module in model.modules() if isinstance(module, GatedMemoryLayer)]


@torch.no_grad()
def gate(model: Any, ids_BL: Tensor) -> Tensor:
    """The share of the attention that goes to the documents, at each token: mean over layers and heads, (B, L)."""
    gated = [layer for layer in layers(model) if layer.documents]
    if not gated:
        raise LiftError("no gated memory is on: set_adapter, or leave disable_adapter")
    try:
        for layer in gated:
            layer.watching = True
        model(input_ids=ids_BL, use_cache=False)
    finally:
        for layer in gated:
            layer.watching = False
    return torch.stack([layer.seen.mean(-1) for layer in gated]).mean(0)


def _register() -> None:
    """PEFT asks for a member of an enum that is closed: one is added."""
    name = METHOD.upper()
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
    type.__setattr__(PeftType, name, member)
    register_peft_method(name=METHOD, config_cls=GatedMemoryConfig, model_cls=GatedMemoryModel, prefix=PREFIX)


_register()
