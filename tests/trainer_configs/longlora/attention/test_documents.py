"""Packed documents never see each other: in sparse steps, full steps and evaluation, whatever mask the rows carry."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from longthread.errors import ConfigError
from tests.trainer_configs.longlora.attention.test_transformers_hook import FAMILIES, GROUP, ids, logits, make
from trainer_configs.longlora.attention.documents import DocumentAttention, DocumentMask, keep_documents_apart
from trainer_configs.longlora.attention.segments import document_starts, positions_in_document, segment_starts
from trainer_configs.longlora.attention.transformers_hook import install

DOCUMENTS = (13, 27)
POSITIONS = torch.cat([torch.arange(n) for n in DOCUMENTS])[None]
MASKS: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "none": lambda x: None,
    "ones": torch.ones_like,
    "numbered": lambda x: (POSITIONS == 0).cumsum(1).expand(x.shape[0], -1),  # as Axolotl's packing numbers documents
    "bool": lambda x: torch.ones_like(x, dtype=torch.bool),
}
STEPS = {"sparse": (True, True), "full": (True, False), "evaluation": (False, True)}


def softcapped() -> Any:
    return make("Gemma2", head_dim=8)


def eager() -> Any:
    model = make("Llama")
    model.set_attn_implementation("eager")
    return model


def moved(model: Any, positions: torch.Tensor, mask: torch.Tensor | None, first: int, **options: Any) -> torch.Tensor:
    """How far the logits behind token `first` move when the tokens before it change."""
    row = ids(1, positions.shape[1])
    other = torch.cat([ids(1, first).flip(1), row[:, first:]], dim=1)
    assert not torch.equal(row, other)
    given = {"attention_mask": mask, "position_ids": positions} | options
    a, b = (model(x, **given).logits[:, first:] for x in (row, other))
    return (a - b).abs().max()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_never_sees_the_one_before_it(family: str, step: str, mask: str) -> None:
    """huggingface/transformers PR 46634, axolotl-ai-cloud/axolotl 3608: beside a mask of ones documents were mixed."""
    model = make(family)
    sparse = install(model, GROUP)
    training, sparse.sparse = STEPS[step]
    model.train(training)
    first, second = ids(1, DOCUMENTS[0]), ids(2, DOCUMENTS[1])[1:]
    alone = torch.cat([logits(model, first), logits(model, second)], dim=1)
    row = torch.cat([first, second], dim=1)
    for options in ({"use_cache": False}, {}):
        packed = model(row, position_ids=POSITIONS, attention_mask=MASKS[mask](row), **options).logits
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: make("Llama"), DocumentAttention),
        (lambda: make("Gemma3Text"), DocumentAttention),
        (eager, DocumentMask),
        (softcapped, DocumentMask),
    ],
    ids=["sdpa", "sliding", "eager", "softcapping"],
)
@pytest.mark.parametrize("training", [True, False])
def test_nor_with_attention_full(model: Callable[[], Any], kind: type, training: bool, mask: str) -> None:
    built = model().train(training)
    hook = keep_documents_apart(built)
    assert type(hook) is kind
    for options in ({"use_cache": False}, {}):
        assert moved(built, POSITIONS, MASKS[mask](POSITIONS), DOCUMENTS[0], **options) <= 1e-5
    base = hook.base
    hook.uninstall()
    assert built.config._attn_implementation == base
    assert moved(built, POSITIONS, torch.ones_like(POSITIONS), DOCUMENTS[0], use_cache=False) > 1e-3  # without it


def test_rows_of_a_batch_are_packed_each_in_its_own_way_and_padded_on_the_right() -> None:
    model = make("Llama")
    sparse = install(model, GROUP)
    row = ids(2, 40)
    positions = torch.stack([POSITIONS[0], torch.arange(40)])
    mask = torch.ones_like(row)
    mask[0, 35:] = 0
    positions[0, 35:] = torch.arange(5)  # as Axolotl's collator pads them
    for training, sparse.sparse in STEPS.values():
        model.train(training)
        found = logits(model, row, position_ids=positions, attention_mask=mask)
        for at, (start, end) in ((0, (0, 13)), (0, (13, 35)), (1, (0, 40))):
            wanted = logits(model, row[at : at + 1, start:end])
            torch.testing.assert_close(found[at : at + 1, start:end], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_that_restart_in_padding_alone_leave_the_model_s_own_attention(side: str) -> None:
    model, row = make("Llama"), ids(2, 40)
    mask = torch.ones_like(row)
    mask[1, slice(0, 9) if side == "left" else slice(31, 40)] = 0
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    before = logits(model, row, position_ids=positions, attention_mask=mask)
    install(model, GROUP)
    assert torch.equal(logits(model, row, position_ids=positions, attention_mask=mask), before)


def test_gradients_of_a_full_step_with_checkpoints_are_those_of_the_documents_alone() -> None:
    found = []
    for checkpointing in (False, True):
        model = make("Llama").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        install(model, GROUP).sparse = False
        row = ids(1)
        first = model(row, position_ids=POSITIONS, attention_mask=torch.ones_like(row), use_cache=False).logits
        with torch.no_grad():  # another pass before the backward one, as preference trainers make
            model(ids(1, 24), use_cache=False)
        first[:, DOCUMENTS[0] :].square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    model = make("Llama").train()
    logits(model, ids(1)[:, DOCUMENTS[0] :]).square().mean().backward()
    for a, b, c in zip(*found, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(a, c, atol=1e-6, rtol=1e-4)


def test_a_model_that_cannot_keep_them_apart_is_refused_when_they_come() -> None:
    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    model = transformers.BloomForCausalLM(config)
    hook = keep_documents_apart(model)
    row = ids(1)
    model(row)
    with pytest.raises(ConfigError, match="cannot keep packed documents apart: make rows of one document each"):
        hook._before(model.transformer, (), {"input_ids": row, "position_ids": POSITIONS})


# ---- skipped positions ------------------------------------------------------------------------------------------

SKIPPING = torch.cat([torch.arange(12), torch.arange(40, 68)])[None]


@pytest.mark.parametrize("mask", ["none", "ones"])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma3Text"])
def test_a_skipped_position_is_no_border_in_any_step(family: str, mask: str) -> None:
    """Axolotl's use_pose: tokens behind a skip depend on those before it, in sparse steps too."""
    model = make(family)
    full = logits(model, ids(1), position_ids=SKIPPING, attention_mask=torch.ones_like(SKIPPING))
    sparse = install(model, GROUP)
    for training, sparse.sparse in STEPS.values():
        model.train(training)
        assert moved(model, SKIPPING, MASKS[mask](SKIPPING) if mask == "ones" else None, 12, use_cache=False) > 1e-3
        if not (training and sparse.sparse):
            found = logits(
                model, ids(1), position_ids=SKIPPING, attention_mask=None if mask == "none" else MASKS[mask](SKIPPING)
            )
            assert torch.equal(found, full)


