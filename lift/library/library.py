"""A library: a folder of documents written into weights, one PEFT adapter each, all for one base model.

    library = Library(Path("books"))
    library.add(fitted_folder, entry)                        # whole or not at all, also under kill -9
    attached = Attached(library, base_model, ["emma"])       # attach.py: with its memory on

`index.json` is the source of truth: a folder that it does not name is left over from an interrupted write, and the next
write removes it. Adapters are safetensors and JSON, of any PEFT method.
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

from lift.document.document import encodable
from lift.library.base_model import check_recorded
from lift.library.files import CONFIG, FILES, WEIGHTS
from longthread.errors import FULL_DISK, ConfigError, DataError, RunError
from longthread.files import replacing, replacing_folder, write_text

VERSION = 1
INDEX, PREVIOUS = "index.json", "index.previous.json"
HARMLESS = (".json", ".safetensors", ".md")  # what an adapter's folder may hold; PEFT writes a model card
FOLDER = r"[a-z0-9-]{1,40}-[0-9a-f]{12}"
UNFINISHED = rf"\.{FOLDER}\..+|\.adding"  # folders of writes that were killed; ".adding" by longthread 0.1
UNFINISHED_FILE = r"\.index\..+\.part"
LOCK = ".lock"
LOCK_SECONDS = 60  # far longer than the copy of any adapter


class Entry(BaseModel):
    """The record of one document in a library. The library fills in `folder`, `bytes`, `sha256` and `created`."""

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
    """The content of `index.json`: the version of the format, and all documents of the library."""

    version: int = VERSION
    documents: list[Entry] = []


# ---- files ------------------------------------------------------------------------------------------------------


def suggestion(name: str, names: Sequence[str]) -> str:
    """Return a hint for an unknown name: similar names, or some of those that exist."""
    if not names:
        return "there is none yet"
    lower = {other.lower(): other for other in names}
    near = [lower[key] for key in difflib.get_close_matches(name.lower(), lower, n=3)]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return "there is " + ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_files(folder: Path, called: str) -> None:
    """Raise `DataError` unless the folder has both files of an adapter, and beside them only safetensors and JSON."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if harmful := [name for name in names if not name.endswith(HARMLESS)]:
        raise DataError(f"{called} holds {harmful[0]!r}: only safetensors and JSON are read, take it out of {folder}")
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise DataError(f"{called} has no {name} in {folder}: fit it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Library:
    """The library in a folder, which the first `add` creates. Methods raise `ConfigError`, `DataError` or `RunError`."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    # ---- reading ----

    def entries(self) -> list[Entry]:
        """Return all documents, in the order in which they were added."""
        path = self.folder / INDEX
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            version = stored["version"]
            newer = isinstance(version, int) and version > VERSION
            documents = [] if newer else Index.model_validate(stored, strict=True).documents
        except FileNotFoundError:
            return self._no_index()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: give the folder of a library", setting="library") from None
        except (ValidationError, ValueError, LookupError, TypeError):
            older = self.folder / PREVIOUS
            fix = f"copy {older} over it" if older.is_file() else "delete the library and fit anew"
            raise DataError(f"{path} is damaged: {fix}") from None
        if newer:
            raise DataError(f"{path} is of version {version}, this reads {VERSION}: upgrade longthread")
        return documents

    def _no_index(self) -> list[Entry]:
        """Return no entries: a folder without an index is an empty library.

        Raises `ConfigError` if the folder has files of another origin.
        """
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        if foreign := [name for name in names if not name.startswith(".")]:
            raise ConfigError(
                f"{self.folder} is not a library, it has {foreign[0]!r} but no {INDEX}: give an empty folder",
                setting="library",
            )
        return []

    def get(self, name: str) -> Entry:
        """Return the document of that name. Raises `ConfigError` if there is none."""
        entries = {entry.name: entry for entry in self.entries()}
        if name not in entries:
            raise ConfigError(
                f"no document {name!r} in {self.folder}: {suggestion(name, list(entries))}", setting="document"
            )
        return entries[name]

    def path(self, entry: Entry) -> Path:
        """Return the folder of an entry's adapter."""
        return self.folder / entry.folder

    def verify(self) -> list[str]:
        """Return all documents' problems, a line each: files missing, foreign, or changed since they were added."""
        problems = []
        for entry in self.entries():
            try:
                check_files(self.path(entry), repr(entry.name))
            except DataError as error:
                problems.append(str(error))
                continue
            if _sha256(self.path(entry) / WEIGHTS) != entry.sha256:
                problems.append(f"{entry.name!r}: the weights are not those that were added: fit it again")
        return problems

    # ---- writing ----

    def check(self, entry: Entry, replace: bool = False) -> None:
        """Raise the error with which `add` would refuse this entry; to be called before anything is fitted."""
        if not entry.name.strip():
            raise ConfigError("the document has no name: give one", setting="name")
        if not encodable(entry.name):
            raise ConfigError(f"the name {entry.name!r} is not valid Unicode: give another", setting="name")
        folder = self.folder.absolute()
        above = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(above, os.W_OK):
            raise ConfigError(f"{above} cannot be written: give another library", setting="library")
        for other in self.entries():
            same_name = other.name == entry.name
            if other.fingerprint != entry.fingerprint and not (replace and same_name):
                differ = " (its weights differ)" if other.base_model == entry.base_model else ""
                raise ConfigError(
                    f"{self.folder} is for base model {other.base_model}, not for {entry.base_model}{differ}: "
                    "give another library",
                    setting="library",
                )
            if same_name and not replace:
                self._refuse_same_name(other, entry)

    def _refuse_same_name(self, other: Entry, entry: Entry) -> None:
        already = f"{entry.name!r} is already in {self.folder} with"
        if (other.digest, other.recipe, other.constants) == (entry.digest, entry.recipe, entry.constants):
            raise ConfigError(
                f"{already} this text and recipe: nothing to do, or have it fitted anew", setting="replace"
            )
        raise ConfigError(
            f"{already} another text or recipe ({other.recipe}): replace it or give another name",
            setting=("replace", "name"),
        )

    def add(self, adapter: Path, entry: Entry, replace: bool = False) -> Entry:
        """Copy the adapter of a PEFT folder into the library under `entry.name`. Returns the entry as it is stored.

        Raises `ConfigError` if the adapter states another base model than the entry.
        """
        check_files(adapter, repr(entry.name))
        check_recorded(adapter, entry.fingerprint, repr(entry.name))
        with self._writing() as entries:
            self.check(entry, replace)
            stored = _filled_in(entry, adapter)
            with replacing_folder(self.path(stored)) as draft:
                for name in (name for name in FILES if (adapter / name).is_file()):
                    shutil.copyfile(adapter / name, draft / name)
            self._write([*(other for other in entries if other.name != entry.name), stored])
            self._sweep()
        return stored

    def remove(self, name: str) -> Entry:
        """Remove the document of that name and its adapter. Returns its entry."""
        self.get(name)  # raises before a folder without a library becomes one
        with self._writing() as entries:
            entry = self.get(name)
            kept = [other for other in entries if other.name != name]
            self._write(kept)
            self._write(kept)  # so that the previous index does not name it either
            self._sweep()
            if self.path(entry).exists():
                raise RunError(f"{self.path(entry)} holds files that are not the library's: delete it")
        return entry

    @contextmanager
    def _writing(self) -> Iterator[list[Entry]]:
        """Hold the library's lock and sweep the folder. Gives the entries."""
        try:
            self.entries()  # raises before anything is written to a folder that is not a library
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK, timeout=LOCK_SECONDS):
                entries = self.entries()
                if not (self.folder / INDEX).exists():
                    self._write([])  # so that whatever comes next is in a library
                self._sweep()
                yield entries
        except Timeout:
            raise RunError(f"{self.folder} is being written by another process: try again when it is done") from None
        except OSError as error:
            kind = RunError if error.errno in FULL_DISK else ConfigError
            raise kind(f"{self.folder} cannot be written ({error.strerror}): see to its disk and rights") from None

    def _write(self, entries: list[Entry]) -> None:
        """Replace the index atomically. The previous one is kept beside it."""
        path = self.folder / INDEX
        if path.exists():
            with replacing(self.folder / PREVIOUS) as file:
                file.write(path.read_bytes())
        write_text(path, Index(documents=entries).model_dump_json(indent=1) + "\n")

    def _sweep(self) -> None:
        """Remove adapters that the index does not name, and leftovers of killed writes."""
        named = {entry.folder for entry in self.entries()}
        for path in self.folder.iterdir():
            if re.fullmatch(UNFINISHED_FILE, path.name):
                path.unlink()
            unnamed = re.fullmatch(rf"{FOLDER}|{UNFINISHED}", path.name) and path.name not in named
            if unnamed and {file.name for file in path.iterdir()} <= set(FILES):  # else it is not the library's
                shutil.rmtree(path)


def _filled_in(entry: Entry, adapter: Path) -> Entry:
    """Return the entry as it is stored, with the size and checksum of its adapter."""
    sha256, created = _sha256(adapter / WEIGHTS), datetime.now(UTC).isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", entry.name.lower())[:40].strip("-") or "document"
    # With the time in it: a document that replaces its like stands beside it until the index has changed.
    digest = hashlib.sha256(json.dumps([entry.name, sha256, created]).encode()).hexdigest()[:12]
    size = sum((adapter / name).stat().st_size for name in FILES if (adapter / name).is_file())
    fields = {"folder": f"{slug}-{digest}", "bytes": size, "sha256": sha256, "created": created}
    return Entry.model_validate_json(entry.model_copy(update=fields).model_dump_json())
