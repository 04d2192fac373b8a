"""Check an Axolotl config with a `longlora:` section (section.py), and set the keys of Axolotl that follow from it.

    plugins: [trainer_configs.longlora.LongLoRAPlugin]
    attn_implementation: longlora        # no other plugin knows the name, so nothing trains without this one
    longlora:
      attention: shifted                 # or tail_global; or full: everything here but sparse attention
      context_extension: {method: yarn, target_length: 32768}

`configure` works on the config before Axolotl validates it, and without Axolotl. It changes nothing when it is called
again, because `axolotl merge-lora` loads a config twice.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import AutoConfig, PretrainedConfig

from longthread.errors import ConfigError
from longthread.model_shape import window_of
from trainer_configs.longlora.axolotl_config import AxolotlConfig, ConfigDict
from trainer_configs.longlora.conflicts import KERNELS, conflicts, has_flash_attention
from trainer_configs.longlora.rope.extension import Extension, check_overrides
from trainer_configs.longlora.rope.methods import Parameters
from trainer_configs.longlora.row_files import ROWS, lacks_mask
from trainer_configs.longlora.section import LongLoRA
from trainer_configs.longlora.trainable import module_names

PLUGIN = "LongLoRAPlugin"
ROLLOUTS = "trainer_configs.longlora.rollouts"
POSE_REACH = 32_768  # tokens, Axolotl's own where neither the config nor the model says how far
ATTENTION = "longlora"  # as attn_implementation: the best that is installed


class LongLoRAError(ConfigError, SystemExit):
    """A config that cannot be trained. Uncaught, it ends Axolotl with its one line and exit code 1, without a traceback."""

    def __init__(self, message: str):
        super().__init__(message)
        self.code = str(self)


@contextmanager
def one_line(prefix: str = "") -> Iterator[None]:
    """Turn a `ConfigError` in a `with` block into a `LongLoRAError`, which ends Axolotl in one line after `prefix`."""
    try:
        yield
    except ConfigError as error:
        raise LongLoRAError(f"{prefix}{error}") from None


def is_enabled(cfg: ConfigDict) -> bool:
    """Return whether a config asks for the plugin. In one process Axolotl keeps plugins of earlier configs."""
    return any(str(name).endswith(PLUGIN) for name in cfg.get("plugins") or ())


def is_training(cfg: ConfigDict | AxolotlConfig) -> bool:
    """Return False for a config with which Axolotl only merges or generates, else True."""
    return not (cfg.get("merge_lora") or cfg.get("inference"))


def section(cfg: ConfigDict | AxolotlConfig) -> LongLoRA:
    """Return the config's validated `longlora:` section; its defaults if there is none. Raises `LongLoRAError`."""
    given = cfg.get("longlora") or {}
    if isinstance(given, LongLoRA):
        return given
    if not isinstance(given, dict):
        raise LongLoRAError(f"longlora: {given!r} must be a section of keys: {', '.join(LongLoRA.model_fields)}")
    try:
        return LongLoRA.model_validate(given)
    except ValidationError as error:
        raise LongLoRAError(_first_line(error)) from None


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, ("longlora", *first["loc"])))
    if first["type"] == "extra_forbidden":
        return f"{name} is an unknown key: valid keys are {', '.join(LongLoRA.model_fields)}"
    if first["type"] == "missing":
        return f"{name} is missing: set it"
    return f"{name} {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def configure(cfg: ConfigDict) -> None:
    """Check the whole config, and set Axolotl's keys that follow from the `longlora:` section.

    Raises `LongLoRAError`.
    """
    settings = section(cfg)
    for conflict in conflicts(cfg, settings):
        raise LongLoRAError(conflict)
    config = model_config(cfg)
    with one_line(f"{cfg['base_model']}: "):
        names = module_names(config, settings.train_embeddings, settings.train_norms)
        extension = settings.extension(config)
    overrides = _own_overrides(cfg, extension)
    with one_line(f"{cfg['base_model']}: "):
        check_overrides(config, overrides)
    _check_length(cfg, config, extension)
    _set_trainable(cfg, names, settings.train_embeddings, config)
    _set_attention(cfg)
    if extension:
        cfg["overrides_of_model_config"] = {**(cfg.get("overrides_of_model_config") or {}), **extension.changes}
        if cfg.get("merge_method") is None:
            cfg["merge_method"] = "legacy"  # the other one gives the merged model the base's config, without the RoPE
    _set_device(cfg)
    for dataset in cfg.get("datasets") or ():
        _set_dataset(dataset, settings)
    if settings.attention != "full":
        settings.group_size = settings.group(cfg["sequence_len"])
    cfg["longlora"] = settings.model_dump(exclude_none=True)


