"""Questions made of a document, how replies are judged, and how much of the document the questions cover."""

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import ClassVar, TypeVar

from environments.haystack.facts import SPLITS, VALUE_KINDS
from environments.haystack.tasks.task import NONE, Answer
from environments.rollouts.scoring import find_values, normalise, parse_reply, without_thinking
from lift.document.document import Document, Span
from longthread.errors import ConfigError

NO_ANSWER = NONE
FACT_KINDS = ("needle", "linked", "reverse", "absent")  # tasks whose answers are values of facts.py, or people
_VALUES = (*VALUE_KINDS, "people")
_NONE_TOO = re.compile(rf"(?<![\w-]){NO_ANSWER}(?![\w-])", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A question about a document. `answer`: the exact reply to learn, `NO_ANSWER` if the document has no answer;
    `alternatives` are right too. `evidence`: spans of characters, () if absent."""

    kind: str
    question: str
    answer: str
    evidence: tuple[Span, ...]
    alternatives: tuple[str, ...] = ()


class Task(ABC):
    """One kind of question. The wordings of split "train" and split "eval" are disjoint."""

    kind: ClassVar[str]

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        """At most `n` items, fewer if the document yields fewer. The same arguments yield the same items.

        Raises `ConfigError` on an unknown split.
        """
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)} (got {split!r})")
        rng = Random(f"lift {self.kind} {split} {seed} {document.digest}")
        return list(islice(self.draw(document, n, split, rng), n))

    @abstractmethod
    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Items in random order, of which `n` are wanted."""


def rotate(cells: Iterable[T], rounds: int, rng: Random) -> Iterator[tuple[T, int]]:
    """Pairs of a cell and one of `rounds` wordings: all cells once before any twice, and no pair twice."""
    order = [(cell, rng.randrange(rounds)) for cell in cells]
    rng.shuffle(order)
    for turn in range(rounds):
        for cell, first in order:
            yield cell, (first + turn) % rounds


# ---- right and wrong ----


def right(item: Item, completion: str) -> bool:
    """Whether the completion gives the whole answer and no other.

    Values of facts are looked for in the whole reply, except those that the question itself names; two different ones
    are wrong, and so is a value beside "none". Everything else is compared as a whole: the first line with any text,
    normalised.
    """
    reply = without_thinking(completion).strip()
    gold = {normalise(text) for text in (item.answer, *item.alternatives)}
    if item.kind in FACT_KINDS:
        if item.answer == NO_ANSWER:
            return _denies(reply) and not any(_named(item, reply, kind) for kind in _VALUES)
        kind = _value_kind(item.answer)
        if kind is not None and (named := _named(item, reply, kind)):
            return len(named) == 1 and named <= gold and not _NONE_TOO.search(reply)
        lines = reply.splitlines()
        return len(lines) == 1 and normalise(reply) in gold
    return bool(reply) and normalise(reply.splitlines()[0]) in gold


def _value_kind(value: str) -> str | None:
    """The kind of the value, None if the text is not exactly one value."""
    return next((kind for kind in _VALUES if find_values(value, Answer("one", (), kind)) == [value]), None)


def _named(item: Item, reply: str, kind: str) -> set[str]:
    """The different values of a kind that a reply names and the question does not."""
    asked = Answer("one", (), kind)
    echoed = {normalise(value) for value in find_values(item.question, asked)}
    return {normalise(value) for value in find_values(reply, asked)} - echoed


def _denies(reply: str) -> bool:
    claim = parse_reply(reply, Answer("absent", (), "uuids"), "plain")
    return claim is not None and (claim.abstained or claim.denied)


# ---- coverage ----


@dataclass(frozen=True)
class Coverage:
    """How many of the sentences have at least one task; `kinds` counts the items of each kind."""

    sentences: int
    covered: int
    kinds: dict[str, int]

    @property
    def share(self) -> float:
        """The covered share of the sentences."""
        return self.covered / self.sentences if self.sentences else 0.0


def coverage(document: Document, items: Sequence[Item]) -> Coverage:
    """Count the sentences that the items' evidence touches."""
    covered = {at for item in items for span in item.evidence for at in sentences_of(document, span)}
    return Coverage(len(document.sentences), len(covered), dict(Counter(item.kind for item in items)))


def sentences_of(document: Document, span: Span) -> list[int]:
    """Numbers of the sentences that a span of characters touches."""
    at = max(0, bisect_right(document.sentences, span[0], key=lambda sentence: sentence[0]) - 1)
    touched = []
    while at < len(document.sentences) and document.sentences[at][0] < span[1]:
        if document.sentences[at][1] > span[0]:
            touched.append(at)
        at += 1
    return touched
