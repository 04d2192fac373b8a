"""Put gated memories into a whole model, and check which models can have them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from lift.memory.tuner.attention import AttentionProbe, install
from lift.memory.tuner.layer import PREFIX, GatedMemoryLayer
from lift.memory.tuner.opened import OpenMemory, OpenRows
from longthread.errors import ConfigError
from longthread.language_model import CausalLM, ModelConfig


class GatedMemoryModel(BaseTuner):
    """A model with a gated memory in every layer with full attention."""

    prefix = PREFIX
    tuner_layer_cls = GatedMemoryLayer
    target_module_mapping: dict[str, list[str]] = {}
    before: str | None = None  # the model's own attention implementation
    underneath: str | None = None  # the one that does the work while there are memories

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        check(cast(CausalLM, model).config)

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        parent, _, name = key.rpartition(".")
        wanted = peft_config.target_modules
        if name not in ([wanted] if isinstance(wanted, str) else wanted):
            return False
        attention = self.model.get_submodule(parent)
        return hasattr(attention, "q_proj") and _sees_far(self.model.config, getattr(attention, "layer_idx", 0))

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: Any, current_key: str,
        parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(target, GatedMemoryLayer):
            self.before = self.before or self.model.config._attn_implementation
            self.underneath = self.underneath or install(self.model)
            probe = AttentionProbe(getattr(parent, "q_norm", None), self.underneath)
            parent.q_proj.register_forward_hook(probe.keep_query)
            heads = self.model.config.get_text_config().num_attention_heads
            target = GatedMemoryLayer(target, probe, heads, parent.layer_idx)
            setattr(parent, target_name, target)
        target.update_layer(adapter_name, peft_config)

    def unload(self) -> nn.Module:
        """Remove the memories and return the base model, with its own attention and without hooks."""
        for attention in attention_modules(self.model):
            hooks = cast(nn.Module, attention.q_proj)._forward_hooks
            for key, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), AttentionProbe):
                    del hooks[key]
        if self.before:
            self.model.set_attn_implementation(self.before)
        return super().unload()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Do nothing: memories are fp32 already."""


def attention_modules(model: CausalLM | nn.Module) -> list[nn.Module]:
    """Return the attention modules whose `o_proj` has memories, in the order of `layers`."""
    return [module for module in model.modules() if isinstance(getattr(module, "o_proj", None), GatedMemoryLayer)]


def layers(model: CausalLM | nn.Module) -> list[GatedMemoryLayer]:
    """Return all layers with memories, first to last."""
    return [module for module in model.modules() if isinstance(module, GatedMemoryLayer)]


@contextmanager
def open_rows(gated: Sequence[GatedMemoryLayer], rows: Sequence[tuple[OpenMemory, ...]]) -> Iterator[None]:
    """Open to each row of a batch its own memories in a `with` block, in these layers, whichever adapters are active.

    Rows are computed in groups (`OpenRows`); a row with nothing open is the base model's.
    """
    opened = OpenRows(rows, next(gated[0].parameters()).device) if gated else None
    try:
        for layer in gated:
            layer.rows = opened
        yield
    finally:
        for layer in gated:
            layer.rows = None


@torch.no_grad()
def gate(model: CausalLM, ids_BL: Tensor) -> Tensor:
    """Return the documents' weight in the attention at each token, (batch, length): the mean over layers and heads."""
    gated = [layer for layer in layers(model) if layer.documents]
    if not gated:
        raise ConfigError("no gated memory is on: set_adapter, or leave disable_adapter")
    try:
        for layer in gated:
            layer.records_gates = True
        model(input_ids=ids_BL, use_cache=False)
    finally:
        for layer in gated:
            layer.records_gates = False
    return torch.stack([layer.recorded_BLH.mean(-1) for layer in gated]).mean(0)


# ---- which models can have one ----------------------------------------------------------------------------------


def check(config: ModelConfig) -> None:
    """Raise `ConfigError` for a model that cannot have a gated memory, from its config alone."""
    text, kind = config.get_text_config(), type(config).__name__.removesuffix("Config")

    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"{kind} {reason}: use recipe published-v4", setting="recipe")

    if getattr(text, "kv_lora_rank", None):
        raise refuse("compresses keys and values (MLA), and gated memory needs q_proj")
    modules = _named_parts(config)
    names = {name for name, _ in modules}
    if not {"q_proj", "o_proj"} <= names:
        raise refuse("has no q_proj and o_proj of its own, and gated memory needs both")
    for _, module in modules:
        q_proj, o_proj = (getattr(module, name, None) for name in ("q_proj", "o_proj"))
        if q_proj is not None and o_proj is not None and q_proj.out_features != o_proj.in_features:
            raise refuse("has more than queries in its q_proj")
    if getattr(text, "attn_logit_softcapping", None) or "sinks" in names:
        raise refuse("has softcapping or learnt sinks in its attention")


def _named_parts(config: ModelConfig) -> list[tuple[str, nn.Module | nn.Parameter]]:
    """Return all modules and parameters with the last parts of their dotted names. The model has no weights."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):  # a copy, or the model whose config this is would be asked for eager attention too
            model = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager")
    except ValueError:
        raise ConfigError(f"{config.model_type} is not a decoder: give a causal language model") from None
    named = [*model.named_modules(), *model.named_parameters()]
    return [(name.rpartition(".")[2], part) for name, part in named]


def _sees_far(config: ModelConfig, layer: int) -> bool:
    """Return whether the layer has full attention.

    A layer with a sliding window never sees far back, with a memory or without.
    """
    kinds = getattr(config.get_text_config(), "layer_types", None) or []
    return not kinds or "full_attention" not in kinds or kinds[layer] == "full_attention"
