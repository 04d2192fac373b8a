"""Other text: rows of one length in fiction, questions with the model's own replies, and none that an evaluation asks."""

from typing import Any

import torch
from tiny_model import tiny_model, tiny_tokenizer

from lift import chronicle
from lift.other_text import PROSE_TOKENS, REPLY_TOKENS, prose_rows, talk_rows
from lift.rows import WIDTHS, supervised


def test_prose_is_kept_whole_and_of_one_length() -> None:
    tokenizer = tiny_tokenizer()
    rows = prose_rows(tokenizer, 6, 0)
    assert len(rows) == 6 and all(len(row.ids) == row.kept == row.places == PROSE_TOKENS for row in rows)
    assert rows == prose_rows(tokenizer, 6, 0) != prose_rows(tokenizer, 6, 1)
    neutral = chronicle.neutral("eval")
    assert not any(tokenizer.decode(row.ids) in neutral for row in rows)


def test_talk_is_the_model_s_own_and_its_reply_is_kept() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    rows = talk_rows(model, tokenizer, 6, 0)
    assert rows == talk_rows(model, tokenizer, 6, 0) != talk_rows(model, tokenizer, 6, 1)
    for row in rows:
        said = tokenizer.decode(row.ids)
        assert row.kept == REPLY_TOKENS and said.endswith("<|im_end|>") and "Reply with the answer alone." in said
    assert any("Text:" in tokenizer.decode(row.ids) for row in rows)
    at, targets, weights = supervised(rows[:1], len(rows[0].ids), torch.device("cpu"))
    assert at.tolist() == list(range(len(rows[0].ids) - REPLY_TOKENS, len(rows[0].ids))) and not len(targets)
    assert weights.sum().item() == 1 or abs(weights.sum().item() - 1) < 1e-6


def test_talk_stands_beside_questions_of_the_first_width(gpt2: Any) -> None:
    rows = talk_rows(tiny_model(vocab_size=60_000, eos_token_id=None), gpt2, 20, 0)
    assert len(rows) == 20 and max(len(row.ids) for row in rows) <= WIDTHS[0]
    assert sum("Text:" in gpt2.decode(row.ids) for row in rows) == 10


def test_no_question_of_an_evaluation_is_trained_on() -> None:
    tokenizer = tiny_tokenizer()
    trained = " ".join(tokenizer.decode(row.ids) for row in talk_rows(tiny_model(), tokenizer, 60, 0))
    assert not any(item.question in trained for item in chronicle.unrelated())
