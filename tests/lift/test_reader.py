"""A reader as a file: what training moved comes back bit for bit, and nothing else is taken for one."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lift import cli
from lift.library import base_model, reader_file, readers
from lift.reader import install
from longthread.errors import DataError
from tests.environments.tiny_model import save_tiny, tiny_model
from tests.lift.shelf import refused
from trainer_configs.longlora.merge import merge

YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 512}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTHREAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "base", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """What a LongLoRA run leaves: LoRA, norms, an embedding of which some rows moved, and its RoPE in config.json."""
    folder = tmp_path_factory.mktemp("run")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config.rope_parameters, model.config.max_position_embeddings = dict(YARN), 2048
    torch.manual_seed(3)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, ensure_weight_tying=True,
        modules_to_save=["embed_tokens", "norm", "input_layernorm"],
    )  # fmt: skip
    peft = get_peft_model(model, config)
    embedding = peft.get_input_embeddings().modules_to_save["default"].weight  # type: ignore[union-attr, index]
    with torch.no_grad():
        embedding[[3, 77, 259]] += 0.01 * torch.randn(3, embedding.shape[1])
        for name, parameter in peft.named_parameters():
            if "norm" in name and "modules_to_save" in name:
                parameter.add_(1e-4 * torch.randn_like(parameter))
    peft.save_pretrained(str(folder))
    model.config.save_pretrained(folder)
    return folder


def in_bf16(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor if tensor.ndim == 1 else tensor.bfloat16() for name, tensor in tensors.items()}


def test_what_was_trained_comes_back_bit_for_bit(tmp_path: Path, adapter: Path, base: Path) -> None:
    size = reader_file.pack(adapter, tmp_path / "r.reader", "r")
    assert size == (tmp_path / "r.reader").stat().st_size
    folder = tmp_path / "unpacked"
    folder.mkdir()
    reader = reader_file.unpack(tmp_path / "r.reader", folder)
    stored = load_file(folder / WEIGHTS)
    [embedding] = reader.moved
    [head] = reader.same  # tied to it: not in the file a second time
    assert stored[embedding + "#rows"].tolist() == [3, 77, 259]  # and no other row is in the file
    reader_file.restore(folder, base)
    restored, trained = load_file(folder / WEIGHTS), load_file(adapter / WEIGHTS)
    assert restored.keys() == trained.keys() and torch.equal(restored[head], restored[embedding])
    for name, expected in in_bf16(trained).items():
        assert torch.equal(restored[name].to(expected.dtype), expected), name
    unmoved = torch.ones(260, dtype=torch.bool)
    unmoved[[3, 77, 259]] = False
    assert torch.equal(restored[embedding][unmoved], trained[embedding][unmoved])  # in the base's own precision


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=2, max_size=8), st.integers(0, 7))
def test_any_two_bf16_numbers_differ_by_an_integer_that_leads_back(bits: list[int], turn: int) -> None:
    old = torch.tensor(bits, dtype=torch.int16)
    new = old.roll(turn)
    a, b = (reader_file._order(x.view(torch.bfloat16)) for x in (old, new))
    back = reader_file._from_order(a + (b - a).to(torch.int16))
    assert torch.equal(back.view(torch.int16), new)


def test_a_reader_is_loaded_by_its_name_as_it_was_trained(
    tmp_path: Path, adapter: Path, base: Path, cache: Path
) -> None:
    reader_file.pack(adapter, tmp_path / "r.reader", "r")
    reader, merged = install(tmp_path / "r.reader")
    assert merged.max_position_embeddings == 2048 and merged.rope_parameters["rope_type"] == "yarn"
    for model in ("reader:r", "r"):
        name, folder = base_model.located(model)
        assert (name, folder) == ("reader:r", cache / "readers" / "r" / "model")
    assert [one.name for one in readers.installed()] == ["r"] and reader.base_model == str(base.resolve())
    expected = merge(adapter, tmp_path / "merged")
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(path)(torch.arange(90)[None]).logits for path in (folder, expected.out)
        ]
    assert (logits[0] - logits[1]).abs().max() < 0.05 * logits[1].abs().max()  # LoRA was rounded to bf16
    assert (logits[0] - tiny_model(tie_word_embeddings=True)(torch.arange(90)[None]).logits).abs().max() > 0.5
    refused(lambda: install(tmp_path / "r.reader"), "installed already", "(name)")
    refused(
        lambda: install(tmp_path / "r.reader", name="none", strength=0),
        "strength must be above 0 and at most 1 (got 0)",
    )
    install(tmp_path / "r.reader", name="half", strength=0.5)
    half = base_model.located("reader:half")[1]
    states = [AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (base, half, folder)]
    for old, between, new in zip(*(state.values() for state in states), strict=True):
        assert (between - (old + new) / 2).abs().max() < 0.02 * new.abs().max()  # of bf16 numbers
    assert {one.name for one in readers.installed()} == {"r", "half"}


def test_commands(tmp_path: Path, adapter: Path, base: Path) -> None:
    def run(*arguments: Any) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, ["reader", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    assert "no readers" in run("list")[1]
    code, out, err = run("pack", adapter, tmp_path / "smol.reader")
    assert code == 0 and out.startswith(f"written: {tmp_path / 'smol.reader'} ("), err
    code, out, err = run("install", tmp_path / "smol.reader", "--name", "mine")
    assert code == 0 and out == f"installed reader:mine ({base.resolve()}, 2,048 positions)\n", err
    code, out, err = run("install", adapter, "--name", "unpacked")
    assert code == 0 and "installed reader:unpacked" in out, err
    assert [line.split()[0] for line in run("list")[1].splitlines()] == ["reader:mine", "reader:unpacked"]
    assert run("remove", "mine")[1] == "removed reader:mine\n"
    code, out, err = run("remove", "mine")
    assert (code, err) == (2, "error: no reader 'mine' is installed: it must be one of unpacked (--model)\n")


def changed(source: Path, out: Path, change: Callable[[zipfile.ZipFile], None], leave: str = "") -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if info.filename != leave:
                new.writestr(info.filename, old.read(info))
        change(new)
    return out


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a/b.json", "model.bin", ".hidden.json", "x.py"])
def test_a_file_that_would_lead_out_or_run_is_refused(tmp_path: Path, adapter: Path, cache: Path, name: str) -> None:
    reader_file.pack(adapter, tmp_path / "r.reader", "r")
    bad = changed(tmp_path / "r.reader", tmp_path / "bad.reader", lambda archive: archive.writestr(name, "{}"))
    refused(lambda: install(bad), repr(name), "safetensors, JSON")
    assert not cache.exists() and not list(tmp_path.rglob("*evil*"))


def test_what_is_no_reader_is_one_line(tmp_path: Path, adapter: Path, cache: Path) -> None:
    source = tmp_path / "r.reader"
    reader_file.pack(adapter, source, "r")
    cut = tmp_path / "cut.reader"
    cut.write_bytes(source.read_bytes()[:-200])
    refused(lambda: install(cut), "cannot be read as a reader", "pack it again")
    refused(lambda: install(tmp_path / "none"), "does not exist")
    for name in ("reader.json", "config.json", WEIGHTS):
        without = changed(source, tmp_path / "without.reader", lambda _: None, leave=name)
        refused(lambda without=without: install(without), f"has 0 files {name}")  # type: ignore[misc]
    newer = changed(
        source, tmp_path / "newer", lambda archive: archive.writestr("reader.json", '{"format": 2}'), "reader.json"
    )
    refused(lambda: install(newer), "no readable reader.json of format 1")
    assert not cache.exists()


def test_another_base_model_is_refused(tmp_path: Path, adapter: Path, base: Path, cache: Path) -> None:
    reader_file.pack(adapter, tmp_path / "r.reader", "r")
    other = save_tiny(tmp_path / "other", tie_word_embeddings=True, initializer_range=0.2)
    refused(lambda: install(tmp_path / "r.reader", str(other)), "was trained on", "has other weights", "(base)")
    refused(lambda: install(tmp_path / "r.reader", str(tmp_path / "gone")), "is not here: give its folder", "(base)")
    assert not (cache / "readers").exists()


def test_a_failed_merge_leaves_nothing(
    tmp_path: Path, adapter: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader_file.pack(adapter, tmp_path / "r.reader", "r")
    monkeypatch.setattr("trainer_configs.longlora.merge.merge", lambda *_, **__: (_ for _ in ()).throw(DataError("no")))
    refused(lambda: install(tmp_path / "r.reader"), "no")
    assert not list(cache.rglob("*"))[1:]  # the empty folder of readers alone


def test_pack_refuses_before_anything_is_written(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.reader"
    monkeypatch.setattr(reader_file, "MOST_BYTES", 1000)
    refused(lambda: reader_file.pack(adapter, out, "r"), "a reader has at most 0 MB")
    refused(lambda: reader_file.pack(adapter, out, "r/../x"), "a reader's name", "(name)")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in adapter.glob("adapter*"):
        (bare / path.name).write_bytes(path.read_bytes())
    refused(lambda: reader_file.pack(bare, out, "r"), "no config.json of its training run")
    assert not out.exists() and not list(tmp_path.glob(".r*"))


def test_a_vocabulary_that_grew_is_restored(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    old = dict(base_model.stored_tensors(base))["model.embed_tokens.weight"]
    grown = torch.cat([old, torch.randn(2, old.shape[1])]).bfloat16()
    stored, moved, _ = reader_file._packed({"base_model.model.model.embed_tokens.weight": grown}, base)
    save_file(stored, folder / WEIGHTS)
    record = {"name": "r", "base_model": "b", "fingerprint": "f", "moved": moved}
    (folder / "reader.json").write_text(json.dumps(record))
    reader_file.restore(folder, base)
    [restored] = load_file(folder / WEIGHTS).values()
    assert torch.equal(restored.bfloat16(), grown) and moved == {
        "base_model.model.model.embed_tokens.weight": "model.embed_tokens.weight"
    }
