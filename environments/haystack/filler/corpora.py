"""The user's own text: a folder of .txt and .md files, one such file, or a dataset. For haystacks and for training rows.

    for passage in folder_passages(Path("books")): ...
    for passage in dataset_passages("owner/name", "text"): ...    # streamed; or a local .jsonl, .parquet, .csv, .txt
    for document in documents(path): ...                          # the text as it stands

Every fault of a corpus is a `DataError`. Text streams through: memory holds a piece of it.
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments.haystack.filler.passages import (
    LINE_ENDS,
    PARAGRAPH_CHARS,
    SENTENCE_WORDS,
    Passage,
    markdown_lines,
    passages_of,
    to_passages,
)
from longthread.errors import DataError

if TYPE_CHECKING:
    from datasets import IterableDataset

READ_BYTES = 1 << 16
DOCUMENT_CHARS = 4_000_000  # a longer file is split at a paragraph's end, so that memory stays flat
SUFFIXES = (".txt", ".md")
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}


# ---- passages ---------------------------------------------------------------------------------------------------


def folder_passages(path: Path, forbidden: Sequence[str] = ()) -> Iterator[Passage]:
    """Yield the passages of all .txt and .md files below a folder, in the order of their paths, or of one such file.

    Raises `DataError` at once for a missing folder or one without such files, and while it runs for a file that is not
    UTF-8 or a corpus without a sentence.
    """
    path = Path(path)
    files = text_files(path)
    return _not_empty(chain.from_iterable(passages_of(_lines(file), forbidden) for file in files), str(path))


def dataset_passages(
    name: str, column: str, split: str = "train", config: str | None = None, forbidden: Sequence[str] = ()
) -> Iterator[Passage]:
    """Yield the passages of one column of a dataset (see `dataset_rows`), whose cells hold text or chats.

    Paragraphs of one row stay together; passages never mix rows. Raises `DataError` at once for an unknown dataset, split
    or column.
    """
    rows = dataset_rows(name, column, split, config)
    passages = (to_passages(cell_text(row[column], name, column), forbidden) for row in rows)
    return _not_empty(chain.from_iterable(passages), f"column {column!r} of {name}, split {split}")


def _not_empty(passages: Iterable[Passage], source: str) -> Iterator[Passage]:
    """Yield the passages; raise `DataError`, which names `source`, if there are none."""
    empty = True
    for passage in passages:
        empty = False
        yield passage
    if empty:
        low, high = SENTENCE_WORDS
        raise DataError(
            f"no sentence found in {source}: give prose with sentences of {low} to {high} words that end in . ? or !"
        )


# ---- files ------------------------------------------------------------------------------------------------------


def text_files(path: Path) -> list[Path]:
    """Return all .txt and .md files below a folder, in the order of their paths, or the one file that `path` is.

    Raises `DataError` if there are none.
    """
    if not path.exists():
        raise DataError(f"corpus {path} does not exist: give a folder of .txt or .md files, or one such file")
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"corpus file {path} is neither .txt nor .md: rename it, or load it as a dataset")
        return [path]
    files = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise DataError(f"no .txt or .md file below {path}: put text there, or give another folder or file")
    return sorted(files, key=lambda file: file.relative_to(path).parts)


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
    if path.suffix.lower() == ".md":
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
    with path.open("rb") as file:
        while True:
            block = file.read(READ_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset - waiting + error.start
                raise DataError(
                    f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {where}; convert it "
                    f"(iconv -f latin1 -t utf-8) or take it out of the folder"
                ) from None
            if not block:
                return
            yield text if offset else text.removeprefix("\ufeff")
            offset += len(block)


# ---- datasets ---------------------------------------------------------------------------------------------------


def dataset_rows(name: str, column: str, split: str = "train", config: str | None = None) -> "IterableDataset":
    """Stream the rows of a dataset with that column: a name on the Hub, or a local .jsonl, .json, .parquet, .csv, .txt.

    Raises `DataError` for an unknown dataset, split or column.
    """
    import datasets  # slow to import, and needed for this source alone

    builder = BUILDERS.get(Path(name).suffix.lower())
    if builder and not Path(name).is_file():
        raise DataError(f"dataset file {name} does not exist: give a local file or the name of a dataset on the Hub")
    arguments: dict[str, Any] = {"path": name, "name": config}
    if builder:
        arguments = {"path": builder, "data_files": {split: name}}
    if builder == "text":
        arguments["sample_by"] = "paragraph"
    try:
        rows = datasets.load_dataset(**arguments, split=split, streaming=True)
        columns = rows.column_names or list(next(iter(rows), {}))  # a stream may not know them before its first row
    except Exception as error:  # load_dataset raises a dozen types, network errors among them
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
