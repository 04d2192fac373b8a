"""Graphs, hidden questions and chats: one answer, which a solver of its own finds in the text, and exact prompts."""

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks import uniqueness_run
from benchmarks.linked_reading import READ, SOLVERS, faults, paragraphs_of
from benchmarks.linked_uniqueness import read
from environments.haystack.facts import SPLITS
from environments.haystack.layout import Hidden, LayoutError, lay_out, reference_layout
from environments.haystack.options import GRAPH_ASKS, SESSION_ASKS
from environments.haystack.sample import NEEDED, Options, Sample, rebuild
from environments.haystack.tasks import TASKS, absent_twin
from environments.haystack.tasks.task import Draw, Quiz
from environments.haystack.tokens import BREAK
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer, make_haystacks

CHATS = ("turns", "sessions")


def quiz_of(task: str, seed: int = 0, **options: Any) -> Quiz:
    return TASKS[task].quiz(Draw(Options(**options), "train", Random(seed)))


# ---- one answer ----


@cache
def judged() -> list[tuple[Sample, list[str]]]:
    """Every task in every variant of the benchmark's."""
    made = make_haystacks("gpt2")
    return [uniqueness_run.judge(made, i, 2048, READ, faults) for i in range(len(READ) * len(uniqueness_run.VARIANTS))]


def test_every_answer_is_unique_or_rightly_absent() -> None:
    assert {(s.recipe["task"], tuple(wrong)) for s, wrong in judged()} == {(task, ()) for task in READ}


def test_the_solver_sees_faults() -> None:
    """Take a needed fact away, or name another value: each time the sample is no longer sound."""
    for sample, _ in judged():
        if sample.answer.kind == "absent":
            continue
        gap, (message,) = sample.recipe["options"]["lexical_gap"], sample.messages
        needed = next(n.text for n in sample.needles if n.role in NEEDED)
        without = replace(
            sample, messages=[{"role": "user", "content": message["content"].replace(needed, "Nothing.")}]
        )
        assert faults(without, gap)
        wrong = replace(sample.answer, values=(*sample.answer.values[1:], "Otto Nobody"))
        assert faults(replace(sample, answer=wrong), gap)


@pytest.mark.parametrize("task", READ)
@pytest.mark.parametrize("gap", [False, True], ids=["same words", "lexical gap"])
def test_the_largest_options(task: str, gap: bool) -> None:
    quiz = quiz_of(task, distractors=256, matches="64", hops="8", versions="16", lexical_gap=gap)
    assert len({text for text, _ in quiz.needles}) == len(quiz.needles) > 256


@pytest.mark.parametrize("task", READ)
def test_nothing_but_the_question_is_asked_for(task: str) -> None:
    quiz = quiz_of(task, distractors=0)
    assert quiz.needles and "\n" not in quiz.question and "{" not in quiz.question


@pytest.mark.parametrize("task", sorted(SOLVERS))
@pytest.mark.parametrize("options", [{}, {"numbered": True, "lexical_gap": True}, {"answer_format": "plain"}], ids=str)
def test_an_absent_fact_is_asked_for_like_one_that_is_there(task: str, options: dict[str, Any]) -> None:
    def frame(name: str) -> set[str]:
        contents = []
        for seed in range(8):
            sample = make_haystacks("gpt2", **options).sample(seed, "train", name, 3000)
            head, rest = sample.messages[0]["content"].split(BREAK, 1)
            contents.append(head + rest.rsplit(sample.question, 1)[1])
        return set(contents)

    assert frame(task) == frame(absent_twin(task)) and len(frame(task)) == 1
    assert ("<steps>" in frame(task).pop()) == (task == "hidden_question" and options.get("answer_format") != "plain")


