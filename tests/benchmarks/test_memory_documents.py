"""Documents with many questions: every answer stands where its evidence says, once, and what is absent stands nowhere."""

from collections import Counter

import pytest

from benchmarks import reference_tokenizers
from benchmarks.memory_documents import KINDS, LONG, Counts, MadeDocument, counts_of, generate
from environments.haystack.facts import parse
from environments.haystack.tokens import Tokens
from environments.rollouts.scoring import score
from longthread.errors import ConfigError
from tests.environments.tiny_model import tiny_tokenizer

SMALL = Counts(singles=4, groups=2, chains=2, asked=(6, 8, 5, 6))
LENGTH = 9000


@pytest.fixture(scope="module")
def made() -> MadeDocument:
    return generate(Tokens(tiny_tokenizer()), LENGTH, 3, SMALL)


def test_the_text_is_of_the_length_and_the_questions_as_many_as_asked_for(made: MadeDocument) -> None:
    assert abs(len(made.text.encode()) - LENGTH) <= 2
    assert Counter(q.kind for q in made.questions) == dict(zip(KINDS, SMALL.asked, strict=True))
    assert len({q.text for q in made.questions}) == len(made.questions)


def test_every_answer_stands_once_in_its_evidence_and_scores(made: MadeDocument) -> None:
    for question in made.questions:
        if question.kind == "absent":
            assert question.evidence == () and score("none", question.answer, "plain").score == 1
            continue
        [value] = question.answer.values
        start, end = question.evidence[-1]
        assert made.text.count(value) == 1 and start <= made.text.index(value) < end
        assert len(question.evidence) == (2 if question.kind == "chain" else 1)
        assert len(question.passed) == (1 if question.kind == "chain" else 0)
        assert all(name in made.text and name not in question.text for name in question.passed)
        assert score(value, question.answer, "plain").score == 1 and score("none", question.answer, "plain").score < 0.1


@pytest.mark.parametrize("length", [8192, LONG], ids=["short", "long"])
def test_wordings_suffice_for_the_questions_that_a_cell_has(length: int) -> None:
    made = generate(Tokens(reference_tokenizers.load("gpt2")), length, 1, counts_of(length))
    assert Counter(q.kind for q in made.questions) == dict(zip(KINDS, counts_of(length).asked, strict=True))


def test_values_are_asked_for_evenly(made: MadeDocument) -> None:
    for kind in KINDS[:-1]:
        asked = Counter(q.answer.values[0] for q in made.questions if q.kind == kind)
        assert max(asked.values()) - min(asked.values()) <= 1


def test_what_is_absent_is_not_stated(made: MadeDocument) -> None:
    stated = {(person, relation) for person, relation, _ in parse(made.text)}
    people = {person for person, _ in stated}
    kinds = {
        "numbers": "combination",
        "words": "password",
        "dates": "contract",
        "uuids": "registration",
        "names": "heir",
    }
    absent = [q for q in made.questions if q.kind == "absent"]
    known = [next((person for person in people if person in q.text), None) for q in absent]
    assert None in known and any(known), "of people of the text, and of others"
    for question, person in zip(absent, known, strict=True):
        assert (person, kinds[question.answer.value_kind]) not in stated


def test_each_of_many_keys_has_three_people_of_nearly_its_name_beside_it(made: MadeDocument) -> None:
    stated = parse(made.text)
    for question in [q for q in made.questions if q.kind == "multi_key"]:
        [(person, relation)] = [(who, what) for who, what, value in stated if value == question.answer.values[0]]
        like = [who for who, what, _ in stated if what == relation and _letters_apart(who, person) in (1, 2, 3, 4)]
        assert len(like) >= 3, "a twin is one or two letters away from the first of them"


def _letters_apart(one: str, other: str) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True)) if len(one) == len(other) else 99


def test_the_same_seed_gives_the_same_document_and_another_another(made: MadeDocument) -> None:
    tokens = Tokens(tiny_tokenizer())
    assert generate(tokens, LENGTH, 3, SMALL) == made
    assert generate(tokens, LENGTH, 4, SMALL).text != made.text


def test_a_document_that_cannot_hold_its_facts_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        generate(Tokens(tiny_tokenizer()), 500, 0, SMALL)
    assert "\n" not in refused.value.line()
