"""A task: which facts a text states, what is asked of them, and the answer.

To add one, write a function from a `Draw` to a `Quiz` and enter it in `tasks.TASKS`, or in a package of your own
(`tasks/__init__.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from environments.haystack.facts import RELATION, Entity, draw_entity, draw_values, first_drawn, near_duplicate
from environments.haystack.filler.counted_passage import Block
from environments.haystack.filler.pool import Pool
from environments.haystack.listing import Items, Listing
from environments.haystack.options import ANY, Options
from environments.haystack.tokens import Tokens

NONE = "none"  # what a model answers when the text does not say
Needles = list[tuple[str, str]]  # (sentence, role)


@dataclass(frozen=True)
class Answer:
    """The right answer: all of `values` and nothing else.

    `kind`: "one"; "set" (any order); "list" (each in its place counts); "order" (all in this order);
    "partial_order" (what is in order counts); "absent" (no value: abstaining is right). `value_kind` is a key of
    `facts.VALUE_KINDS`, "people", "count", "amount", "variables", "pairs", "codes", "goods", "word" for a word of the
    text itself, "text" for a custom needle, or "verbatim" for words to be copied. `steps` are the people passed on the
    way, which a model may show for partial credit.
    """

    kind: str
    values: tuple[str, ...]
    value_kind: str
    steps: tuple[str, ...] = ()


def answer_or_none(
    absent: bool, kind: str, values: Sequence[str], value_kind: str, steps: Sequence[str] = ()
) -> Answer:
    """Return the answer of these values, or, where it is absent from the text, that there is none."""
    return Answer("absent", (), value_kind) if absent else Answer(kind, tuple(values), value_kind, tuple(steps))


@dataclass(frozen=True)
class Quiz:
    """The needles that go into a haystack, as (sentence, role), and the question about them with its answer."""

    needles: tuple[tuple[str, str], ...]
    values: tuple[str, ...]  # of all needles, distractors too: none may stand in the filler
    question: str
    answer: Answer
    hops: int = 1  # facts that have to be followed one after the other
    several: bool = False  # the reply is a list; said even where nothing is to be found, or it would tell
    passed: str = "people"  # what is passed on the way, where there are several hops; "" if it is not to be named
    listing: Listing | None = None  # what the whole text consists of, in place of needles in filler
    between: bool = False  # needles stand between paragraphs alone
    blocks: tuple[Block, ...] = ()  # the passage of the filler that each needle stands in, and which is hidden with it
    without: frozenset[int] = frozenset()  # passages of the filler that must not stand in the text beside


@dataclass
class Draw:
    """Draws the people and values of one quiz. `taken` holds the names of the decoys' people, whom it never draws.

    For tasks whose facts fill the whole text: the bank of `items`, and `room`, which returns the tokens of the text under
    a question with one answer, or with several.
    `pool` holds the text, for questions about the text itself.
    """

    options: Options
    split: str
    rng: Random
    taken: frozenset[str] = frozenset()
    pool: Pool | None = None
    used: set[str] = field(default_factory=set)
    items: Items | None = None
    room: Callable[[str, bool], int] | None = None

    @property
    def gap(self) -> bool:
        """Whether the question shares no content word with the needle."""
        return self.options.lexical_gap

    def person(self, named: bool = False) -> Entity:
        """Draw a person not drawn before. `named`: by name even with a lexical gap, because the answer is who it is."""
        gap = self.gap and not named
        person = first_drawn(lambda: draw_entity(self.split, gap, self.rng), self._is_new, f"a person in {self.split}")
        self.used.add(person.told)
        return person

    def twin(self, entity: Entity) -> Entity:
        """Draw a new person easily taken for `entity`; where all of those are taken, one easily taken for one of them."""
        twin = near_duplicate(entity, self.split, self.rng)
        while not self._is_new(twin):
            twin = near_duplicate(twin, self.split, self.rng)
        self.used.add(twin.told)
        return twin

    def _is_new(self, entity: Entity) -> bool:
        return entity.told not in self.taken and entity.told not in self.used

    def values(self, relation: str, n: int) -> list[str]:
        """Draw `n` different values for the relation, none a part of another."""
        return draw_values(RELATION[relation].kind, n, self.split, self.rng)

    def relation(self, names: Sequence[str]) -> str:
        """Draw one of the relations named; only from those of the value kind that the options ask for, if there are any."""
        of_kind = [name for name in names if self.options.value_kind in (ANY, RELATION[name].kind)]
        return self.rng.choice(of_kind or list(names))

    def number(self, name: str) -> int:
        """Draw a whole number within the range that the option of that name gives. Raises `ConfigError`."""
        return self.rng.randint(*self.options.bounds(name))


# Writes the bank of items of a split and a number for one tokenizer; enough for texts of half of so many tokens.
ItemMaker = Callable[[Tokens, str, int, int], Items]


class QuizMaker(Protocol):
    """Draws the facts and the question of a task; `absent`: of a text that does not hold the answer."""

    def __call__(self, draw: Draw, absent: bool) -> Quiz:
        """Return the quiz. Raises `ConfigError` for options that the task cannot have."""


@dataclass(frozen=True)
class Task:
    """A task as users name it. `question`: the task that asks the same of a text which does hold the answer."""

    name: str
    question: str
    make: QuizMaker
    absent: bool = False
    linked: bool = False  # its facts belong together, and stand among chains of other people
    ordered: bool = False  # its facts have an order of their own
    told_in_order: bool = False  # its needles stand in the text in the order of the quiz
    fixed: bool = False  # its facts are the user's, not drawn
    source: str = ""  # name in `filler.sources.SOURCES` of the text it is hidden in, in place of the option `filler`
    items: ItemMaker | None = None  # for a text that consists of its facts alone
    replaceable: bool = False  # a corpus of the user's own takes the place of `source`

    def quiz(self, draw: Draw) -> Quiz:
        """Draw a quiz of this task: facts, a question and its answer."""
        return self.make(draw, self.absent)
