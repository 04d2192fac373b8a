"""A model that does not read is told apart before `compact` is fitted to it, once for each model."""

from pathlib import Path
from typing import Any

import pytest

from lift.evaluation import reading_check
from lift.evaluation.reading_check import FACTS, PASSAGES, Reading, check
from lift.tasks.synthetic_document import passage_with_facts
from tests.environments.tiny_model import tiny_model, tiny_tokenizer
from tests.lift.shelf import refused


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTHREAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def oracle(right: int) -> Any:
    """Answers as of a model that finds the first `right` facts; it is asked about one passage at a time."""
    facts = [item.answer for seed in range(PASSAGES) for item in passage_with_facts(seed, FACTS).items]
    remaining = [f"It is {fact}." if i < right else "none" for i, fact in enumerate(facts)]

    def answers(model: Any, tokenizer: Any, prompts: list[list[int]], read_once: bool) -> list[str]:
        texts = [tokenizer.decode(prompt) for prompt in prompts]
        of_passage = [facts.pop(0) for _ in range(FACTS)]
        assert all(
            fact in text and fact not in text.rpartition("About")[2]
            for fact, text in zip(of_passage, texts, strict=True)
        )
        return [remaining.pop(0) for _ in range(FACTS)]

    return answers


@pytest.mark.parametrize("seed", range(4))
def test_passages_are_short_and_state_each_fact_once(gpt2: Any, seed: int) -> None:
    document, items = passage_with_facts(seed, FACTS)
    assert 300 < len(gpt2.encode(document.text, add_special_tokens=False)) < 750
    assert len({item.question for item in items}) == FACTS
    assert all(document.text.count(item.answer) == 1 for item in items)


def test_a_model_that_reads_is_let_through_and_one_that_does_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_check, "answers", oracle(11))
    assert check(tiny_model(), tiny_tokenizer(), "a" * 64) == Reading(11, 12)
    monkeypatch.setattr(reading_check, "answers", oracle(4))
    found = ("answers 4 of 12 questions", "(at least 60%)", "(model, recipe, anyway)")
    refused(lambda: check(tiny_model(), tiny_tokenizer(), "b" * 64), *found)


def test_a_model_is_measured_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(reading_check, "answers", oracle(12))
    check(tiny_model(), tiny_tokenizer(), "a" * 64)
    monkeypatch.setattr(reading_check, "answers", lambda *_, **__: pytest.fail("measured again"))
    assert check(tiny_model(), tiny_tokenizer(), "a" * 64) == Reading(12, 12)
    (cache / "reading.json").write_text('{"a": [1')  # damaged: measured anew, and written whole
    monkeypatch.setattr(reading_check, "answers", oracle(9))
    assert check(tiny_model(), tiny_tokenizer(), "a" * 64) == Reading(9, 12)
