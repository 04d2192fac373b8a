"""Shifted sparse attention in whole models: twelve families, training alone, and no future in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from longthread.errors import ConfigError
from trainer_configs.longlora.attention.transformers_hook import install

VOCABULARY, LENGTH, GROUP = 64, 40, 8
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma": {"head_dim": 8},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "SmolLM3": {},
    "Phi3": {},
    "GPTNeoX": {},
    "Granite": {},
    "Olmo2": {},
    "Starcoder2": {"sliding_window": None},
    "Cohere": {},
}


def make(family: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**SHAPE | FAMILIES.get(family, {}) | changes)
    kind = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")
    # From transformers 5.2x on Gemma 2 is eager alone, for its softcapping.
    return kind._from_config(config, attn_implementation="sdpa" if kind._supports_sdpa else "eager").eval()


def ids(rows: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows))


def logits(model: Any, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
    return model(tokens, use_cache=False, **inputs).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_and_generation_are_the_model_s_own_bit_for_bit(family: str) -> None:
    model, tokens = make(family), ids()
    mask = torch.ones_like(tokens)
    mask[1, 25:] = 0
    options = {"max_new_tokens": 6, "do_sample": False}
    before = [logits(model, tokens), logits(model, tokens, attention_mask=mask), model.generate(tokens, **options)]
    sparse = install(model, GROUP)
    after = [logits(model, tokens), logits(model, tokens, attention_mask=mask), model.generate(tokens, **options)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) and sparse.calls == 0
    sparse.uninstall()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_sparse_and_sees_no_later_token(family: str) -> None:
    model, tokens = make(family), ids()
    model.train()
    full = logits(model, tokens)
    sparse = install(model, GROUP)
    out = logits(model, tokens)
    layers = 1 if family == "Gemma3Text" else 2  # its other layer looks through a window of its own
    assert sparse.calls == layers
    assert torch.allclose(
        out[:, : GROUP // 2], full[:, : GROUP // 2], atol=1e-5
    )  # before the first cut nothing differs
    assert not torch.allclose(out[:, GROUP:], full[:, GROUP:], atol=1e-4)
    changed = tokens.clone()
    changed[:, 21] = (changed[:, 21] - 2) % (VOCABULARY - 3) + 3
    assert torch.allclose(logits(model, changed)[:, :21], out[:, :21], atol=1e-5)
    sparse.sparse = False
    assert torch.equal(logits(model, tokens), full) and sparse.calls == 2 * layers


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma3Text"])
def test_packed_rows_are_their_documents_alone(family: str) -> None:
    model = make(family).train()
    install(model, GROUP)
    first, second = ids(1, 13), ids(2, 27)[1:]
    alone = torch.cat([logits(model, first), logits(model, second)], dim=1)
    positions = torch.cat([torch.arange(13), torch.arange(27)])[None]
    packed = logits(model, torch.cat([first, second], dim=1), position_ids=positions)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_right_padding_changes_nothing_and_left_padding_is_refused() -> None:
    model = make("Llama").train()
    install(model, GROUP)
    tokens = ids()
    mask = torch.ones_like(tokens)
    mask[0, 29:] = 0
    padded = logits(model, tokens, attention_mask=mask)
    torch.testing.assert_close(padded[:1, :29], logits(model, tokens[:1, :29]), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="padded on the right"):
        logits(model, tokens, attention_mask=mask.flip(1))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    tokens, found = ids(), []
    for checkpointing in (False, True):
        model = make("Llama").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        sparse = install(model, GROUP)
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        assert sparse.calls == (4 if checkpointing else 2)
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_under_torch_compile() -> None:
    model, tokens = make("Llama").train(), ids()
    sparse = install(model, GROUP)
    expected = logits(model, tokens)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(logits(compiled, tokens), expected, atol=1e-5, rtol=1e-4)
    assert sparse.calls == 4


def test_random_tokens_cannot_be_predicted() -> None:
    """LLaMA-Factory's shifted attention gets 0.004 here, ms-swift's 0.92; no causal model gets below ln V."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 3, "vocab_size": 16, "max_position_embeddings": 32}
    model = make("Llama", **shape).train()
    sparse = install(model, GROUP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(600):
        sparse.sparse = step % 4 != 0  # as in recipes
        tokens = torch.randint(0, 16, (8, 32))
        loss = nn.functional.cross_entropy(logits(model, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-200:]) / 200 > math.log(16) - 0.01


def gpt_oss() -> Any:
    shape = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "sliding_window": None}
    config = transformers.GptOssConfig(**SHAPE | shape)
    return transformers.GptOssForCausalLM._from_config(config, attn_implementation="eager")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: make("Gemma2", head_dim=8), {}, "softcapping or learnt sinks"),
        (gpt_oss, {}, "softcapping or learnt sinks"),
        (
            lambda: transformers.BloomForCausalLM(
                transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=2)
            ),
            {},
            "does not take attention from transformers' interface",
        ),
        (lambda: make("Llama", num_attention_heads=1, num_key_value_heads=1), {}, "one head"),
        (lambda: make("Llama"), {"group_size": 7}, "group_size 7 must be an even number"),
        (lambda: make("Llama"), {"group_size": 0}, "group_size 0 must be an even number"),
        (lambda: make("Llama"), {"sink_tokens": 5}, "sink_tokens 5 must be 0 to 4"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(
    model: Callable[[], Any], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        install(model(), **{"group_size": GROUP} | options)
    assert "\n" not in str(caught.value)


def test_eager_attention_is_refused() -> None:
    model = make("Llama")
    model.set_attn_implementation("eager")
    with pytest.raises(ConfigError, match="attention eager cannot run the steps that are not sparse"):
        install(model, GROUP)


def test_two_models_do_not_share_their_settings() -> None:
    one, two = make("Llama").train(), make("Llama").train()
    first, second = install(one, 4), install(two, 16)
    tokens = ids()
    assert not torch.allclose(logits(one, tokens), logits(two, tokens), atol=1e-4)
    assert first.calls == second.calls == 2
