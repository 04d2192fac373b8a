"""Quizzes: who is asked for, what is right, that every option is honoured and that nothing loops for ever."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.facts import BY_KIND, RELATION, SPLITS, VALUE_KINDS, in_split, parse
from environments.haystack.sample import Options
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.independent import custom
from environments.haystack.tasks.task import Draw, Quiz
from longthread.errors import ConfigError

FACTUAL = ("single", "multi_key", "multi_value", "multi_query", "absent")
options = st.builds(
    Options,
    value_kind=st.sampled_from([*VALUE_KINDS, "any"]),
    distractors=st.integers(0, 8),
    values=st.integers(1, 8),
    queries=st.integers(1, 8),
    lexical_gap=st.booleans(),
)


def quiz_of(task: str, chosen: Options, split: str = "train", seed: int = 0) -> Quiz:
    return TASKS[task].quiz(Draw(chosen, split, Random(seed)))


@settings(max_examples=200, deadline=None)
@given(task=st.sampled_from(FACTUAL), chosen=options, split=st.sampled_from(SPLITS), seed=st.integers(0, 2**32))
def test_needles_values_and_answer_fit_together(task: str, chosen: Options, split: str, seed: int) -> None:
    quiz = quiz_of(task, chosen, split, seed)
    roles = [role for _, role in quiz.needles]
    right = {"single": 1, "multi_key": 1, "multi_value": chosen.values, "multi_query": chosen.queries, "absent": 0}[
        task
    ]
    others = 0 if task == "single" else chosen.distractors
    assert roles == ["answer"] * right + ["distractor"] * others
    assert quiz.answer.values == quiz.values[:right] and len(quiz.values) == len(roles)
    assert quiz.answer.kind == {"multi_value": "set", "multi_query": "list", "absent": "absent"}.get(task, "one")
    assert chosen.value_kind in ("any", quiz.answer.value_kind)
    for i, value in enumerate(quiz.values):
        assert value in quiz.needles[i][0] and in_split(value, split)
        assert not [other for j, other in enumerate(quiz.values) if i != j and value in other]
        assert value not in quiz.question
    stated = [parse(text) for text, _ in quiz.needles]
    assert all(len(found) == 1 and found[0][2] == value for found, value in zip(stated, quiz.values, strict=True))
    tellers = [found[0][0] for found in stated]
    assert len(set(tellers[:right])) == (1 if task == "multi_value" else right)
    assert len(set(tellers[right:])) == others and not set(tellers[right:]) & set(tellers[:right])
    assert {found[0][1] for found in stated} <= {BY_KIND[quiz.answer.value_kind].name}
    assert "{" not in quiz.question and "\n" not in quiz.question and quiz.question[0].isupper()


@pytest.mark.parametrize("task", ["multi_key", "multi_value", "multi_query", "absent"])
@pytest.mark.parametrize("gap", [False, True])
def test_the_most_of_everything_ends(task: str, gap: bool) -> None:
    """A description has some 25 near-duplicates in its split; 256 distractors must come from somewhere."""
    chosen = Options(distractors=256, values=64, queries=64, lexical_gap=gap)
    quiz = quiz_of(task, chosen)
    assert [role for _, role in quiz.needles].count("distractor") == 256
    assert len({text for text, _ in quiz.needles}) == len(quiz.needles)


@given(gap=st.booleans(), seed=st.integers(0, 2**32))
def test_multi_query_asks_in_the_order_of_the_answer(gap: bool, seed: int) -> None:
    quiz = quiz_of("multi_query", Options(lexical_gap=gap, queries=4), seed=seed)
    assert quiz.question.count(";") == 3 and "in this order" in quiz.question
    if not gap:
        places = [quiz.question.find(parse(text)[0][0]) for text, role in quiz.needles if role == "answer"]
        assert -1 not in places and places == sorted(places)


def test_kinds_are_drawn_evenly() -> None:
    kinds = [quiz_of("single", Options(), seed=seed).answer.value_kind for seed in range(500)]
    assert all(60 < kinds.count(kind) < 140 for kind in VALUE_KINDS)


def test_custom() -> None:
    chosen = Options(needle="The best thing\n is  to eat,  outside.", question=" What? ", expected="eat,  outside")
    quiz = custom(Draw(chosen, "train", Random(0)))
    assert quiz.needles == (("The best thing is to eat, outside.", "answer"),)
    assert quiz.values == quiz.answer.values == ("eat, outside",) and quiz.answer.value_kind == "text"
    assert quiz.question == "What?"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"value_kind": "colours"}, ("'colours'", "words, numbers")),
        ({"distractors": 257}, ("distractors 257", "0 to 256")),
        ({"distractors": -1}, ("distractors -1", "0 to 256")),
        ({"values": 0}, ("values 0", "1 to 64")),
        ({"queries": 65}, ("queries 65", "1 to 64")),
    ],
)
def test_wrong_options(wrong: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        Options(**wrong)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("given_", "word"),
    [
        ({"needle": "It is 7.", "expected": "7"}, "(question)"),
        ({"needle": "It is 7.", "question": "What?"}, "(expected)"),
        ({"question": "What?", "expected": "7"}, "(needle)"),
        ({"needle": "It is 7.", "question": "What?", "expected": "8"}, "'8'"),
    ],
)
def test_wrong_custom(given_: dict, word: str) -> None:
    with pytest.raises(ConfigError) as error:
        custom(Draw(Options(**given_), "train", Random(0)))
    assert "\n" not in str(error.value) and word in str(error.value)


def test_relations_cover_every_kind() -> None:
    assert {RELATION[r].kind for r in RELATION} == set(VALUE_KINDS)
