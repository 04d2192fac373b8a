"""What teachers say is what the base model says, and what they are shown stays within memory."""

from random import Random

import pytest
import torch
from peft import get_peft_model

from lift.document.document import Document
from lift.memory.tuner import GatedMemoryConfig
from lift.tasks import Item
from lift.training import teacher_targets
from lift.training.batches import EMPTY, collate, task_rows
from lift.training.losses import TOP
from lift.training.regularization import prose_rows, talk_rows
from lift.training.teacher_targets import with_teacher, within_memory
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

TEXT = "The number is 4829104756. " + "It rained. " * 30
ITEMS = [Item("needle", f"Which number, {'please, ' * i}?", str(4829104756 * (i + 1)), ((0, 25),)) for i in range(5)]
CPU = torch.device("cpu")


def test_a_teacher_s_logits_are_those_of_the_model_that_reads_the_document() -> None:
    """In double precision: in single a batch rounds otherwise than a row by itself."""
    model, tokenizer = get_peft_model(tiny_model(), GatedMemoryConfig()).eval().double(), tiny_tokenizer()
    rows = task_rows(ITEMS, Document("mill", TEXT), tokenizer, model, open_tokens=100)
    taught = with_teacher(model, rows, 600, False)
    for row in taught:
        assert row.teacher and row.open_book and row.teacher.ids_TK.shape == (len(row.predicted_at), TOP)
        ids = torch.tensor([list(row.open_book.ids)])
        with torch.no_grad(), model.disable_adapter():
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)[-len(row.predicted_at) - 1 : -1]
        torch.testing.assert_close(row.teacher.log_p_TK.double(), log_p.topk(TOP).values, atol=1e-5, rtol=0)
    assert [tuple(row.ids) for row in taught] == [tuple(row.ids) for row in rows]


def test_a_batch_has_the_teacher_s_logits_at_the_places_of_its_rows() -> None:
    model, tokenizer = get_peft_model(tiny_model(), GatedMemoryConfig()).eval(), tiny_tokenizer()
    rows = task_rows(ITEMS, Document("mill", TEXT), tokenizer, model, open_tokens=100)
    rows = with_teacher(model, rows, 9999, False)[:2]
    quiet = with_teacher(model, [*prose_rows(tokenizer, 1, 0), *talk_rows(model, tokenizer, 1, 0)], 9999, False)
    room = sum(len(row.predicted_at) for row in rows) + 3
    batch = collate([*rows, EMPTY], quiet, CPU, answer_room=room)
    assert len(batch.answer_N) == room == len(batch.answer_top_NK) == len(batch.answer_log_p_NK)
    assert len(batch.quiet_at_M) == len(batch.quiet_top_MK)
    first = rows[0].teacher
    assert first and torch.equal(batch.answer_top_NK[: len(rows[0].predicted_at)], first.ids_TK)
    assert torch.equal(batch.quiet_log_p_MK, torch.cat([row.teacher.log_p_TK for row in quiet if row.teacher]))
    assert len(collate(rows[:1], [], CPU).quiet_top_MK) == 0


def test_a_larger_models_teacher_is_shown_fewer_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = get_peft_model(tiny_model(), GatedMemoryConfig()).eval(), tiny_tokenizer()
    rows = task_rows(ITEMS, Document("mill", TEXT), tokenizer, model)
    assert list(within_memory(model, rows)) == rows
    seen = teacher_targets.Teacher.read(model, [], list(range(40)), 40)
    for room in (1, *Random(0).sample(range(10**5, 10**6), 5)):
        monkeypatch.setattr(teacher_targets, "OBSERVED_BYTES", room)
        few = within_memory(model, rows)
        assert list(few) == rows[: len(few)] and few
        sizes = []
        for row in rows[: len(few) + 1]:
            ids = torch.tensor([list(row.ids)])
            sizes.append(sum(x.float().nbytes for each in seen.logits(ids, torch.ones_like(ids))[1] for x in each))
        assert len(few) == 1 or sum(sizes[: len(few)]) <= room
        assert len(few) == len(rows) or sum(sizes) > room
