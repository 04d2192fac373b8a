"""Other text: rows of fiction, questions with the model's own replies, and none that an evaluation asks."""

from typing import Any

import torch

from lift.tasks import synthetic_document
from lift.training.batches import LONG, WIDTHS, collate
from lift.training.regularization import PROSE_KEPT, REPLY_TOKENS, prose_rows, reading_rows, talk_rows
from tests.environments.tiny_model import tiny_model, tiny_tokenizer


def test_prose_is_kept_at_every_place_of_a_window_alike() -> None:
    tokenizer = tiny_tokenizer()
    rows = prose_rows(tokenizer, 8, 0)
    assert [len(row.ids) for row in rows] == [256, 512, 768, 1024] * 2 and LONG == 1024
    assert all(row.kept == len(row.predicted_at) == PROSE_KEPT for row in rows)
    assert rows == prose_rows(tokenizer, 8, 0) != prose_rows(tokenizer, 8, 1)
    neutral = synthetic_document.neutral("eval")
    assert not any(tokenizer.decode(row.ids) in neutral for row in rows)
    assert not any(
        tokenizer.decode(row.ids[:99]) in tokenizer.decode(rows[3].ids) for row in rows if row is not rows[3]
    )


def test_talk_is_the_model_s_own_and_its_reply_is_kept() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    rows = talk_rows(model, tokenizer, 6, 0)
    assert rows == talk_rows(model, tokenizer, 6, 0) != talk_rows(model, tokenizer, 6, 1)
    for row in rows:
        said = tokenizer.decode(row.ids)
        assert row.kept == REPLY_TOKENS and said.endswith("<|im_end|>") and "Reply with the answer alone." in said
    assert any("Text:" in tokenizer.decode(row.ids) for row in rows)
    batch = collate([], rows[:1], torch.device("cpu"), len(rows[0].ids))
    assert batch.at.tolist() == list(range(len(rows[0].ids) - REPLY_TOKENS, len(rows[0].ids)))
    assert not len(batch.answer_N)
    assert abs(batch.quiet_weight_M.sum().item() - 1) < 1e-6


def test_talk_stands_beside_questions_of_the_first_width(gpt2: Any) -> None:
    rows = talk_rows(tiny_model(vocab_size=60_000, eos_token_id=None), gpt2, 20, 0)
    assert len(rows) == 20 and max(len(row.ids) for row in rows) <= WIDTHS[0]
    assert sum("Text:" in gpt2.decode(row.ids) for row in rows) == 10


def test_readings_fill_windows_of_every_length(gpt2: Any) -> None:
    model = tiny_model(vocab_size=60_000, eos_token_id=None)
    rows = reading_rows(model, gpt2, 24, 0)
    assert rows == reading_rows(model, gpt2, 24, 0) and all(row.kept == REPLY_TOKENS for row in rows)
    lengths = sorted(len(row.ids) for row in rows)
    assert len(rows) == 24 and lengths[0] < 300 and 700 < lengths[-1] <= LONG


def test_no_question_of_an_evaluation_is_trained_on() -> None:
    tokenizer = tiny_tokenizer()
    rows = [*talk_rows(tiny_model(), tokenizer, 60, 0), *reading_rows(tiny_model(), tokenizer, 9, 0)]
    trained = " ".join(tokenizer.decode(row.ids) for row in rows)
    assert not any(item.question in trained for item in synthetic_document.unrelated())