def test_skips_and_restarts_in_one_row() -> None:
    positions = torch.cat([torch.arange(12), torch.arange(40, 48), torch.arange(8), torch.arange(30, 42)])[None]
    model = make("Gemma3Text")
    sparse = install(model, GROUP)
    for training, sparse.sparse in STEPS.values():
        model.train(training)
        for mask in (None, torch.ones_like(positions)):
            assert moved(model, positions, mask, 20, use_cache=False) <= 1e-5
            second = positions[:, 20:]
            wanted = logits(model, ids(1)[:, 20:], position_ids=second, attention_mask=torch.ones_like(second))
            found = logits(model, ids(1), position_ids=positions, attention_mask=mask)[:, 20:]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_which_eager_attention_cannot_tell_apart() -> None:
    positions = torch.cat([torch.arange(12), torch.arange(40, 60), torch.arange(8)])[None]
    model = eager()
    keep_documents_apart(model)
    assert moved(model, SKIPPING, None, 12, use_cache=False) > 1e-3
    with pytest.raises(ConfigError, match="packed rows with skipped positions need attention sdpa, not eager"):
        model(ids(1), position_ids=positions)


steps = st.lists(st.sampled_from((1, 1, 1, 1, 2, 7, 0, -1, -5, -30)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 50), steps, st.integers(1, 6).map(lambda n: 2 * n), st.booleans())
def test_the_rule_written_out_a_token_at_a_time(first: int, steps: list[int], size: int, shifted: bool) -> None:
    """A restart begins a document; a skip begins nothing, and segments count tokens."""
    row = [first]
    for step in steps:
        row.append(max(0, row[-1] + step))
    starts, inside, borders = [], [], []
    for at, position in enumerate(row):
        restarts = at == 0 or position <= row[at - 1]
        starts.append(restarts)
        inside.append(0 if restarts else inside[-1] + 1)
        borders.append(restarts or (inside[-1] - (size // 2 if shifted else 0)) % size == 0)
    positions = torch.tensor([row])
    assert document_starts(positions)[0].tolist() == starts
    assert positions_in_document(positions)[0].tolist() == inside
    assert segment_starts(positions, size, shifted)[0].tolist() == borders
