"""What a document costs a model, and that one which does not fit is refused."""

import pytest
import torch
from tiny_model import tiny_model
from transformers import OPTConfig, OPTForCausalLM

from lift import LiftError, model_size
from lift.model_size import check_length, kv_bytes, prefill_seconds


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


def test_a_document_beyond_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    needed = 2 * kv_bytes(model.config, 1000)
    monkeypatch.setattr(model_size, "free_bytes", lambda device: needed)
    check_length(1000, model)
    monkeypatch.setattr(model_size, "free_bytes", lambda device: needed - 1)
    with pytest.raises(
        LiftError, match="1,000 tokens need .* GiB for keys and values, .* are free: split the document"
    ):
        check_length(1000, model)


def test_free_memory_is_some_of_what_there_is() -> None:
    assert 2**20 < model_size.free_bytes(torch.device("cpu")) < 2**50
