"""Merging: the model that is served is the model that was trained, to 1e-5 of a logit, ties, RoPE and tokenizer included."""

import json
import stat
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config
from typer.testing import CliRunner

from longthread.errors import LongthreadError, RunError
from tests.environments.tiny_model import tiny_tokenizer
from trainer_configs.longlora import merge as merging
from trainer_configs.longlora.merge import app, merge
from trainer_configs.longlora.trainable import module_names, parameter_groups, prepare

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama-tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=False),
    "qwen2-tied": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=False),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, tie_word_embeddings=True, sliding_window=16, pad_token_id=0),
}
TIED = {"llama-tied", "qwen2-tied", "gemma3"}
IDS = torch.arange(96).reshape(1, 96) * 7 % 260  # longer than the base's window
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS, use_cache=False).logits.float()
    return found


def difference(a: Any, b: Any) -> float:
    return (logits(a) - logits(b)).abs().max().item()


def stretch(config: Any) -> None:
    """What the training run sets: four times the window."""
    nested = "full_attention" in config.rope_parameters
    config.rope_parameters = config.rope_parameters | {"full_attention": YARN} if nested else dict(YARN)
    config.max_position_embeddings = 256


def save_base(folder: Path, family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    torch.manual_seed(5)
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


def train(
    base: Path, adapter: Path, names: list[str] | None = None, words: int = 0, lr: float = 3e-3, **peft: Any
) -> Any:
    """A few steps of LoRA with embedding and norms, saved the way Axolotl does. Returns the trained model."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    stretch(model.config)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", config=model.config)
    if words:
        model.resize_token_embeddings(words, mean_resizing=False)
    settings: dict[str, Any] = {
        "r": 4,
        "ensure_weight_tying": True,
        "target_modules": ["q_proj", "v_proj", "o_proj"],
    } | peft
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties are asked for where there are none
        peft_model = get_peft_model(model, LoraConfig(modules_to_save=names or module_names(model), **settings))
    if names is None:
        prepare(peft_model)
    optimizer = torch.optim.AdamW(parameter_groups(peft_model, lr=lr))
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            loss = peft_model(IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peft_model.save_pretrained(adapter)
    model.config.save_pretrained(adapter)
    return peft_model


def made(tmp_path: Path, family: str = "llama", **options: Any) -> tuple[Path, Path, Any]:
    base = save_base(tmp_path / "base", family)
    return base, tmp_path / "adapter", train(base, tmp_path / "adapter", **options)


# ---- the same model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_trained_reloaded_and_merged_are_one_model(family: str, tmp_path: Path) -> None:
    base, adapter, trained = made(tmp_path, family)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert difference(model, trained) > 0.05  # training did something
    stretch(model.config)
    reloaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, config=model.config), str(adapter))
    assert difference(reloaded, trained) <= 1e-5
    result = merge(adapter, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert difference(merged, trained) <= 1e-5
    assert result.difference <= 1e-5 and result.written_difference <= 1e-5 and result.dtype == "float32"
    embedding, head = merged.get_input_embeddings().weight, merged.get_output_embeddings().weight
    assert (embedding.data_ptr() == head.data_ptr()) == (family in TIED) == result.tied
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] == (family in TIED) and config["max_position_embeddings"] == 256
    rope = config["rope_parameters"]
    assert rope.get("full_attention", rope).items() >= YARN.items()
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) == (family not in TIED)
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith("adapter")]


def test_trained_norms_and_embeddings_are_in_the_merged_file_bit_for_bit(tmp_path: Path) -> None:
    _, adapter, _ = made(tmp_path, "qwen3")
    merge(adapter, tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    full = {name.removeprefix("base_model.model."): t for name, t in theirs.items() if "lora_" not in name}
    assert len(full) == 10 and all(torch.equal(ours[name], tensor) for name, tensor in full.items())


def test_bf16_base_merged_to_fp32_is_exact_and_to_bf16_says_what_rounding_undid(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama-tied", torch.bfloat16)
    train(base, tmp_path / "adapter", lr=2e-5)
    exact = merge(tmp_path / "adapter", tmp_path / "fp32", dtype="float32")
    assert exact.written_difference <= 1e-5 and exact.rounded_away == {}
    rounded = merge(tmp_path / "adapter", tmp_path / "bf16")  # the base's own dtype
    assert rounded.dtype == "bfloat16" and rounded.difference <= 1e-5 < rounded.written_difference < 0.1
    assert rounded.rounded_away["norm"] == 1.0 and 0 < rounded.rounded_away["embedding"] < 1
    tensors = load_file(tmp_path / "bf16" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16} and "lm_head.weight" not in tensors
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "100% of the changed norm elements" in "\n".join(merging.lines(rounded))


def test_tied_weights_that_were_trained_apart_come_out_untied(tmp_path: Path) -> None:
    """PEFT without ensure_weight_tying trains the embedding and leaves the head: the merge keeps both."""
    _, adapter, trained = made(tmp_path, "llama-tied", names=["embed_tokens"], ensure_weight_tying=False)
    result = merge(adapter, tmp_path / "out")
    assert not result.tied and any("untied" in note for note in result.notes)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.config.tie_word_embeddings is False and difference(merged, trained) <= 1e-5


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_a_vocabulary_that_grew_in_training(family: str, tmp_path: Path) -> None:
    _, adapter, trained = made(tmp_path, family, words=262)
    result = merge(adapter, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.config.vocab_size == 262 and difference(merged, trained) <= 1e-5 and result.tied == (family in TIED)


def test_a_checkpoint_takes_the_runs_config_and_without_one_it_is_said(tmp_path: Path) -> None:
    _, adapter, trained = made(tmp_path)
    checkpoint = tmp_path / "adapter" / "checkpoint-3"
    checkpoint.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (checkpoint / name).write_bytes((adapter / name).read_bytes())
    assert merge(checkpoint, tmp_path / "a").rope_parameters["rope_type"] == "yarn"
    assert difference(AutoModelForCausalLM.from_pretrained(tmp_path / "a"), trained) <= 1e-5
    (adapter / "config.json").unlink()
    result = merge(adapter, tmp_path / "b")
    assert result.max_position_embeddings == 64 and any("config.json" in note for note in result.notes)


def test_tokenizer_is_copied_and_no_longer_cuts_at_the_old_window(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path)
    merge(adapter, tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert tokenizer.model_max_length == 256 and tokenizer("abc").input_ids == tiny_tokenizer()("abc").input_ids
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    own = tiny_tokenizer()
    own.chat_template = "the adapter's"
    own.save_pretrained(adapter)
    merge(adapter, tmp_path / "b")
    assert AutoTokenizer.from_pretrained(tmp_path / "b").chat_template == "the adapter's"
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == stat.S_IMODE(adapter.stat().st_mode)


# ---- refused ----------------------------------------------------------------------------------------------------


def refused(*words: str, **arguments: Any) -> None:
    """One line that says so, and nothing is left behind."""
    out = arguments["out_dir"]
    before = sorted(out.parent.iterdir())
    with pytest.raises(LongthreadError) as error:
        merge(**arguments)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), str(error.value)
    assert sorted(out.parent.iterdir()) == before


def test_what_cannot_be_merged_is_refused_in_one_line(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path)
    out = tmp_path / "out"
    refused(str(base), "not an adapter folder", adapter_dir=base, out_dir=out)
    refused("exists", adapter_dir=adapter, out_dir=base)
    refused("nowhere", "(base)", adapter_dir=adapter, out_dir=out, base=str(tmp_path / "nowhere"))
    refused("float8", "dtype must be one of float32", adapter_dir=adapter, out_dir=out, dtype="float8")
    wide = save_base(tmp_path / "wide", "llama", hidden_size=40)
    refused("does not fit", "size mismatch", adapter_dir=adapter, out_dir=out, base=str(wide))
    deep = save_base(tmp_path / "deep", "llama", num_hidden_layers=3)
    refused("does not fit", "layers.2", adapter_dir=adapter, out_dir=out, base=str(deep))
    flat = save_base(tmp_path / "flat", "llama", num_hidden_layers=1)
    refused("does not fit", "layers.1", adapter_dir=adapter, out_dir=out, base=str(flat))
    other = save_base(tmp_path / "other", "qwen3")
    refused("trained on a llama", "qwen3", adapter_dir=adapter, out_dir=out, base=str(other))


def test_pickles_half_models_and_quantised_bases_are_refused(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path)
    out, weights = tmp_path / "out", base / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if "norm" not in k}, weights, metadata={"format": "pt"})
    refused("lacks 5 weights", adapter_dir=adapter, out_dir=out)
    weights.unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    refused("safetensors", adapter_dir=adapter, out_dir=out)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    refused("quantised", "(base)", adapter_dir=adapter, out_dir=out)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused("pickled", adapter_dir=adapter, out_dir=out)


def test_a_merge_that_is_not_the_trained_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapter, _ = made(tmp_path)

    def forgetful(model: Any, was_tied: bool) -> bool:
        with torch.no_grad():
            model.model.norm.weight += 0.01
        return was_tied

    monkeypatch.setattr(merging, "_state_tie", forgetful)
    refused("differs from the adapter model", "limit", adapter_dir=adapter, out_dir=tmp_path / "out")
    with pytest.raises(RunError):
        merge(adapter, tmp_path / "out")


def test_the_command(tmp_path: Path) -> None:
    base, adapter, _ = made(tmp_path)
    arguments = ["merge", str(adapter), str(tmp_path / "out"), "--base", str(base), "--dtype", "bfloat16"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "yarn ×4" in done.output and "256" in done.output and "bfloat16" in done.output
    assert f"vllm serve {tmp_path / 'out'} --max-model-len 256" in done.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_strength_scales_the_change_of_every_weight(tmp_path: Path, family: str) -> None:
    base = save_base(tmp_path / "base", family)
    train(base, tmp_path / "adapter")
    whole = merge(tmp_path / "adapter", tmp_path / "whole")
    part = merge(tmp_path / "adapter", tmp_path / "part", strength=0.25)
    assert part.tied == whole.tied == (family in TIED)
    old, new, mixed = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "whole", "part"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert any("embed" in name for name in changed) and any("norm" in name for name in changed)
    for name, weight in old.items():
        assert torch.allclose(mixed[name], weight.lerp(new[name], 0.25), atol=1e-6), name
    assert json.loads((tmp_path / "part" / "config.json").read_text())["max_position_embeddings"] == 256
    assert any("0.25 of the adapter's change" in line for line in merging.lines(part))


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.5])
def test_a_strength_outside_its_range_is_refused(tmp_path: Path, strength: float) -> None:
    with pytest.raises(LongthreadError, match="strength must be above 0 and at most 1"):
        merge(tmp_path / "adapter", tmp_path / "out", strength=strength)
