"""Tasks: which facts a text states, what is asked of them, and the answer.

    single       one fact, one question
    multi_key    the same among near-duplicate distractors
    multi_value  one entity with several values: all of them
    multi_query  several entities at once: their values in the order asked
    absent       distractors only: the fact asked for is not in the text
    custom       the user's own needle, question and answer

To add a task, write a function from (options, split, rng) to a `Quiz` and enter it in `TASKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from environments.haystack.facts import (
    BY_KIND,
    RELATION,
    VALUE_KINDS,
    Entity,
    Fact,
    FactError,
    draw_entity,
    draw_values,
    near_duplicate,
    state,
)

NONE = "none"  # what a model answers when the text does not say
ANY_KIND = "any"
UPDATE_ASKS = ("current", "then", "times")
MISSES = 64  # near-duplicates drawn twice: a description has only some 25 to 50 of them in its split


@dataclass(frozen=True)
class Answer:
    """`values` are all right and none else. `kind`: "one"; "set" (any order); "list" (each in its place counts); "order"
    (all in this order); "partial_order" (what is in order counts); "absent" (no value: abstaining is right).
    `value_kind` is a key of `facts.VALUE_KINDS`, or "text" for a custom needle. `steps` are the people passed on the
    way, which a model may show for partial credit."""

    kind: str
    values: tuple[str, ...]
    value_kind: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quiz:
    """What goes into a haystack and what is asked of it. `needles` are (sentence, role)."""

    needles: tuple[tuple[str, str], ...]
    values: tuple[str, ...]  # of all needles, distractors too: none may stand in the filler
    question: str
    answer: Answer
    hops: int = 1  # facts that have to be followed one after the other
    several: bool = False  # the reply is a list; said even where nothing is to be found, or it would tell


@dataclass(frozen=True)
class QuizOptions:
    """What tasks can be told. Every field is part of the recipe."""

    value_kind: str = ANY_KIND  # words, numbers, uuids, dates, names, or any: one at random
    distractors: int = 3  # near-duplicates of what is asked for (every task but `single`)
    values: int = 3  # needles to find in multi_value
    queries: int = 3  # entities asked for in multi_query
    lexical_gap: bool = False  # the question shares no content word with the needle
    hops: str = "2-4"  # facts from the head of a chain to its value: a number or a range
    decoys: int = -1  # chains of other people; -1 is 4 for each 1,024 tokens (LoongRL), within DECOY_SHARE of the text
    versions: str = "2-5"  # values that one key takes in update
    update_ask: str = ANY_KIND  # current, then (on a date), times (how many), or any
    matches: str = "2-8"  # people who meet the condition in find_all, count and order
    partial_order: bool = False  # order: pay for what is in order, not only for all of it
    min_span: float = 0.0  # share of the haystack between the first and the last needle that the answer needs
    needle: str = ""  # task custom: the sentence to hide, …
    question: str = ""  # … what is asked, …
    expected: str = ""  # … and the right answer

    def __post_init__(self) -> None:
        if self.value_kind not in (*VALUE_KINDS, ANY_KIND):
            raise FactError(f"value_kind {self.value_kind!r} is none of {', '.join((*VALUE_KINDS, ANY_KIND))}")
        if self.update_ask not in (*UPDATE_ASKS, ANY_KIND):
            raise FactError(f"update_ask {self.update_ask!r} is none of {', '.join((*UPDATE_ASKS, ANY_KIND))}")
        limits = (
            ("distractors", 0, 256),
            ("values", 1, 64),
            ("queries", 1, 64),
            ("decoys", -1, 512),
            ("min_span", 0, 0.9),
        )
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise FactError(f"{name} {getattr(self, name)} is outside {low} to {high}")


def _relation(options: QuizOptions, rng: Random) -> str:
    kind = options.value_kind if options.value_kind != ANY_KIND else rng.choice(sorted(VALUE_KINDS))
    return BY_KIND[kind].name


def _distractors(targets: list[Entity], options: QuizOptions, split: str, rng: Random) -> list[Entity]:
    """Near-duplicates of the targets in turn, all different; where those run out, near-duplicates of near-duplicates."""
    taken = {t.told for t in targets}
    twins: list[Entity] = []
    misses = 0
    while len(twins) < options.distractors:
        of = targets[len(twins) % len(targets)] if misses < MISSES else rng.choice(twins or targets)
        twin = near_duplicate(of, split, rng)
        if twin.told in taken:
            misses += 1
        else:
            taken.add(twin.told)
            twins.append(twin)
    return twins


def _entities(n: int, options: QuizOptions, split: str, rng: Random) -> list[Entity]:
    found: dict[str, Entity] = {}
    while len(found) < n:
        entity = draw_entity(split, options.lexical_gap, rng)
        found.setdefault(entity.told, entity)
    return list(found.values())


def _ask(entity: Entity, relation: str, gap: bool, several: bool) -> str:
    template = RELATION[relation].asked_gap if gap else RELATION[relation].asked
    return template.format(e=entity.asked, s="s" if several else "", is_="are" if several else "is")


def _quiz(people: list[Entity], targets: int, relation: str, question: str, kind: str, split: str, rng: Random) -> Quiz:
    """One fact a person; the first `targets` are the answer, the others distract."""
    values = draw_values(RELATION[relation].kind, len(people), split, rng)
    roles = ["answer"] * targets + ["distractor"] * (len(people) - targets)
    needles = tuple(
        (state(Fact(person, relation, value), kind == "set" and role == "answer", rng), role)
        for person, value, role in zip(people, values, roles, strict=True)
    )
    answer = Answer(kind, tuple(values[:targets]), RELATION[relation].kind)
    return Quiz(needles, tuple(values), question, answer, several=kind in ("set", "list"))


def single(options: QuizOptions, split: str, rng: Random) -> Quiz:
    relation, (person,) = _relation(options, rng), _entities(1, options, split, rng)
    return _quiz([person], 1, relation, _ask(person, relation, options.lexical_gap, False), "one", split, rng)


def multi_key(options: QuizOptions, split: str, rng: Random) -> Quiz:
    relation, (target,) = _relation(options, rng), _entities(1, options, split, rng)
    people = [target, *_distractors([target], options, split, rng)]
    return _quiz(people, 1, relation, _ask(target, relation, options.lexical_gap, False), "one", split, rng)


def multi_value(options: QuizOptions, split: str, rng: Random) -> Quiz:
    relation, (target,) = _relation(options, rng), _entities(1, options, split, rng)
    people = [target] * options.values + _distractors([target], options, split, rng)
    question = _ask(target, relation, options.lexical_gap, True) + " Give all of them."
    return _quiz(people, options.values, relation, question, "set", split, rng)


def multi_query(options: QuizOptions, split: str, rng: Random) -> Quiz:
    relation, targets = _relation(options, rng), _entities(options.queries, options, split, rng)
    people = [*targets, *_distractors(targets, options, split, rng)]
    noun = RELATION[relation].noun[options.lexical_gap]
    question = f"What are {noun}, in this order, for: {'; '.join(e.asked for e in targets)}?"
    return _quiz(people, len(targets), relation, question, "list", split, rng)


def absent(options: QuizOptions, split: str, rng: Random) -> Quiz:
    relation, (target,) = _relation(options, rng), _entities(1, options, split, rng)
    people = _distractors([target], options, split, rng)
    return _quiz(people, 0, relation, _ask(target, relation, options.lexical_gap, False), "absent", split, rng)


def custom(options: QuizOptions, split: str, rng: Random) -> Quiz:
    if not (options.needle and options.question and options.expected):
        raise FactError("task custom needs --env.needle, --env.question and --env.expected, all three")
    if options.expected not in options.needle:
        raise FactError(f"expected {options.expected!r} does not stand in the needle {options.needle[:60]!r}")
    needle, expected = " ".join(options.needle.split()), " ".join(options.expected.split())
    return Quiz(((needle, "answer"),), (expected,), options.question.strip(), Answer("one", (expected,), "text"))


TASKS: dict[str, Callable[[QuizOptions, str, Random], Quiz]] = {
    "single": single,
    "multi_key": multi_key,
    "multi_value": multi_value,
    "multi_query": multi_query,
    "absent": absent,
    "custom": custom,
}
