"""A task: which facts a text states, what is asked of them, and the answer.

To add one, write a function from a `Draw` to a `Quiz` and enter it in `tasks.TASKS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from environments.haystack.facts import RELATION, Entity, draw_entity, draw_values, first_drawn, near_duplicate
from environments.haystack.options import ANY, Options

NONE = "none"  # what a model answers when the text does not say
Needles = list[tuple[str, str]]  # (sentence, role)


@dataclass(frozen=True)
class Answer:
    """`values` are all right and none else. `kind`: "one"; "set" (any order); "list" (each in its place counts); "order"
    (all in this order); "partial_order" (what is in order counts); "absent" (no value: abstaining is right).
    `value_kind` is a key of `facts.VALUE_KINDS`, "people", "count", or "text" for a custom needle. `steps` are the people
    passed on the way, which a model may show for partial credit."""

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


@dataclass
class Draw:
    """What a task draws its people and values from. `taken` are the people of the decoys: no one else may be one."""

    options: Options
    split: str
    rng: Random
    taken: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)

    @property
    def gap(self) -> bool:
        """Whether the question shares no content word with the needle."""
        return self.options.lexical_gap

    def person(self, named: bool = False) -> Entity:
        """Someone new. `named`: by name even with a lexical gap, because the answer is who it is."""
        gap = self.gap and not named
        person = first_drawn(lambda: draw_entity(self.split, gap, self.rng), self._is_new, f"a person in {self.split}")
        self.used.add(person.told)
        return person

    def twin(self, entity: Entity) -> Entity:
        """Someone easily taken for `entity`, or for someone like it where all of those are taken."""
        twin = near_duplicate(entity, self.split, self.rng)
        while not self._is_new(twin):
            twin = near_duplicate(twin, self.split, self.rng)
        self.used.add(twin.told)
        return twin

    def _is_new(self, entity: Entity) -> bool:
        return entity.told not in self.taken and entity.told not in self.used

    def values(self, relation: str, n: int) -> list[str]:
        """`n` new values, none a part of another."""
        return draw_values(RELATION[relation].kind, n, self.split, self.rng)

    def relation(self, names: Sequence[str]) -> str:
        """One of the relations: one of the value kind asked for, if there is any."""
        of_kind = [name for name in names if self.options.value_kind in (ANY, RELATION[name].kind)]
        return self.rng.choice(of_kind or list(names))

    def number(self, name: str) -> int:
        """A number within the range option of that name. Raises `ConfigError`."""
        return self.rng.randint(*self.options.bounds(name))


class QuizMaker(Protocol):
    """Draws the facts and the question of a task; `absent`: of a text that does not hold the answer."""

    def __call__(self, draw: Draw, absent: bool) -> Quiz:
        """The quiz. Raises `ConfigError` for options that the task cannot have."""


@dataclass(frozen=True)
class Task:
    """A task as users name it. `question`: the task that asks the same of a text which does hold the answer."""

    name: str
    question: str
    make: QuizMaker
    absent: bool = False
    linked: bool = False  # its facts belong together, and stand among chains of other people
    ordered: bool = False  # its facts have an order of their own
    fixed: bool = False  # its facts are the user's, not drawn

    def quiz(self, draw: Draw) -> Quiz:
        """Facts, a question and its answer."""
        return self.make(draw, self.absent)
