"""Where sentences end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler.sentences import split_sentences
from tests.environments.haystack.filler.strategies import debris, plain_sentence


@pytest.mark.parametrize(
    "text",  # | marks where it is split
    [
        "Mr. Smith met Mrs. Jones at St. Paul's. |They talked.",
        "Dr. J. K. Rowe came, e.g. The Times wrote so. |It rained.",
        "It cost 3.14 pounds. |Nobody paid.",
        "See No. 5 and Fig. 3 of Vol. II there. |No. |It is not there.",
        "He bought nails, tar, etc. |Then he left. |He had ropes, etc. and left.",
        "Wait... what is it? |Wait... |No!",
        '"Is it you?" he said. |"It is I." |She turned.',
        "\u201cCome in!\u201d |\u201cThank you.\u201d |(He came.) |All was well.",
        "The meeting is at 5 p.m. on Jan. 3 in the hall. |Be there.",
        "The U.S. Army came. |So did we.",
        "It was I. |He knew it.",
        "1. The first point. |2. The second one.",
        "In 1984. |42 people came.",
        "What?! |Really!! |Yes.",
        "Visit www.example.com today. |Or not.",
        "He stopped. . . . |And went on.",
        "\u00c9mile left. |\u00c9mile returned.",
        "no mark at all",
    ],
)
def test_where_sentences_end(text):
    assert split_sentences(text.replace("|", "")) == [piece.strip() for piece in text.split("|")]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6).flatmap(lambda _: debris))
@settings(deadline=None)
def test_joined_sentences_give_the_paragraph_back(text):
    paragraph = " ".join(text.split())
    assert " ".join(split_sentences(paragraph)) == paragraph


@given(st.lists(plain_sentence, min_size=1, max_size=20))
def test_plain_sentences_are_found_again(written):
    assert split_sentences(" ".join(written)) == written
