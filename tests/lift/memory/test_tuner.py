"""The gated memory in whole models: a matrix of families and of what an adapter has to survive."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lift.memory.log_sum_exp import attention_and_log_sum_exp
from lift.memory.tuner import GatedMemoryConfig, GatedMemoryLayer, attention, check, gate, layers, right_padded
from lift.memory.tuner.attention import PROBED
from longthread.cache_argument import CACHE
from longthread.errors import LongthreadError

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SLIDING = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 6},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Gemma3Text": {"head_dim": 16} | SLIDING,
    "SmolLM3": {},
    "Olmo2": {},  # one norm over all heads
}
GATES = ("lse", "query")


def make(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE | FAMILIES.get(family, {}) | changes)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def opened(model: Any, seed: int = 1) -> Any:
    """Memories that say something."""
    torch.manual_seed(seed)
    for layer in layers(model):
        for memory in layer.gm_memory.values():
            for weight in memory.parameters():
                if weight.requires_grad:
                    nn.init.normal_(weight, std=0.3)
            memory.share.data.abs_().add_(0.5)
    return model


def adapted(family: str, gate: str = "lse", **changes: Any) -> Any:
    return opened(get_peft_model(make(family, **changes), GatedMemoryConfig(gate=gate)).eval())


def ids(rows: int = 2, length: int = 12) -> Tensor:
    return torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(rows))


def padded() -> dict[str, Tensor]:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    return {"input_ids": ids(), "attention_mask": mask}


def logits(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**inputs or padded()).logits


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_memory_and_a_disabled_one_are_the_base_bit_for_bit(family: str, gate: str) -> None:
    base = logits(make(family))
    model = get_peft_model(make(family), GatedMemoryConfig(gate=gate)).eval()
    assert torch.equal(logits(model), base)
    half = get_peft_model(make(family).bfloat16(), GatedMemoryConfig(gate=gate)).eval()
    assert torch.equal(logits(half), logits(make(family).bfloat16()))
    opened(model)
    told = logits(model)
    assert (told - base)[1].abs().max() > 1e-3 and told.isfinite().all()
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), told)
    assert torch.equal(logits(model.unload()), base)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_reloaded_and_switched(family: str, tmp_path: Path) -> None:
    first, second = adapted(family), opened(get_peft_model(make(family), GatedMemoryConfig()).eval(), seed=2)
    wanted = [logits(first), logits(second)]
    first.save_pretrained(tmp_path / "a")
    second.save_pretrained(tmp_path / "b")
    assert {file.suffix for file in (tmp_path / "a").iterdir()} <= {".json", ".safetensors", ".md"}
    model = PeftModel.from_pretrained(make(family), str(tmp_path / "a"), adapter_name="a").eval()
    model.load_adapter(str(tmp_path / "b"), adapter_name="b")
    for name, right in (("a", wanted[0]), ("b", wanted[1]), ("a", wanted[0])):
        model.set_adapter(name)
        assert torch.equal(logits(model), right)
    model.delete_adapter("b")
    assert torch.equal(logits(model), wanted[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_two_documents_at_once_and_one_that_is_closed(family: str, tmp_path: Path) -> None:
    """Both are heard; with one of them closed it is the other alone."""
    model = adapted(family)
    alone = logits(model)
    model.add_adapter("other", GatedMemoryConfig())
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(logits(model), alone, atol=1e-6, rtol=1e-5)
    opened(model, seed=4)
    both = logits(model)
    model.set_adapter("default")
    assert not torch.allclose(both, logits(model), atol=1e-4)
    model.base_model.set_adapter(["other", "default"])
    torch.testing.assert_close(logits(model), both, atol=1e-5, rtol=1e-4)  # in any order


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_cache_it_writes_what_it_writes_without(family: str, gate: str) -> None:
    model = adapted(family, gate)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, **padded()}
    assert torch.equal(model.generate(**options), model.generate(**options, use_cache=False))
    alone = model.generate(padded()["input_ids"][1:], max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**options)[1:, : alone.shape[1]], alone)  # beside a row that is padded


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_gradients_and_none_to_the_base(family: str) -> None:
    found = []
    for reentrant in (None, False, True):
        model = adapted(family).train()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**padded(), labels=ids(), use_cache=False).loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert all("gm_memory" in name and grad is not None for name, grad in grads.items())
        found.append(torch.cat([grad.flatten() for grad in grads.values() if grad is not None]))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_base_keeps_its_memory_in_fp32(family: str) -> None:
    model = get_peft_model(make(family).bfloat16(), GatedMemoryConfig())
    assert {p.dtype for name, p in model.named_parameters() if "gm_memory" in name} == {torch.float32}
    assert logits(opened(model)).dtype == torch.bfloat16


def test_the_window_s_log_sum_exp_is_that_of_its_attention_pattern() -> None:
    """Also behind padding, under a sliding window, and over a cache: the gates of one pass and of token by token agree."""
    for family in FAMILIES:
        model = adapted(family)
        for layer in layers(model):
            layer.records_gates = True
        logits(model, input_ids=ids(1))
        whole = [layer.recorded_BLH for layer in layers(model)]
        cache, seen = None, []
        for at in range(12):
            with torch.no_grad():
                cache = getattr(model(ids(1)[:, at : at + 1], **{CACHE: cache}, use_cache=True), CACHE)
            seen.append([layer.recorded_BLH for layer in layers(model)])
        for i, gates in enumerate(whole):
            torch.testing.assert_close(torch.cat([step[i] for step in seen], dim=1), gates, atol=1e-5, rtol=1e-4)
            assert gates.shape == (1, 12, 4) and gates[:, 1:].min() > 0 and gates.max() < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_is_closed_to_the_first_token_wherever_it_stands(family: str) -> None:
    """In front of a document, were it in the window, the first token would not see it either."""
    model = adapted(family)
    for layer in layers(model):
        layer.records_gates = True
    padded = torch.ones(2, 12, dtype=torch.long)
    padded[1, :5] = 0
    sees = torch.ones(12, 12, dtype=torch.bool).tril() & padded.bool()[:, None, None]
    additive = torch.zeros(2, 1, 12, 12).masked_fill(~sees, torch.finfo().min)
    for mask in (None, padded, sees, additive):
        logits(model, input_ids=ids().expand(2, -1), attention_mask=mask)
        for layer in layers(model):
            for row, first in enumerate((0, 0 if mask is None else 5)):
                assert not layer.recorded_BLH[row, first].any() and layer.recorded_BLH[row, first + 1 :].min() > 0


def test_a_static_cache_s_empty_places_are_not_counted() -> None:
    model = adapted("Llama")
    cache = transformers.StaticCache(config=model.config, max_cache_len=40)
    with torch.no_grad():
        found = model(ids(), **{CACHE: cache}, use_cache=True).logits
    torch.testing.assert_close(found, logits(model, input_ids=ids()))


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_or_not_rows_with_nothing_before_them_need_no_mask(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, masks = adapted(family), []
    wanted = logits(model, input_ids=ids())

    def seen(q: Any, k: Any, v: Any, mask: Any, *others: Any) -> Any:
        masks.append(mask)
        return attention_and_log_sum_exp(q, k, v, mask, *others)

    monkeypatch.setattr(attention, "attention_and_log_sum_exp", seen)
    monkeypatch.setattr(transformers.masking_utils, "is_tracing", lambda *_: True)  # as in a CUDA graph
    for how, plain in ((nullcontext(), False), (right_padded(model), True)):
        masks.clear()
        with how:
            torch.testing.assert_close(logits(model, input_ids=ids()), wanted)
        slides = "sliding_window" in FAMILIES[family]  # there a mask is needed
        assert masks and (slides or all((mask is None) == plain for mask in masks))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_unloaded_model_is_as_it_was_and_can_be_adapted_anew(attention: str) -> None:
    model = make("Llama")
    model.set_attn_implementation(attention)
    base = logits(model)
    copy = deepcopy(opened(get_peft_model(model, GatedMemoryConfig()).eval()))  # a copy has hooks of its own
    model = copy.unload()
    for _ in range(2):
        assert torch.equal(logits(model), base) and model.config._attn_implementation == attention
        assert not any(module._forward_hooks for module in model.modules())
        found = opened(get_peft_model(model, GatedMemoryConfig()).eval())
        assert torch.equal(logits(found), logits(adapted("Llama")))
        model = found.unload()


def test_an_attention_that_was_changed_is_complained_of() -> None:
    model = adapted("Llama")
    model.set_attn_implementation("eager")
    with pytest.raises(LongthreadError, match=r"attention was changed .* set_attn_implementation\('lift_sdpa'\)"):
        logits(model)
    model.set_attn_implementation(PROBED)
    assert torch.equal(logits(model), logits(adapted("Llama")))


def test_the_published_memory_has_no_share_to_train(tmp_path: Path) -> None:
    model = get_peft_model(make("Llama"), GatedMemoryConfig(gate="query", published_init=True)).eval()
    with model.disable_adapter():  # turns the gradients of an adapter off, and on again
        pass
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "share" in name]
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(make("Llama"), str(tmp_path)).eval()), logits(model))


def test_gates_are_those_of_memories_that_are_on() -> None:
    model = adapted("Llama")
    assert gate(model, ids()).shape == (2, 12)
    with model.disable_adapter(), pytest.raises(LongthreadError, match="no gated memory is on"):
        gate(model, ids())


def test_only_layers_that_see_far_have_a_memory() -> None:
    def places(family: str) -> list[int]:
        return [layer.index for layer in layers(adapted(family))]

    assert places("Gemma3Text") == [1] and places("Llama") == places("Mistral") == [0, 1]


def test_checking_a_model_leaves_its_config_alone() -> None:
    model = make("Llama")
    before = deepcopy(model.config.to_dict()) | {"attention": model.config._attn_implementation}
    check(model.config)
    assert model.config.to_dict() | {"attention": model.config._attn_implementation} == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: transformers.Phi3Config(**SHAPE), "has no q_proj and o_proj of its own"),
        (lambda: transformers.GPTNeoXConfig(vocab_size=64, hidden_size=32, num_attention_heads=4), "no q_proj"),
        (lambda: transformers.Gemma2Config(**SHAPE, head_dim=8), "softcapping or learnt sinks"),
        (
            lambda: transformers.Qwen3NextConfig(**SHAPE, head_dim=16, layer_types=["full_attention"] * 2),
            "more than queries",
        ),
        (lambda: transformers.DeepseekV3Config(**SHAPE), r"compresses keys and values \(MLA\)"),
    ],
)
def test_models_that_cannot_have_one_are_refused_in_one_line(config: Any, message: str) -> None:
    with pytest.raises(LongthreadError, match=message) as caught:
        check(config())
    assert "\n" not in str(caught.value) and "published-v4" in str(caught.value)


def test_an_encoder_with_a_decoder_is_refused() -> None:
    with pytest.raises(LongthreadError, match="t5 is not a decoder: give a causal language model"):
        check(transformers.T5Config())


def test_gates_that_do_not_compose_are_refused() -> None:
    model = adapted("Llama", "query")
    model.add_adapter("other", GatedMemoryConfig(gate="query"))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(LongthreadError, match="do not compose: ask one document at a time"):
        logits(model)
    with pytest.raises(LongthreadError, match="gate lse beside an adapter of gate query"):
        model.add_adapter("third", GatedMemoryConfig(gate="lse"))
    with pytest.raises(LongthreadError, match=r"gate must be one of lse, query \(got 'soft'\)"):
        GatedMemoryConfig(gate="soft")


def test_it_is_no_matrix_and_cannot_be_merged() -> None:
    model = adapted("Llama")
    assert all(isinstance(layer, GatedMemoryLayer) for layer in layers(model))
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        model.merge_and_unload()
