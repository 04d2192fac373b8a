"""Keys of an Axolotl config that do not go with the `longlora:` section: each in a line with its value and the fix."""

from collections.abc import Iterator
from importlib.util import find_spec

import torch

from trainer_configs.longlora.axolotl_config import AxolotlConfig, ConfigDict
from trainer_configs.longlora.row_files import is_packed
from trainer_configs.longlora.section import LongLoRA

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")  # Triton: CUDA alone
PREFERENCE = ("dpo", "ipo", "kto", "orpo", "simpo")
ADAPTERS = ("lora", "qlora")
# Axolotl's ways to split a sequence across GPUs; the last from 0.20 on.
SEQUENCE_SPLITS = ("context_parallel_size", "sequence_parallel_degree", "context_parallel")


def conflicts(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    """Yield a line for each setting of the config that does not go with the section, the most basic first."""
    yield from _needed(cfg)
    yield from _replaced(cfg)
    yield from _weights(cfg, settings)
    if settings.attention != "full":
        yield from _groups(cfg, settings)
        yield from _attention(cfg, settings)
    if settings.attention == "tail_global":
        yield from _tail_global(cfg, settings)
    yield from _preferences(cfg)
    if cfg.get("use_pose"):
        yield from _pose(cfg)
    if settings.parallel_documents:
        yield from _parallel_documents(cfg, settings)
    yield from _saving(cfg, settings)
    yield from _device(cfg)


def has_flash_attention() -> bool:
    """Return whether the package flash-attn is installed."""
    return find_spec("flash_attn") is not None


def splits_sequences(cfg: ConfigDict | AxolotlConfig) -> str:
    """Return the key by which the config splits sequences across GPUs; "" where none does."""
    for key in SEQUENCE_SPLITS:
        size = cfg.get(key)
        if ((size.get("size") if isinstance(size, dict) else size) or 1) > 1:
            return key
    return ""


def _needed(cfg: ConfigDict) -> Iterator[str]:
    length = cfg.get("sequence_len")
    if cfg.get("adapter") not in ADAPTERS:
        yield f"adapter {cfg.get('adapter')!r}: set lora or qlora"
    if not isinstance(length, int) or length < 8:
        yield f"sequence_len {length!r}: set the tokens of a row, at least 8"


def _replaced(cfg: ConfigDict) -> Iterator[str]:
    if cfg.get("unfrozen_parameters"):
        yield "unfrozen_parameters freezes the LoRA and is not saved: leave it out and set longlora.train_embeddings/_norms"
    for key, successor in (("s2_attention", "attention: shifted"), ("rope_scaling", "context_extension")):
        if cfg.get(key):
            yield f"{key} is gone from Axolotl: leave it out and set longlora.{successor}"
    for key in ("embedding_lr", "embedding_lr_scale"):
        if cfg.get(key) is not None:
            yield f"{key} {cfg[key]} would be the norms' learning rate too: set longlora.embedding_lr"
    if cfg.get("trust_remote_code"):
        yield "trust_remote_code runs code from the model's repository: leave it out"


def _weights(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    if cfg.get("peft_trainable_token_indices") and settings.train_embeddings:
        yield "peft_trainable_token_indices and longlora.train_embeddings train the same weights: set one of them false"


def _groups(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    group, length = settings.group_size, cfg["sequence_len"]
    if group is not None and group > length:
        yield f"longlora.group_size {group} is larger than sequence_len {length}: lower it, {length // 4} is usual"
    if group is not None and group % 2:
        yield f"longlora.group_size {group} must be even, half of it is where the shifted heads cut: set {group - 1}"
    group = settings.group(length)
    if settings.sink_tokens > group // 2:
        yield f"longlora.sink_tokens {settings.sink_tokens} is over half of group_size {group}: lower it"
    if settings.sink_tokens and cfg.get("sample_packing"):
        yield "longlora.sink_tokens need rows of one document each: set sample_packing false or sink_tokens 0"


def _attention(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    if key := splits_sequences(cfg):
        yield f"{key} splits sequences across GPUs, where groups are not: leave it out or set longlora.attention full"
    if cfg.get("rl") and cfg["rl"] not in PREFERENCE:
        yield f"rl {cfg['rl']} has no {settings.attention} attention: set longlora.attention full"
    if cfg.get("rl_adapter_ref_model"):
        yield "rl_adapter_ref_model is a model that never trains, so never sparse, to compare with: leave it out"
    if cfg.get("flash_optimum") or cfg.get("attn_implementation") in ("xformers", "sage", "fp8"):
        yield f"attn_implementation {cfg.get('attn_implementation')} has no masks: set longlora, sdpa or flash_attention_2"


def _tail_global(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    if cfg.get("rl"):
        yield f"rl {cfg['rl']} gives the model no labels, by which tail_global finds the tail: set longlora.attention shifted"
    for key in ("sample_packing", "batch_flattening"):
        if cfg.get(key):
            yield f"{key} packs rows, and tail_global takes rows of one document each: set it false"
    if settings.parallel_documents:
        yield "longlora.parallel_documents have tails of their own: set longlora.attention shifted or full"
    if cfg.get("label_smoothing_factor"):
        yield "label_smoothing_factor takes away the labels by which tail_global finds the tail: leave it out"
    for dataset in cfg.get("datasets") or ():
        if isinstance(dataset, dict) and is_packed(path := str(dataset.get("path"))):
            yield f"{path} holds packed rows, and tail_global takes rows of one document each: make them with --mode window"


def _preferences(cfg: ConfigDict) -> Iterator[str]:
    if cfg.get("rl") and cfg.get("pad_to_multiple_of"):
        yield f"pad_to_multiple_of {cfg['pad_to_multiple_of']} crashes Axolotl with rl {cfg['rl']}: leave it out"
    if cfg.get("rl") and cfg.get("sample_packing"):
        yield f"sample_packing does not go with rl {cfg['rl']}: set it false"


def _pose(cfg: ConfigDict) -> Iterator[str]:
    if cfg.get("rl"):
        yield f"use_pose is not done with rl {cfg['rl']}: leave it out"
    length, reach = cfg["sequence_len"], cfg.get("pose_max_context_len")
    if reach is not None and reach < length:
        yield f"pose_max_context_len {reach} is below sequence_len {length}: raise it"
    for dataset in cfg.get("datasets") or ():
        if isinstance(dataset, dict) and is_packed(path := str(dataset.get("path"))):
            yield (
                f"use_pose would write over the positions of {path}, where documents begin: make rows of one document each "
                "(longthread longlora data --mode window)"
            )


def _parallel_documents(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    for key in ("use_pose", "sample_packing", "batch_flattening"):
        if cfg.get(key):
            yield f"{key} would write over the positions that longlora.parallel_documents are read by: set it false"
    if cfg.get("rl"):
        yield f"longlora.parallel_documents are not in the pairs or prompts of rl {cfg['rl']}: set it false"
    if settings.sink_tokens:
        yield "longlora.sink_tokens need rows of one document each: set sink_tokens 0 or parallel_documents false"
    if key := splits_sequences(cfg):
        yield f"{key} splits sequences across GPUs, where no tail sees every document: leave it out"


def _saving(cfg: ConfigDict, settings: LongLoRA) -> Iterator[str]:
    if settings.context_extension and cfg.get("merge_method") == "memory_efficient":
        yield "merge_method memory_efficient would drop the context extension: leave it out, or use longthread longlora merge"
    if (cfg.get("fsdp_config") or {}).get("activation_checkpointing") and cfg.get("save_strategy") not in ("no", False):
        yield f'save_strategy {cfg.get("save_strategy")!r}: PEFT cannot save while FSDP\'s checkpoints wrap layers: set "no"'


def _device(cfg: ConfigDict) -> Iterator[str]:
    if cfg.get("attn_implementation") == "flash_attention_2" and not has_flash_attention():
        yield "attn_implementation flash_attention_2 needs the package flash-attn: install it or set longlora"
    if torch.cuda.is_available():
        return
    for key in KERNELS:
        if cfg.get(key):
            yield f"{key} is a Triton kernel and there is no CUDA device: leave it out"
    if cfg.get("activation_offloading"):
        yield "activation_offloading needs a CUDA device: leave it out"
