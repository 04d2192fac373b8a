"""Wordings: each reads back, none is mistaken for another, and with a lexical gap questions share no word with needles."""

import re
from datetime import date
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.linked_uniqueness import _asked_changes, _asked_events, _asked_links, _asked_values, _told, read
from environments.haystack.facts import PLACES, RELATION, RELATIONS, TRADES, TRAITS, draw_entity, draw_value
from environments.haystack.tasks import dialogue_wordings, hidden_question
from environments.haystack.tasks.linked_wordings import (
    ARRIVAL,
    CHANGE,
    CHANGES,
    EVENT,
    EVENTS,
    LINK,
    LINKS,
    draw_days,
    readers,
    spell,
)
from environments.haystack.wording import sentence

# Words that carry no content: they may stand in a needle and in its question.
FUNCTION = set(
    "a all an and are as at be been by did do does each every for from go has have he her his how in is it many nor not of "
    "on one only or person people she so that the their them then there this to under until upon was were what when which "
    "who whom whose will with".split()
)  # fmt: skip


def content_words(text: str) -> set[str]:
    """In lower case, without slots, possessive or plural s."""
    words = re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", text.lower()).replace("'s", "").replace("s'", "s"))
    return {w.removesuffix("s") if len(w) > 3 else w for w in words if w not in FUNCTION}


def shared(asked: str, told: str) -> set[str]:
    return content_words(asked) & content_words(told)


# ---- the lexical gap, over every template and every word that can stand in it ----

TRADES_AND_TRAITS = [*TRADES, *TRAITS, *PLACES]  # what people are called by
LINK_TOLD = [told for link in LINKS for told in link.told]
VALUE_TOLD = [told for relation in RELATIONS for told in relation.told]
CHAIN_FRAME = "Start with x. Go to the one. the person you have come to"


def test_chains_share_no_content_word() -> None:
    """Head, links and value in the question; links, value and everyone's name in the needles."""
    asked = [CHAIN_FRAME, *(k.asked_gap for k in LINKS), *(r.asked_gap for r in RELATIONS)]
    asked += [words for _, words in TRADES_AND_TRAITS]
    told = [*LINK_TOLD, *VALUE_TOLD, *(words for words, _ in TRADES_AND_TRAITS)]
    assert [(a, t, shared(a, t)) for a, t in product(asked, told) if shared(a, t)] == []


@pytest.mark.parametrize("event", [*EVENTS, ARRIVAL], ids=lambda e: e.name)
def test_conditions_share_no_content_word(event) -> None:
    frame = "Find the person. Name all of them. Say only how many people. List them by date, earliest first."
    asked = [frame, event.asked_gap, *(words for _, words in PLACES)]
    told = [*event.told, *(words for words, _ in PLACES)]
    assert [(a, t, shared(a, t)) for a, t in product(asked, told) if shared(a, t)] == []


def test_joins_share_no_content_word() -> None:
    """The place and the event in the question meet the words of the value's needle and of the person's name too."""
    asked = ["Find the person x. that person", *(e.asked_gap for e in EVENTS), *(words for _, words in PLACES)]
    asked += [r.asked_gap for r in RELATIONS]
    told = [*VALUE_TOLD, *(words for words, _ in TRADES_AND_TRAITS)]
    assert [(a, t, shared(a, t)) for a, t in product(asked, told) if shared(a, t)] == []


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.relation)
def test_changes_share_no_content_word(change) -> None:
    asked = [getattr(change, ask)[1] for ask in ("current", "then", "times")]
    asked += [words for _, words in TRADES_AND_TRAITS]
    told = [*change.told, *(words for words, _ in TRADES_AND_TRAITS)]
    assert [(a, t, shared(a, t)) for a, t in product(asked, told) if shared(a, t)] == []


def test_the_check_sees_a_shared_word() -> None:
    assert shared("the house of worship", "The house next to that of {e} belongs to {v}.") == {"house"}
    assert shared("near the soldiers' quarters", "Soldiers found {e} asleep at the {p}.") == {"soldier"}
    assert shared("the lender of {x}", "Some money is still owed by {e} to {v}.") == set()


# ---- questions tell what is asked ----


