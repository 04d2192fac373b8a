"""The user's own text: a folder of files, one file, or a dataset. For haystacks and for training rows.

    for passage in folder_passages(Path("books")): ...
    for passage in dataset_passages("owner/name", "text"): ...    # streamed; or a local .jsonl, .parquet, .csv, .txt
    for document in documents(path): ...                          # the text as it stands

`sentences` says how text is cut: "auto" (English rules; where they find nothing, each paragraph by its script; source code
by lines), "script" (each paragraph by its script), "lines" (blocks of lines as they stand: verse, code) or "code" (top-level
blocks of source code).
Every fault of a corpus is a `DataError`. Text streams through: memory holds a piece of it.
"""

import codecs
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments.haystack.filler.files import (
    SUFFIXES,
    blocks,
    byte_lines,
    inner_suffix,
    is_packed,
    kind_of,
    table_files,
    text_files,
)
from environments.haystack.filler.passages import (
    LINE_ENDS,
    PARAGRAPH_CHARS,
    SENTENCE_WORDS,
    Passage,
    blocks_of,
    markdown_lines,
    passages_of,
    top_level_blocks,
)
from environments.haystack.filler.sentences import SCRIPTS
from longthread.errors import DataError, LongthreadError

if TYPE_CHECKING:
    from datasets import IterableDataset

__all__ = ["SUFFIXES", "dataset_passages", "dataset_rows", "documents", "folder_passages", "text_files", "texts_of"]

DOCUMENT_CHARS = 4_000_000  # a longer file is split at a paragraph's end, so that memory stays flat
LOOKED_AT = 16_000_000  # characters in which English rules find no sentence before the others are tried
SENTENCES = ("auto", "script", "lines", "code")
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}

Cut = Callable[[Iterable[str]], Iterator[Passage]]  # lines of a text -> its passages


# ---- passages ---------------------------------------------------------------------------------------------------


def folder_passages(
    path: Path, forbidden: Sequence[str] = (), sentences: str = "auto", column: str = "text"
) -> Iterator[Passage]:
    """Yield the passages of a file, or of all files below a folder (see `text_files`) in the order of their paths.

    Tables (.jsonl, .json, .csv, .parquet) are read where a folder has no text; `column` names theirs. Raises `DataError`
    at once for a missing folder or one without such files, and while it runs for a file that is not UTF-8, a bad row or
    a corpus without a sentence.
    """
    path = Path(path)
    if tables := table_files(path):
        rows = lambda: chain.from_iterable(dataset_texts(str(file), column) for file in tables)  # noqa: E731
        return _read(
            lambda: (_text_lines(text) for text in rows()), f"column {column!r} of {path}", forbidden, sentences
        )
    files = text_files(path)
    if sentences == "auto" and kind_of(files[0]) == "code":
        sentences = "lines"
    return _read(lambda: map(_lines, files), str(path), forbidden, sentences)


def dataset_passages(
    name: str,
    column: str,
    split: str = "train",
    config: str | None = None,
    forbidden: Sequence[str] = (),
    sentences: str = "auto",
) -> Iterator[Passage]:
    """Yield the passages of one column of a dataset (see `dataset_rows`), whose cells hold text or chats.

    Paragraphs of one row stay together; passages never mix rows. Raises `DataError` at once for an unknown dataset, split
    or column, and while it runs for a row that cannot be read.
    """
    rows = dataset_rows(name, column, split, config)  # what is unknown is refused at once
    texts = lambda: (_text_lines(text) for text in texts_of(rows, name, column))  # noqa: E731
    return _read(texts, f"column {column!r} of {name}, split {split}", forbidden, sentences)


def _text_lines(text: str) -> list[str]:
    return LINE_ENDS.sub("\n", text).split("\n")


