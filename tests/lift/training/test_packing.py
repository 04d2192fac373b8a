"""Packed rows are read as each row is read alone, and every prediction is at its place."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model

from lift.document.segments import IGNORED
from lift.memory.tuner import GatedMemoryConfig, layers
from lift.training.batches import RegularizationRow, SupervisedRow
from lift.training.losses import TopLogits, logits_at
from lift.training.packing import PackedBatch, Room, collate_packed, packs
from longthread.errors import ConfigError
from tests.environments.tiny_model import tiny_model

CPU = torch.device("cpu")


def question(length: int, answer: int, rng: Random) -> SupervisedRow:
    ids = [rng.randrange(256) for _ in range(length)]
    return SupervisedRow(ids, [IGNORED] * (length - answer) + ids[-answer:])


def other(length: int, kept: int, rng: Random) -> RegularizationRow:
    teacher = TopLogits(torch.arange(2).repeat(kept, 1), torch.full((kept, 2), -2.0))
    return RegularizationRow([rng.randrange(256) for _ in range(length)], kept, teacher)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(40, 90), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_every_row_is_packed_once_and_nothing_is_longer_than_asked(lengths: list[int], tokens: int, seed: int) -> None:
    rows = [question(length, 1, Random(i)) for i, length in enumerate(lengths)]
    made = packs(rows, tokens, Random(seed))
    assert all(0 < sum(len(row.ids) for row in pack) <= tokens for pack in made)
    assert sorted(id(row) for pack in made for row in pack) == sorted(map(id, rows))
    assert packs(rows, tokens, Random(seed)) == made


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="a row of 9 tokens does not fit into 8"):
        packs([question(9, 1, Random(0))], 8, Random(0))


def packed() -> tuple[list[SupervisedRow], list[RegularizationRow], PackedBatch]:
    rng = Random(3)
    asked = [question(length, answer, rng) for length, answer in ((20, 3), (9, 1), (14, 5))]
    quiet = [other(length, kept, rng) for length, kept in ((17, 4), (25, 9))]
    return asked, quiet, collate_packed(asked, quiet, Room(64, 12, 20), CPU)


def test_logits_are_those_of_each_row_alone_with_a_memory_on() -> None:
    asked, quiet, batch = packed()
    base = tiny_model()
    heads = {str(i): [[5, 3]] for i in range(2)}
    model = get_peft_model(base, GatedMemoryConfig(slots=heads, precision="float32"))
    torch.manual_seed(0)
    for layer in layers(model):
        memory = layer.gm_memory["default"]
        for p in (memory.keys, memory.values, memory.biases):  # type: ignore[union-attr]
            p.data = torch.randn_like(p)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        found = logits_at(
            model, batch.ids_BT, batch.at, position_ids=batch.positions_BT, attention_mask=batch.mask_B1TT
        )
        alone = [model(torch.tensor([list(row.ids)])).logits[0, list(row.predicted_at)] for row in (*asked, *quiet)]
    answers, others = found.split([12, 20])
    assert torch.allclose(answers[:9], torch.cat(alone[:3]), atol=1e-4)
    assert torch.allclose(others[:13], torch.cat(alone[3:]), atol=1e-4)
    with model.disable_adapter(), torch.no_grad():
        assert not torch.allclose(model(torch.tensor([list(asked[0].ids)])).logits[0, -4:-1], alone[0], atol=1e-2)


def test_targets_stand_beside_their_predictions_and_filling_counts_nothing() -> None:
    asked, quiet, batch = packed()
    tokens = batch.ids_BT.flatten()
    live = batch.answer_N != IGNORED
    assert live.tolist() == [True] * 9 + [False] * 3
    assert torch.equal(tokens[batch.answer_at_N[live] + 1], batch.answer_N[live])
    assert batch.answer_N[live].tolist() == [label for row in asked for label in row.labels if label != IGNORED]
    assert batch.quiet_weight_M[:13].tolist() == pytest.approx([1 / 8] * 4 + [1 / 18] * 9)
    assert batch.quiet_weight_M[13:].tolist() == [0.0] * 7 and batch.quiet_top_MK.shape == (20, 2)
    assert Room.of([asked], [quiet], 64) == (64, 9, 13)
    assert batch.mask_B1TT.diagonal(dim1=2, dim2=3).all()
