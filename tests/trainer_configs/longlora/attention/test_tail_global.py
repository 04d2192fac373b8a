"""Tail-global attention: the fast path equals the specification; in a model the tail alone sees everything."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from longthread.errors import ConfigError
from tests.trainer_configs.longlora.attention.test_shifted_sparse import HEADS, assert_same, qkv
from tests.trainer_configs.longlora.attention.test_transformers_hook import ids, logits, make
from trainer_configs.longlora.attention.tail_global import (
    IGNORED,
    QUESTION_TOKENS,
    reference,
    tail_density,
    tail_global_attention,
    tail_global_mask,
    tail_start,
)
from trainer_configs.longlora.attention.transformers_hook import TailGlobal, install

CHUNK, LENGTH = 16, 200
START = 150  # of the tail


@settings(max_examples=100, deadline=None)
@given(
    heads=st.sampled_from(HEADS), rows=st.integers(1, 2), length=st.integers(1, 70), start=st.integers(0, 70),
    chunk=st.integers(1, 20), sinks=st.integers(0, 3),
)  # fmt: skip
def test_fast_equals_the_specification(  # noqa: PLR0913  drawn
    heads: tuple[int, int], rows: int, length: int, start: int, chunk: int, sinks: int
) -> None:
    """Outputs and gradients, for rows that chunks do not divide, all tail or none."""
    start, sinks = min(start, length), min(sinks, chunk // 2)
    assert_same(
        lambda q, k, v: reference(q, k, v, start, chunk, sinks),
        lambda q, k, v: tail_global_attention(q, k, v, start, chunk, sinks),
        lambda: qkv(*heads, rows, length),
        1e-5,
    )


def test_the_density_is_the_share_of_pairs_in_the_mask() -> None:
    mask = tail_global_mask(4096, 4096 - 256, 256)
    assert tail_density(4096, 256, 256) == pytest.approx(int(mask.sum()) / (4096**2 / 2), rel=0.01)


@pytest.mark.parametrize(
    ("labelled", "start"),
    [([[600]], 600 - 1 - QUESTION_TOKENS), ([[700], [600]], 600 - 1 - QUESTION_TOKENS), ([[0]], 0), ([[]], 800)],
    ids=["one row", "earliest row", "plain text", "no labels"],
)
def test_the_tail_begins_before_the_first_label(labelled: list[list[int]], start: int) -> None:
    labels = torch.full((len(labelled), 800), IGNORED)
    for row, places in enumerate(labelled):
        labels[row, places] = 5
    assert tail_start(labels) == start


def labels_of(tokens: torch.Tensor) -> torch.Tensor:
    labels = tokens.clone()
    labels[:, : START + 1 + QUESTION_TOKENS] = IGNORED
    return labels


def long_row() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = ids(1, LENGTH + QUESTION_TOKENS)
    return tokens, labels_of(tokens)


def changed_at(model: Any, tokens: torch.Tensor, labels: torch.Tensor, place: int) -> torch.Tensor:
    """Which tokens' logits differ when the token at `place` is another, bool (length)."""
    other = tokens.clone()
    other[:, place] = (other[:, place] - 2) % 61 + 3
    first, second = (logits(model, x, labels=labels) for x in (tokens, other))
    return ((first - second).abs().amax(-1) > 1e-6)[0]


@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "peft"])
def test_in_a_model_the_context_sees_its_chunk_and_the_tail_sees_all(wrapped: bool) -> None:
    base = make("Llama", max_position_embeddings=512).train()
    hook = install(base, CHUNK, pattern="tail_global")
    model: Any = base
    if wrapped:
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).train()
        hook.watch(model)
    tokens, labels = long_row()
    seen = changed_at(model, tokens, labels, 5)
    assert seen[5:CHUNK].all() and not seen[CHUNK:START].any() and seen[START:].all() and not seen[:5].any()
    assert hook.calls == 4
    hook.sparse = False
    assert changed_at(model, tokens, labels, 5)[5:].all() and hook.calls == 4


def test_evaluation_is_the_models_own_bit_for_bit() -> None:
    model, (tokens, labels) = make("Llama", max_position_embeddings=512), long_row()
    before = logits(model, tokens, labels=labels)
    hook = install(model, CHUNK, pattern="tail_global")
    assert torch.equal(logits(model, tokens, labels=labels), before) and hook.calls == 0
    hook.uninstall()
    assert model.config._attn_implementation == "sdpa" and not model._forward_pre_hooks


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    tokens, labels = long_row()
    found = []
    for checkpointing in (False, True):
        model = make("Llama", max_position_embeddings=512).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        install(model, CHUNK, pattern="tail_global")
        model(tokens, labels=labels, use_cache=False).loss.backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_what_it_cannot_read_is_refused_in_one_line() -> None:
    model, (tokens, labels) = make("Llama", max_position_embeddings=512).train(), long_row()
    assert isinstance(install(model, CHUNK, pattern="tail_global"), TailGlobal)
    with pytest.raises(ConfigError, match="was given no labels"):
        logits(model, tokens)
    positions = torch.cat([torch.arange(100), torch.arange(tokens.shape[1] - 100)])[None]
    with pytest.raises(ConfigError, match="rows of one document each"):
        logits(model, tokens, labels=labels, position_ids=positions)
