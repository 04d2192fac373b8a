"""One base model, one fingerprint: whatever its dtype, shards and tying; another for any other weights."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lift.library.base_model import config, device, fingerprint, load, located, tokenizer
from tests.environments.tiny_model import save_tiny, tiny_model, tiny_tokenizer
from tests.lift.shelf import refused


def test_folder_and_model_have_one_fingerprint_in_either_dtype_whole_or_in_shards(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    mine = fingerprint(model)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    assert {fingerprint(tmp_path / name) for name in ("whole", "shards", "bf16")} | {fingerprint(model)} == {mine}


def test_tied_weights_count_once(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=True)
    mine = fingerprint(model)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights and fingerprint(tmp_path) == mine
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert fingerprint(tmp_path) == mine


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_other_weights_in_any_one_tensor_are_another_model(which: int) -> None:
    model = tiny_model()
    before, weights = fingerprint(model), list(model.state_dict().values())
    weights[which % len(weights)].mul_(1.01)  # in place: the model's own
    assert fingerprint(model) != before


def test_another_shape_of_heads_is_another_model_though_every_weight_is_the_same() -> None:
    model = tiny_model()
    before, model.config.num_attention_heads = fingerprint(model), 2
    assert fingerprint(model) != before


def test_a_model_in_float16_is_known_by_its_folder(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = tiny_model().half()
    refused(lambda: fingerprint(model), "float16", "bfloat16")
    model.config._name_or_path = str(tmp_path)
    assert fingerprint(model) == fingerprint(tmp_path)


def test_no_model_no_fingerprint(tmp_path: Path) -> None:
    refused(lambda: fingerprint(tmp_path), str(tmp_path), "config.json")
    tiny_model().config.save_pretrained(tmp_path)
    refused(lambda: fingerprint(tmp_path), "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x10" * 50)
    refused(lambda: fingerprint(tmp_path), "model.safetensors")
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    refused(lambda: fingerprint(adapted), "base model")


# ---- from a folder ----------------------------------------------------------------------------------------------


def test_a_folder_is_located_and_loaded_as_what_was_saved(tmp_path: Path) -> None:
    name, folder = located(str(save_tiny(tmp_path / "base")))
    assert Path(name) == folder == tmp_path / "base" and config(folder).model_type == "llama"
    model = load(folder, device("cpu"))
    assert (model.dtype, model.training, model.device.type) == (torch.float32, False, "cpu")
    assert fingerprint(model) == fingerprint(tiny_model())
    text = "a keeper"
    assert tokenizer(folder)(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    for name in ("no/such", "~nobody-of-this-name/such"):
        refused(lambda name=name: located(name), repr(name), "(model)")
    refused(lambda: tokenizer(tmp_path), "tokenizer")
    refused(lambda: load(tmp_path, device("cpu")), str(tmp_path))
    refused(lambda: device("tpu"), "'tpu'", "auto, cpu, cuda")
    for said in ("[]", '{"model_type": "llama", "hidden_size": "wide"}'):
        (tmp_path / "config.json").write_text(said)
        refused(lambda: config(tmp_path), str(tmp_path), "config.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none() -> None:
    assert device("auto").type == "cpu"
    refused(lambda: device("cuda"), "no CUDA device", "use cpu (device)")
