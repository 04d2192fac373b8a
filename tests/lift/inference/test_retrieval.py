"""Passages of a document: whole sentences, the likeliest for the question, in the order of the text."""

import sys

import pytest

from lift.inference.retrieval import PASSAGE_WORDS, passages
from tests.lift.shelf import refused

TEXT = " ".join(f"Keeper {i} of the tower by the sea wrote {i * 7919 % 9973} into the logbook." for i in range(30))


def test_passages_are_the_likeliest_in_the_order_of_the_text() -> None:
    found = passages(TEXT, "What did keeper 25 write after keeper 3?", 2)
    assert len(found) == 2 and "Keeper 3 " in found[0] and "Keeper 25 " in found[1]
    assert all(100 <= len(piece.split()) <= PASSAGE_WORDS and piece in TEXT for piece in found)


def test_all_passages_are_the_text_and_none_is_cut_within_a_sentence() -> None:
    found = passages(TEXT, "keeper", 99)
    assert " ".join(found) == TEXT and len(found) > 1 and all(piece.endswith(".") for piece in found)


def test_a_sentence_longer_than_a_passage_is_cut_and_words_of_none_find_something() -> None:
    text = f"A short one. And {'so and ' * PASSAGE_WORDS}on. Another."
    assert passages(text, "quite otherwise?", 1)
    found = passages(text, "so on", 9)
    assert " ".join(found) == text and all(len(piece.split()) <= PASSAGE_WORDS for piece in found)


def test_without_bm25s_nothing_is_retrieved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    refused(lambda: passages(TEXT, "keeper", 2), "pip install bm25s")


def test_a_text_without_a_word_is_refused() -> None:
    refused(lambda: passages("... !!! ???", "keeper", 2), "no words", "(source)")
