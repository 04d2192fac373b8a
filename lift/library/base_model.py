"""Find the base model's folder, identify the model by a fingerprint, and load it. Reads safetensors and JSON only.

name, folder = located("HuggingFaceTB/SmolLM2-135M-Instruct")
fingerprint(folder)                                      # nothing is loaded
model = load(folder, device("auto"))
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lift.library import readers
from lift.library.files import BASE
from longthread.errors import ConfigError, DataError
from longthread.files import write_text
from longthread.language_model import CausalLM, ChatTokenizer, ModelConfig

if TYPE_CHECKING:  # commands that load no model start without torch
    import torch
    from torch import Tensor

DEVICES = ("auto", "cpu", "cuda")
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # of a model on the hub; nothing pickled
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
SHAPE = ("model_type", *SIZES, "num_attention_heads", "num_key_value_heads", "head_dim")
SAMPLE = 256  # elements of a tensor: weights trained further differ in nearly all of them


# ---- which it is ------------------------------------------------------------------------------------------------


def fingerprint(model: CausalLM | Path | str) -> str:
    """Return a SHA-256 (hex) that identifies a base model, given a folder with safetensors or the model loaded from it.

    It covers the `SHAPE` that the config states, and of every tensor its shape and `SAMPLE` elements spread over it, in
    bf16. So fp32 and bf16 of the same weights are the same model; names, tying and sharding do not matter. A model loaded in
    another dtype (fp16, quantised) is identified by its folder. Not covered: other elements, tokenizer, RoPE settings.
    Raises `ConfigError`.
    """
    import torch

    if isinstance(model, str | Path):
        return _fingerprint(config(Path(model)), stored_tensors(Path(model)))
    if getattr(model, "peft_config", None):
        raise ConfigError("the model has an adapter already: give the base model")
    tensors = model.state_dict()
    if {tensor.dtype for tensor in tensors.values()} <= {torch.float32, torch.bfloat16}:
        return _fingerprint(model.config, tensors.items())
    if (folder := model.config._name_or_path) and Path(folder).is_dir():
        return fingerprint(folder)
    raise ConfigError(f"a model in {model.dtype} cannot be told from others: load it in bfloat16 or from a folder")


def config(folder: Path) -> ModelConfig:
    """Load the config of the model in a folder. Raises `ConfigError`."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and the hub's client raise their own for what a file says wrongly
        reason = (str(error).splitlines() or [""])[0][:160]
        raise ConfigError(f"{folder} is not a model folder ({reason}): give one with config.json") from None


def stored_tensors(folder: Path) -> "Iterator[tuple[str, Tensor]]":
    """Yield names and tensors of the folder's safetensors, memory-mapped. Raises `ConfigError`."""
    from safetensors import SafetensorError, safe_open

    try:
        sharded = folder / "model.safetensors.index.json"
        shards = set(json.loads(sharded.read_text())["weight_map"].values()) if sharded.is_file() else None
        for shard in shards or ["model.safetensors"]:
            with safe_open(folder / shard, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError):
        raise ConfigError(f"{folder} has no whole model.safetensors: save the model with save_pretrained") from None


def _fingerprint(stated: ModelConfig, tensors: "Iterable[tuple[str, Tensor]]") -> str:
    import torch

    digests = set()  # a set: what is tied is stored once or twice
    for name, tensor in tensors:
        if name.endswith("rotary_emb.inv_freq"):  # old checkpoints carry it, though it is not a weight
            continue
        step = max(1, tensor.numel() // SAMPLE) | 1  # odd: else all of a matrix 2^n wide would come from one column
        picked = tensor.detach().reshape(-1)[::step][:SAMPLE].cpu()
        if picked.is_floating_point() and picked.element_size() > 1:
            picked = picked.to(torch.bfloat16)
        raw = picked.contiguous().view(torch.uint8).numpy().tobytes()
        digests.add(hashlib.sha256(f"{list(tensor.shape)}".encode() + raw).hexdigest())
    text = stated.get_text_config()
    shape = [getattr(text, key, None) for key in SHAPE]
    return hashlib.sha256(json.dumps([shape, sorted(digests)]).encode()).hexdigest()


# ---- what an adapter was fitted to ------------------------------------------------------------------------------


class _Record(BaseModel):
    """The content of an adapter's `base.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fingerprint: str


def record(adapter: Path, fingerprint: str) -> None:
    """State in an adapter's folder the fingerprint of the base model that it was fitted to."""
    write_text(adapter / BASE, _Record(fingerprint=fingerprint).model_dump_json() + "\n")


def recorded(adapter: Path) -> str | None:
    """Return the fingerprint that an adapter's folder states; None for one that was fitted before it was stated.

    Raises `DataError` for a damaged file.
    """
    path = adapter / BASE
    if not path.is_file():
        return None
    try:
        return _Record.model_validate_json(path.read_bytes()).fingerprint
    except (OSError, ValidationError):
        raise DataError(f"{path} is damaged: fit the document again", setting="replace") from None


def check_recorded(adapter: Path, fingerprint: str, called: str) -> None:
    """Raise `ConfigError` for an adapter that states another base model than the one with this fingerprint."""
    stated = recorded(adapter)
    if stated not in (None, fingerprint):
        raise ConfigError(
            f"{called} was fitted to another base model ({stated[:12]}) than this one ({fingerprint[:12]}): "
            "give that model, or fit it again"
        )


# ---- from a folder or the hub -----------------------------------------------------------------------------------


def located(model: str) -> tuple[str, Path]:
    """Return the name to store for a model, and its folder. Raises `ConfigError`.

    The folder is a local one, an installed reader's ("reader:NAME" or its name), or a hub model's in the cache.
    """
    folder = Path(model)
    with suppress(RuntimeError):  # of a user whose home is not known
        folder = folder.expanduser()
    if folder.is_dir():
        return str(folder.resolve()), folder
    if (reader := readers.model_folder(model)) is not None:
        return readers.PREFIX + model.removeprefix(readers.PREFIX), reader
    try:
        from huggingface_hub import snapshot_download

        return model, Path(snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except Exception:  # the hub's client raises its own, httpx's, OSError and ValueError for the same mistake
        raise ConfigError(
            f"model {model!r} is neither a folder nor a hub name that can be reached: give a folder", setting="model"
        ) from None


def device(name: str) -> "torch.device":
    """Return the torch device of that name; "auto" is a GPU where there is one. Raises `ConfigError`."""
    import torch

    if name not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)} (got {name!r})", setting="device")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here: use cpu", setting="device")
    if name == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"  # else accelerate takes a GPU that it sees
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def tokenizer(folder: Path) -> ChatTokenizer:
    """Load the tokenizer from a model's folder. Raises `ConfigError`."""
    from environments.haystack.tokens import load_full_tokenizer

    try:
        return load_full_tokenizer(str(folder))
    except ConfigError as error:
        raise ConfigError(error.message.partition("; give ")[0] + ": give a model folder with its tokenizer") from None


def load(folder: Path, target: "torch.device") -> CausalLM:
    """Load the model of a folder onto this device, in bf16 on a GPU and in fp32 elsewhere. Raises `ConfigError`."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    safe = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **safe)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder} cannot be loaded as a language model: {str(error).strip()[:160]!r}") from None
    return model.to(target).eval()
