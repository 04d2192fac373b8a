"""What a document costs a model, and that one which does not fit is refused."""

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from lift import LiftError
from lift.memory.tuner import GatedMemoryConfig
from longthread import model_shape
from longthread.model_shape import activation_bytes, batch_tokens, check_length, kv_bytes, prefill_seconds
from tests.environments.tiny_model import tiny_model


def test_bytes_of_keys_and_values() -> None:
    model = tiny_model()  # 2 layers, 2 key/value heads of 16
    assert kv_bytes(model.config, 10) == 2 * 2 * 2 * 16 * 10 * 2
    cache = model(input_ids=torch.arange(10)[None], use_cache=True).past_key_values
    held = sum(x.numel() for layer in cache.layers for x in (layer.keys, layer.values))
    assert kv_bytes(model.config, 10) == 2 * held  # two bytes each in bf16


def test_prefill_takes_its_time() -> None:
    assert prefill_seconds(tiny_model(), range(200)) > 0


def test_a_document_beyond_learnt_positions_is_refused() -> None:
    config = OPTConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32,
                       word_embed_proj_dim=32, max_position_embeddings=64)  # fmt: skip
    check_length(66, OPTForCausalLM(config))
    with pytest.raises(LiftError, match="67 tokens, and the model has learnt 66 positions: split the document"):
        check_length(67, OPTForCausalLM(config))
    check_length(9, OPTForCausalLM(config), 66)
    with pytest.raises(
        LiftError, match="the recipe reads 67 tokens at a time, and .* 66 positions: use --recipe raw-lora"
    ):
        check_length(9, OPTForCausalLM(config), 67)


def test_a_document_beyond_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    needed = 2 * kv_bytes(model.config, 1000)
    monkeypatch.setattr(model_shape, "free_bytes", lambda device: needed)
    check_length(1000, model)
    monkeypatch.setattr(model_shape, "free_bytes", lambda device: needed - 1)
    with pytest.raises(
        LiftError, match="1,000 tokens need .* GiB for keys and values, .* are free: split the document"
    ):
        check_length(1000, model)


def test_a_pass_takes_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    smollm2 = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
    assert activation_bytes(smollm2) == pytest.approx(2.0e6, rel=0.05)  # as counted
    model = tiny_model()
    for free in (0, 10**6, 10**8, 10**12):
        monkeypatch.setattr(model_shape, "free_bytes", lambda device, free=free: free)
        tokens = batch_tokens(model)
        assert 1 <= tokens <= model_shape.BATCH_TOKENS
        assert tokens == 1 or 2 * tokens * activation_bytes(model.config) <= free
    assert tokens == model_shape.BATCH_TOKENS


def test_what_a_training_step_keeps_is_what_is_counted() -> None:
    """Within a factor of two, of a model large enough for its layers to be most of it."""
    config = LlamaConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=3,
                         num_key_value_heads=1, vocab_size=300)  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), GatedMemoryConfig())
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(input_ids=torch.randint(300, (8, 64))).logits.sum()
    found = sum(size for at, size in kept.items() if at not in weights) / (8 * 64)
    assert loss.requires_grad and 0.5 < found / activation_bytes(config) < 2


def test_free_memory_is_some_of_what_there_is() -> None:
    assert 2**20 < model_shape.free_bytes(torch.device("cpu")) < 2**50
