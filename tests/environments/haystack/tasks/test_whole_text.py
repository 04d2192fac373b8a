"""Tasks about the whole text: exact with every tokenizer, one answer that a solver of its own finds, and refusals."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.whole_text_uniqueness import VARIANTS, WHOLE, faults, judge, parts_of, solve
from environments.haystack.facts import SPLITS, in_split
from environments.haystack.layout import LayoutError
from environments.haystack.listing import _terms
from environments.haystack.sample import Sample, rebuild
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.aggregation import ABSENT_ASKS, GOODS
from environments.haystack.tasks.words import UNCOMMON_TIMES
from environments.rollouts.scoring import score
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer, make_haystacks

TEXTS = [task for task in WHOLE if TASKS[task].items]
ASKS = ("count", "most", "total", "first", "last", "compare")


def build(task: str, name: str = "gpt2", length: int = 2048, seed: int = 0, **options: Any) -> Sample:
    return make_haystacks(name, **options).sample(seed, "train", task, length)


def assert_exact(name: str, sample: Sample) -> None:
    tokens = make_haystacks(name).tokens
    assert len(tokens.encode(tokens.render(sample.messages))) == sample.length == sample.recipe["length"]


@pytest.mark.parametrize("task", WHOLE)
def test_exact_and_answerable_with_every_tokenizer(task: str, tokenizer_name: str) -> None:
    for length in (1501, 2222):
        sample = build(task, tokenizer_name, length, seed=length)
        assert_exact(tokenizer_name, sample)
        assert not faults(sample)


def test_an_independent_solver_finds_the_one_answer() -> None:
    base = make_haystacks("gpt2")
    for index in range(3 * len(WHOLE) * len(VARIANTS)):
        sample, wrong = judge(base, index % 1000, 1024)
        assert not wrong, sample.recipe


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(TEXTS),
    length=st.integers(900, 9000),
    seed=st.integers(0, 1023),
    split=st.sampled_from(SPLITS[:1]),
)
def test_any_length_is_exact(task: str, length: int, seed: int, split: str) -> None:
    sample = make_haystacks("mistral").sample(seed, split, task, length)
    assert_exact("mistral", sample)


@pytest.mark.parametrize("task", ["common_words", "absent_aggregation"])
def test_recipes_rebuild_byte_for_byte(task: str) -> None:
    sample = make_haystacks("gpt2").sample(5, "train", task, 1200)
    again = rebuild(sample.recipe, build_tokenizer("gpt2"))
    assert again == sample and make_haystacks("gpt2").sample(6, "train", task, 1200) != sample


@pytest.mark.parametrize("ask", ASKS)
def test_aggregation_asks_what_the_option_says(ask: str) -> None:
    words = {"count": "how many days", "most": "most days", "total": "altogether", "first": "earliest", "last": "latest",
             "compare": "differ"}  # fmt: skip
    for seed in range(6):
        sample = build("aggregation", seed=seed, length=1100, aggregate_ask=ask)
        assert words[ask] in sample.question[:1].lower() + sample.question[1:] and not faults(sample)
        absent = build("absent_aggregation", seed=seed, length=1100, aggregate_ask=ask)
        assert any(words[one] in absent.question[:1].lower() + absent.question[1:] for one in ABSENT_ASKS)
        assert not faults(absent)


def test_every_paragraph_of_a_ledger_matters() -> None:
    """Without any one of its paragraphs the count is another in nearly all texts: none may be skipped."""
    changed = []
    for seed in range(8):
        sample = build("aggregation", seed=seed, length=4096, aggregate_ask="total")
        text, question = parts_of(sample)
        paragraphs = text.split("\n\n")
        right = solve(text, question)
        rest = ["\n\n".join(paragraphs[:i] + paragraphs[i + 1 :]) for i in range(len(paragraphs))]
        changed += [solve(part, question) != right for part in rest]
    assert np.mean(changed) > 0.3 and len(changed) > 100


def test_words_have_rulers_frequencies() -> None:
    words = Counter(parts_of(build("common_words", length=6000))[0].split())
    counts = [n for _, n in words.most_common()]
    assert counts[:10] == [30] * 10 and set(counts[10:]) <= {1, 2, UNCOMMON_TIMES} and counts[10] == UNCOMMON_TIMES
    codes = Counter(parts_of(build("frequent_words", length=6000))[0].split())
    (dots, most), *rest = codes.most_common()
    assert dots == "..." and all(re.fullmatch("[^aeiouy]{6}", code) for code, _ in rest)
    total = codes.total()
    for rank, (_, n) in enumerate(rest[:5], 2):  # Zipf's law, with zeta(2) = 1.645
        assert abs(n / total - 1 / (1.645 * rank**2)) < 0.02  # a twentieth of the text are dots that close it
    assert abs(most / total - 1 / 1.645) < 0.05


def test_train_and_eval_share_no_word_and_no_person() -> None:
    base = make_haystacks("gpt2")
    for split in SPLITS:
        words = set(parts_of(base.sample(0, split, "common_words", 2048))[0].split())
        assert all(in_split(word, split) for word in words)
        text, _ = parts_of(base.sample(0, split, "aggregation", 2048))
        people = set(re.findall(r"\d{4} ([A-Z]\w+ [A-Z]\w+) brought", text))
        assert people and all(in_split(person, split) for person in people)
        assert set(re.findall(r"of ([a-z]+)\.", text)) <= set(GOODS)


@pytest.mark.parametrize("task", WHOLE)
@pytest.mark.parametrize("form", ["tags", "plain"])
def test_right_answers_earn_everything_and_dumps_nothing_much(task: str, form: str) -> None:
    for seed in range(4):
        sample = build(task, seed=seed, answer_format=form)
        answer, wrap = sample.answer, "<answer>{}</answer>" if form == "tags" else "{}"
        right = "; ".join(answer.values) or "none"
        assert score(wrap.format(right), answer, form).score == 1
        prose = " and ".join(answer.values) or "The text does not say."
        assert (
            score(wrap.format(f"It is {prose}." if form == "plain" and answer.values else prose), answer, form).score
            == 1
        )
        everything = sorted(set(re.findall(r"[\w-]{4,}|\.\.\.|\d+", parts_of(sample)[0])))
        assert score(wrap.format("; ".join(everything)), answer, form).score <= (
            0.3 if answer.value_kind == "variables" else 0.12
        )  # three variables of twelve are a fair guess
        assert score(wrap.format("none"), answer, form).score == (0.02 if answer.values else 1)


def test_zero_is_none_for_whom_no_line_is() -> None:
    sample = build("absent_aggregation", aggregate_ask="count")
    assert (
        score("<answer>0</answer>", sample.answer).score == 1 and score("<answer>1</answer>", sample.answer).score == 0
    )


@pytest.mark.parametrize(
    ("task", "length", "options", "word"),
    [
        ("common_words", 160, {}, "no room for 10 common words"),
        ("frequent_words", 160, {}, "too short for words of different frequency"),
        ("aggregation", 260, {}, "no room for 8 lines"),
        ("aggregation", 2048, {"numbered": True}, "none to cite"),
        ("common_words", 2048, {"lexical_gap": True}, "no lexical gap"),
        ("variable_tracking", 2048, {"lexical_gap": True}, "no lexical gap"),
    ],
)
def test_refused_in_one_line(task: str, length: int, options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        build(task, length=length, **options)
    assert "\n" not in str(error.value) and isinstance(error.value, LayoutError) == (length < 1000)


def test_variable_tracking_cites_and_places_its_assignments() -> None:
    sample = build("variable_tracking", numbered=True, hops="4", length=3000)
    assert_exact("gpt2", sample)
    assert sample.profile["hops"] == 4 and len(sample.evidence) >= 1 and sample.profile["distractors"] == 12
    asked = make_haystacks("gpt2", hops="4").sample(1, "train", "variable_tracking", 3000, [0.9, 0.6, 0.3, 0.0])
    starts = [needle.token_start for needle in asked.needles if needle.role == "answer"]
    assert starts == sorted(starts, reverse=True) and not faults(asked)
    assert "<steps>" not in asked.messages[0]["content"]


def test_a_thousand_assignments() -> None:
    sample = build("variable_tracking", hops="8", distractors=128, length=24_000)
    assert not faults(sample) and sample.profile["distractors"] == 1024


@given(total=st.integers(0, 60), costs=st.lists(st.integers(1, 20), max_size=4, unique=True))
def test_terms_are_the_fewest(total: int, costs: list[int]) -> None:
    """Against every multiset of so many terms, from none up."""
    sums, fewest = {0}, None if total else 0
    for n in range(1, total + 1):
        sums = {s + c for s in sums for c in costs if s + c <= total}
        if total in sums:
            fewest = n
            break
    terms = _terms(total, sorted(costs))
    assert (
        terms is None if fewest is None else sum(terms) == total and len(terms) == fewest and set(terms) <= set(costs)
    )


def test_curriculum_knobs() -> None:
    from environments.curriculum.task_ladders import KNOBS

    assert all(KNOBS[task] == ("length",) for task in TEXTS) and KNOBS["variable_tracking"][0] == "length"
    assert replace(make_haystacks("gpt2").options, aggregate_ask="most").aggregate_ask == "most"
