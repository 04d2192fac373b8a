"""Halves of the pairs of words of lexical gaps: who is described by which."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.lexical_gap import HALVES, TABLES, TASKS, only_half, prompts, rows
from environments.haystack import facts
from environments.haystack.sample import Haystacks, Options
from tests.environments.tiny_model import tiny_tokenizer

WHOLE = {name: getattr(facts, name) for name in TABLES}


def described(text: str, which: int) -> list[tuple[str, str, str]]:
    """The people in a text, by the words that needles (0) or questions (1) have for their parts."""
    tables = [[pair[which] for pair in pairs] for pairs in WHOLE.values()]
    return [
        (trait, trade, place)
        for trait in tables[0]
        for trade in tables[1]
        for place in tables[2]
        if f"the {trait} {trade} by the {place}" in text
    ]


def half_of(words: tuple[str, str, str], which: int) -> set[str]:
    """The halves that the words belong to."""
    return {
        HALVES[[pair[which] for pair in pairs].index(word) % 2]
        for pairs, word in zip(WHOLE.values(), words, strict=True)
    }


def test_halves_share_no_pair_and_the_tables_come_back() -> None:
    found = {}
    for half in HALVES:
        with only_half(half):
            found[half] = {name: set(getattr(facts, name)) for name in TABLES}
    for name, whole in WHOLE.items():
        assert not found["taught"][name] & found["other"][name]
        assert found["taught"][name] | found["other"][name] == set(whole)
    with pytest.raises(RuntimeError), only_half("other"):
        raise RuntimeError
    assert {name: getattr(facts, name) for name in TABLES} == WHOLE


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_of_their_length_and_name_people_of_one_half(gpt2: Any, task: str, half: str) -> None:
    haystacks = Haystacks(gpt2, Options(lexical_gap=True))
    for prompt in prompts(haystacks, task, half, 1024, 4):
        assert len(prompt.ids) == 1024
        text, question = gpt2.decode(prompt.ids).rsplit("Question:", 1)
        [asked] = described(question, 1)
        told = described(text, 0)
        assert half_of(asked, 1) == {half} and len(told) == (1 if task == "single" else 4)
        assert all(half_of(words, 0) == {half} for words in told)


def test_rows_describe_people_by_the_pairs_that_are_taught(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows(tmp_path / "rows", str(tmp_path / "tokenizer"), count=8, longest=4096, chat_rows=None)
    ids = [
        row
        for file in (tmp_path / "rows" / "data").glob("*.parquet")
        for row in pq.read_table(file)["input_ids"].to_pylist()
    ]
    people = [words for row in ids for words in described(tokenizer.decode(row), 0)]
    assert people and all(half_of(words, 0) == {"taught"} for words in people)
