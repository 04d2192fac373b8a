"""RULER by lm_eval: our exact score, the command's refusals, and prompts and metric against lm_eval itself."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ruler import exact, table
from benchmarks.ruler_documents import PROSE, TASKS, Fiction, Question, check_installed, metric, questions
from tests.environments.tiny_model import save_tiny

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
INSTALLED = all(find_spec(name) for name in ("lm_eval", "nltk", "wonderwords", "scipy"))


def question(*values: str) -> Question:
    return Question({"outputs": list(values), "max_length": 1024}, "", 8)


@pytest.mark.parametrize(
    ("values", "reply", "expected"),
    [
        (["1234567"], "is 1234567.", 1.0),
        (["1234567"], "1234567 or 7654321", 0.0),
        (["1234567"], "91234567", 0.0),
        ([UUID], f"It is {UUID}.", 1.0),
        ([UUID], f"{UUID} {OTHER}", 0.0),
        (["ABCDE", "FGHIJ"], "FGHIJ, ABCDE", 1.0),
        (["ABCDE", "FGHIJ"], "ABCDE", 0.0),
        (["ABCDE", "FGHIJ"], "ABCDE FGHIJ KLMNO", 0.0),
        (["apple", "pear"], "1. pear 2. apple", 1.0),
        (["apple", "pear"], "1. pear 2. apple 3. plum", 0.0),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_reply_that_copies_the_haystack_earns_nothing(values: list[str], reply: str, expected: float) -> None:
    assert exact(question(*values), reply) == expected


def test_the_table_has_a_dash_for_a_cell_that_is_not_measured() -> None:
    cells = {"ruler_vt 8192": {"lm_eval": 0.5, "exact": 0.25}, "niah_single_1 4096": {"lm_eval": 1.0, "exact": 1.0}}
    head, first, second = table(cells).splitlines()
    assert head.split() == ["4,096", "8,192"]
    assert first.split() == ["niah_single_1", "100.0", "(100.0)", "–"]
    assert second.split() == ["ruler_vt", "–", "50.0", "(25.0)"]


@pytest.mark.skipif(INSTALLED, reason="the packages of [ruler] are there")
def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.ruler", str(tmp_path), "--model", "none"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and "longthread[ruler]" in ran.stderr


@pytest.mark.skipif(not INSTALLED, reason="needs longthread[ruler]")
@pytest.mark.parametrize("set_", [["--tasks", "qa"], ["--lengths", "8k"]], ids=["task", "length"])
def test_a_bad_setting_is_one_line(tmp_path: Path, set_: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.ruler", str(tmp_path), "--model", "none", *set_]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and set_[0] in ran.stderr


@pytest.mark.skipif(not INSTALLED, reason="needs longthread[ruler]")
def test_results_of_another_run_are_refused(tmp_path: Path) -> None:
    check_installed()
    (tmp_path / "results.json").write_text(json.dumps({"model": "a", "samples": 1, "chat": True, "cells": {}}))
    command = [sys.executable, "-m", "benchmarks.ruler", str(tmp_path), "--model", "b"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and "another model" in ran.stderr


@pytest.mark.skipif(not INSTALLED, reason="needs longthread[ruler]")
def test_a_question_is_of_the_length_that_is_asked_and_nothing_advises_otherwise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny(tmp_path / "model")
    [asked] = questions(str(folder), "niah_single_1", 2048, 1, chat=False)
    assert 1024 < len(asked.prompt) <= 2048  # one token a byte
    [value] = asked.document["outputs"]
    assert value in asked.prompt and metric(asked, f"It is {value}.") == 1.0 and metric(asked, "No.") == 0.0
    printed = capfd.readouterr()
    assert "--metadata" not in printed.out + printed.err


@given(words=st.integers(1, 400))
def test_the_sentences_of_fiction_are_its_words_in_order(words: int) -> None:
    text = Fiction(400)
    cut = text.cut(" ".join(text.words[:words]))
    assert " ".join(cut).split() == text.words[:words]
    assert cut[:-1] == text.sentences[: len(cut) - 1] and text.sentences[len(cut) - 1].startswith(cut[-1])


@pytest.mark.skipif(not INSTALLED, reason="needs longthread[ruler]")
@pytest.mark.parametrize(("task", "values"), [
    ("niah_single_2", 1), ("niah_single_3", 1), ("niah_multikey_1", 1), ("niah_multivalue", 4), ("niah_multiquery", 4),
])  # fmt: skip
def test_needles_of_essays_are_hidden_in_fiction(tmp_path: Path, task: str, values: int) -> None:
    folder, length = save_tiny(tmp_path / "model"), 6000  # a token a byte, and a step of lm_eval's is 500 words
    made = questions(str(folder), task + PROSE, length, 2, chat=False)
    assert task + PROSE in TASKS and len(made) == 2 and made[0].prompt != made[1].prompt
    fiction = Fiction(length)
    for asked in made:
        named = [str(value) for value in asked.document["outputs"]]
        assert len(named) == values and all(value in asked.prompt for value in named)
        assert length / 2 < len(asked.prompt) <= length + 256
        assert exact(asked, ", ".join(named)) == 1.0 == metric(asked, " ".join(named))
        text = asked.document["input"]
        assert sum(sentence in text for sentence in fiction.sentences) > 20
    [first] = questions(str(folder), "niah_single_1", 2048, 1, chat=False)
    assert not any(sentence in first.prompt for sentence in fiction.sentences)
