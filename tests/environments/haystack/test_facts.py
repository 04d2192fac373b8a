"""Values, entities, relations: the sizes of their spaces, their patterns, their splits, the lexical gap."""

import re
from functools import cache
from itertools import product
from math import perm
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack import facts
from environments.haystack.facts import (
    BY_KIND,
    PLACES,
    READERS,
    RELATIONS,
    SPLITS,
    TRADES,
    TRAITS,
    VALUE_KINDS,
    Entity,
    Fact,
    draw_entity,
    draw_value,
    in_split,
    near_duplicate,
    parse,
    state,
)
from longthread.errors import ConfigError

seeds, splits, kinds = st.integers(0, 2**40), st.sampled_from(SPLITS), st.sampled_from(sorted(VALUE_KINDS))
STOPWORDS = frozenset(
    "a an the of in on at to for by from with under upon and or is are was be what which who whom when how must does did "
    "do one it its that this those they he she not only".split()
)


def stems(text: str) -> set[str]:
    """Content words, crudely stemmed to five letters."""
    return {word[:5] for word in re.findall(r"[a-z]+", text.lower()) if word not in STOPWORDS}


def bare(template: str) -> str:
    return re.sub(r"\{[^}]*\}", " ", template)


# ---- values ----


@given(kind=kinds, split=splits, seed=seeds)
def test_a_value_matches_its_own_pattern_whole_and_in_no_part(kind: str, split: str, seed: int) -> None:
    value = draw_value(kind, split, Random(seed))
    pattern = VALUE_KINDS[kind].pattern
    assert pattern.fullmatch(value)
    for text in (value, f"It is {value}.", f'"{value}", he said', f"({value})", f"**{value}**"):
        assert [match.group() for match in pattern.finditer(text)] == [value]
    # No word boundary inside a value starts or ends a value of its own.
    parts = [value[i:j] for i in range(len(value)) for j in (len(value) - 1,) if i] + [
        value[:j] for j in range(len(value))
    ]
    assert not [part for part in parts if pattern.fullmatch(part) and f" {part} " in f" {value} "]
    for glued in (f"x{value}", f"{value}x", f"7{value}", f"{value}7"):
        assert value not in [match.group() for match in pattern.finditer(glued)]


def test_spaces_are_too_large_to_guess() -> None:
    """At least 2^32 members in each split, counted from the generators."""
    onsets, vowels, codas = (len(set(part)) for part in (facts._ONSETS, facts._VOWELS, facts._CODAS))
    pseudonyms = len({a + b for a in facts._ONSETS for b in facts._VOWELS})  # syllables spelled differently
    assert pseudonyms <= onsets * vowels
    sizes = {
        "numbers": 10**10 - 10**9,
        "words": perm(len(set(facts.WORDS)), 4),
        "uuids": 2**122,
        "dates": 2000 * 365 * 86400,
        "names": (pseudonyms * codas) ** 3,  # even with one syllable each
    }
    assert sizes.keys() == VALUE_KINDS.keys()
    assert len(set(facts.WORDS)) == len(facts.WORDS)
    for kind, size in sizes.items():
        rng = Random(kind)
        share = sum(in_split(VALUE_KINDS[kind].draw(rng), "train") for _ in range(4000)) / 4000
        assert 0.46 < share < 0.54
        assert size * 0.48 >= 2**32, kind


@given(kind=kinds, seed=seeds)
def test_train_and_eval_share_no_value(kind: str, seed: int) -> None:
    drawn = {split: {draw_value(kind, split, Random(seed + i)) for i in range(20)} for split in SPLITS}
    assert not drawn["train"] & drawn["eval"]
    # By construction: a text is in one split alone.
    assert all(in_split(v, s) != in_split(v, SPLITS[1 - SPLITS.index(s)]) for s in SPLITS for v in drawn[s])


# ---- entities ----


@given(gap=st.booleans(), seed=seeds)
def test_train_and_eval_share_no_entity(gap: bool, seed: int) -> None:
    drawn = {split: {draw_entity(split, gap, Random(seed + i)) for i in range(20)} for split in SPLITS}
    assert not {e.told.lower() for e in drawn["train"]} & {e.told.lower() for e in drawn["eval"]}
    assert not {e.asked for e in drawn["train"]} & {e.asked for e in drawn["eval"]}


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@given(split=splits, seed=seeds)
def test_near_duplicate_names_are_one_or_two_letters_away(split: str, seed: int) -> None:
    rng = Random(seed)
    entity = draw_entity(split, False, rng)
    twin = near_duplicate(entity, split, rng)
    assert levenshtein(entity.told, twin.told) in (1, 2)
    assert twin.told == twin.asked and in_split(twin.told, split)


