"""No way of gaming the reward earns more than honest guessing."""

import json
from functools import cache
from math import sqrt
from random import Random
from statistics import mean, stdev

import pytest

from benchmarks import adversaries, linked_strategies, strategies, text_strategies, whole_text_strategies
from benchmarks.adversaries import draw_samples, scores_of
from benchmarks.strategies import ADVERSARIES, PLAIN_ADVERSARIES, WINS, Strategy, candidate, right, right_disguised
from environments.haystack.sample import Sample
from tests.conftest import make_haystacks

SAMPLES = 160
NOISE = 0.01  # of drawing once where `guessing` draws twenty times: "all_evidence" is guessing where none is asked for
# Each draws once, in one of the ways in which guessing does.
GUESSING = ("guess_citing_all", "first_candidate", "last_candidate")
modes = pytest.mark.parametrize("numbered", [False, True], ids=["answer", "evidence"])


@cache
def samples(numbered: bool) -> dict[str, list[Sample]]:
    return draw_samples(make_haystacks("gpt2", numbered=numbered, distractors=adversaries.DISTRACTORS), SAMPLES)


@cache
def guessing(numbered: bool) -> dict[str, list[float]]:
    return scores_of(candidate, samples(numbered), draws=20)  # its mean, nearly without the noise of its draws


@modes
@pytest.mark.parametrize("strategy", ADVERSARIES, ids=lambda s: s.__name__)
def test_no_adversary_earns_more_than_guessing(strategy: Strategy, numbered: bool) -> None:
    scores = scores_of(strategy, samples(numbered))
    assert mean(scores["mix"]) <= mean(guessing(numbered)["mix"]) + NOISE
    for task, each in scores.items():
        if (strategy.__name__, task) not in WINS:
            # The same samples, so their differences tell; three standard errors are left to chance.
            gains = [a - b for a, b in zip(each, guessing(numbered)[task], strict=True)]
            assert mean(gains) <= 3 * stdev(gains) / sqrt(len(gains)) + 1e-9, task


@modes
def test_the_right_answer_earns_everything(numbered: bool) -> None:
    assert all(score == 1 for each in scores_of(right, samples(numbered)).values() for score in each)


@cache
def plain() -> dict[str, list[Sample]]:
    made = make_haystacks("gpt2", answer_format="plain", distractors=adversaries.DISTRACTORS)
    return draw_samples(made, SAMPLES)


@cache
def guessing_plainly() -> dict[str, list[float]]:
    return scores_of(candidate, plain(), draws=20)


@pytest.mark.parametrize("strategy", PLAIN_ADVERSARIES, ids=lambda s: s.__name__)
def test_no_adversary_earns_more_than_guessing_without_tags(strategy: Strategy) -> None:
    scores, guessed = scores_of(strategy, plain()), guessing_plainly()
    for task, each in scores.items():
        if (strategy.__name__, task) not in WINS:
            gains = [a - b for a, b in zip(each, guessed[task], strict=True)]
            assert mean(gains) <= 3 * stdev(gains) / sqrt(len(gains)) + 1e-9, task


@modes
def test_typography_costs_the_right_answer_nothing(numbered: bool) -> None:
    for drawn in (samples(numbered), plain()):
        assert all(score == 1 for each in scores_of(right_disguised, drawn).values() for score in each)


def test_guessing_earns_what_chance_gives() -> None:
    means = {task: mean(each) for task, each in guessing(False).items()}
    assert means["single"] == 1 and means["absent"] == 0
    assert abs(means["multi_key"] - 1 / 4) < 0.05  # one of 1 + 3
    assert abs(means["multi_value"] - 1 / 2) < 0.05  # three of 3 + 3
    assert abs(means["multi_query"] - 1 / 6) < 0.05  # in its place, of six


def test_the_mix_is_the_standard_one() -> None:
    drawn = samples(False)
    assert 0.1 < len(drawn["absent"]) / SAMPLES < 0.2
    assert all(len(drawn[task]) > SAMPLES / 6 for task in adversaries.TASKS)
    assert all(sample.length == adversaries.LENGTH for each in drawn.values() for sample in each)


@cache
def linked(numbered: bool) -> dict[str, list[Sample]]:
    made = make_haystacks("gpt2", numbered=numbered, distractors=adversaries.DISTRACTORS)
    return adversaries.draw_linked(made, SAMPLES)


