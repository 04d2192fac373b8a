"""Files that are whole or not there, and JSON lines with one rule for a line that a crash has cut off."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from longthread.errors import DataError

Json = Any  # a value as it comes out of a JSON parser
JsonObject = dict[str, Json]


def text_digest(text: str) -> str:
    """Return the SHA-256 (hex) of a text: the same in a memory of it and in a question about it."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file open for writing bytes, which appears at `path`, complete and synced to disk, when the block ends.

    If the block fails, `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
        _sync(draft)
        draft.replace(path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which is renamed to `folder`, complete and synced to disk, when the block ends.

    If the block fails, the new folder is deleted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield draft
        for path in draft.rglob("*"):
            _sync(path)
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o777 & ~umask)  # mkdtemp's is for its owner alone
        draft.replace(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write the text to the file as UTF-8; if that fails, the file stays as it was."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write the value as JSON; if that fails, the file stays as it was. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    """Wait until the file, or the folder's entries, are on the disk; some file systems cannot sync a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


class JsonLine(NamedTuple):
    """A line of a JSON-lines file: its number from 1, its offset and size in bytes, and its JSON value."""

    number: int
    offset: int
    size: int
    value: Any


class JsonLines:
    """Iterates over a JSON-lines file, a `JsonLine` for each line; blank lines are skipped.

    A last line without a line end is kept if it is valid JSON. Otherwise a crash has cut it off: it is left out, and
    `cut` becomes true. Any other line that is not JSON raises `DataError` with the file, the line and `wanted`, what
    was expected there.
    """

    def __init__(self, path: Path, wanted: str = ""):
        """Keep the path; the file is not read before the object is iterated over."""
        self.path, self.wanted, self.cut = path, wanted, False

    def __iter__(self) -> Iterator[JsonLine]:
        """Read the file from its beginning. Raises `DataError`, and OSError where it cannot be read."""
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        value = json.loads(line.decode("utf-8", "replace"))
                    except (ValueError, RecursionError) as error:
                        self.cut = not line.endswith(b"\n")
                        if self.cut:
                            return
                        reason = f"{self.path}:{number}: invalid JSON: {str(error)[:100]}"
                        raise DataError(f"{reason}; {self.wanted}" if self.wanted else reason) from None
                    yield JsonLine(number, offset, len(line), value)
                offset += len(line)


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the value of each line of a JSON-lines file; a last line that a crash has cut off is left out.

    Raises `DataError` for any other line that is not JSON.
    """
    return (line.value for line in JsonLines(path))


def end_with_a_line(path: Path) -> None:
    """Take off what a killed run left of a file's last line, so that more lines can be added to it."""
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


class GrowingFile:
    """Reads a file that another process appends to, a batch of new complete lines at a time."""

    def __init__(self, path: Path):
        """Keep the path; the file need not exist yet."""
        self.path, self._end = path, 0

    def new_lines(self) -> list[bytes]:
        """Return the complete lines written since the last call, as bytes without line ends; none without a file."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._end)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._end += len(whole) + len(newline)
            return whole.split(b"\n") if newline else []
        return []