def _read(
    texts: Callable[[], Iterable[Iterable[str]]], source: str, forbidden: Sequence[str], sentences: str
) -> Iterator[Passage]:
    """Yield the passages of texts, each given as its lines; raise `DataError`, which names `source`, if there are none."""
    cuts: dict[str, list[Cut]] = {
        "auto": [lambda lines: passages_of(lines, forbidden), lambda lines: passages_of(lines, forbidden, SCRIPTS)],
        "script": [lambda lines: passages_of(lines, forbidden, SCRIPTS)],
        "lines": [lambda lines: blocks_of(lines, forbidden)],
        "code": [lambda lines: top_level_blocks(lines, forbidden)],
    }
    empty = True
    for cut in cuts[sentences]:
        chars = 0
        for lines in texts():
            budget = _Counted(lines)
            for passage in cut(budget):
                empty = False
                yield passage
            chars += budget.chars
            if empty and chars > LOOKED_AT:
                break
        if not empty:
            return
    low, high = SENTENCE_WORDS
    raise DataError(
        f"no sentence found in {source}: give prose with sentences of {low} to {high} words that end in . ? or ! or the "
        "marks of another script; verse, code and the like are read as they stand with filler_sentences lines",
        setting="filler_sentences",
    )


class _Counted:
    """Lines, and the characters of those that were read."""

    def __init__(self, lines: Iterable[str]):
        self._lines, self.chars = lines, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.chars += len(line)
            yield line


# ---- files ------------------------------------------------------------------------------------------------------


