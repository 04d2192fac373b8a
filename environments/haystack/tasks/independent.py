"""Tasks whose facts have nothing to do with each other.

single       one fact, one question
multi_key    the same among near-duplicate distractors
multi_value  one entity with several values: all of them
multi_query  several entities at once: their values in the order asked
absent       multi_key with distractors only: the fact asked for is not in the text
custom       the user's own needle, question and answer
passkey      a pass key in the same few sentences over and over (landmark attention, arXiv 2305.16300), in our own words
"""

from environments.haystack.facts import (
    BY_KIND,
    RELATION,
    VALUE_KINDS,
    Entity,
    Fact,
    ask,
    draw_value,
    near_duplicate,
    state,
)
from environments.haystack.options import ANY, refuse_lexical_gap
from environments.haystack.tasks.task import Answer, Draw, Quiz
from longthread.errors import ConfigError

MISSES = 64  # near-duplicates drawn twice: a description has only some 25 to 50 of them in its split


def single(draw: Draw, absent: bool = False) -> Quiz:
    """Return a quiz of one fact and the question for it."""
    relation, target = _relation(draw), draw.person()
    return _quiz(draw, [target], 1, relation, ask(target.asked, relation, draw.gap), "one")


def multi_key(draw: Draw, absent: bool = False) -> Quiz:
    """Return a quiz of one fact among near-duplicates; absent: of the near-duplicates alone."""
    relation, target = _relation(draw), draw.person()
    question, distractors = ask(target.asked, relation, draw.gap), _distractors(draw, [target])
    if absent:
        return _quiz(draw, distractors, 0, relation, question, "absent")
    return _quiz(draw, [target, *distractors], 1, relation, question, "one")


def multi_value(draw: Draw, absent: bool = False) -> Quiz:
    """Return a quiz that asks for all of several values of one entity, among near-duplicates."""
    relation, target, n = _relation(draw), draw.person(), draw.options.values
    people = [target] * n + _distractors(draw, [target])
    question = f"{ask(target.asked, relation, draw.gap, several=True)} Give all of them."
    return _quiz(draw, people, n, relation, question, "set")


def multi_query(draw: Draw, absent: bool = False) -> Quiz:
    """Return a quiz that asks for the values of several entities, in the order asked, among near-duplicates."""
    relation, targets = _relation(draw), [draw.person() for _ in range(draw.options.queries)]
    people = [*targets, *_distractors(draw, targets)]
    noun = RELATION[relation].noun[draw.gap]
    question = f"What are {noun}, in this order, for: {'; '.join(target.asked for target in targets)}?"
    return _quiz(draw, people, len(targets), relation, question, "list")


def custom(draw: Draw, absent: bool = False) -> Quiz:
    """Return a quiz of the user's own needle, question and answer.

    Raises `ConfigError` where one of them is missing or the needle does not hold the answer.
    """
    options = draw.options
    if missing := tuple(name for name in ("needle", "question", "expected") if not getattr(options, name)):
        raise ConfigError("task custom needs a needle, a question and what is expected", setting=missing)
    if options.expected not in options.needle:
        raise ConfigError(
            f"expected {options.expected!r} does not stand in the needle {options.needle[:60]!r}", setting="expected"
        )
    needle, expected = " ".join(options.needle.split()), " ".join(options.expected.split())
    return Quiz(((needle, "answer"),), (expected,), options.question.strip(), Answer("one", (expected,), "text"))


def passkey(draw: Draw, absent: bool = False) -> Quiz:
    """Return a quiz of one pass key, a number that the needle says twice. Raises `ConfigError` for a lexical gap."""
    refuse_lexical_gap(draw.options, "passkey", "the question names the pass key")
    key = draw_value("numbers", draw.split, draw.rng)
    needle = f"The pass key is {key}. Keep it in mind: {key} is the pass key."
    return Quiz(((needle, "answer"),), (key,), "What is the pass key?", Answer("one", (key,), "numbers"))


def _relation(draw: Draw) -> str:
    kind = draw.options.value_kind
    return BY_KIND[kind if kind != ANY else draw.rng.choice(sorted(VALUE_KINDS))].name


def _distractors(draw: Draw, targets: list[Entity]) -> list[Entity]:
    """Draw different near-duplicates of the targets in turn; where those run out, near-duplicates of near-duplicates."""
    twins: list[Entity] = []
    misses = 0
    while len(twins) < draw.options.distractors:
        original = targets[len(twins) % len(targets)] if misses < MISSES else draw.rng.choice(twins or targets)
        twin = near_duplicate(original, draw.split, draw.rng)
        if twin.told in draw.used:
            misses += 1
        else:
            draw.used.add(twin.told)
            twins.append(twin)
    return twins


def _quiz(draw: Draw, people: list[Entity], targets: int, relation: str, question: str, kind: str) -> Quiz:  # noqa: PLR0913
    """Return a quiz with a fact for each person: the first `targets` people are the answer, the others distract."""
    values = draw.values(relation, len(people))
    roles = ["answer"] * targets + ["distractor"] * (len(people) - targets)
    needles = tuple(
        (state(Fact(person, relation, value), kind == "set" and role == "answer", draw.rng), role)
        for person, value, role in zip(people, values, roles, strict=True)
    )
    answer = Answer(kind, tuple(values[:targets]), RELATION[relation].kind)
    return Quiz(needles, tuple(values), question, answer, several=kind in ("set", "list"))
