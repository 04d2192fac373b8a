"""What matches a question: the rarest two of its words that are neighbours there and stand in one piece of the text."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.retrieval.terms import terms
from lift.library import segment_terms
from lift.library.segment_terms import Pieces
from longthread.errors import DataError
from longthread.files import write_json

FILLER = "The mill stood by the river and its wheel turned slowly. Nobody had asked for the flour of that year. "
TEXT = FILLER * 8 + "Maro Fenth uses 4829 for the safe. " + FILLER * 8
LETTERS = st.lists(st.sampled_from("abcde"), max_size=6)


def reference(of_segments: list[list[list[str]]], question: str) -> list[float]:
    """(1), pair by pair and piece by piece."""
    pieces = [set(piece) for segment in of_segments for piece in segment]
    asked = terms(question)

    def idf(held: int) -> float:
        return math.log((len(pieces) + 1) / (held + 0.5))

    def rarity(word: str) -> float:
        return idf(sum(word in piece for piece in pieces)) / idf(1)

    pairs = {*pairwise(asked)} or {(word, word) for word in asked}
    chance = 0.1 * math.log(len(pairs)) if pairs else 0.0
    return [
        max([0.0, *(rarity(a) * rarity(b) - chance for a, b in pairs for piece in segment if {a, b} <= set(piece))])
        for segment in of_segments
    ]


@given(st.lists(st.lists(LETTERS, max_size=3), min_size=1, max_size=4), LETTERS)
def test_matches_are_those_of_the_reference(of_segments: list[list[list[str]]], asked: list[str]) -> None:
    question = " ".join(asked)
    found = Pieces(of_segments).matches(question)
    np.testing.assert_allclose(found, reference(of_segments, question), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("question", ["Which combination does Maro Fenth use?", "MARO FENTH’S number:", "Fenth?"])
@pytest.mark.parametrize("times", [1, 4])
def test_a_name_matches_the_text_that_has_it_alone(tmp_path: Path, question: str, times: int) -> None:
    """However long the text is, and more than a name that differs by a letter."""
    segment_terms.write(tmp_path, [FILLER * 8 * times + TEXT])
    [own] = segment_terms.matches(tmp_path, question)
    assert own == pytest.approx(1 - 0.1 * math.log(max(1, len(terms(question)) - 1)), abs=1e-6)
    [near] = segment_terms.matches(tmp_path, question.replace("Fenth", "Fenzh").replace("FENTH", "FENZH"))
    [general] = segment_terms.matches(tmp_path, "What is the capital of France?")
    assert near < 0.5 and general < 0.5
    segment_terms.write(tmp_path, [FILLER * 8 * times])
    assert segment_terms.matches(tmp_path, question)[0] < 0.5


@pytest.mark.parametrize(
    ("filler", "told", "asked", "stranger"),
    [
        (
            "磨坊在河边，水车慢慢地转。那一年没有人问过面粉。",
            "欧阳明远用4829开保险箱。",
            "欧阳明远的密码是什么？",
            "司马青云的密码是什么？",
        ),
        ("โรงสีอยู่ริมแม่น้ำและกังหันหมุนช้าๆ", "สมชายใช้รหัส4829", "สมชายอยู่ริมแม่น้ำ", "วิชัยอยู่ริมแม่น้ำ"),
    ],
    ids=["Chinese", "Thai"],
)
def test_scripts_without_blanks_have_names_too(
    tmp_path: Path, filler: str, told: str, asked: str, stranger: str
) -> None:
    segment_terms.write(tmp_path, [filler * 20 + told + filler * 20])
    [own], [other] = (segment_terms.matches(tmp_path, question) for question in (asked, stranger))
    assert own > 0.6 and other < 0.5 * own


def test_the_words_of_a_document_are_its_pieces_and_not_in_order(tmp_path: Path) -> None:
    segment_terms.write(tmp_path, [TEXT, "", "A short segment."])
    pieces = segment_terms._words(tmp_path)._of_segments
    assert [len(segment) for segment in pieces][1:] == [0, 1] and len(pieces[0]) > 3
    assert max(sum(piece.values()) for piece in pieces[0]) <= segment_terms.PIECE
    assert sum(piece["the"] for piece in pieces[0]) == terms(TEXT).count("the")
    assert segment_terms.matches(tmp_path, "?").tolist() == [0, 0, 0]
    assert (tmp_path / "segments.json").stat().st_size < 4 * len(TEXT)


def test_segments_of_before_there_were_pieces_match_by_bm25(tmp_path: Path) -> None:
    texts = [FILLER, TEXT, FILLER * 2, "A port."]
    write_json(tmp_path / "segments.json", [{word: terms(text).count(word) for word in terms(text)} for text in texts])
    older = {question: segment_terms.matches(tmp_path, question) for question in ("Maro Fenth?", "the port", "Qui?")}
    rankings = {question: segment_terms.ranking(tmp_path, question) for question in older}
    assert rankings == {"Maro Fenth?": [1], "the port": [3, *rankings["the port"][1:]], "Qui?": []}
    for question, scores in older.items():
        assert sorted(rankings[question], key=lambda at: -scores[at]) == rankings[question]
        assert {at for at in range(4) if scores[at] > 0} == set(rankings[question])
    segment_terms.write(tmp_path, texts)  # the words of a segment are those of its pieces
    assert {question: segment_terms.ranking(tmp_path, question) for question in older} == rankings


@pytest.mark.parametrize("raw", ["[1]", "[[1]]", '[{"a": "b"}]', "{", "[[{}], {}]"])
def test_a_damaged_file_is_one_line(tmp_path: Path, raw: str) -> None:
    (tmp_path / "segments.json").write_text(raw)
    for action in (segment_terms.matches, segment_terms.ranking):
        with pytest.raises(DataError, match=r"segments.json is damaged: fit the document again"):
            action(tmp_path, "anything")


def test_a_document_of_one_segment_has_none_to_choose(tmp_path: Path) -> None:
    assert segment_terms.best(tmp_path, "Maro Fenth?", 3) is None
    segment_terms.write(tmp_path, [TEXT])
    assert segment_terms.best(tmp_path, "Maro Fenth?", 3) is None
