"""A JSONL file of results that survives: every row on disk when `add` returns, and picked up again after kill -9.

The file of an unfinished run of the same settings is continued: a last line cut off by a crash is dropped, rows that are
there are not made again. Any other file at that path is left alone and the next free name is taken (`rows_1.jsonl`), as
Atropos does.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self


def digest(settings: dict[str, Any]) -> str:
    """16 hex digits that name a run by the settings that shape its rows."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a file; a last line without its end is passed over."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


class Rows:
    """Rows of one run, each with its `run` and its `item` (any JSON key that names the unit of work)."""

    def __init__(self, path: Path, run: str, items: Collection[Any]):
        self.run = run
        self.path, self.done = _continue(path, run, set(items))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

    def add(self, item: Any, row: dict[str, Any]) -> None:
        """Appends one row; it is on the disk when this returns. NaN and infinity are refused (ValueError)."""
        line = json.dumps({**row, "item": item, "run": self.run}, ensure_ascii=False, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.add(item)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _continue(path: Path, run: str, items: set[Any]) -> tuple[Path, set[Any]]:
    """The file to write to, and the items that it already holds."""
    candidate, number = path, 0
    while candidate.exists():
        done = _items(candidate, run)
        if done is not None and not items <= done:
            _drop_torn_line(candidate)
            return candidate, done
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")
    return candidate, set()


def _items(path: Path, run: str) -> set[Any] | None:
    """Items in the file, or None if it is not this run's. An empty file is anyone's."""
    done = set()
    try:
        for row in read_rows(path):
            if row.get("run") != run:
                return None
            done.add(row["item"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return done


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