def model_config(cfg: ConfigDict | AxolotlConfig) -> PretrainedConfig:
    """Load the base model's config as it is stored. Raises `LongLoRAError`."""
    name = cfg.get("base_model_config") or cfg.get("base_model")
    if not name:
        raise LongLoRAError("base_model is missing: set it")
    revision = cfg.get("revision_of_model")
    try:
        return AutoConfig.from_pretrained(name, **({"revision": revision} if revision else {}))
    except (OSError, ValueError) as error:
        raise LongLoRAError(f"base_model {name}: {str(error).splitlines()[0]}") from None


def _own_overrides(cfg: ConfigDict, extension: Extension | None) -> Parameters:
    """Return the overrides that stood in the file.

    Where a config is loaded a second time, the extension's stand there too.
    """
    overrides = dict(cfg.get("overrides_of_model_config") or {})
    if extension is None or "rope_parameters" not in overrides:
        return overrides
    if overrides.pop("rope_parameters") != extension.changes["rope_parameters"]:
        raise LongLoRAError(
            "overrides_of_model_config.rope_parameters and longlora.context_extension set the same: leave the first out"
        )
    return overrides


def _check_length(cfg: ConfigDict, config: PretrainedConfig, extension: Extension | None) -> None:
    """Check that rows lie inside the window, and the positions that PoSE skips to."""
    length = cfg["sequence_len"]
    if extension and length > extension.target:
        raise LongLoRAError(
            f"sequence_len {length} is above longlora.context_extension.target_length {extension.target}: lower it"
        )
    overrides = cfg.get("overrides_of_model_config") or {}
    name = "max_seq_len" if hasattr(config.get_text_config(), "max_seq_len") else "max_position_embeddings"
    window = overrides.get(name, window_of(config))
    if not extension and window and length > window:
        alibi = f"overrides_of_model_config: {{{name}: {length}}}, which ALiBi needs alone"
        fix = alibi if name == "max_seq_len" else "longlora.context_extension"
        raise LongLoRAError(f"sequence_len {length} is above the model's window of {window}: set {fix}")
    if cfg.get("use_pose"):
        _set_pose(cfg, extension.target if extension else window)


def _set_pose(cfg: ConfigDict, window: int | None) -> None:
    """Set how far PoSE skips, to the window's end by default, and refuse positions beyond it."""
    if cfg.get("pose_max_context_len") is None:
        cfg["pose_max_context_len"] = window or max(POSE_REACH, cfg["sequence_len"])
    if window and cfg["pose_max_context_len"] > window:
        raise LongLoRAError(
            f"pose_max_context_len {cfg['pose_max_context_len']} is above the window of {window} tokens: lower it, or raise "
            "longlora.context_extension.target_length"
        )


# ---- what is set ------------------------------------------------------------------------------------------------


def _set_trainable(cfg: ConfigDict, names: list[str], embeddings: bool, config: PretrainedConfig) -> None:
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


def _set_attention(cfg: ConfigDict) -> None:
    if cfg.get("attn_implementation") in (None, ATTENTION):
        flash = torch.cuda.is_available() and has_flash_attention()
        cfg["attn_implementation"] = "flash_attention_2" if flash else "sdpa"
    if cfg.get("pad_to_sequence_len") is None and not cfg.get("sample_packing"):
        # Padding, to a multiple of 64 by default, gives full attention a mask: 1 GiB a row at 32k, 16 GiB at 128k.
        cfg["pad_to_sequence_len"] = False


def _set_device(cfg: ConfigDict) -> None:
    if torch.cuda.is_available():
        return
    for key in KERNELS:  # which Axolotl turns on by itself
        cfg[key] = False
    if cfg.get("fp16") is None:
        cfg["fp16"] = False  # or bf16 auto would load the base in fp16
    if cfg.get("sample_packing") and cfg.get("sdpa_varlen") is None:
        cfg["sdpa_varlen"] = False


def _set_dataset(dataset: ConfigDict, settings: LongLoRA) -> None:
    """Have rollouts read as lines of text, since Arrow would guess a schema from the first of them; and rows as rows.

    Without a type of their own, Axolotl takes rows without a mask for text. It uses `conversation` only in the name of the
    prepared dataset: without it, another score or more rollouts would find the old one.
    """
    if not isinstance(dataset, dict):
        return
    if not dataset.get("type") and lacks_mask(str(dataset.get("path"))):
        dataset["type"] = ROWS
    if dataset.get("type") != ROLLOUTS:
        return
    path = Path(str(dataset.get("path")))
    if path.is_file():
        dataset["ds_type"] = "text"
        dataset["conversation"] = f"score >= {settings.min_score}, {os.path.getsize(path)} bytes"