# ---- exact ----

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1023),  # one pool
        "split": st.sampled_from(SPLITS),
        "task": st.sampled_from(READ),
        "length": st.integers(4096, 9000),
        "depths": st.one_of(st.none(), st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), max_size=4)),
    }
)
chosen_options = st.fixed_dictionaries(
    {
        "numbered": st.booleans(),
        "lexical_gap": st.booleans(),
        "placement": st.sampled_from(["uniform", "sigmoid", "0,0.5,1"]),
        "distractors": st.integers(0, 6),
        "decoys": st.integers(-1, 8),
    }
)


def share_before(sample: Sample, text: str) -> float:
    """The share of the filler's characters that stand before the text."""
    paragraphs, hidden = paragraphs_of(sample), {n.text for n in sample.needles}
    sizes = [0 if paragraph in hidden else len(paragraph) for paragraph in paragraphs]
    return sum(sizes[: paragraphs.index(text)]) / sum(sizes)


def check(name: str, case: dict[str, Any], options: dict[str, Any]) -> None:
    made = make_haystacks(name, **options)
    sample = made.sample(**case)
    tokens, content, chat = made.tokens, sample.messages[0]["content"], TASKS[case["task"]].source
    ids = tokens.encode(tokens.render(sample.messages))
    assert len(ids) == sample.length == case["length"]
    for needle in sample.needles:
        assert content.count(needle.text) == 1
        assert tokens.decode(ids[needle.token_start : needle.token_end]).strip() == needle.text
    if chat:
        assert {n.text for n in sample.needles} <= set(paragraphs_of(sample)) and not sample.decoys.texts
        assert all(a.token_end <= b.token_start for a, b in pairwise(sample.needles))
        needed = [n for n in sample.needles if n.role in NEEDED]
        if case["depths"] and needed:  # to the nearest turn, counted in filler
            assert abs(share_before(sample, needed[0].text) - sorted(case["depths"])[0]) < 0.1
    assert faults(sample, options["lexical_gap"]) == []
    assert made.sample(**case) == sample


@pytest.mark.parametrize("name", ["smollm2", "gpt2", "mistral"])
def test_every_property(name: str) -> None:
    build_tokenizer(name)  # skips here if it cannot be had

    @settings(max_examples=6, deadline=None, database=None, phases=[Phase.generate])
    @given(case=cases, options=chosen_options)
    def properties(case: dict[str, Any], options: dict[str, Any]) -> None:
        check(name, case, options)

    properties()


@pytest.mark.parametrize("task", ["graph", "hidden_question", "turns", "sessions"])
def test_a_tokenizer_whose_counts_do_not_add_up(task: str) -> None:
    made = make_haystacks("crossing", decoys=2)
    sample = made.sample(0, "train", task, 4096)
    ids = made.tokens.encode(made.tokens.render(sample.messages))
    assert len(ids) == 4096 and faults(sample, False) == []
    assert all(n.text in made.tokens.decode(ids[n.token_start : n.token_end]) for n in sample.needles)


def test_rebuilt_from_its_recipe() -> None:
    """Also the digest of the filler is that of the task's own text."""
    tokenizer, made = build_tokenizer("gpt2"), make_haystacks("gpt2")
    assert made.pool("train", 0, "turns") is not made.pool("train", 0) is made.pool("train", 0, "graph")
    sample = make_haystacks("gpt2", pool_tokens=8192).sample(3, "train", "turns", 2048)
    assert rebuild(sample.recipe, tokenizer) == sample


@settings(max_examples=30, deadline=None)
@given(
    depths=st.lists(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)), max_size=20),
    budget=st.integers(60, 4000),
    seed=st.integers(0, 10**6),
    numbered=st.booleans(),
)
def test_needles_between_turns_stand_where_the_reference_puts_them(
    depths: list[float], budget: int, seed: int, numbered: bool
) -> None:
    pool = make_haystacks("gpt2").pool("train", 0, "turns")
    hidden = Hidden([f"Needle: number {i} is hidden right here." for i in range(len(depths))], depths)
    try:
        reference = reference_layout(pool, hidden, budget, Random(seed), numbered)
    except LayoutError:
        with pytest.raises(LayoutError):
            lay_out(pool, hidden, budget, Random(seed), numbered)
        return
    laid = lay_out(pool, hidden, budget, Random(seed), numbered)
    assert laid.text == reference.text and (laid.starts == reference.starts).all()
    assert {*hidden.texts} <= {text.split("] ")[-1] for text in laid.text.split(BREAK)}


