"""The `longlora:` section of an Axolotl config: what it may say, what it excludes, and what else it sets.

    plugins: [trainer_configs.longlora.LongLoRAPlugin]
    attn_implementation: longlora        # no other plugin knows the name, so nothing trains without this one
    longlora:
      attention: shifted                 # or full: everything here but sparse attention
      context_extension: {method: yarn, target_length: 32768}

`configure` works on the config before Axolotl validates it, and without Axolotl. The same config twice is the same as once:
`axolotl merge-lora` loads it twice.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from transformers import AutoConfig, PretrainedConfig

from trainer_configs.longlora.rope.extension import Extension, RopeError, check_overrides, plan
from trainer_configs.longlora.trainable import TrainableError, module_names

PLUGIN = "LongLoRAPlugin"
ROLLOUTS = "trainer_configs.longlora.rollouts"
ATTENTION = "longlora"  # as attn_implementation: the best that is installed
KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")  # Triton: CUDA alone
PREFERENCE = ("dpo", "ipo", "kto", "orpo", "simpo")
ADAPTERS = ("lora", "qlora")


class LongLoRAError(SystemExit, ValueError):
    """What a user has to change, in one line. On a command line that line is all that is seen, with exit code 1; to those
    who load configs themselves it is a ValueError."""


class ContextExtension(BaseModel, extra="allow"):
    """`rope.extended`; its own options (`beta_fast`, `long_factor`, `native_length`, …) stand beside these two."""

    method: Literal["linear", "ntk", "dynamic", "yarn", "longrope", "llama3"]
    target_length: int = Field(gt=0)


class LongLoRA(BaseModel, extra="forbid"):
    """Lengths in tokens."""

    attention: Literal["shifted", "full"] = "shifted"
    group_size: int | None = Field(default=None, gt=1)  # None: a quarter of sequence_len
    sink_tokens: int = Field(default=0, ge=0)
    # Sparse steps alone keep perplexity and lose retrieval; a quarter of full ones wins most of it back.
    full_attention_steps: float = Field(default=0.25, ge=0, le=1)
    train_embeddings: bool = True
    train_norms: bool = True
    embedding_lr: float | None = Field(default=None, gt=0)  # None: learning_rate
    norm_lr: float | None = Field(default=None, gt=0)
    context_extension: ContextExtension | None = None
    min_score: float = Field(default=1.0, ge=0, le=1)  # of completions, for datasets of type rollouts


class LongLoRAArgs(BaseModel):
    """What Axolotl adds to its own config schema."""

    longlora: LongLoRA | None = None


def enabled(cfg: Any) -> bool:
    """Whether this config asks for the plugin. In one process Axolotl keeps plugins of earlier configs."""
    return any(str(name).endswith(PLUGIN) for name in cfg.get("plugins") or ())


def training(cfg: Any) -> bool:
    return not (cfg.get("merge_lora") or cfg.get("inference"))


def section(cfg: Any) -> LongLoRA:
    """The section, validated. Raises `LongLoRAError`."""
    given = cfg.get("longlora") or {}
    try:
        return LongLoRA.model_validate(given if isinstance(given, dict) else given.model_dump())
    except (ValidationError, AttributeError) as error:
        raise LongLoRAError(_one_line(error, given)) from None


def _one_line(error: Exception, given: Any) -> str:
    if not isinstance(error, ValidationError):
        return f"longlora: {given!r} must be a section of keys: {', '.join(LongLoRA.model_fields)}"
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, ("longlora", *first["loc"])))
    if first["type"] == "extra_forbidden":
        return f"{name} is no setting: known are {', '.join(LongLoRA.model_fields)}"
    if first["type"] == "missing":
        return f"{name} is missing: set it"
    return f"{name} {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def configure(cfg: Any) -> None:
    """Checks the whole config and sets what follows from the section. Raises `LongLoRAError`, one line."""
    settings = section(cfg)
    for complaint in _complaints(cfg, settings):
        raise LongLoRAError(complaint)
    config = model_config(cfg)
    try:
        names = module_names(config, settings.train_embeddings, settings.train_norms)
        check_overrides(config, _own_overrides(cfg))
        extension = extension_of(cfg, config)
    except (TrainableError, RopeError) as error:
        raise LongLoRAError(f"{cfg['base_model']}: {error}") from None
    _check_length(cfg, settings, config, extension)
    _set_trainable(cfg, names, settings.train_embeddings, config)
    _set_attention(cfg, settings)
    if extension:
        cfg["overrides_of_model_config"] = {**(cfg.get("overrides_of_model_config") or {}), **extension.changes}
        if cfg.get("merge_method") is None:
            cfg["merge_method"] = "legacy"  # the other one gives the merged model the base's config, without the RoPE
    _set_device(cfg)
    for dataset in cfg.get("datasets") or ():
        _set_dataset(dataset, settings)
    if settings.group_size is None and settings.attention == "shifted":
        settings.group_size = cfg["sequence_len"] // 8 * 2
    cfg["longlora"] = settings.model_dump(exclude_none=True)


def model_config(cfg: Any) -> PretrainedConfig:
    """The base model's config as it is stored."""
    name = cfg.get("base_model_config") or cfg.get("base_model")
    if not name:
        raise LongLoRAError("base_model is missing: set it")
    options = {"revision": cfg["revision_of_model"]} if cfg.get("revision_of_model") else {}
    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise LongLoRAError(f"base_model {name}: {str(error).splitlines()[0]}") from None


