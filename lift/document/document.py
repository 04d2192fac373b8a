"""A document: a name, a text, and where its sentences stand."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from environments.haystack.filler.sentences import split_sentences
from lift import LiftError

MIN_WORDS = 20  # below that there is nothing to learn, and nothing that a prompt could not hold


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold it. What is no UTF-8 on a command line comes as lone surrogates."""
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


@dataclass(frozen=True)
class Document:
    name: str
    text: str

    @property
    def digest(self) -> str:
        """Of the text alone: the same text under another name is the same document."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def sentences(self) -> list[tuple[int, int]]:
        """Spans of characters, in order, none overlapping; what stands between them is white space."""
        spans = []
        for paragraph in re.finditer(r"\S(?:.*\S)?(?:\n[^\S\n]*\S(?:.*\S)?)*", self.text):
            words = list(re.finditer(r"\S+", paragraph[0]))
            for sentence in split_sentences(" ".join(word[0] for word in words)):
                mine, words = words[: len(sentence.split())], words[len(sentence.split()) :]
                spans.append((paragraph.start() + mine[0].start(), paragraph.start() + mine[-1].end()))
        return spans


def read(path: Path, name: str | None = None) -> Document:
    """A .txt or .md file in UTF-8, named after the file. Raises `LiftError`."""
    text = read_text(path)
    if (words := len(text.split())) < MIN_WORDS:
        raise LiftError(f"{path} has {words} words, at least {MIN_WORDS} are needed: put it into the prompt instead")
    return Document(path.stem if name is None else name, text)


def read_text(path: Path) -> str:
    """Of a file in UTF-8, of any length but empty. Raises `LiftError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LiftError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise LiftError(f"{path}: {error.strerror}: give a text file") from None
    if "\0" in text:
        raise LiftError(f"{path}: character {text.index(chr(0))} is NUL, this is no text: save the file as UTF-8 text")
    if not text.strip():
        raise LiftError(f"{path} is empty: give a file with text")
    return text