# ---- graph ----


@pytest.mark.parametrize("ask", GRAPH_ASKS)
def test_graph_asks_what_the_option_says(ask: str) -> None:
    words = {"within": "at most", "parents": "Of whom", "common": "and also"}
    for seed in range(20):
        quiz = quiz_of("graph", seed, graph_ask=ask, matches="5", hops="3")
        assert words[ask] in quiz.question and len(quiz.answer.values) == 5 and quiz.answer.kind == "set"
        assert quiz.hops == (3 if ask == "within" else 1) and quiz.several
    assert quiz_of("absent_graph", graph_ask=ask).answer.kind == "absent"


def test_the_farthest_person_needs_every_step() -> None:
    for seed in range(30):
        quiz = quiz_of("graph", seed, graph_ask="within", hops="4", matches="8")
        edges = [(a, b) for text, role in quiz.needles if role in NEEDED for a, _, b in read([text]).links]
        steps = {next(a for a, _ in edges if a not in {b for _, b in edges}): 0}
        for _ in range(8):
            steps |= {b: steps[a] + 1 for a, b in edges if a in steps}
        assert set(steps.values()) == {0, 1, 2, 3, 4} and len(steps) == 9


# ---- hidden question ----


def test_every_question_but_one_is_led_to_by_another_chain() -> None:
    for seed in range(30):
        quiz = quiz_of("hidden_question", seed, hops="3", distractors=4)
        posed = [text for text, role in quiz.needles if text.endswith("?")]
        assert len(posed) == 5 and len(quiz.answer.steps) == 2
        assert Counter(role for _, role in quiz.needles) == {"link": 3, "answer": 1, "distractor": 16}
        assert len(read(text for text, _ in quiz.needles).values) == 5  # each has its answer in the text


# ---- chats ----


def test_turns_differ_in_what_counts_alone() -> None:
    places: Counter[int] = Counter()
    for seed in range(60):
        quiz = quiz_of("turns", seed, matches="3", distractors=4)
        kinds = Counter(text.split(": ", 1)[1].split("!")[0] for text, role in quiz.needles if role != "distractor")
        assert sum(kinds.values()) == 3 and len(kinds) == 1
        same = [role for _, role in quiz.needles if role != "distractor"]
        places[same.index("answer")] += 1
    assert set(places) == {0, 1, 2} and min(places.values()) > 8


@pytest.mark.parametrize("ask", SESSION_ASKS)
def test_sessions_tell_change_and_forget(ask: str) -> None:
    forgotten: Counter[bool] = Counter()
    for seed in range(40):
        quiz = quiz_of("sessions", seed, session_ask=ask, versions="3", distractors=2)
        roles = Counter(role for _, role in quiz.needles)
        assert quiz.needles[0][1] == "heading" and roles["answer"] == 1 and roles["heading"] >= 4
        forgotten["forget" in " ".join(text for text, role in quiz.needles if role == "superseded")] += 1
        gone = quiz_of("absent_sessions", seed, session_ask=ask)
        forgotten["link" in {role for _, role in gone.needles}] += 100
    assert forgotten[True] > 500 and forgotten[False] > 500 and forgotten[True] % 100 > 5


# ---- errors ----


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"graph_ask": "nearest"}, ("'nearest'", "graph_ask must be one of within, parents, common")),
        ({"session_ask": "later"}, ("'later'", "session_ask must be one of current, then")),
    ],
    ids=["graph_ask", "session_ask"],
)
def test_wrong_options(wrong: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        Options(**wrong)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)
