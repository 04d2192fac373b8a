"""A text that stands twice is read once: what is trained on, what is asked, what is retrieved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.document.document import Document
from lift.document.repeats import LEAST, places_in_text, read_once, repeated
from lift.inference import retrieval
from lift.tasks import TASKS, make
from lift.tasks.cloze import gaps
from lift.tasks.reading import names

LINES = [
    "Anna Keller moved to Bremen on 4 June 1871.",
    "It rained.",
    "The mayor paid 312 crowns for the stone bridge over the river Aller.",
    "In the spring Anna Keller sold the mill to Otto Brandt for 940 crowns.",
    "The password that Lisa Kord agreed upon is acorn-alder-alpine-amber.",
    "Nobody in the whole valley had ever asked Otto Brandt why.",
    "Later Otto Brandt went to Hamburg by the night train from Bremen.",
]
TEXT = " ".join(LINES)


@pytest.mark.parametrize("between", [" ", "\n\n", "\n"])
@pytest.mark.parametrize("times", [2, 3])
def test_a_text_that_stands_twice_is_read_once(times: int, between: str) -> None:
    document = read_once(Document("log", between.join([TEXT] * times)))
    assert document.text == TEXT
    assert document.digest == Document("log", TEXT).digest


@pytest.mark.parametrize("kind", TASKS)
def test_questions_of_a_text_that_stands_twice_are_those_of_the_text(kind: str) -> None:
    """Before, none could be made of gaps, order and continuations, since no sentence stood once."""
    once, twice = Document("log", TEXT), Document("log", TEXT + "\n\n" + TEXT)
    assert gaps(twice) == gaps(once) and names(twice) == names(once)
    asked = [
        {(item.question, item.answer) for item in make(d, [kind], 400, 0, "train")} for d in (once, read_once(twice))
    ]
    assert asked[0] == asked[1]
    assert bool(asked[0]) == (kind != "linked")
    items = make(twice, [kind], 400, 0, "train")  # and of the text as it stands, about its first half
    assert len(items) == len(asked[0]) or kind in ("order", "absent")
    assert all(span[1] <= len(TEXT) for item in items for span in item.evidence)


def test_only_what_is_long_enough_and_word_for_word_is_left_out() -> None:
    refrain = Document("song", " ".join(f"{line} It rained." for line in LINES))
    assert read_once(refrain) is refrain
    other = Document("log", f"{TEXT} {TEXT.replace('312', '313').replace('1871', '1872')}")
    assert len(repeated(other)) == 4  # from the mill on
    assert "313" in read_once(other).text and read_once(other).text.count("Hamburg") == 1


def test_a_sentence_said_again_elsewhere_is_asked_about_once() -> None:
    text = f"{LINES[0]} It rained. {LINES[3]} {LINES[0]} Nothing else was said of it that year. {LINES[2]}"
    found = [gap.text for gap in gaps(Document("log", text))]
    assert len(found) == len(set(found)) and any("moved to" in gap for gap in found)
    doubtful = text.replace("1871. It", "1871. So", 1) + " Anna Keller moved to Bremen on 5 June 1871."
    assert not any("Bremen on ____" in gap.text for gap in gaps(Document("log", doubtful)))  # two answers


def test_retrieval_gives_a_passage_once() -> None:
    pytest.importorskip("bm25s")
    filling = " ".join(f"Page {n} of the ledger names {n * 7919 % 997} sacks of rye and no buyer." for n in range(60))
    text = f"{TEXT}\n\n{filling}\n\n{TEXT}"
    given = retrieval.passages(text, "What is the password of Lisa Kord?", 3)
    assert sum("acorn-alder-alpine-amber" in passage for passage in given) == 1


lines = st.lists(st.sampled_from([*LINES, "Yes.", "It was late, and the lamp on the quay had gone out."]), max_size=25)


@given(lines)
def test_nothing_is_lost_and_what_is_left_out_stood_before(lines: list[str]) -> None:
    document = Document("log", " ".join(lines))
    once, again = read_once(document), repeated(document)
    kept = [line for at, line in enumerate(lines) if at not in again]
    assert once.text == " ".join(kept)
    assert set(lines) == set(kept)  # every sentence is still there
    places = places_in_text(document, range(len(once.text)))
    assert "".join(document.text[at] for at in places) == once.text
    for at in again:
        assert lines[at] in lines[:at]
    if again:
        run = [at for at in again if at - 1 not in again][0]
        size = 0
        while run in again:
            size, run = size + len(lines[run].encode()), run + 1
        assert size >= LEAST
