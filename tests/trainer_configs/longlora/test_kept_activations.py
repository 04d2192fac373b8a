"""Short rows keep their activations; long ones are computed again; the gradients are the same."""

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.trainer_configs.longlora.attention.test_transformers_hook import make
from trainer_configs.longlora.kept_activations import KeptActivations

MOST = 48


@pytest.fixture(params=[False, True], ids=["own", "lora"])
def model(request: pytest.FixtureRequest) -> Any:
    base = make("Llama", max_position_embeddings=512)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return (get_peft_model(base, lora) if request.param else base).train()


def passes(model: Any, *shape: int, **given: Any) -> int:
    """Return how often the first layer is computed in a step of a batch of that shape."""
    calls = list[int]()
    [mlp] = [module for name, module in model.named_modules() if name.endswith("layers.0.mlp")]
    hook = mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.arange(math.prod(shape)).reshape(shape) % 50
    given = {"input_ids": ids} | given
    result = model(**given, labels=ids)
    assert result.past_key_values is None
    result.loss.backward()
    hook.remove()
    return len(calls)


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_layers_of_long_batches_alone_are_computed_again(model: Any, reentrant: bool) -> None:
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    kept = KeptActivations(model, MOST)
    shapes = [(1, MOST), (1, MOST + 1), (2, MOST), (2, MOST // 2)]
    assert [passes(model, *shape) for shape in shapes] == [1, 2, 2, 1]
    embeds = model.get_input_embeddings()(torch.zeros(1, 2 * MOST, dtype=torch.long))
    assert passes(model, 1, 2 * MOST, input_ids=None, inputs_embeds=embeds) == 2, "as before, where no tokens are given"
    assert passes(model, 1, MOST) == 1
    kept.uninstall()
    assert passes(model, 1, MOST) == 2


def test_layers_that_are_not_checkpointed_stay_so(model: Any) -> None:
    kept = KeptActivations(model, MOST)
    assert [passes(model, 1, MOST, use_cache=False), passes(model, 1, 2 * MOST, use_cache=False)] == [1, 1]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    layers[0].gradient_checkpointing = False
    for tokens in (MOST, 2 * MOST, MOST):
        assert passes(model, 1, tokens) == 1
    kept.uninstall()
    assert [layer.gradient_checkpointing for layer in layers] == [False, *[True] * (len(layers) - 1)]


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
