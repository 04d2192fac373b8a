"""The texts that needles are hidden in, by name: those of the option `filler`, and those that a task brings (`Task.source`).

To add one, write a function that yields passages and enter it in `SOURCES`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from environments.haystack.filler import code, corpora, dialogue, prose, statements

Passage = list[list[str]]  # paragraphs, each a list of sentences


class Text(NamedTuple):
    """Which text of a source is wanted, and how many tokens of it at least.

    `number` counts the texts of an endless source; another has one, the same for both splits.
    """

    filler: str  # name in `SOURCES`
    filler_mode: str
    filler_path: str
    filler_column: str
    filler_sentences: str
    tokens: int
    split: str
    number: int


class PassageMaker(Protocol):
    """Yields the passages of a text, always the same ones; `forbidden` are strings that must not stand in them."""

    def __call__(self, text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
        """Return the passages. Raises `ConfigError` where they cannot be had."""


@dataclass(frozen=True)
class Source:
    """A kind of text. `between`: needles stand between its paragraphs, never inside one, where they would break it."""

    passages: PassageMaker
    endless: bool = True  # every split and number has a text of its own, which never runs out
    between: bool = False


def _prose(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    return prose.passages(text.number, text.split, text.filler_mode)


def _code(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    return code.passages(text.number, text.split)


def _folder(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    path = Path(text.filler_path)
    return _in_mode(text, corpora.folder_passages(path, forbidden, text.filler_sentences, text.filler_column))


def _dataset(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    name, column, how = text.filler_path, text.filler_column, text.filler_sentences
    return _in_mode(text, corpora.dataset_passages(name, column, forbidden=forbidden, sentences=how))


def _dialogue(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    return dialogue.passages(text.number, text.split)


def _in_mode(text: Text, passages: Iterator[Passage]) -> Iterator[Passage]:
    return prose.shuffled(passages, text.number) if text.filler_mode == "shuffled" else passages


def _noise(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    return statements.noise()


def _facts(text: Text, forbidden: Sequence[str]) -> Iterator[Passage]:
    return statements.facts(text.split, text.number)


SOURCES = {
    "prose": Source(_prose),
    "noise": Source(_noise),
    "facts": Source(_facts),
    "dialogue": Source(_dialogue, between=True),
    "code": Source(_code, between=True),
    "folder": Source(_folder, endless=False),
    "dataset": Source(_dataset, endless=False),
}
