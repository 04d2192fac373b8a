"""Short rows keep their activations; long ones are computed again; the gradients are the same."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.trainer_configs.longlora.attention.test_transformers_hook import make
from trainer_configs.longlora.kept_activations import KeptActivations

MOST = 48


@pytest.mark.parametrize("lora", [False, True])
def test_the_layers_of_long_batches_alone_are_computed_again(lora: bool) -> None:
    model = make("Llama", max_position_embeddings=512).train()
    mlp, calls = model.model.layers[0].mlp, []
    mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    wrapped = (
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")) if lora else model
    )
    wrapped.train()
    wrapped.gradient_checkpointing_enable({"use_reentrant": False})
    kept = KeptActivations(wrapped, MOST)

    def counted(rows: int, tokens: int) -> int:
        calls.clear()
        ids = torch.arange(rows * tokens).reshape(rows, tokens) % 50
        result = wrapped(input_ids=ids, labels=ids)
        assert result.past_key_values is None
        result.loss.backward()
        return len(calls)

    assert [counted(1, MOST), counted(1, MOST + 1), counted(2, MOST), counted(2, MOST // 2)] == [1, 2, 2, 1]
    kept.uninstall()
    wrapped.gradient_checkpointing_enable({"use_reentrant": False})
    assert counted(1, MOST) == 2


def test_the_gradients_are_those_of_a_model_without_checkpointing() -> None:
    found = []
    for checkpointing in (False, True):
        model = make("Llama", max_position_embeddings=512).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            KeptActivations(model, MOST)
        for tokens in (MOST, 2 * MOST):
            ids = torch.arange(tokens)[None] % 50
            model(input_ids=ids, labels=ids).loss.backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
