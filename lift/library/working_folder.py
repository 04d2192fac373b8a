"""The folder that a running fit keeps its checkpoints in: its own, by document, recipe, base model and seed.

    with working_folder(shelf, entry, out): ...              # held by one process; another one of the same fit is refused

A fit that ends removes its own folder and no other. One that is killed leaves it: the same command goes on there. What was
fitted but could not be added (another fit took the name, the disk was full) is kept whole, and added by the same command.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from lift.library.library import CONFIG, LOCK, LOCK_SECONDS, WEIGHTS, Entry, Library
from longthread.errors import ConfigError
from longthread.files import write_text

FINISHED = "fitted.json"  # the entry of a fit that is done, with its figures


def folder_of(library: Path, entry: Entry, seed: int, self_study: str | None = None) -> Path:
    """Return the folder of a fit, the same for the same fit."""
    of_fit = [entry.model_dump(), seed, *([self_study] if self_study else [])]
    return library / f".fitting-{_short_hash(entry.name)}-{_short_hash(of_fit)}"


@contextmanager
def working_folder(shelf: Library, entry: Entry, out: Path, held: bool = True) -> Iterator[None]:
    """Hold the folder of a fit while it runs; only one process of a run does (`held`).

    Raises `ConfigError` if another process holds it.
    """
    if not held:
        yield
        return
    is_new = not shelf.folder.exists()
    shelf.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(out))
    with FileLock(shelf.folder / LOCK, timeout=LOCK_SECONDS):  # so that no lock is taken while its file is removed
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"this very fit of {entry.name!r} is running in another process: wait for it, or give another name or seed",
                setting=("name", "seed"),
            ) from None
    try:
        yield
    finally:
        _release(shelf.folder, lock)
        if is_new:
            _remove_empty(shelf.folder)


def finished(out: Path) -> Entry | None:
    """Return the entry of a fit that is done and was not added; None if there is none."""
    try:
        entry = Entry.model_validate_json((out / FINISHED).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    return entry if all((out / name).is_file() for name in (CONFIG, WEIGHTS)) else None


def finish(out: Path, entry: Entry) -> None:
    """State that the fit in a folder is done, with its entry."""
    write_text(out / FINISHED, entry.model_dump_json())


def remove_unfinished(shelf: Library, name: str) -> None:
    """Remove what fits of a document left that no longer run."""
    for out in shelf.folder.glob(f".fitting-{_short_hash(name)}-*"):
        lock = FileLock(_lock_of(out))
        with FileLock(shelf.folder / LOCK, timeout=LOCK_SECONDS):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
        shutil.rmtree(out, ignore_errors=True)
        _release(shelf.folder, lock)


def _release(library: Path, lock: FileLock) -> None:
    with FileLock(library / LOCK, timeout=LOCK_SECONDS):
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _remove_empty(library: Path) -> None:
    """Remove a library in which nothing came to be, so that a fit that is refused leaves nothing."""
    with FileLock(library / LOCK, timeout=LOCK_SECONDS):
        if {path.name for path in library.iterdir()} <= {LOCK}:
            (library / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # another fit has begun in it
                library.rmdir()


def _lock_of(out: Path) -> Path:
    return out.with_name(f".lock-{out.name.removeprefix('.')}")


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
