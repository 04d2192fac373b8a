"""Rows: what is learnt of them, how they are batched, and the other text that is to stay as it was."""

from dataclasses import replace
from random import Random

import torch
from hypothesis import given
from hypothesis import strategies as st

from lift.document.document import Document
from lift.document.segments import IGNORED
from lift.tasks import Item
from lift.training.batches import (
    EMPTY,
    WIDTHS,
    WINDOW,
    RegularizationRow,
    SupervisedRow,
    bucketed,
    collate,
    padded,
    present,
    row_batches,
    rows_beside_text,
    segment_rows,
    task_rows,
)
from lift.training.recipes import RECIPES
from tests.environments.tiny_model import tiny_model, tiny_tokenizer


def test_the_loss_is_on_answers_and_the_mark_behind_them() -> None:
    tokenizer = tiny_tokenizer()
    item = Item("needle", "Which number?", "4829104756", ((0, 3),))
    (row,) = task_rows([item], Document("mill", "text"), tokenizer, tiny_model())
    learnt = [token for token, label in zip(row.ids, row.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learnt) == "4829104756<|im_end|>"
    assert tokenizer.decode(row.ids).endswith("Which number?\nReply with the answer alone.<|im_end|>\n"
                                              "<|im_start|>assistant\n4829104756<|im_end|>")  # fmt: skip


TEXT = "It rained. " * 40 + "The number is 4829104756. " + "It rained. " * 40
EVIDENCE = "The number is 4829104756."
NUMBER = Item("needle", "Which number?", "4829104756", ((440, 465),))


def test_a_teachers_row_has_the_evidence_in_its_window_and_the_same_answer() -> None:
    tokenizer, document = tiny_tokenizer(), Document("mill", TEXT)
    (row,) = task_rows([NUMBER], document, tokenizer, tiny_model(), open_tokens=60)
    read = row.open_book
    assert read and EVIDENCE in tokenizer.decode(read.ids) and len(row.predicted_at) == len(read.predicted_at)
    (plain,) = task_rows([NUMBER], document, tokenizer, tiny_model())
    assert (row.ids, row.labels) == (plain.ids, plain.labels) and plain.open_book is None
    for each in (row, read):
        batch = collate([each], [], torch.device("cpu"))
        assert len(batch.at) == len(each.predicted_at) and tokenizer.decode(batch.answer_N) == "4829104756<|im_end|>"


def test_questions_beside_pieces_of_the_document() -> None:
    tokenizer, document, model = tiny_tokenizer(), Document("mill", TEXT), tiny_model()
    made = lambda seed: rows_beside_text([NUMBER] * 200, document, tokenizer, model, Random(seed))  # noqa: E731
    rows, (closed,) = made(0), task_rows([NUMBER], document, tokenizer, model)
    assert rows == made(0) != made(1)
    lengths = [len(row.ids) - len(closed.ids) for row in rows]
    assert min(lengths) < 150 and 750 < max(lengths) <= WINDOW[1] + 20
    for row in rows:
        said = tokenizer.decode(row.ids)
        assert said.endswith("4829104756<|im_end|>") and "It rained." in said
    found = sum(EVIDENCE in tokenizer.decode(row.ids) for row in rows)
    assert 0.3 < found / len(rows) < 0.7


def test_batches_hold_every_row_once_within_their_tokens() -> None:
    rows = [SupervisedRow([1] * n, [IGNORED] * n) for n in (5, 1, 9, 3, 3, 7, 2)]
    found = list(row_batches(rows, 10))
    assert sorted(len(row.ids) for batch in found for row in batch) == [1, 2, 3, 3, 5, 7, 9]
    assert all(len(batch) == 1 or len(batch) * max(len(row.ids) for row in batch) <= 10 for batch in found)
    both = [SupervisedRow([5, 6], [IGNORED, 6]), SupervisedRow([7], [7])]
    ids = padded(both, torch.device("cpu"))
    mask = present(both, ids)
    assert ids.shape == mask.shape == (2, 8)  # a multiple of 8
    assert ids[:, :3].tolist() == [[5, 6, 0], [7, 0, 0]] and mask[:, :3].tolist() == [[1, 1, 0], [1, 0, 0]]


def test_places_of_padded_rows_and_what_each_is_to_predict() -> None:
    supervised = [SupervisedRow([5, 6, 8], [IGNORED, 6, 8]), EMPTY, SupervisedRow([7, 9], [7, 9])]
    batch = collate(supervised, [RegularizationRow([3] * 136, 128)], torch.device("cpu"), 136, answer_room=5)
    assert batch.answer_N.tolist() == [6, 8, 9, IGNORED, IGNORED]
    assert batch.answer_at_N.tolist() == [0, 1, 272, 0, 0] and batch.quiet_at_M.tolist() == list(range(416, 544))
    assert batch.at.tolist() == [*batch.answer_at_N.tolist(), *batch.quiet_at_M.tolist()]
    assert batch.quiet_weight_M.tolist() == [1 / 128] * 128
    follows = batch.ids_BL.flatten()[batch.answer_at_N[:3] + 1]
    assert follows.tolist() == batch.answer_N[:3].tolist()


def test_contextualised_segments_are_drawn_anew_every_epoch() -> None:
    recipe, ids = replace(RECIPES["published-v3"], segment=64, stride=24), list(range(200))
    first, again = (segment_rows(ids, tiny_tokenizer(), recipe, Random(seed)) for seed in (0, 1))
    assert [row.ids for row in first] != [row.ids for row in again]
    assert [[x for x in row.labels if x != IGNORED] for row in first] == [
        [x for x in row.labels if x != IGNORED] for row in again
    ]


@given(lengths=st.lists(st.integers(1, 700), max_size=60), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_buckets_hold_every_row_once_and_one_step_at_most_is_small(lengths: list[int], size: int, seed: int) -> None:
    rows = [SupervisedRow([i] * n, [IGNORED] * n) for i, n in enumerate(lengths)]
    made = bucketed(rows, size, Random(seed))
    assert sorted(row.ids[0] for _, batch in made for row in batch) == list(range(len(rows)))
    assert sum(len(batch) < size for _, batch in made) <= 1 and all(0 < len(batch) <= size for _, batch in made)
    for width, batch in made:
        longest = max(len(row.ids) for row in batch)
        assert width >= longest and (width in WIDTHS or width % 8 == 0)
    assert made == bucketed(rows, size, Random(seed))