@pytest.mark.parametrize("gap", [False, True])
def test_no_two_questions_are_worded_alike(gap: bool) -> None:
    assert len(_asked_links(gap)) == len(LINKS) and len(_asked_values(gap, "them")) == len(RELATIONS)
    assert len(_asked_events(gap)) == (len(EVENTS) + 1) * len(PLACES)
    for change in CHANGES:
        for ask in ("current", "then", "times"):
            question = getattr(change, ask)[gap].format(e="the fat poet by the inn", d="3 May 1700")
            matches = [(r, a) for r, a, pattern in _asked_changes(gap) if pattern.fullmatch(question)]
            assert matches == [(change.relation, ask)]


def test_everyone_is_asked_for_by_a_name_of_their_own() -> None:
    assert len(set(_told().values())) == len(_told()) == len(TRADES) * len(TRAITS) * len(PLACES)


# ---- reading back ----


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), gap=st.booleans())
def test_every_template_reads_back_by_one_reader(seed: int, gap: bool) -> None:
    rng = Random(seed)
    someone, other = draw_entity("train", gap, rng).told, draw_entity("eval", gap, rng).told
    place, day = rng.choice(PLACES)[0], spell(draw_days(1, rng)[0])
    cases = [("link", k.name, told, {"e": someone, "v": other}) for k in LINKS for told in k.told]
    cases += [("event", k.name, told, {"e": someone, "p": place}) for k in EVENTS for told in k.told]
    cases += [("event", ARRIVAL.name, told, {"e": someone, "p": place, "d": day}) for told in ARRIVAL.told]
    for change in CHANGES:
        value = draw_value(RELATION[change.relation].kind, "train", rng)
        cases += [("change", change.relation, told, {"e": someone, "d": day, "v": value}) for told in change.told]
    for kind, name, told, slots in cases:
        text = sentence(told, **slots)
        assert text[0].isupper() and text.endswith(".")
        found = [(k, n, m.groupdict()) for k, n, pattern in readers() if (m := pattern.fullmatch(told.format(**slots)))]
        assert found == [(kind, name, slots)]
        (fact,) = read([text]).facts()  # and by the stricter reader of the benchmark
        assert fact[0] == someone


def test_tables_are_by_name() -> None:
    assert list(LINK.values()) == list(LINKS) and list(EVENT.values()) == list(EVENTS)
    assert list(CHANGE.values()) == list(CHANGES) and CHANGE.keys() <= RELATION.keys()
    for told in [*LINK_TOLD, *(t for e in (*EVENTS, ARRIVAL) for t in e.told), *(t for c in CHANGES for t in c.told)]:
        assert not told.startswith("{") and told.count("{e}") == 1


# ---- days ----


@settings(deadline=None)
@given(n=st.integers(0, 400), seed=st.integers(0, 2**32))
def test_days_rise_with_a_day_between(n: int, seed: int) -> None:
    days = draw_days(n, Random(seed))
    assert len(days) == n and all((b - a).days >= 2 for a, b in zip(days, days[1:], strict=False))
    assert all(1500 <= day.year < 1800 for day in days)


def test_days_are_spelt_out() -> None:
    assert spell(date(1703, 4, 9)) == "9 April 1703"


def test_hidden_questions_and_chats_share_no_content_word() -> None:
    """The hidden question counts as asked: it stands in the text, but in other words than the fact that answers it."""
    heads = [words for _, words in TRADES_AND_TRAITS]
    people = [words for words, _ in TRADES_AND_TRAITS]
    sent = [*hidden_question.SENT, *(posed.replace("{q}", "") for posed in hidden_question.POSED), *people]
    asked = [hidden_question.ASKED[1], *heads]
    assert [(a, t, shared(a, t)) for a, t in product(asked, sent) if shared(a, t)] == []
    pieces = [f"{form.told} {told}" for form in dialogue_wordings.FORMS for told, _ in PLACES]
    asked = [*(form.asked[1] for form in dialogue_wordings.FORMS), *(words for _, words in PLACES)]
    assert [(a, t, shared(a, t)) for a, t in product(asked, pieces) if shared(a, t)] == []
    for relation, (_, noun) in dialogue_wordings.NOUNS.items():
        said = [*dialogue_wordings.TOLD[relation], dialogue_wordings.FORGOTTEN[relation], *people]
        frame = [words[1].replace("{noun}", "") for words in (dialogue_wordings.CURRENT, dialogue_wordings.THEN)]
        asked = [noun, *frame, dialogue_wordings.CAVEAT[1], *heads]
        assert [(a, t, shared(a, t)) for a, t in product(asked, said) if shared(a, t)] == []
