"""A JSON-lines file of results that survives: every row is on disk when `add` returns, and a killed run continues.

The file of an unfinished run of the same settings is continued: a last line cut off by a crash is dropped, and rows that
exist are not made again. Any other file at that path, and one that another process writes to, is left alone, and the next
free name is taken (`rows_1.jsonl`), as Atropos does.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Collection
from io import FileIO
from pathlib import Path
from typing import Self

from longthread.errors import ConfigError, DataError, RunError
from longthread.files import JsonLines, JsonObject

Key = int | str  # names a unit of work: a row's `item`


class RowLost(RunError):
    """The disk did not take a row; the file ends where it ended before."""


def digest(settings: JsonObject) -> str:
    """Return 16 hex digits that name a run by the settings that shape its rows."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


class RowLog:
    """A JSON-lines file of one run's rows, each with its `run` and its `item`; `done` holds the items whose rows exist.

    Raises `ConfigError` when nothing can be written at that path.
    """

    def __init__(self, path: Path, run: str, items: Collection[Key]):
        self.run = run
        self._writing = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path, self._file, self.done = _open(path, run, set(items))
        except OSError as error:
            raise ConfigError(f"cannot write to {path} ({error.strerror}); give another path for the output") from None

    def add(self, item: Key, row: JsonObject) -> None:
        """Append one row; it is on disk when this returns. Safe to call from several threads.

        NaN and infinity are refused (ValueError). Raises `RowLost` when the disk is full.
        """
        # The run comes first, so that even a torn line says whose it is.
        fields = {"run": self.run, "item": item, **row}
        line = memoryview(json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        with self._writing:
            end = self._file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[self._file.write(line) :]
                os.fsync(self._file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._file.truncate(end)
                raise RowLost(
                    f"cannot write to {self.path} ({error.strerror}); make room, and the same command continues"
                ) from None
            self.done.add(item)

    def close(self) -> None:
        """Close the file and give up its lock."""
        with self._writing:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path, run: str, items: set[Key]) -> tuple[Path, FileIO, set[Key]]:
    """Return the path and the open, locked file to write to, and the items that it already holds."""
    candidate, number = path, 0
    while True:
        if candidate.exists() and not candidate.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        # Opening makes the file, so that of two runs that start at once only one can lock it.
        file = FileIO(candidate, "a")
        if _lock(file):
            done, end = _rows_of(candidate, run)
            if done is not None and not (done and items <= done):
                _end_at(end, candidate, file)
                return candidate, file, done
        file.close()
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")


def _lock(file: FileIO) -> bool:
    """Lock the file; return False if another process writes to it. The lock ends with the process, even by kill -9."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _rows_of(path: Path, run: str) -> tuple[set[Key] | None, int]:
    """Return the items in the file, and the byte where its complete rows end.

    The items are None when the file is not this run's; an empty one is anyone's.
    """
    head = json.dumps({"run": run})[:-1].encode()
    with path.open("rb") as file:
        if not head.startswith(file.read(len(head))):
            return None, 0
    done: set[Key] = set()
    end = 0
    try:
        for line in JsonLines(path):
            if line.value["run"] != run:
                return None, 0
            done.add(line.value["item"])
            end = line.offset + line.size
    except (DataError, KeyError, TypeError):
        return None, 0
    return done, end


def _end_at(end: int, path: Path, file: FileIO) -> None:
    """Drop a torn line behind `end`, and give the last row the line end that a crash may have kept from it."""
    file.truncate(end)
    with path.open("rb") as rows:
        rows.seek(max(0, end - 1))
        if rows.read(1) not in (b"", b"\n"):
            file.write(b"\n")
