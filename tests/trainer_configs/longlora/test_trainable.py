"""Embeddings and norms beside LoRA: they are found in any family, move, stay tied, and cost nothing they need not."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.wrap import CustomPolicy
from torch.multiprocessing import start_processes
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    OlmoConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longthread.errors import ConfigError
from trainer_configs.longlora.trainable import (
    CastOutput,
    Count,
    counts,
    module_names,
    parameter_groups,
    prepare,
    save_sharded,
)

SHAPE = {
    "vocab_size": 97,
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
    "llama": lambda **more: LlamaConfig(**SHAPE, tie_word_embeddings=False, **more),
    "llama-tied": lambda **more: LlamaConfig(**SHAPE, tie_word_embeddings=True, **more),
    "qwen2": lambda **more: Qwen2Config(**SHAPE, tie_word_embeddings=True, **more),
    "qwen3": lambda **more: Qwen3Config(**SHAPE, tie_word_embeddings=False, **more),
    "gemma3": lambda **more: Gemma3TextConfig(
        **SHAPE, tie_word_embeddings=True, sliding_window=16, pad_token_id=0, **more
    ),
}
TWO_NORMS = ["input_layernorm", "post_attention_layernorm"]
FEEDFORWARD_NORMS = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]


def base(family: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(FAMILIES[family](), dtype=dtype)


def wrapped(model: Any, names: list[str], **more: Any) -> Any:
    settings: dict[str, Any] = {"r": 4, "ensure_weight_tying": True, "modules_to_save": names} | more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties are asked for where there are none
        return get_peft_model(model, LoraConfig(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], **settings))


def train(model: Any, steps: int, groups: Any, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(groups)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        ids = torch.randint(0, model.config.vocab_size, (2, 24), generator=draw)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def trained(model: Any, dtype: torch.dtype | None = None) -> Any:
    peft_model = wrapped(model, module_names(model))
    prepare(peft_model, dtype)
    return peft_model


# ---- which modules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", ["embed_tokens", *TWO_NORMS, "norm"]),
        ("llama-tied", ["embed_tokens", *TWO_NORMS, "norm"]),
        ("qwen2", ["embed_tokens", *TWO_NORMS, "norm"]),
        ("qwen3", ["embed_tokens", "q_norm", "k_norm", *TWO_NORMS, "norm"]),
        ("gemma3", ["embed_tokens", "q_norm", "k_norm", *TWO_NORMS, *FEEDFORWARD_NORMS, "norm"]),
    ],
)
def test_names_are_those_of_the_family_from_model_and_from_config(family: str, expected: list[str]) -> None:
    assert sorted(module_names(base(family))) == sorted(expected)
    assert sorted(module_names(FAMILIES[family]())) == sorted(expected)
    assert module_names(FAMILIES[family](), norms=False) == ["embed_tokens"]
    assert "embed_tokens" not in module_names(FAMILIES[family](), embeddings=False)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPTNeoXConfig, {"embed_in", "input_layernorm", "post_attention_layernorm", "final_layer_norm"}),
        (PhiConfig, {"embed_tokens", "input_layernorm", "final_layernorm"}),
        (Olmo2Config, {"embed_tokens", "q_norm", "k_norm", "norm", *FEEDFORWARD_NORMS[1:], "post_attention_layernorm"}),
        (OlmoConfig, {"embed_tokens"}),  # its norms have no weights
        (GPT2Config, {"wte", "ln_1", "ln_2", "ln_f"}),
    ],
)
def test_names_of_families_that_call_theirs_otherwise(config: Any, expected: set[str]) -> None:
    if config is GPT2Config:
        assert set(module_names(config(n_layer=1, n_embd=8, n_head=2))) == expected
    else:
        assert set(module_names(config(**{k: v for k, v in SHAPE.items() if k != "head_dim"}))) == expected


def test_whole_names_where_short_ones_would_reach_a_stranger() -> None:
    """PEFT matches by the end of a name: `norm` would also take a projection that happens to be called abnorm."""
    model = base("llama")
    model.model.layers[0].mlp.abnorm = nn.Linear(4, 4)
    names = module_names(model)
    assert "model.norm" in names and "norm" not in names
    peft_model = wrapped(model, names)
    assert isinstance(model.model.layers[0].mlp.abnorm, nn.Linear)
    assert {c.kind: c.tensors for c in counts(peft_model)} == {"lora": 16, "embedding": 1, "norm": 5}


def test_every_named_module_is_trained_and_no_other() -> None:
    model = base("qwen3")
    norms = sum("norm" in name for name, _ in model.named_parameters())
    peft_model = trained(model)
    rows = {c.kind: c for c in counts(peft_model)}
    assert rows["norm"].tensors == norms == 9
    assert rows["embedding"] == Count("embedding", 1, 97 * 32, torch.float32)
    assert set(rows) == {"lora", "embedding", "norm"}
    assert sum(c.elements for c in rows.values()) == sum(p.numel() for p in peft_model.parameters() if p.requires_grad)


# ---- they move --------------------------------------------------------------------------------------------------


def changed(family: str, ready: bool) -> dict[str, tuple[int, int]]:
    """Elements that 30 bf16 steps of 2e-5 change, of how many, by kind."""
    model = base(family, torch.bfloat16)
    peft_model = wrapped(model, module_names(model))
    if ready:
        prepare(peft_model, torch.bfloat16)
    before = {n: p.detach().clone() for n, p in peft_model.named_parameters() if p.requires_grad}
    train(peft_model, 30, parameter_groups(peft_model, lr=2e-5), torch.bfloat16)
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in peft_model.named_parameters():
        if name in before:
            kind = "norm" if "norm" in name else "embedding" if "embed" in name else "lora"
            moved, of = found.get(kind, (0, 0))
            found[kind] = moved + int((parameter != before[name]).sum()), of + parameter.numel()
    return found


@pytest.mark.parametrize("family", ["llama-tied", "qwen3"])
def test_norms_move_at_a_small_rate_only_once_prepared(family: str) -> None:
    before, after = changed(family, ready=False), changed(family, ready=True)
    assert before["norm"][0] == 0  # the trap: not one element
    assert after["norm"][0] > 0.95 * after["norm"][1]  # one may have walked back to where it began
    assert after["embedding"][0] > before["embedding"][0]
    assert after["lora"][0] > 0.95 * after["lora"][1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_attention_gets_the_compute_dtype(family: str) -> None:
    """Without the hooks fp32 embeddings make RoPE and residual fp32, and fp32 q and k norms hand fp32 q and k on."""
    seen: set[tuple[torch.dtype, ...]] = set()

    def spy(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
        seen.add((q.dtype, k.dtype, v.dtype))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, *args, **options)

    ALL_ATTENTION_FUNCTIONS.register("spy", spy)
    model = base(family, torch.bfloat16)
    residual: set[torch.dtype] = set()
    model.model.layers[1].register_forward_hook(lambda _, __, out: residual.add(out.dtype))
    peft_model = trained(model, torch.bfloat16)
    model.set_attn_implementation("spy")
    train(peft_model, 1, parameter_groups(peft_model, lr=1e-3), torch.bfloat16)
    assert seen == {(torch.bfloat16,) * 3} and residual == {torch.bfloat16}


# ---- ties, memory, groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama-tied", "qwen2", "gemma3"])
def test_tied_stays_tied_through_training(family: str) -> None:
    peft_model = trained(base(family, torch.bfloat16), torch.bfloat16)
    train(peft_model, 2, parameter_groups(peft_model, lr=1e-3), torch.bfloat16)
    embedding, head = peft_model.get_input_embeddings(), peft_model.get_output_embeddings()
    assert embedding.weight is head.weight and embedding.weight.data_ptr() == head.weight.data_ptr()
    assert embedding.weight.dtype == torch.float32
    assert [c.tensors for c in counts(peft_model) if c.kind in ("embedding", "head")] == [1]


def test_frozen_copies_have_no_gradient_and_no_optimizer_state() -> None:
    peft_model = trained(base("llama-tied", torch.bfloat16), torch.bfloat16)
    optimizer = train(peft_model, 1, parameter_groups(peft_model, lr=1e-3), torch.bfloat16)
    frozen = [p for n, p in peft_model.named_parameters() if "original_module" in n]
    assert len(frozen) == 6 and all(p.grad is None and not p.requires_grad and p not in optimizer.state for p in frozen)
    assert all(p.dtype == torch.bfloat16 for p in frozen)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(c.tensors for c in counts(peft_model))


def test_preparing_twice_changes_nothing_and_the_base_is_still_there() -> None:
    model = base("qwen3", torch.bfloat16)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(ids).logits
    peft_model = trained(model, torch.bfloat16)
    hooks = [m for m in peft_model.modules() for h in m._forward_hooks.values() if isinstance(h, CastOutput)]
    prepare(peft_model, torch.bfloat16)
    assert hooks == [m for m in peft_model.modules() for h in m._forward_hooks.values() if isinstance(h, CastOutput)]
    assert len(hooks) == 10
    with torch.no_grad(), peft_model.disable_adapter():  # what DPO takes as its reference
        assert torch.equal(peft_model(ids).logits, expected)


def test_groups_have_their_own_rates_and_cover_all_once() -> None:
    peft_model = trained(base("qwen2"))
    groups = parameter_groups(peft_model, lr=1e-4, embedding_lr=1e-5, norm_lr=0.0, weight_decay=0.1)
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in groups} == {
        "lora": (1e-4, 0.1),
        "embedding": (1e-5, 0.0),
        "norm": (0.0, 0.0),
    }
    ids = [id(p) for g in groups for p in g["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in peft_model.parameters() if p.requires_grad}
    before = peft_model.get_base_model().model.norm.weight.detach().clone()
    train(peft_model, 1, groups)
    assert torch.equal(before, peft_model.get_base_model().model.norm.weight)  # a rate of 0 is a rate


# ---- refused ----------------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[ConfigError], *words: str) -> None:
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_would_be_lost_or_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError) as nothing:
        prepare(base("llama").requires_grad_(False))
    one_line(nothing, "nothing is trainable")
    unfrozen = wrapped(base("llama"), ["embed_tokens"])
    unfrozen.get_base_model().model.norm.requires_grad_(True)
    with pytest.raises(ConfigError) as lost:
        prepare(unfrozen)
    one_line(lost, "model.norm.weight", "lora_modules_to_save", "unfrozen_parameters")
    with pytest.raises(ConfigError) as none:
        module_names(nn.Linear(2, 2))
    one_line(none, "Linear", "no input embeddings")
    quantised = base("llama")
    quantised.model.embed_tokens.weight = nn.Parameter(torch.zeros(97, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError) as int8:
        module_names(quantised)
    one_line(int8, "model.embed_tokens", "int8", "train_embeddings: false")
    assert "embed_tokens" not in module_names(quantised, embeddings=False)


def test_a_tie_that_peft_would_cut_is_refused() -> None:
    parted = wrapped(base("llama-tied"), ["embed_tokens"], ensure_weight_tying=False)
    with pytest.raises(ConfigError) as cut:
        prepare(parted)
    one_line(cut, "embed_tokens", "peft_ensure_weight_tying: true")
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(target_modules=["c_attn"], modules_to_save=module_names(model), ensure_weight_tying=True)
        gpt2 = get_peft_model(model, config)
    with pytest.raises(ConfigError) as unknown:  # PEFT ties only what is called embed_tokens
        prepare(gpt2)
    one_line(unknown, "wte", "train_embeddings: false")


# ---- saved ------------------------------------------------------------------------------------------------------


def one_of_two(rank: int, folder: Path, family: str) -> None:
    """A rank: saves the model as PEFT does, then in two shards with a checkpoint around each layer, as FSDP2 has it."""
    torch.set_num_threads(1)  # OpenMP's threads did not come along
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = base(family)
    model = wrapped(model, module_names(model))
    prepare(model)
    train(model, 1, parameter_groups(model, lr=0.01))
    if rank == 0:
        model.save_pretrained(folder / "whole")
    is_layer = CustomPolicy(lambda module: isinstance(module, GradientCheckpointingLayer))
    apply_activation_checkpointing(model, auto_wrap_policy=is_layer)
    mesh = init_device_mesh("cpu", (2,))
    for layer in [*model.base_model.model.model.layers, model]:
        fully_shard(layer, mesh=mesh)
    assert save_sharded(model, folder / "shards")
    dist.destroy_process_group()


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_a_sharded_model_is_saved_as_one_that_is_whole(family: str, tmp_path: Path) -> None:
    start_processes(one_of_two, (tmp_path, family), nprocs=2, start_method="fork")
    whole, shards = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "shards"))
    assert whole.keys() == shards.keys()
    assert any("layernorm" in name for name in whole)
    assert all(torch.equal(whole[name], shards[name]) for name in whole)
    loaded = PeftModel.from_pretrained(base(family), str(tmp_path / "shards"))
    assert get_peft_model_state_dict(loaded).keys() == whole.keys()