def documents(path: Path) -> Iterator[str]:
    """Yield the text of a file as it stands; a long one in pieces that end behind a paragraph, a line or a space."""
    text, empty = "", True
    for piece in _pieces(path):
        text += piece
        while len(text) > DOCUMENT_CHARS:
            ends = (text.rfind(mark, DOCUMENT_CHARS // 2, DOCUMENT_CHARS) for mark in ("\n\n", "\n", " "))
            end = next((end + 1 for end in ends if end >= 0), DOCUMENT_CHARS)
            yield text[:end]
            text, empty = text[end:], False
    if text.strip() or empty:
        yield text


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, of Markdown those of its prose; a very long line is split at spaces."""
    if inner_suffix(path) == ".md":
        yield from chain.from_iterable(markdown_lines(LINE_ENDS.sub("\n", text)) for text in documents(path))
        return
    rest = ""
    for piece in _pieces(path):
        rest += piece
        carry = "\r" if rest.endswith("\r") else ""  # perhaps the first half of \r\n
        lines = LINE_ENDS.sub("\n", rest.removesuffix("\r")).split("\n")
        rest = lines.pop() + carry
        yield from lines
        if len(rest) > PARAGRAPH_CHARS:  # a line without end: cut it at a space if it has one
            head, _, tail = rest.rpartition(" ")
            yield head or rest
            rest = tail if head else ""
    yield from LINE_ENDS.sub("\n", rest).split("\n")


def _pieces(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file, with or without a byte order mark, piece by piece."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for block in chain(blocks(path), [b""]):
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            where = offset - waiting + error.start
            raise DataError(
                f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {where}; convert it "
                f"(iconv -f latin1 -t utf-8) or take it out of the folder"
            ) from None
        if block:
            yield text if offset else text.removeprefix("\ufeff")
        offset += len(block)


# ---- datasets ---------------------------------------------------------------------------------------------------


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Silence a library's loggers."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def dataset_rows(name: str, column: str, split: str = "train", config: str | None = None) -> "IterableDataset":
    """Stream the rows of a dataset with that column: a name on the Hub, or a local .jsonl, .json, .parquet, .csv, .txt.

    A local .jsonl or .txt may be packed (.gz, .bz2, .xz). Raises `DataError` for an unknown dataset, split or column.
    """
    import datasets  # slow to import, and needed for this source alone

    if is_packed(Path(name)) and Path(name).is_file():
        return _packed_rows(Path(name), column)
    builder = BUILDERS.get(Path(name).suffix.lower())
    if builder and not Path(name).is_file():
        raise DataError(f"dataset file {name} does not exist: give a local file or the name of a dataset on the Hub")
    arguments: dict[str, Any] = {"path": name, "name": config}
    if builder:
        arguments = {"path": builder, "data_files": {split: name}}
    if builder == "text":
        arguments["sample_by"] = "paragraph"
    try:
        with _unlogged("datasets"):  # what it logs of an error is in the error
            rows = datasets.load_dataset(**arguments, split=split, streaming=True)
            columns = rows.column_names or list(next(iter(rows), {}))  # a stream may not know them before its first row
    except Exception as error:  # load_dataset raises a dozen types, network errors among them
        if broken := _broken(Path(name)):
            raise DataError(f"{broken}: mend or remove it") from error
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"cannot load dataset {name!r} (config {config!r}, split {split!r}): {type(error).__name__}: {reason}; "
            "check the name, the split and the network, or give a local folder or file"
        ) from error
    if columns and column not in columns:
        raise DataError(f"dataset {name} has no column {column!r}: use one of {', '.join(sorted(columns))}")
    return rows


def cell_text(cell: object, name: str, column: str) -> str:
    """Return the text of a cell: itself, "" for None, or a chat (a list of {"role", "content"}) as paragraphs.

    Raises `DataError` for any other cell.
    """
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Mapping):
        return cell_text(cell.get("content", cell.get("value")), name, column)
    if isinstance(cell, Sequence) and not isinstance(cell, bytes):
        return "\n\n".join(cell_text(part, name, column) for part in cell)
    raise DataError(
        f"column {column!r} of {name} holds {type(cell).__name__}, neither text nor messages: name a text column"
    )


def dataset_texts(name: str, column: str) -> Iterator[str]:
    """Yield the texts of a column of a local table. Raises `DataError`, with the row, for one that cannot be read."""
    return texts_of(dataset_rows(name, column), name, column)


def texts_of(rows: Iterable[Mapping[str, Any]], name: str, column: str) -> Iterator[str]:
    """Yield the text of each row's cell. Raises `DataError`, with the row, for one that cannot be read or is no text."""
    number, waiting = 0, iter(rows)
    while True:
        try:
            row = next(waiting, None)
        except LongthreadError:
            raise
        except Exception as error:  # pyarrow, pandas, fsspec and the network raise as many types as there are
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{_broken(Path(name)) or f'dataset {name} cannot be read behind row {number}'} "
                f"({type(error).__name__}: {reason}); mend or remove that row, or download the dataset anew"
            ) from error
        if row is None:
            return
        number += 1
        try:
            yield cell_text(row.get(column), name, column)
        except DataError as error:
            raise DataError(f"{error.message} (row {number})") from None


def _broken(path: Path) -> str | None:
    """Return "file: line 12 is not JSON" for the first such line of a local .jsonl file; None if that is not the fault."""
    if inner_suffix(path) != ".jsonl" or not path.is_file():
        return None
    for number, _ in json_lines(path):
        if number < 0:
            return f"{path}: line {-number} is not a JSON object"
    return None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each line of a JSONL file, packed or not; minus the number for a broken line.

    A line of more than `LINE_BYTES` is broken too.
    """
    for number, line in enumerate(byte_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except ValueError:  # UnicodeDecodeError and JSONDecodeError are
            value = None
        yield (number, value) if isinstance(value, dict) else (-number, {})


def _packed_rows(path: Path, column: str) -> "IterableDataset":
    """Stream the rows of a packed .jsonl or .txt, unpacked here, where its size is bounded."""
    from datasets import IterableDataset

    kind = inner_suffix(path)
    if kind not in (".jsonl", ".txt"):
        raise DataError(
            f"dataset file {path} is a packed {kind or 'file'}: unpack it; only .jsonl and .txt are read packed"
        )

    def rows() -> Iterator[dict[str, Any]]:
        if kind == ".txt":
            yield from ({"text": paragraph} for text in documents(path) for paragraph in text.split("\n\n"))
            return
        for number, value in json_lines(path):
            if number < 0:
                raise DataError(f"{path}: line {-number} is not a JSON object: mend or remove it")
            yield value

    columns = set(next(rows(), {}))
    if columns and column not in columns:
        raise DataError(f"dataset {path} has no column {column!r}: use one of {', '.join(sorted(columns))}")
    return IterableDataset.from_generator(rows)
