"""Which files of a folder are a corpus, and their bytes, unpacked and bounded."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from longthread.errors import DataError

READ_BYTES = 1 << 16
LINE_BYTES = 1 << 26  # a longer line of a packed table is taken for broken, so that memory stays bounded
# Text packs to a tenth or so. What unpacks to much more than that is no text, and might never end.
MOST_UNPACKED, UNPACKED_ALLOWED = 200, 1 << 26  # times the file's size, but so many bytes in any case
SUFFIXES = (".txt", ".md")
TABLES = (".jsonl", ".json", ".csv", ".parquet")
CODE = tuple(
    ".py .js .ts .jsx .tsx .java .kt .scala .c .h .cc .cpp .hpp .cs .go .rs .rb .php .pl .lua .r .jl .swift .m .sh .sql"
    " .hs .ml .ex .erl .clj .zig .dart".split()
)
PACKED: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
OTHER_ARCHIVES = (".zst", ".zip", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".br")


def is_packed(path: Path) -> bool:
    """Return whether the file is packed in a way that is unpacked here: .gz, .bz2, .xz."""
    return path.suffix.lower() in PACKED


def inner_suffix(path: Path) -> str:
    """Return the suffix of the file once it is unpacked: ".txt" for "book.txt.gz"."""
    return (path.with_suffix("") if is_packed(path) else path).suffix.lower()


def kind_of(path: Path) -> str:
    """Return what a file is by its name: "text", "packed text", "table", "code", or "" for another."""
    suffix = inner_suffix(path)
    if suffix in SUFFIXES:
        return "packed text" if is_packed(path) else "text"
    if suffix in TABLES and not (is_packed(path) and suffix != ".jsonl"):
        return "table"
    return "code" if suffix in CODE and not is_packed(path) else ""


def text_files(path: Path) -> list[Path]:
    """Return the one file that `path` is, or the files below that folder, in the order of their paths.

    Of a folder: all .txt and .md files; where there are none, those that are packed (.gz, .bz2, .xz); where there are
    none either, source code. Raises `DataError` if there are none.
    """
    if not path.exists():
        raise DataError(f"corpus {path} does not exist: give a folder of .txt or .md files, or one such file")
    if path.is_file():
        if path.suffix.lower() in OTHER_ARCHIVES:
            raise DataError(f"corpus file {path} is packed: unpack it, or pack its text with gzip, bzip2 or xz")
        if kind_of(path) not in ("text", "packed text", "code"):
            raise DataError(f"corpus file {path} is neither .txt nor .md: rename it, or load it as a dataset")
        return [path]
    for kind in ("text", "packed text", "code"):
        if files := _files(path, kind):
            return files
    packed = next((file for file in sorted(path.rglob("*")) if file.suffix.lower() in OTHER_ARCHIVES), None)
    hint = f"unpack {packed.name}" if packed else "put text there"
    raise DataError(f"no .txt or .md file below {path}: {hint}, or give another folder or file")


def table_files(path: Path) -> list[Path]:
    """Return the table that `path` is, or all tables below a folder without any text; else none."""
    if path.is_file():
        return [path] if kind_of(path) == "table" else []
    texts = path.is_dir() and (_files(path, "text") or _files(path, "packed text"))
    return _files(path, "table") if path.is_dir() and not texts else []


def _files(folder: Path, kind: str) -> list[Path]:
    files = [file for file in folder.rglob("*") if kind_of(file) == kind and file.is_file()]
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def blocks(path: Path, size: int = 0) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked, in blocks. Raises `DataError` for a bad archive or one that unpacks to too much."""
    with _open(path) as file:
        yield from _bounded(path, lambda: file.read(size or READ_BYTES))


def byte_lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines, unpacked, each cut at `LINE_BYTES`. Raises `DataError` as `blocks` does."""
    with _open(path) as file:
        yield from _bounded(path, lambda: file.readline(LINE_BYTES))


def _open(path: Path) -> IO[bytes]:
    file: IO[bytes] = PACKED[path.suffix.lower()](path, "rb") if is_packed(path) else path.open("rb")
    return file


def _bounded(path: Path, read: Callable[[], bytes]) -> Iterator[bytes]:
    limit = max(UNPACKED_ALLOWED, MOST_UNPACKED * path.stat().st_size) if is_packed(path) else None
    total = 0
    while True:
        try:
            block = read()
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if not is_packed(path):
                raise
            raise DataError(f"{path} cannot be unpacked ({error}): download or pack it anew") from None
        if not block:
            return
        total += len(block)
        if limit is not None and total > limit:
            raise DataError(
                f"{path} unpacks to more than {limit} bytes, {MOST_UNPACKED} times its size: this is no text; take it out "
                "of the corpus, or unpack it yourself"
            )
        yield block
