"""A JSONL file of results that survives: every row on disk when `add` returns, and picked up again after kill -9.

The file of an unfinished run of the same settings is continued: a last line cut off by a crash is dropped, rows that are
there are not made again. Any other file at that path, and one that another process writes to, is left alone and the next
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
from typing import Any, Self

from longthread.errors import ConfigError, RunError


class RowLost(RunError):
    """The disk did not take a row: one line. The file ends where it ended before."""


def digest(settings: dict[str, Any]) -> str:
    """16 hex digits that name a run by the settings that shape its rows."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


class RowLog:
    """Rows of one run, each with its `run` and its `item` (any JSON key that names the unit of work).

    Raises `ConfigError` when nothing can be written at that path.
    """

    def __init__(self, path: Path, run: str, items: Collection[Any]):
        self.run = run
        self._writing = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path, self._file, self.done = _open(path, run, set(items))
        except OSError as error:
            raise ConfigError(f"cannot write to {path} ({error.strerror}); give another path for the output") from None

    def add(self, item: Any, row: dict[str, Any]) -> None:
        """Appends one row; it is on the disk when this returns. Safe to call from several threads at a time.

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
        with self._writing:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path, run: str, items: set[Any]) -> tuple[Path, FileIO, set[Any]]:
    """The file to write to, open and locked, and the items that it already holds."""
    candidate, number = path, 0
    while True:
        if candidate.exists() and not candidate.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        # Opening makes the file, so that of two runs that start at once only one can lock it.
        file = FileIO(candidate, "a")
        if _lock(file):
            done = _items(candidate, run)
            if done is not None and not (done and items <= done):
                _drop_torn_line(candidate)
                return candidate, file, done
        file.close()
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")


def _lock(file: FileIO) -> bool:
    """False if another process writes to the file. The lock ends with the process, even by kill -9."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _items(path: Path, run: str) -> set[Any] | None:
    """Items in the file, or None if it is not this run's. An empty file is anyone's."""
    done: set[Any] = set()
    head = json.dumps({"run": run})[:-1].encode()
    with path.open("rb") as lines:
        try:
            for line in lines:
                if not line.endswith(b"\n"):
                    return done if line.startswith(head) or head.startswith(line) else None
                row = json.loads(line)
                if row.get("run") != run:
                    return None
                done.add(row["item"])
        except (ValueError, KeyError, AttributeError, TypeError):
            return None
    return done


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))
