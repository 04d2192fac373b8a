"""What teachers say is what the base model says, and what they are shown stays within memory."""

from dataclasses import replace
from random import Random

import pytest
import torch
from peft import get_peft_model

from lift.document.document import Document
from lift.memory.tuner import GatedMemoryConfig
from lift.tasks import Item
from lift.training import teacher_targets
from lift.training.batches import EMPTY, supervised, task_rows
from lift.training.losses import TOP
from lift.training.recipes import RECIPES
from lift.training.regularization import prose_rows, talk_rows
from lift.training.teacher_targets import goal, taught, within_memory
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

TEXT = "The number is 4829104756. " + "It rained. " * 30
ITEMS = [Item("needle", f"Which number, {'please, ' * i}?", str(4829104756 * (i + 1)), ((0, 25),)) for i in range(5)]
OPEN = replace(RECIPES["published-v4"], learnt="logits", open_tokens=100)
CPU = torch.device("cpu")


def test_what_was_taught_is_what_the_model_says_that_reads_the_document() -> None:
    """In double precision: in single a batch rounds otherwise than a row by itself."""
    model, tokenizer = get_peft_model(tiny_model(), GatedMemoryConfig()).eval().double(), tiny_tokenizer()
    rows = task_rows(ITEMS, Document("mill", TEXT), tokenizer, model, OPEN)
    for row in taught(model, rows, 600, False):
        assert row.taught and row.open_book and row.taught.ids.shape == (row.places, TOP)
        ids = torch.tensor([list(row.open_book.ids)])
        with torch.no_grad(), model.disable_adapter():
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)[-row.places - 1 : -1]
        torch.testing.assert_close(row.taught.log_p.double(), log_p.topk(TOP).values, atol=1e-5, rtol=0)
    assert sorted(tuple(row.ids) for row in taught(model, rows, 600, False)) == sorted(tuple(row.ids) for row in rows)


def test_a_goal_stands_at_the_places_of_its_rows() -> None:
    model, tokenizer = get_peft_model(tiny_model(), GatedMemoryConfig()).eval(), tiny_tokenizer()
    rows = taught(model, task_rows(ITEMS, Document("mill", TEXT), tokenizer, model, OPEN), 9999, False)[:2]
    quiet = taught(model, [*prose_rows(tokenizer, 1, 0), *talk_rows(model, tokenizer, 1, 0)], 9999, False)
    room = sum(row.places for row in rows) + 3
    width = max(len(row.ids) for row in (*rows, *quiet))
    at, targets, _ = supervised([*rows, EMPTY, *quiet], width, CPU, room)
    found = goal([*rows, EMPTY, *quiet], CPU, room)
    assert len(targets) == room and len(found.ids) == len(at) == len(found.log_p)
    assert torch.equal(found.ids[: rows[0].places], rows[0].taught.ids)  # type: ignore[union-attr]
    assert torch.equal(found.log_p[room:], torch.cat([row.taught.log_p for row in quiet]))  # type: ignore[union-attr]
    assert len(goal([], CPU).ids) == 0


def test_a_larger_models_teacher_is_shown_fewer_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = get_peft_model(tiny_model(), GatedMemoryConfig()).eval(), tiny_tokenizer()
    rows = task_rows(ITEMS, Document("mill", TEXT), tokenizer, model, RECIPES["published-v4"])
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
