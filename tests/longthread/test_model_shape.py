"""Sizes that a config states, against what a model holds."""

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lift.memory.tuner import GatedMemoryConfig
from longthread.cache_argument import CACHE
from longthread.model_shape import activation_bytes, head_size, kv_bytes
from tests.environments.tiny_model import tiny_model


def test_bytes_of_keys_and_values() -> None:
    model = tiny_model()  # 2 layers, 2 key/value heads of 16
    assert kv_bytes(model.config, 10) == 2 * 2 * 2 * 16 * 10 * 2
    cache = getattr(model(input_ids=torch.arange(10)[None], use_cache=True), CACHE)
    held = sum(x.numel() for layer in cache.layers for x in (layer.keys, layer.values))
    assert kv_bytes(model.config, 10) == 2 * held  # two bytes each in bf16


def test_the_size_of_a_head_is_stated_or_follows_from_their_number() -> None:
    assert head_size(LlamaConfig(hidden_size=96, num_attention_heads=3)) == 32
    assert head_size(LlamaConfig(hidden_size=96, num_attention_heads=3, head_dim=8)) == 8


def test_activations_of_a_token_are_as_counted() -> None:
    smollm2 = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
    assert activation_bytes(smollm2) == pytest.approx(2.0e6, rel=0.05)


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
