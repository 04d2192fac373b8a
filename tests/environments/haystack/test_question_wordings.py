"""Wordings of questions; that those held out share no words with the others is tested in tests/lift/tasks/test_tasks.py."""

import re

import pytest

from environments.haystack.question_phrases import PHRASES
from environments.haystack.question_wordings import FACTS, LINKS

SLOTS = {**dict.fromkeys(FACTS, "{e}"), **dict.fromkeys(LINKS, "{x}")}
TABLES = {**FACTS, **LINKS}


@pytest.mark.parametrize("name", TABLES)
def test_each_wording_names_the_person_once(name: str) -> None:
    slot = SLOTS[name]
    assert all(re.findall(r"\{\w*\}", wording) == [slot] for wording in (*TABLES[name].train, *TABLES[name].eval))


@pytest.mark.parametrize("name", PHRASES)
def test_every_phrase_trains_in_several_frames(name: str) -> None:
    phrases = PHRASES[name]
    asked = [wording.lower() for wording in FACTS[name].train]
    assert all(sum(noun.lower() in wording for wording in asked) >= 3 for noun in (*phrases.nouns, *phrases.clauses))
