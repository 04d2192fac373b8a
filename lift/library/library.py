"""A library: a folder of documents written into weights, one PEFT adapter each, all for one base model.

    library = Library(Path("books"))
    library.add(fitted_folder, entry)                        # whole or not at all, also under kill -9
    attached = Attached(library, base_model, ["emma"])       # attached.py: with its memory on

`index.json` is what counts: a folder that it does not name is what is left of a write that was ended, and the next write
takes it away. Adapters are safetensors and JSON; which PEFT method made them makes no difference here.
"""

import difflib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from lift import LiftError
from lift.document.document import encodable

VERSION = 1
INDEX, PREVIOUS, ADDING = "index.json", "index.previous.json", ".adding"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HARMLESS = (".json", ".safetensors", ".md")  # what an adapter's folder may hold; PEFT writes a model card
FOLDER = r"[a-z0-9-]{1,40}-[0-9a-f]{12}"
LOCK_SECONDS = 60  # far longer than the copy of any adapter


class LibraryError(LiftError):
    """What a library refuses, in one line with the fix."""


class Entry(BaseModel):
    """A document of the library. `folder`, `bytes`, `sha256` and `created` are the library's to fill in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str  # of the document's text
    tokens: int
    words: int
    recipe: str
    constants: dict[str, JsonValue] = {}  # the recipe's
    base_model: str
    fingerprint: str
    seconds: float | None = None  # the fit took
    prefill_seconds: float | None = None  # one pass over the same document
    kv_bytes: int | None = None  # of its keys and values
    losses: dict[str, float | None] = {}  # null: not finite
    folder: str = Field(default="", pattern=f"^({FOLDER})?$")  # so no index can lead out of the library
    bytes: int = 0
    sha256: str = ""  # of the weights' file
    created: str = ""  # UTC


class Index(BaseModel):
    version: int = VERSION
    documents: list[Entry] = []


# ---- files ------------------------------------------------------------------------------------------------------


def near(name: str, names: Sequence[str]) -> str:
    """Of an unknown name: which are near it, or which there are."""
    lower = {other.lower(): other for other in names}
    found = [lower[key] for key in difflib.get_close_matches(name.lower(), lower, n=3)]
    if not names:
        return "there is none yet"
    return f"did you mean {' or '.join(map(repr, found))}?" if found else f"there is {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_files(folder: Path, called: str) -> None:
    """Nothing but safetensors and JSON, and both files there."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if bad := [name for name in there if not name.endswith(HARMLESS)]:
        raise LibraryError(f"{called} holds {bad[0]!r}: only safetensors and JSON are read, take it out of {folder}")
    for name in (CONFIG, WEIGHTS):
        if name not in there:
            raise LibraryError(f"{called} has no {name} in {folder}: fit it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """A file or folder onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Library:
    """The library in a folder; made by the first `add`. Every method raises `LibraryError` in one line."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    # ---- reading ----

    def entries(self) -> list[Entry]:
        """All documents, in the order they came."""
        path = self.folder / INDEX
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            version = stored["version"]
            if isinstance(version, int) and version > VERSION:
                raise LibraryError(f"{path} is of version {version}, this reads {VERSION}: upgrade longthread")
            index = Index.model_validate(stored, strict=True)
        except FileNotFoundError:
            return self._none()
        except OSError as error:
            raise LibraryError(f"{path}: {error.strerror}: give the folder of a library") from None
        except LibraryError:
            raise
        except (ValidationError, ValueError, LookupError, TypeError):
            older = self.folder / PREVIOUS
            fix = f"copy {older} over it" if older.is_file() else "delete the library and fit anew"
            raise LibraryError(f"{path} is damaged: {fix}") from None
        return index.documents

    def _none(self) -> list[Entry]:
        """No index: a library to be, unless the folder is somebody's."""
        there = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        if foreign := [name for name in there if not name.startswith(".")]:
            raise LibraryError(f"{self.folder} is no library (no {INDEX}, but {foreign[0]!r}): give an empty folder")
        return []

    def get(self, name: str) -> Entry:
        entries = {entry.name: entry for entry in self.entries()}
        if name not in entries:
            raise LibraryError(f"no document {name!r} in {self.folder}: {near(name, list(entries))}")
        return entries[name]

    def path(self, entry: Entry) -> Path:
        """The folder of its adapter."""
        return self.folder / entry.folder

    def verify(self) -> list[str]:
        """What is wrong with which document: its files are missing, not all its own, or not as they were added."""
        problems = []
        for entry in self.entries():
            try:
                check_files(self.path(entry), repr(entry.name))
                if _sha256(self.path(entry) / WEIGHTS) != entry.sha256:
                    raise LibraryError(f"{entry.name!r}: the weights are not those that were added: fit it again")
            except LibraryError as error:
                problems.append(str(error))
        return problems

    # ---- writing ----

    def check(self, entry: Entry, replace: bool = False) -> None:
        """What `add` would refuse, before anything is fitted."""
        if not entry.name.strip():
            raise LibraryError("the document has no name: give --name")
        if not encodable(entry.name):
            raise LibraryError(f"name {entry.name!r} is no valid Unicode: give --name")
        folder = self.folder.absolute()
        above = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(above, os.W_OK):
            raise LibraryError(f"{above} cannot be written: give another --library")
        for other in self.entries():
            if other.fingerprint != entry.fingerprint and not (replace and other.name == entry.name):
                raise LibraryError(
                    f"{self.folder} is for base model {other.base_model}, not for {entry.base_model}"
                    f"{' (its weights differ)' if other.base_model == entry.base_model else ''}: give another --library"
                )
            if other.name == entry.name and not replace:
                same = (other.digest, other.recipe, other.constants) == (entry.digest, entry.recipe, entry.constants)
                what = "this text and recipe" if same else f"another text or recipe ({other.recipe})"
                fix = "nothing to do (--replace fits it anew)" if same else "give --replace or another --name"
                raise LibraryError(f"{entry.name!r} is already in {self.folder} with {what}: {fix}")

    def add(self, adapter: Path, entry: Entry, replace: bool = False) -> Entry:
        """Copies the adapter of a PEFT folder into the library under `entry.name`; returns the entry as it is kept."""
        check_files(adapter, repr(entry.name))
        with self._writing() as entries:
            self.check(entry, replace)
            new = self.folder / ADDING
            new.mkdir()
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(adapter / name, new / name)
                _sync(new / name)
            _sync(new)
            sha256, created = _sha256(new / WEIGHTS), datetime.now(UTC).isoformat()
            slug = re.sub(r"[^a-z0-9]+", "-", entry.name.lower())[:40].strip("-") or "document"
            # With the time in it: a document that replaces its like stands beside it until the index has changed.
            digest = hashlib.sha256(json.dumps([entry.name, sha256, created]).encode()).hexdigest()[:12]
            size = sum((new / name).stat().st_size for name in (CONFIG, WEIGHTS))
            filled = {"folder": f"{slug}-{digest}", "bytes": size, "sha256": sha256, "created": created}
            kept = Entry.model_validate_json(entry.model_copy(update=filled).model_dump_json())  # as it will be read
            os.replace(new, self.path(kept))
            self._write([*(other for other in entries if other.name != entry.name), kept])
            self._sweep()
        return kept

    def remove(self, name: str) -> Entry:
        """Takes a document out, its adapter with it."""
        self.get(name)  # a folder that holds no library is not made one
        with self._writing() as entries:
            entry = self.get(name)
            self._write([other for other in entries if other.name != name])
            self._sweep()
        return entry

    @contextmanager
    def _writing(self) -> Iterator[list[Entry]]:
        """Alone: the entries as they are, and nothing in the folder that the index does not name."""
        try:
            self.entries()  # refuses somebody's folder, before anything is put into it
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=LOCK_SECONDS):
                entries = self.entries()
                if not (self.folder / INDEX).exists():
                    self._write([])  # so that whatever comes next is in a library
                self._sweep()
                yield entries
        except Timeout:
            raise LibraryError(
                f"{self.folder} is being written by another process: try again when it is done"
            ) from None
        except OSError as error:
            shutil.rmtree(self.folder / ADDING, ignore_errors=True)  # on a full disk, at once
            raise LibraryError(
                f"{self.folder} cannot be written ({error.strerror}): see to its disk and rights"
            ) from None

    def _write(self, entries: list[Entry]) -> None:
        """The index, whole or not at all; the one before stays beside it."""
        path, new = self.folder / INDEX, self.folder / ".index"
        if path.exists():
            shutil.copyfile(path, new)
            os.replace(new, self.folder / PREVIOUS)
        new.write_text(Index(documents=entries).model_dump_json(indent=1) + "\n", encoding="utf-8")
        _sync(new)
        os.replace(new, path)
        _sync(self.folder)

    def _sweep(self) -> None:
        """Removes adapters that the index does not name, and a half-written one."""
        named = {entry.folder for entry in self.entries()}
        for path in self.folder.iterdir():
            unnamed = path.name == ADDING or (re.fullmatch(FOLDER, path.name) and path.name not in named)
            if unnamed and {file.name for file in path.iterdir()} <= {CONFIG, WEIGHTS}:  # else it is not ours
                shutil.rmtree(path)
