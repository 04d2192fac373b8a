"""Wordings of questions: what trains and what is held out share no wording, and the held-out ones have words of their own."""

import re

import pytest

from environments.haystack.facts import RELATION
from environments.haystack.question_wordings import FACTS, FRAMES, LINKS, PHRASES, REVERSED, Wordings
from environments.haystack.tasks.linked_wordings import LINK

SLOTS = {**dict.fromkeys(FACTS, "{e}"), **dict.fromkeys(LINKS, "{x}")}
TABLES = {**FACTS, **LINKS}
COMMON = set(
    "a an the of to in is for on by with which what who whom whose does do did has have had was be that it one and at".split()
)


def _words(wordings: tuple[str, ...]) -> set[str]:
    return {
        word for each in wordings for word in re.findall(r"[a-z]+", re.sub(r"\{\w\}('s)?", " ", each.lower()))
    } - COMMON


@pytest.mark.parametrize("table", [*TABLES.values(), *REVERSED.values(), FRAMES])
def test_no_wording_stands_twice_or_in_both_splits(table: Wordings) -> None:
    assert len({*table.train, *table.eval}) == len(table.train) + len(table.eval)


@pytest.mark.parametrize("name", TABLES)
def test_each_wording_names_the_person_once(name: str) -> None:
    slot = SLOTS[name]
    assert all(re.findall(r"\{\w*\}", wording) == [slot] for wording in (*TABLES[name].train, *TABLES[name].eval))


@pytest.mark.parametrize("name", TABLES)
def test_held_out_wordings_have_words_that_no_training_wording_has(name: str) -> None:
    known = RELATION[name] if name in RELATION else LINK[name]
    plain = known.asked.format(e="{e}", x="{x}", s="", is_="is")  # asks with the words of the statement
    trained = _words(TABLES[name].train)
    assert not [wording for wording in TABLES[name].eval if wording != plain and not _words((wording,)) - trained]


@pytest.mark.parametrize("name", PHRASES)
def test_every_phrase_trains_in_several_frames(name: str) -> None:
    phrases = PHRASES[name]
    asked = [wording.lower() for wording in FACTS[name].train]
    assert all(sum(noun.lower() in wording for wording in asked) >= 3 for noun in (*phrases.nouns, *phrases.clauses))
