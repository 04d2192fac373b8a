"""Documents hold what they say, where they say, and nothing of it twice."""

from functools import cache
from typing import Any

import pytest

from environments.haystack.facts import VALUE_KINDS
from lift.document.document import Document
from lift.tasks.synthetic_document import CHAINS, SINGLES, PlantedFact, enough, generate, items, neutral, unrelated
from longthread.errors import LongthreadError
from tests.conftest import build_tokenizer
from tests.environments.tiny_model import tiny_tokenizer

SIZES = (2048, 8192)
sizes = pytest.mark.parametrize("tokens", SIZES)


@cache
def case(tokens: int, seed: int = 0, tokenizer: str = "gpt2") -> tuple[Any, Document, list[PlantedFact]]:
    built = build_tokenizer(tokenizer)
    return built, *generate(built, tokens, seed)


@pytest.mark.parametrize("tokenizer", ["smollm2", "gpt2", "mistral", "cl100k-like", "crossing"])
def test_has_the_tokens_asked_for(tokenizer: str) -> None:
    built, document, facts = case(2048, 0, tokenizer)
    count = len(built(document.text, add_special_tokens=False)["input_ids"])
    assert abs(count - 2048) <= 20
    assert len(facts) == SINGLES + CHAINS


def test_has_32k_tokens() -> None:
    built, document, _ = case(32768)
    assert abs(len(built(document.text, add_special_tokens=False)["input_ids"]) - 32768) <= 327


@sizes
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_single_fact_in_each_sixteenth_and_both_ends_covered(tokens: int, seed: int) -> None:
    built, document, facts = case(tokens, seed)
    singles = [fact for fact in facts if fact.kind == "single"]
    n = len(built(document.text, add_special_tokens=False)["input_ids"])
    for k, fact in enumerate(singles):
        # By the tokens of the text before the sentence, counted apart from the module's own arithmetic.
        before = len(built(document.text[: fact.spans[0][0]].rstrip(), add_special_tokens=False)["input_ids"])
        own = len(built(" " + fact.sentences[0], add_special_tokens=False)["input_ids"])
        assert before / (n - own) == pytest.approx(fact.depths[0], abs=3 / n)
        assert k / SINGLES <= fact.depths[0] <= (k + 1) / SINGLES
    assert (singles[0].depths[0], singles[-1].depths[0]) == (0, 1)
    assert document.text.startswith(singles[0].sentences[0])
    assert document.text.endswith(singles[-1].sentences[0])


@sizes
def test_spans_hold_the_sentences_and_no_sentence_is_cut(tokens: int) -> None:
    _, document, facts = case(tokens)
    for fact in facts:
        assert len(fact.spans) == len(fact.sentences) == len(fact.depths) == (1 if fact.kind == "single" else 2)
        for span, told in zip(fact.spans, fact.sentences, strict=True):
            assert document.text[slice(*span)] == told
            assert span in document.sentences


@sizes
@pytest.mark.parametrize("seed", [0, 1])
def test_no_value_twice_and_nobody_in_two_facts(tokens: int, seed: int) -> None:
    _, document, facts = case(tokens, seed)
    people = [person for fact in facts for person in fact.people]
    assert len(set(people)) == len(people) == SINGLES + 2 * CHAINS
    for fact in facts:
        assert document.text.count(fact.answer) == 1
        assert fact.answer in fact.sentences[-1]
        for i, person in enumerate(fact.people):
            assert document.text.count(person) == (2 if i and fact.kind == "two-hop" else 1)
    read = [value for kind in VALUE_KINDS.values() for value in kind.pattern.findall(document.text)]
    assert {fact.answer for fact in facts} <= set(read)
    short = [fact for fact in facts if any(VALUE_KINDS[k].pattern.fullmatch(fact.answer) for k in ("numbers", "words"))]
    assert len(short) == len(facts) - 2


@sizes
def test_questions_name_the_head_alone_and_never_the_answer(tokens: int) -> None:
    _, _, facts = case(tokens)
    for fact in facts:
        assert fact.people[0] in fact.question
        assert not any(person in fact.question for person in fact.people[1:])
        assert fact.answer not in fact.question
        assert "{" not in fact.question
    kinds = [item.kind for item in items(facts)]
    assert kinds == ["needle"] * SINGLES + ["linked"] * CHAINS
    assert [item.evidence for item in items(facts)] == [fact.spans for fact in facts]


def test_the_same_again_from_the_same_seed_and_another_from_another() -> None:
    built, document, facts = case(2048)
    assert generate(built, 2048, 0) == (document, facts)
    _, other, others = case(2048, 1)
    assert other.text != document.text
    assert {fact.answer for fact in facts}.isdisjoint(fact.answer for fact in others)


def test_too_short_is_said_in_one_line() -> None:
    with pytest.raises(LongthreadError, match="too short"):
        generate(build_tokenizer("gpt2"), 512, 0)


@pytest.mark.parametrize("name", ["gpt2", "bytes"])
def test_what_is_said_to_be_enough_is(name: str) -> None:
    built = tiny_tokenizer() if name == "bytes" else build_tokenizer(name)
    with pytest.raises(LongthreadError, match=f"ask for {enough(built)}$"):
        generate(built, 768, 0)
    for seed in range(2):
        _, facts = generate(built, enough(built), seed)
        assert len(facts) == SINGLES + CHAINS


@pytest.mark.parametrize("split", ["train", "eval"])
def test_neutral_text_is_about_2k_tokens_without_facts(split: str) -> None:
    text = neutral(split)
    count = len(build_tokenizer("smollm2")(text)["input_ids"])
    assert 1700 <= count <= 2400
    assert not any(kind.pattern.search(text) for name, kind in VALUE_KINDS.items() if name != "names")
    _, document, _ = case(8192)
    mine = {line for paragraph in text.split("\n\n") for line in paragraph.split(". ")}
    theirs = {line for paragraph in document.text.split("\n\n") for line in paragraph.split(". ")}
    assert len(mine & theirs) <= 0.02 * len(mine)


def test_neutral_splits_differ() -> None:
    assert neutral("train") != neutral("eval")


def test_unrelated_questions_are_forty_and_short() -> None:
    asked = unrelated()
    assert len({item.question for item in asked}) == len(asked) == 40
    for item in asked:
        assert item.evidence == ()
        assert 0 < len(item.answer.split()) <= 2
        assert item.question.endswith("?")