@modes
def test_no_adversary_earns_more_than_guessing_over_the_linked_mix(numbered: bool) -> None:
    samples = linked(numbered)
    assert all(score == 1 for each in scores_of(linked_strategies.linked_right, samples).values() for score in each)
    guessed = scores_of(linked_strategies.linked_guess, samples, draws=6)["mix"]
    for strategy in linked_strategies.LINKED_ADVERSARIES:
        gains = [a - b for a, b in zip(scores_of(strategy, samples)["mix"], guessed, strict=True)]
        # Citing every passage is guessing too, and F2 favours recall: it may come out a little above.
        slack = 2 * NOISE + 2 * stdev(gains) / sqrt(len(gains)) if strategy.__name__ == "guess_citing_all" else 0
        assert mean(gains) <= slack, strategy.__name__


@cache
def whole() -> dict[str, list[Sample]]:
    return adversaries.draw_whole(make_haystacks("gpt2", distractors=adversaries.DISTRACTORS), SAMPLES)


def test_no_adversary_earns_more_than_guessing_about_the_whole_text() -> None:
    samples = whole()
    assert all(score == 1 for each in scores_of(whole_text_strategies.whole_right, samples).values() for score in each)
    assert 0.08 < len(samples["absent"]) / SAMPLES < 0.22
    guessed = scores_of(whole_text_strategies.whole_guess, samples, draws=20)
    for strategy in whole_text_strategies.WHOLE_ADVERSARIES:
        gains = [a - b for a, b in zip(scores_of(strategy, samples)["mix"], guessed["mix"], strict=True)]
        # Words stand at random places: the first of them are a draw like any other.
        slack = 2 * NOISE + 2 * stdev(gains) / sqrt(len(gains)) if strategy.__name__ == "first_words" else 0
        assert mean(gains) <= slack, strategy.__name__


@modes
def test_no_adversary_earns_more_than_guessing_about_the_text_itself(numbered: bool) -> None:
    made = make_haystacks("gpt2", numbered=numbered, distractors=adversaries.DISTRACTORS)
    samples = adversaries.draw_linked(made, 80, adversaries.TEXT_TASKS)
    assert all(score == 1 for each in scores_of(text_strategies.text_right, samples).values() for score in each)
    guessed = scores_of(text_strategies.text_guess, samples, draws=6)["mix"]
    for strategy in text_strategies.TEXT_ADVERSARIES:
        gains = [a - b for a, b in zip(scores_of(strategy, samples)["mix"], guessed, strict=True)]
        slack = 2 * NOISE + 2 * stdev(gains) / sqrt(len(gains)) if strategy.__name__ in GUESSING else 0
        assert mean(gains) <= slack, strategy.__name__


def test_the_linked_mix_is_the_standard_one() -> None:
    drawn = linked(False)
    assert 0.08 < len(drawn["absent"]) / SAMPLES < 0.22 and drawn.keys() == {*adversaries.LINKED_TASKS, "absent"}
    assert all(sample.length == adversaries.LENGTH for each in drawn.values() for sample in each)


def test_strategies_do_what_they_say() -> None:
    sample = samples(True)["multi_value"][0]
    rng = Random(0)
    assert set(sample.answer.values) < set(strategies.stated(sample)) and len(strategies.stated(sample)) == 6
    numbers = strategies.passages(sample)
    assert numbers == list(range(1, len(numbers) + 1)) and sample.evidence <= set(numbers)
    assert strategies.right(sample, rng).count("<answer>") == 1
    assert strategies.two_regions(sample, rng).count("<answer>") == 2
    assert strategies.ten_thousand(sample, rng).count(";") > 10_000
    assert all(strategy.__doc__ for strategy in ADVERSARIES) and WINS.keys() <= {
        (s.__name__, task) for s in ADVERSARIES for task in (*adversaries.TASKS, "absent")
    }


def test_main_prints_a_table_and_writes_json(tmp_path, capsys) -> None:
    out = tmp_path / "out.json"
    adversaries.main(samples=20, json_file=out, tokenizer="gpt2")
    printed = capsys.readouterr().out
    assert all(f"| {s.__name__} |" in printed for s in ADVERSARIES)
    written = json.loads(out.read_text())
    assert (
        written["answer"]["right"]["mix"]
        == written["evidence"]["right"]["mix"]
        == written["plain"]["right"]["mix"]
        == 1
    )
