"""Embeddings and norms trained in full beside LoRA, so that they learn, are saved, and stay tied.

    names = module_names(model)                              # LoraConfig(modules_to_save=names, ensure_weight_tying=True)
    prepare(peft_model, torch.bfloat16)                      # once PEFT has wrapped the model, before the optimizer
    optimizer = AdamW(parameter_groups(peft_model, lr=2e-5, embedding_lr=1e-5))

LongLoRA (arXiv 2309.12307, section 3.3) trains both: LoRA alone stays far behind at long context. Without `prepare` three
things go wrong. Neighbouring bf16 numbers next to 1.0 are 2^-7 apart, so steps of 2e-5 are rounded away and no norm ever
moves. fp32 copies train, but upcast the residual stream, RoPE and the attention. PEFT unties what was tied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from longthread.errors import ConfigError
from longthread.language_model import CausalLM

if TYPE_CHECKING:  # PEFT is imported where it is used
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper

KINDS = ("lora", "embedding", "norm", "head", "other")
TRAINABLE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Count:
    """Trained parameters of one kind and dtype; what is shared between embedding and head counts once, as embedding."""

    kind: str
    tensors: int
    elements: int
    dtype: torch.dtype


# ---- which modules ----------------------------------------------------------------------------------------------


def module_names(
    model_or_config: nn.Module | PretrainedConfig, embeddings: bool = True, norms: bool = True
) -> list[str]:
    """Return the names for PEFT's `modules_to_save`: the input embedding, and the norms of the decoder it feeds.

    Takes a model that PEFT has not wrapped, or its config, which does not show quantisation. Works for any family: modules
    are found by their kind, not by name. PEFT takes every module whose name *ends* so; where that would reach others, the
    whole names are given. Raises `ConfigError`.
    """
    model = model_or_config if isinstance(model_or_config, nn.Module) else _skeleton(model_or_config)
    places = {module: name for name, module in model.named_modules()}
    embedding = _input_embedding(model)
    weight, place = embedding.weight, places[embedding]
    if embeddings and weight.dtype not in TRAINABLE_DTYPES:
        raise ConfigError(f"{place} is quantised ({weight.dtype}) and cannot be trained: set train_embeddings: false")
    decoder = place.rpartition(".")[0]  # so a vision tower's norms stay as they are
    wanted = [place] if embeddings else []
    if norms:
        names = [n for m, n in places.items() if n.startswith(decoder) and _is_norm(n, m)]
        if odd := [n for n in names if model.get_submodule(n).weight.dtype not in TRAINABLE_DTYPES]:
            raise ConfigError(f"{odd[0]} is quantised and cannot be trained: set train_norms: false")
        wanted += names
    short = list(dict.fromkeys(name.rpartition(".")[2] for name in wanted))
    for names in (short, wanted):
        if {n for n in places.values() if n.endswith(tuple(names))} <= set(wanted):
            return names
    raise ConfigError(f"PEFT cannot tell {wanted[0]} from other modules by its name: set train_embeddings: false")


def _skeleton(config: PretrainedConfig) -> nn.Module:
    """Return the model of a config without weights."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except ValueError:
        name = type(config).__name__
        raise ConfigError(f"{name} is not the config of a causal language model: no norms found") from None
    return model


def _input_embedding(model: Any) -> nn.Module:
    try:
        embedding: nn.Module | None = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if embedding is None or getattr(embedding, "weight", None) is None:
        raise ConfigError(f"{type(model).__name__} has no input embeddings: not a language model of transformers")
    return embedding


def _is_norm(name: str, module: nn.Module) -> bool:
    """Return whether a module is a norm with weights, by its own or its class's name (GPT-2's ln_1 is a LayerNorm).

    Norms without weights have nothing to train.
    """
    called = f"{name.rpartition('.')[2]} {type(module).__name__}".lower()
    own = list(module.parameters(recurse=False))
    return "norm" in called and hasattr(module, "weight") and bool(own) and all(p.ndim == 1 for p in own)


# ---- after PEFT -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CastOutput:
    """A forward hook that casts a module's output to `dtype`; with None, to the dtype of its input."""

    dtype: torch.dtype | None = None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: object) -> object:
        """Return the output, cast if it is a tensor."""
        dtype = self.dtype or (args[0].dtype if args else None)
        return output.to(dtype) if isinstance(output, torch.Tensor) else output


def prepare(model: "PeftModel", dtype: torch.dtype | None = None) -> None:
    """Make all trainable weights fp32, and cast outputs back.

    The embedding's output gets `dtype` (default: the base's own), a norm's output the dtype of its input. For a model
    that PEFT has wrapped, before the optimizer is built; a second call changes nothing. Under DeepSpeed ZeRO-3 weights
    stay as they are: its optimizer keeps fp32 masters itself. Raises `ConfigError` if nothing is trainable, if a
    trainable parameter would not be saved, or if tied weights would part.
    """
    kinds = [(kind, name) for kind, name, _, _ in _trained(model)]
    if not kinds:
        raise ConfigError("nothing is trainable: set adapter: lora, and prepare the model once PEFT has wrapped it")
    for kind, name in kinds:
        if kind == "unsaved":
            raise ConfigError(
                f"{name} is trainable but not part of the adapter, so it would be lost: "
                "name its module in lora_modules_to_save, and leave unfrozen_parameters out"
            )
    _check_tie(model)
    for _, _, parameter, _ in _trained(model):  # LoRA too: TRL casts it to bf16 for quantised models
        if not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()  # in place of the old data: what is tied stays tied
    for kind, _, wrapper in saved_modules(model):
        if kind in ("embedding", "norm") and not any(
            isinstance(h, CastOutput) for h in wrapper._forward_hooks.values()
        ):
            own_dtype = dtype or wrapper.original_module.weight.dtype
            wrapper.register_forward_hook(CastOutput(own_dtype if kind == "embedding" else None))