def extension_of(cfg: Any, config: PretrainedConfig) -> Extension | None:
    """The context extension for a config as it is stored. Raises `RopeError`."""
    asked = section(cfg).context_extension
    return plan(config, asked.method, asked.target_length, **(asked.model_extra or {})) if asked else None


# ---- what is refused --------------------------------------------------------------------------------------------


def _complaints(cfg: Any, settings: LongLoRA) -> Iterator[str]:
    """Each names the key, its value and the fix."""
    shifted, length = settings.attention == "shifted", cfg.get("sequence_len")
    if cfg.get("adapter") not in ADAPTERS:
        yield f"adapter {cfg.get('adapter')!r}: set lora or qlora"
    if not isinstance(length, int) or length < 8:
        yield f"sequence_len {length!r}: set the tokens of a row, at least 8"
    if cfg.get("unfrozen_parameters"):
        yield "unfrozen_parameters freezes the LoRA and is not saved: leave it out and set longlora.train_embeddings/_norms"
    for key in ("s2_attention", "rope_scaling"):
        if cfg.get(key):
            there = "attention: shifted" if key == "s2_attention" else "context_extension"
            yield f"{key} is gone from Axolotl: leave it out and set longlora.{there}"
    for key in ("embedding_lr", "embedding_lr_scale"):
        if cfg.get(key) is not None:
            yield f"{key} {cfg[key]} would be the norms' learning rate too: set longlora.embedding_lr"
    if cfg.get("trust_remote_code"):
        yield "trust_remote_code runs code from the model's repository: leave it out"
    if cfg.get("peft_trainable_token_indices") and settings.train_embeddings:
        yield "peft_trainable_token_indices and longlora.train_embeddings train the same weights: set one of them false"
    yield from _attention_complaints(cfg, settings) if shifted else ()
    yield from _trap_complaints(cfg, settings)


def _attention_complaints(cfg: Any, settings: LongLoRA) -> Iterator[str]:
    group, length = settings.group_size, cfg["sequence_len"]
    if group is not None and group > length:
        yield f"longlora.group_size {group} is larger than sequence_len {length}: lower it, {length // 4} is usual"
    if group is not None and group % 2:
        yield f"longlora.group_size {group} must be even, half of it is where the shifted heads cut: set {group - 1}"
    group = group or length // 8 * 2
    if settings.sink_tokens > group // 2:
        yield f"longlora.sink_tokens {settings.sink_tokens} is over half of group_size {group}: lower it"
    if settings.sink_tokens and cfg.get("sample_packing"):
        yield "longlora.sink_tokens need rows of one document each: set sample_packing false or sink_tokens 0"
    for key in ("context_parallel_size", "sequence_parallel_degree", "context_parallel"):  # the last from 0.20 on
        size = cfg.get(key)
        if ((size.get("size") if isinstance(size, dict) else size) or 1) > 1:
            yield f"{key} splits sequences across GPUs, where groups are not: leave it out or set longlora.attention full"
    if cfg.get("rl") and cfg["rl"] not in PREFERENCE:
        yield f"rl {cfg['rl']} has no shifted attention: set longlora.attention full, or rl to {', '.join(PREFERENCE)}"
    if cfg.get("rl_adapter_ref_model"):
        yield "rl_adapter_ref_model is a model that never trains, so never sparse, to compare with: leave it out"
    if cfg.get("flash_optimum") or cfg.get("attn_implementation") in ("xformers", "sage", "fp8"):
        yield f"attn_implementation {cfg.get('attn_implementation')} has no masks: set longlora, sdpa or flash_attention_2"


