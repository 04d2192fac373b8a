"""What the plugin expects of a step, against the FLOP model's known limits and against what was measured."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.environments.tiny_model import tiny_model
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.startup_summary import (
    Recomputed,
    Shape,
    check_logits,
    density,
    kept_tokens,
    logit_bytes,
    recomputed,
    shape_of,
    step_bytes,
    step_flops,
)

QWEN2_1_5B = Shape(1_543_000_000, 28, 1536, 1536, 8960, 151_936)
LLAMA2_7B = Shape(6_607_000_000, 32, 4096, 4096, 11_008, 32_000)
ALL = Recomputed(layers=True, attention=True)


@pytest.mark.parametrize(
    ("shape", "length", "full", "sparse"),
    [
        (QWEN2_1_5B, 8_192, 0.13, 0.10),
        (QWEN2_1_5B, 32_768, 0.91, 0.51),
        (QWEN2_1_5B, 131_072, 9.95, 3.51),
        (LLAMA2_7B, 8_192, 0.51, 0.43),
        (LLAMA2_7B, 32_768, 3.24, 2.01),
        (LLAMA2_7B, 131_072, 32.2, 12.6),
    ],
)
def test_the_flop_model_gives_its_known_limits(shape: Shape, length: int, full: float, sparse: float) -> None:
    """Seconds a row at 790 TFLOP/s for everything, LoRA with checkpointing."""
    for share, seconds in ((1.0, full), (density(length, length // 4), sparse)):
        assert sum(step_flops(shape, length, length, share, ALL)) / 790e12 == pytest.approx(seconds, rel=0.05)


def test_density_is_the_share_of_pairs_in_the_mask() -> None:
    for length, group in ((64, 16), (96, 8), (64, 32)):
        q, k = torch.arange(length)[:, None], torch.arange(length)[None]
        seen = [((q + shift) // group == (k + shift) // group) & (q > k) for shift in (0, group // 2)]
        pairs = sum(int(mask.sum()) for mask in seen) / 2 + length / 2  # half of a token's own
        assert pairs / (length**2 / 2) == pytest.approx(density(length, group))


@pytest.mark.parametrize(("length", "measured"), [(32_768, 14.3), (65_536, 19.6), (131_072, 34.9)])
def test_memory_is_near_what_was_measured(length: int, measured: float) -> None:
    """Qwen2-1.5B on one H200 in GiB: bf16, trained embeddings, checkpoints, logits never whole."""
    embedding = 151_936 * 1536
    weights = 2 * 1_543_000_000 + 4 * embedding
    assert step_bytes(QWEN2_1_5B, weights, embedding, length, ALL, True) / 2**30 == pytest.approx(measured, rel=0.25)


def config(**given: Any) -> Any:
    keys = "gradient_checkpointing selective_checkpointing fsdp_config micro_batch_size cut_cross_entropy "
    keys += "liger_fused_linear_cross_entropy deepspeed rl lora_dropout activation_offloading"
    return SimpleNamespace(**dict.fromkeys(keys.split()) | given)


def test_what_is_recomputed() -> None:
    fsdp = {"fsdp_config": {"activation_checkpointing": True}}
    assert recomputed(config()) == (False, False)
    assert recomputed(config(gradient_checkpointing=True)) == (True, True) == recomputed(config(**fsdp))
    assert recomputed(config(gradient_checkpointing=True, selective_checkpointing={"save": ["attention"]})) == (
        True,
        False,
    )


def test_kept_attention_costs_an_output_a_layer_and_saves_a_forward_pass() -> None:
    kept, length = Recomputed(layers=True, attention=False), 131_072
    more = step_bytes(QWEN2_1_5B, 0, 0, length, kept, True) - step_bytes(QWEN2_1_5B, 0, 0, length, ALL, True)
    assert more == 28 * length * 1536 * 2
    (matrices, attention), (same, less) = (step_flops(QWEN2_1_5B, length, length, 1.0, each) for each in (ALL, kept))
    assert matrices == same and less == pytest.approx(attention * 7 / 9)


@pytest.mark.parametrize("selective", [None, {"save": ["attention"]}])
def test_rows_keep_their_activations_where_the_longest_recomputed_take_as_much(selective: object) -> None:
    model, length = tiny_model(), 10_000
    cfg = config(
        gradient_checkpointing=True, selective_checkpointing=selective, micro_batch_size=2, sequence_len=length
    )
    most, allowed = kept_tokens(cfg, model), step_bytes(shape_of(model), 0, 0, 2 * length, recomputed(cfg), True)
    kept = step_bytes(shape_of(model), 0, 0, most, Recomputed(False, False), True)
    assert 0.4 * allowed < kept <= allowed  # unfused layers keep up to twice as much as fused ones


def test_none_do_where_that_saves_nothing_or_cannot_be() -> None:
    given = {"gradient_checkpointing": True, "sequence_len": 64}
    assert kept_tokens(config(**given), tiny_model()) > 0
    for other in (
        {"gradient_checkpointing": False}, {"gradient_checkpointing": "offload"}, {"activation_offloading": "disk"},
        {"selective_checkpointing": {"offload": True}}, {"fsdp_config": {"x": 1}}, {"deepspeed": "zero3.json"},
        {"rl": "dpo"}, {"lora_dropout": 0.1},
    ):  # fmt: skip
        assert not kept_tokens(config(**given | other), tiny_model()), other


def test_logits_that_would_not_fit_are_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """131,072 tokens of Qwen2 on an H200: 185 GiB."""
    model, memory = tiny_model(), logit_bytes(64, 260)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=memory))
    check_logits(config(sequence_len=64), model)
    check_logits(config(sequence_len=65, liger_fused_linear_cross_entropy=True), model)
    with pytest.raises(LongLoRAError, match="logits of 65 tokens x 260 words .* set liger_fused_linear_cross_entropy"):
        check_logits(config(sequence_len=65), model)
