"""Read an adapter, the base model it was trained on, and their tokenizer, and refuse what does not belong together.

Only safetensors are read, and no code from a model's folder is run. Each function raises `ConfigError`.
"""

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longthread.errors import ConfigError
from longthread.files import write_json

if TYPE_CHECKING:  # imported where they are used: a command's `--help` needs neither
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken")
TEMPLATES = ("chat_template*", "additional_chat_templates/*", "*processor_config.json")


def base_of(adapter: Path) -> str | None:
    """Return the name of the base model that the adapter states, None if it states none.

    Refuses all but a LoRA in safetensors.
    """
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        kind = settings["peft_type"]
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{adapter} is not an adapter folder (no readable adapter_config.json)") from None
    if kind != "LORA":
        raise ConfigError(f"{adapter} is an adapter of type {kind}: only LORA can be merged")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{adapter} has no adapter_model.safetensors (pickled weights are not read): save it anew")
    name = settings.get("base_model_name_or_path")
    return str(name) if name else None


def configs(adapter: Path, base: str) -> "tuple[PretrainedConfig, PretrainedConfig | None]":
    """Return the base model's config, and the config that the training run left (None without one)."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        raise ConfigError(
            f"base model {base} cannot be read (no such folder or model): give another one", setting="base"
        ) from None
    if getattr(config, "quantization_config", None):
        raise ConfigError(f"base model {base} is quantised: give the unquantised one", setting="base")
    run = adapter.parent if adapter.name.startswith("checkpoint-") else adapter  # checkpoints have no config.json
    for folder in (adapter, run):
        if (folder / "config.json").is_file():
            trained = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if trained.model_type != config.model_type:
                fault = f"{adapter} was trained on a {trained.model_type}, {base} is a {config.model_type}"
                raise ConfigError(f"{fault}: give its base model", setting="base")
            return config, trained
    return config, None


def copy_window(trained: "PretrainedConfig", config: "PretrainedConfig") -> None:
    """Copy RoPE and longest position from the training run's config into the base model's config."""
    source, target = trained.get_text_config(), config.get_text_config()
    for name in ("rope_parameters", "max_position_embeddings", "original_max_position_embeddings", "max_seq_len"):
        if hasattr(source, name):
            setattr(target, name, copy.deepcopy(getattr(source, name)))


def load_model(folder: str, config: "PretrainedConfig | None" = None, dtype: str = "float32") -> "PreTrainedModel":
    """Load a model in evaluation mode, with all of its weights found in safetensors.

    `config` replaces the model's own.
    """
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {} if config is None else {"config": config}
    options |= {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(f"{folder} cannot be loaded as a causal language model from safetensors: {reason}") from None
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(f"{folder} lacks {len(missing)} weights, {missing[0]} first: not a whole model")
    return model.eval()


def load_base(base: str, config: "PretrainedConfig", trained: "PretrainedConfig | None") -> "PreTrainedModel":
    """Load the base model in fp32, its vocabulary grown to that of the training run's config."""
    model = load_model(base, config)
    if trained is not None and (words := trained.get_text_config().vocab_size) != config.get_text_config().vocab_size:
        model.resize_token_embeddings(words, mean_resizing=False)
    return model


def attach(model: "PreTrainedModel", adapter: Path, base: str) -> "PeftModel":
    """Load the adapter into the base model and return both as one.

    Refuses an adapter with a tensor missing or too many.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    misfit = f"{adapter} does not fit base model {base}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing keys, which are refused below
            peft_model = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    except KeyError as error:
        fault = f"{misfit}: the adapter lacks {error.args[0]}"
        raise ConfigError(f"{fault}; give its base model", setting="base") from None
    except (RuntimeError, ValueError) as error:
        reasons = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in reasons if "size mismatch" in line), reasons[0])
        raise ConfigError(f"{misfit}: {reason[:250]}; give its base model", setting="base") from None
    wanted = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
    # Where the vocabulary grew, PEFT also saves the frozen embedding and head, and embeddings a second time.
    known = wanted | set(peft_model.state_dict())
    known |= {name for name in stored if name.replace(".modules_to_save.", ".") in wanted}
    if odd := sorted(wanted - stored) + sorted(stored - known):
        side = "the adapter lacks" if odd[0] in wanted else "the base has no place for"
        raise ConfigError(f"{misfit}: {side} {odd[0]} and {len(odd) - 1} more; give its base model", setting="base")
    return peft_model.eval()


def copy_tokenizer(adapter: Path, base: str, out: Path, length: int | None) -> bool:
    """Copy the tokenizer's files to `out`, from the adapter or else from the base, and allow inputs of `length` tokens.

    Returns False if there is no tokenizer.
    """
    folders = [adapter, Path(base)]
    if not Path(base).is_dir():
        from huggingface_hub import snapshot_download

        folders[1] = Path(snapshot_download(base, allow_patterns=[*TOKENIZER, *TEMPLATES]))
    source = next((folder for folder in folders if any(folder.glob("tokenizer*"))), None)
    if source is None:
        return False
    for path in {path for pattern in (*TOKENIZER, *TEMPLATES) for path in source.glob(pattern) if path.is_file()}:
        target = out / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    settings = out / "tokenizer_config.json"
    if length and settings.is_file():
        values = json.loads(settings.read_text())
        if values.get("model_max_length", length) < length:  # some servers take the smaller as their limit
            write_json(settings, values | {"model_max_length": length})
    return True