def _trap_complaints(cfg: Any, settings: LongLoRA) -> Iterator[str]:
    if cfg.get("rl") and cfg.get("pad_to_multiple_of"):
        yield f"pad_to_multiple_of {cfg['pad_to_multiple_of']} crashes Axolotl with rl {cfg['rl']}: leave it out"
    if cfg.get("rl") and cfg.get("sample_packing"):
        yield f"sample_packing does not go with rl {cfg['rl']}: set it false"
    if cfg.get("attn_implementation") == "flash_attention_2" and find_spec("flash_attn") is None:
        yield "attn_implementation flash_attention_2 needs the package flash-attn: install it or set longlora"
    if settings.context_extension and cfg.get("merge_method") == "memory_efficient":
        yield "merge_method memory_efficient would drop the context extension: leave it out, or use longthread longlora merge"
    if (cfg.get("fsdp_config") or {}).get("activation_checkpointing") and cfg.get("save_strategy") not in ("no", False):
        yield f'save_strategy {cfg.get("save_strategy")!r}: PEFT cannot save while FSDP\'s checkpoints wrap layers: set "no"'
    if not torch.cuda.is_available():
        for key in KERNELS:
            if cfg.get(key):
                yield f"{key} is a Triton kernel and there is no CUDA device: leave it out"
        if cfg.get("activation_offloading"):
            yield "activation_offloading needs a CUDA device: leave it out"


def _own_overrides(cfg: Any) -> dict[str, Any]:
    """Those that stood in the file. Where a config is loaded a second time, ours stand there too."""
    overrides = dict(cfg.get("overrides_of_model_config") or {})
    if section(cfg).context_extension and "rope_parameters" in overrides:
        extension = extension_of(cfg, model_config(cfg))
        if extension is None or overrides["rope_parameters"] != extension.changes["rope_parameters"]:
            raise LongLoRAError(
                "overrides_of_model_config.rope_parameters and longlora.context_extension set the same: leave the first out"
            )
        overrides.pop("rope_parameters")
    return overrides


def _check_length(cfg: Any, settings: LongLoRA, config: PretrainedConfig, extension: Extension | None) -> None:
    length = cfg["sequence_len"]
    if extension and length > extension.target:
        raise LongLoRAError(
            f"sequence_len {length} is above longlora.context_extension.target_length {extension.target}: lower it"
        )
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    window = (cfg.get("overrides_of_model_config") or {}).get("max_position_embeddings", own)
    if not extension and window and length > window:
        raise LongLoRAError(
            f"sequence_len {length} is above the model's window of {window}: set longlora.context_extension"
        )


# ---- what is set ------------------------------------------------------------------------------------------------


def _set_trainable(cfg: Any, names: list[str], embeddings: bool, config: PretrainedConfig) -> None:
    given = list(cfg.get("lora_modules_to_save") or ())
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    if tied and "lm_head" in given:
        raise LongLoRAError(
            "lora_modules_to_save lm_head is tied to the embeddings, and would part from them: leave it out"
        )
    if modules := list(dict.fromkeys([*given, *names])):
        cfg["lora_modules_to_save"] = modules
    if tied and (embeddings or "embed_tokens" in given):
        if cfg.get("peft_ensure_weight_tying") is False:
            raise LongLoRAError("peft_ensure_weight_tying false would part the tied embeddings and head: leave it out")
        cfg["peft_ensure_weight_tying"] = True


def _set_attention(cfg: Any, settings: LongLoRA) -> None:
    if cfg.get("attn_implementation") in (None, ATTENTION):
        flash = torch.cuda.is_available() and find_spec("flash_attn") is not None
        cfg["attn_implementation"] = "flash_attention_2" if flash else "sdpa"
    if cfg.get("pad_to_sequence_len") is None and not cfg.get("sample_packing"):
        # Padding, to a multiple of 64 by default, gives full attention a mask: 1 GiB a row at 32k, 16 GiB at 128k.
        cfg["pad_to_sequence_len"] = False


def _set_device(cfg: Any) -> None:
    if torch.cuda.is_available():
        return
    for key in KERNELS:  # which Axolotl turns on by itself
        cfg[key] = False
    if cfg.get("fp16") is None:
        cfg["fp16"] = False  # or bf16 auto would load the base in fp16
    if cfg.get("sample_packing") and cfg.get("sdpa_varlen") is None:
        cfg["sdpa_varlen"] = False


def _set_dataset(dataset: Any, settings: LongLoRA) -> None:
    """Rollouts are read as lines of text, since Arrow would guess a schema from the first of them. `conversation` is
    unused by Axolotl but for the name of the prepared dataset: without it another score, or more rows, would find the old
    one."""
    if not isinstance(dataset, dict) or dataset.get("type") != ROLLOUTS:
        return
    path = Path(str(dataset.get("path")))
    if path.is_file():
        dataset["ds_type"] = "text"
        dataset["conversation"] = f"score >= {settings.min_score}, {os.path.getsize(path)} bytes"
