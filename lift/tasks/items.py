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
from environments.rollouts.scoring import parse_reply
from environments.rollouts.thinking import without_thinking
from environments.rollouts.values import find_values, normalise
from lift.document.document import Document, Span
from longthread.errors import ConfigError

NO_ANSWER = NONE
FACT_KINDS = ("needle", "linked", "reverse", "absent")  # tasks whose answers are values of facts.py, or people
_VALUES = (*VALUE_KINDS, "people")
_NONE_TOO = re.compile(rf"(?<![\w-]){NO_ANSWER}(?![\w-])", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A question about a document, made by a task of this `kind`.

    `answer` is the exact reply to learn, `NO_ANSWER` if the document has no answer; `alternatives` are right too.
    `evidence` holds the character spans that state the answer, () if there are none.
    """

    kind: str
    question: str
    answer: str
    evidence: tuple[Span, ...]
    alternatives: tuple[str, ...] = ()


class Task(ABC):
    """Base class of a task, which makes one kind of question.

    The wordings of split "train" and split "eval" are disjoint.
    """

    kind: ClassVar[str]

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        """Return at most `n` items, fewer if the document yields fewer. The same arguments yield the same items.

        Raises `ConfigError` on an unknown split.
        """
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)} (got {split!r})")
        rng = Random(f"lift {self.kind} {split} {seed} {document.digest}")
        return list(islice(self.draw(document, n, split, rng), n))

    @abstractmethod
    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield items in random order; the caller takes the first `n`."""


def rotate(cells: Iterable[T], rounds: int, rng: Random) -> Iterator[tuple[T, int]]:
    """Yield pairs of a cell and the number of a wording: all cells once before any twice, and no pair twice.

    `rounds` is the number of wordings.
    """
    order = [(cell, rng.randrange(rounds)) for cell in cells]
    rng.shuffle(order)
    for turn in range(rounds):
        for cell, first in order:
            yield cell, (first + turn) % rounds


# ---- right and wrong ----


def right(item: Item, completion: str) -> bool:
    """Return whether the completion gives the whole answer and no other.

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
    """Return the kind of the value, None if the text is not exactly one value."""
    return next((kind for kind in _VALUES if find_values(value, Answer("one", (), kind)) == [value]), None)


def _named(item: Item, reply: str, kind: str) -> set[str]:
    """Return the different values of a kind that a reply names and the question does not."""
    asked = Answer("one", (), kind)
    echoed = {normalise(value) for value in find_values(item.question, asked)}
    return {normalise(value) for value in find_values(reply, asked)} - echoed


def _denies(reply: str) -> bool:
    claim = parse_reply(reply, Answer("absent", (), "uuids"), "plain")
    return claim is not None and (claim.abstained or claim.denied)


# ---- coverage ----


@dataclass(frozen=True)
class Coverage:
    """How many of a document's sentences have at least one question; `kinds` counts the items of each kind."""

    sentences: int
    covered: int
    kinds: dict[str, int]

    @property
    def share(self) -> float:
        """Return the share of the sentences, 0 to 1, that have at least one question."""
        return self.covered / self.sentences if self.sentences else 0.0


def coverage(document: Document, items: Sequence[Item]) -> Coverage:
    """Count the document's sentences that the items' evidence touches, and the items of each kind."""
    covered = {at for item in items for span in item.evidence for at in sentences_of(document, span)}
    return Coverage(len(document.sentences), len(covered), dict(Counter(item.kind for item in items)))


def sentences_of(document: Document, span: Span) -> list[int]:
    """Return the numbers of the sentences that a span of characters touches."""
    at = max(0, bisect_right(document.sentences, span[0], key=lambda sentence: sentence[0]) - 1)
    touched = []
    while at < len(document.sentences) and document.sentences[at][0] < span[1]:
        if document.sentences[at][1] > span[0]:
            touched.append(at)
        at += 1
    return touched
