"""A document: a name, a text, and where its sentences stand."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from environments.haystack.filler.scripts import count_words
from environments.retrieval.sentence_spans import sentence_spans
from longthread.errors import DataError
from longthread.files import text_digest

MIN_WORDS = 20  # below that there is nothing to learn, and nothing that a prompt could not hold

Span = tuple[int, int]  # the first character, or token, and the one behind the last


def encodable(text: str) -> bool:
    """Return whether the text can be encoded in UTF-8, that is, has no lone surrogates.

    Python turns command-line bytes that are not UTF-8 into lone surrogates.
    """
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


@dataclass(frozen=True)
class Document:
    """A text with the name by which it is asked about."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of the text without the name, so that a renamed text has the same digest."""
        return text_digest(self.text)

    @property
    def words(self) -> int:
        """Return how many words the text has; in scripts without blanks, about."""
        return count_words(self.text)

    @cached_property
    def sentences(self) -> list[Span]:
        """Return the character span (start, end) of every sentence, in order.

        Only white space stands between two spans; each paragraph is split by the rules of its script.
        """
        return sentence_spans(self.text)

    def quote(self, span: Span) -> str:
        """Return the text of a character span on one line, with every run of white space as one space."""
        return " ".join(self.text[span[0] : span[1]].split())


def read(path: Path, name: str | None = None) -> Document:
    """Read a UTF-8 text file as a document, called `name` or else after the file.

    Raises `DataError`, also for fewer than `MIN_WORDS` words.
    """
    text = read_text(path)
    check_words(text, str(path))
    return Document(path.stem if name is None else name, text)


def check_words(text: str, name: str) -> None:
    """Raise `DataError` for a text, called `name` in the error, of fewer than `MIN_WORDS` words."""
    if (words := count_words(text)) < MIN_WORDS:
        raise DataError(f"{name} has {words} words, at least {MIN_WORDS} are needed: put it into the prompt instead")


def read_text(path: Path) -> str:
    """Read a UTF-8 file that is not empty and return its text. Raises `DataError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: give a text file") from None
    if "\0" in text:
        raise DataError(f"{path}: character {text.index(chr(0))} is NUL, so this is not text: save it as UTF-8 text")
    if not text.strip():
        raise DataError(f"{path} is empty: give a file with text")
    return text