@cache
def described() -> dict[Entity, tuple]:
    return {facts._described(*parts): parts for parts in product(TRAITS, TRADES, PLACES)}


@given(split=splits, seed=seeds)
def test_near_duplicate_descriptions_differ_in_one_part(split: str, seed: int) -> None:
    rng = Random(seed)
    entity = draw_entity(split, True, rng)
    twin = near_duplicate(entity, split, rng)
    parts, others = described()[entity], described()[twin]
    assert sum(a != b for a, b in zip(parts, others, strict=True)) == 1 and in_split(twin.told, split)


def test_every_description_has_near_duplicates_in_its_split() -> None:
    """Or drawing one would never end."""
    inside = {entity.told: in_split(entity.told, "train") for entity in described()}
    for trait, trade, place in list(described().values())[::53]:
        told = facts._described(trait, trade, place).told
        near = [facts._described(t, trade, place) for t in TRAITS if t != trait]
        near += [facts._described(trait, t, place) for t in TRADES if t != trade]
        near += [facts._described(trait, trade, t) for t in PLACES if t != place]
        assert sum(inside[n.told] == inside[told] for n in near) >= 16


def test_descriptions_are_told_apart() -> None:
    assert len({e.told for e in described()}) == len({e.asked for e in described()}) == len(described())
    for table in (TRADES, TRAITS, PLACES):
        told, asked = {pair[0] for pair in table}, {pair[1] for pair in table}
        assert len(told) == len(asked) == len(table) and not told & asked


# ---- the lexical gap: exhaustive, by parts ----

TABLES = {"trait": TRAITS, "trade": TRADES, "place": PLACES}


def test_lexical_gap_between_all_entities() -> None:
    """What a question calls an entity shares no content word with what its needle does: for every one of them.

    A description is a trait, a trade and a place; so it is enough that each asked part is disjoint from each told part
    that can stand in the same description.
    """
    clashes = [
        (asked[1], told[0])
        for (kind, table), (other, others) in product(TABLES.items(), repeat=2)
        for asked, told in product(table, others)
        if (kind != other or asked == told) and stems(asked[1]) & stems(told[0])
    ]
    assert not clashes


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.name)
def test_lexical_gap_between_relation_and_needle(relation: facts.Relation) -> None:
    asked = stems(bare(relation.asked_gap)) | stems(relation.noun[1]) | stems("What are, in this order, for: Give all.")
    for template in relation.told + relation.told_one_of:
        told = stems(bare(template))
        assert not asked & told, (asked & told, template)
        for pair in (*TRAITS, *TRADES, *PLACES):
            assert not stems(pair[1]) & told, (pair, template)
    for pair in (*TRAITS, *TRADES, *PLACES):
        assert not asked & stems(pair[0]), (relation.name, pair)


# ---- stating and reading back ----


@settings(max_examples=200)
@given(kind=kinds, split=splits, gap=st.booleans(), one_of=st.booleans(), seed=seeds)
def test_parse_reads_back_what_was_stated(kind: str, split: str, gap: bool, one_of: bool, seed: int) -> None:
    rng = Random(seed)
    relation = BY_KIND[kind].name
    stated = [Fact(draw_entity(split, gap, rng), relation, draw_value(kind, split, rng)) for _ in range(3)]
    text = " ".join(f"Nothing happened. {state(fact, one_of, rng)}" for fact in stated) + "\n\nThe end."
    assert parse(text) == sorted({(f.entity.told, relation, f.value) for f in stated})


def test_every_template_is_read_and_asks_well() -> None:
    assert len({r.kind for r in RELATIONS}) == len(RELATIONS) == len(VALUE_KINDS)
    assert len(READERS) == sum(len(r.told + r.told_one_of) for r in RELATIONS)
    for relation in RELATIONS:
        for template in relation.told + relation.told_one_of:
            assert template.count("{e}") == template.count("{v}") == 1
            assert template.index("{e}") < template.index("{v}") and template[0].isupper() and template[-1] == "."
        for template in (relation.asked, relation.asked_gap):
            assert template.count("{e}") == 1 and template[-1] == "?"


def test_parse_of_nothing() -> None:
    assert parse("") == parse("The combination lock was broken. The heir is unknown.") == []


def test_what_no_split_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind with one value would be drawn for ever in the other split."""
    for split in SPLITS:
        monkeypatch.setitem(VALUE_KINDS, "one", facts.ValueKind(lambda rng: "acorn", re.compile("acorn")))
        if in_split("acorn", split):
            assert draw_value("one", split, Random(0)) == "acorn"
        else:
            with pytest.raises(ConfigError, match=f"a value of kind one in {split} was not found"):
                draw_value("one", split, Random(0))