def save_sharded(model: "PeftModel", folder: str | Path) -> bool:
    """Write the adapter of a model that FSDP2 has sharded, as PEFT writes that of a whole one. All ranks call it.

    It replaces Axolotl's `save_fsdp2_lora_adapter`, which gathers LoRA alone and then ends the run because PEFT wants the
    rest too. Like that it returns True for "saved".
    """
    import torch.distributed as dist
    from safetensors.torch import save_file
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    # Whole on rank 0, nothing on others; without the names of checkpoint wrappers.
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
        adapter = {
            name.replace(".modules_to_save.default.", ".").replace(".default.", "."): tensor
            for name, tensor in state.items()
            if "lora_" in name or ".modules_to_save." in name  # a tied frozen weight is there by its second name
        }
        save_file(adapter, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
        model.peft_config["default"].save_pretrained(str(folder))
    dist.barrier()
    return True


def counts(model: CausalLM) -> list[Count]:
    """Count the trained parameters of each kind (`KINDS`) and dtype."""
    sizes: dict[tuple[str, torch.dtype], list[int]] = {}
    for kind, _, parameter, elements in _trained(model):
        sizes.setdefault((kind, parameter.dtype), []).append(elements)
    order = (*KINDS, "unsaved")
    rows = [Count(kind, len(elements), sum(elements), dtype) for (kind, dtype), elements in sizes.items()]
    return sorted(rows, key=lambda row: (order.index(row.kind), str(row.dtype)))


def parameter_groups(
    model: CausalLM,
    lr: float,
    embedding_lr: float | None = None,
    norm_lr: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Return parameter groups for a torch optimizer, by kind; a rate left out is `lr`. Embedding and head share theirs.

    Only LoRA is decayed: there, towards zero is towards the base model. For embeddings and norms it is away from it.
    """
    rates = {"embedding": embedding_lr, "head": embedding_lr, "norm": norm_lr}
    groups: dict[str, dict[str, Any]] = {}
    for kind, _, parameter, _ in _trained(model):
        rate = rates.get(kind)
        decay = weight_decay if kind == "lora" else 0.0
        new = {"name": kind, "params": [], "lr": lr if rate is None else rate, "weight_decay": decay}
        groups.setdefault(kind, new)["params"].append(parameter)
    return list(groups.values())


def saved_modules(model: CausalLM) -> "Iterator[tuple[str, str, ModulesToSaveWrapper]]":
    """Yield kind, name and wrapper of each of PEFT's `modules_to_save`. The embedding comes first, so that shared
    weights are its own."""
    from peft.utils import ModulesToSaveWrapper

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            original = module.original_module
            kind = "head" if module is head else "norm" if _is_norm(name, original) else "other"
            rows.append(("embedding" if isinstance(original, nn.Embedding) else kind, name, module))
    yield from sorted(rows, key=lambda row: row[0] != "embedding")


def _trained(model: CausalLM) -> Iterator[tuple[str, str, nn.Parameter, int]]:
    """Yield kind, name, parameter and elements of all that is trainable. Kind `unsaved`: PEFT would not save it."""
    kinds: dict[int, str] = {}
    for kind, _, wrapper in saved_modules(model):
        for parameter in wrapper.modules_to_save.parameters():
            kinds.setdefault(id(parameter), kind)
    prefix = getattr(getattr(model, "base_model", None), "prefix", "lora_")  # of the tuner's own weights
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = kinds.get(id(parameter), "lora" if prefix in name else "unsaved")
            yield kind, name, parameter, getattr(parameter, "ds_numel", parameter.numel())


def _check_tie(model: CausalLM) -> None:
    """Raise `ConfigError` if the trained embedding has left the head it was tied to."""
    embedding: Any
    head: Any
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    frozen = getattr(embedding, "original_module", None)
    if head is None or frozen is None or frozen.weight is not getattr(head, "original_module", head).weight:
        return
    if embedding.weight is not head.weight:
        from peft.utils.constants import EMBEDDING_LAYER_NAMES

        name = next(n for n, m in model.named_modules() if m is embedding).rpartition(".")[2]
        known = name in EMBEDDING_LAYER_NAMES
        fix = "peft_ensure_weight_tying: true" if known else "train_embeddings: false (PEFT ties only embed_tokens)"
        raise ConfigError(f"{name} is trained but the head tied to it is not, so they would part: set {fix}")
