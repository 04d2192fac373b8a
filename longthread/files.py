"""Files that are whole or not there, and JSON lines with one rule for a line that a crash has cut off."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from longthread.errors import DataError

JsonObject = dict[str, Any]  # as json reads it


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path`, whole and on the disk, when the block ends, and not at all when it fails."""
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
    """An empty folder that takes the place of `folder`, whole and on the disk, when the block ends, or goes if it fails."""
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
    """Write the file as UTF-8, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write the value as JSON, whole or not at all. NaN and infinity are refused (ValueError)."""
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
    """A line of a JSON-lines file: its number from 1, where it begins, how long it is (bytes), and what it says."""

    number: int
    offset: int
    size: int
    value: Any


class JsonLines:
    """The lines of a JSON-lines file, one at a time; blank ones are passed over.

    A last line that lacks its end counts if it is whole JSON; otherwise a crash has cut it off: it is left out, and `cut`
    is then true. Any other line that is not JSON raises `DataError` with the file, the line and `wanted`, what was
    expected there.
    """

    def __init__(self, path: Path, wanted: str = ""):
        """Nothing is read before the lines are asked for."""
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
    """The values of a JSON-lines file; see `JsonLines`."""
    return (line.value for line in JsonLines(path))


class GrowingFile:
    """The whole lines that a file which another process writes has got since they were last asked for."""

    def __init__(self, path: Path):
        """The file need not be there yet."""
        self.path, self._end = path, 0

    def new_lines(self) -> list[bytes]:
        """The new lines, without their ends."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._end)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._end += len(whole) + len(newline)
            return whole.split(b"\n") if newline else []
        return []
