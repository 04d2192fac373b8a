"""What a model takes at a time on its device, and that a document which does not fit is refused."""

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from lift.inference import capacity
from lift.inference.capacity import check_length, prefill_seconds, trained_tokens
from longthread.errors import ConfigError
from longthread.model_shape import activation_bytes, kv_bytes
from tests.environments.tiny_model import tiny_model


def test_prefill_takes_its_time() -> None:
    assert prefill_seconds(tiny_model(), range(200)) > 0


def test_a_document_beyond_learnt_positions_is_refused() -> None:
    config = OPTConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32,
                       word_embed_proj_dim=32, max_position_embeddings=64)  # fmt: skip
    check_length(66, OPTForCausalLM(config))
    with pytest.raises(ConfigError, match="67 tokens, and the model has learnt 66 positions: split the document"):
        check_length(67, OPTForCausalLM(config))
    check_length(9, OPTForCausalLM(config), 66)
    with pytest.raises(
        ConfigError, match="the recipe reads 67 tokens at a time, and .* 66 positions: use recipe raw-lora"
    ):
        check_length(9, OPTForCausalLM(config), 67)


def test_a_document_beyond_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    needed = 2 * kv_bytes(model.config, 1000)
    monkeypatch.setattr(capacity, "free_bytes", lambda device: needed)
    check_length(1000, model)
    monkeypatch.setattr(capacity, "free_bytes", lambda device: needed - 1)
    with pytest.raises(
        ConfigError, match="1,000 tokens need .* GiB for keys and values, .* are free: split the document"
    ):
        check_length(1000, model)


def test_a_pass_takes_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    for free in (0, 10**6, 10**8, 10**12):
        monkeypatch.setattr(capacity, "free_bytes", lambda device, free=free: free)
        tokens = trained_tokens(model)
        assert 1 <= tokens <= capacity.TRAINED_TOKENS
        assert tokens == 1 or 2 * tokens * activation_bytes(model.config) <= free
    assert tokens == capacity.TRAINED_TOKENS


def test_free_memory_is_some_of_what_there_is() -> None:
    assert 2**20 < capacity.free_bytes(torch.device("cpu")) < 2**50
