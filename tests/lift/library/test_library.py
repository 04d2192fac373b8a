"""The library: what it refuses, and what is left of it when a write is killed."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lift.library.base_model import record
from lift.library.files import BASE
from lift.library.library import CONFIG, INDEX, PREVIOUS, VERSION, WEIGHTS, Library
from tests.lift.shelf import entry_for, refused

FORK = multiprocessing.get_context("fork")  # a process that has loaded torch already


# ---- adding, finding, removing ----------------------------------------------------------------------------------


def test_what_was_added_is_there_again(library: Library, adapters: list[Path], base: str) -> None:
    again = Library(library.folder)
    assert [entry.name for entry in again.entries()] == ["a", "b", "c"]
    entry = again.get("b")
    assert entry.losses == {"segments": 0.5} and entry.constants == {"lr": 1e-3} and entry.created.endswith("+00:00")
    for name in (CONFIG, WEIGHTS):
        assert (again.path(entry) / name).read_bytes() == (adapters[1] / name).read_bytes()
    assert sorted(path.name for path in again.path(entry).iterdir()) == [CONFIG, WEIGHTS]  # no model card
    assert entry.bytes == sum((adapters[1] / name).stat().st_size for name in (CONFIG, WEIGHTS))
    assert again.verify() == []


@pytest.mark.parametrize(
    "name",
    ["../x", "..", "/etc/passwd", "CON", "x" * 5000, "Війна і мир", "中文", "a\nb", "C:\\x", "--", "\x00", "a.b"],
)
def test_any_text_is_a_name_and_none_leads_out(tmp_path: Path, adapters: list[Path], base: str, name: str) -> None:
    library = Library(tmp_path / "books")
    entry = library.add(adapters[0], entry_for(base, name))
    assert library.get(name) == entry and library.path(entry).parent == library.folder
    assert library.path(entry).is_dir() and len(entry.folder) < 60 and entry.folder.isascii()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["books"]
    library.remove(name)
    assert library.entries() == [] and not library.path(entry).exists()


@pytest.mark.parametrize("name", ["", "  ", "\udcff"])
def test_what_is_no_name_is_refused(tmp_path: Path, adapters: list[Path], base: str, name: str) -> None:
    refused(lambda: Library(tmp_path / "books").add(adapters[0], entry_for(base, name)), "(name)")


def test_a_taken_name_says_whether_there_is_anything_to_do(library: Library, adapters: list[Path], base: str) -> None:
    refused(lambda: library.add(adapters[3], entry_for(base, "a")), "'a'", "already", "nothing to do", "(replace)")
    for changes in ({"digest": "e" * 64}, {"recipe": "query"}, {"constants": {"lr": 2e-3}}):
        other = entry_for(base, "a", **changes)
        refused(lambda other=other: library.add(adapters[3], other), "'a'", "another", "(replace, name)")
    before = library.path(library.get("a"))
    after = library.add(adapters[3], entry_for(base, "a", recipe="query"), replace=True)
    assert not before.exists() and library.get("a") == after and len(library.entries()) == 3
    assert (library.path(after) / WEIGHTS).read_bytes() == (adapters[3] / WEIGHTS).read_bytes()
    library.add(adapters[3], entry_for(base, "a", recipe="query"), replace=True)  # the very same once more
    assert library.verify() == [] and len(list(library.folder.glob("a-*"))) == 1


def test_a_library_is_for_one_base_model(library: Library, adapters: list[Path]) -> None:
    other = entry_for("f" * 64, "d")
    refused(lambda: library.check(other), "base model tiny", "weights differ", "(library)")
    refused(lambda: library.add(adapters[3], other), "(library)")


def test_an_adapter_that_states_another_base_model_is_not_added(
    library: Library, adapters: list[Path], base: str, tmp_path: Path
) -> None:
    adapter = shutil.copytree(adapters[3], tmp_path / "adapter")
    record(adapter, "f" * 64)
    before = library.entries()
    refused(lambda: library.add(adapter, entry_for(base, "d")), "'d'", "another base model (ffffffffffff)", base[:12])
    assert library.entries() == before
    record(adapter, base)
    entry = library.add(adapter, entry_for(base, "d"))
    assert (library.path(entry) / BASE).read_bytes() == (adapter / BASE).read_bytes()
    (adapter / BASE).write_text("{}")
    refused(lambda: library.add(adapter, entry_for(base, "e")), "base.json is damaged", "fit the document again")


def test_an_unknown_name_is_told_what_is_near(
    library: Library, tmp_path: Path, adapters: list[Path], base: str
) -> None:
    refused(lambda: library.get("zzzz"), "'zzzz'", "'a', 'b', 'c'")
    library.add(adapters[0], entry_for(base, "Persuasion"))
    refused(lambda: library.remove("persuation"), "did you mean 'Persuasion'?")
    refused(lambda: Library(tmp_path / "none").get("x"), "there is none yet")


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.pt", "run.py", "adapter_model.safetensors.pkl"])
def test_only_safetensors_and_json(
    library: Library, tmp_path: Path, adapters: list[Path], base: str, name: str
) -> None:
    folder = tmp_path / "fitted"
    folder.mkdir()
    refused(lambda: library.add(folder, entry_for(base, "d")), "no adapter_config.json")
    for file in (CONFIG, WEIGHTS):
        (folder / file).write_bytes((adapters[0] / file).read_bytes())
    (folder / name).write_bytes(b"\x80\x04.")
    refused(lambda: library.add(folder, entry_for(base, "d")), name, "safetensors")
    inside = library.path(library.get("a")) / name
    inside.write_bytes(b"\x80\x04.")
    assert len(library.verify()) == 1


def test_verify_names_what_was_changed(library: Library) -> None:
    weights = library.path(library.get("b")) / WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    (library.path(library.get("c")) / WEIGHTS).unlink()
    problems = library.verify()
    assert len(problems) == 2 and "'b'" in problems[0] and "'c'" in problems[1]


# ---- an index that cannot be trusted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1, "documents": 3}',
        '{"version": "x", "documents": []}',
        "\x00",
        '{"version": 1}x',
    ],
)
def test_a_damaged_index_says_how_to_mend_it(library: Library, raw: str) -> None:
    (library.folder / INDEX).write_text(raw)
    refused(library.entries, "damaged", PREVIOUS)
    (library.folder / INDEX).write_bytes((library.folder / PREVIOUS).read_bytes())
    assert [entry.name for entry in library.entries()] == ["a", "b"]
    (library.folder / PREVIOUS).unlink()
    (library.folder / INDEX).write_text(raw)
    refused(library.entries, "damaged", "anew")


def test_an_index_leads_nowhere_else(library: Library) -> None:
    path = library.folder / INDEX
    for folder in ("../books", "/tmp", "a/b", "..", "a-0123456789ab\n"):
        index = json.loads(path.read_text())
        index["documents"][0]["folder"] = folder
        path.write_text(json.dumps(index))
        refused(library.entries, "damaged")


def test_an_index_of_a_later_version_is_left_alone(library: Library, adapters: list[Path], base: str) -> None:
    path = library.folder / INDEX
    path.write_text(json.dumps({"version": VERSION + 1, "shelves": []}))
    refused(library.entries, f"version {VERSION + 1}", "upgrade")
    refused(lambda: library.add(adapters[3], entry_for(base, "d")), "upgrade")
    assert len(list(library.folder.glob("*-*"))) == 3


def test_somebodys_folder_is_not_taken_for_a_library(tmp_path: Path, adapters: list[Path], base: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(lambda: Library(tmp_path).add(adapters[0], entry_for(base)), "not a library", "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    refused(Library(tmp_path / "notes.txt").entries, "notes.txt")
    refused(lambda: Library(tmp_path / "notes.txt").add(adapters[0], entry_for(base)), "notes.txt")


def test_a_folder_of_the_users_is_not_swept_away(library: Library, base: str, adapters: list[Path]) -> None:
    mine = library.folder / "notes-0123456789ab"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    library.add(adapters[3], entry_for(base, "d"))
    assert (mine / "notes.txt").read_text() == "mine"


# ---- killed while writing ---------------------------------------------------------------------------------------


STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree", "fcntl.flock")


def killed(action: Callable[[], Any], step: int) -> bool:
    """Whether a process that runs `action` was killed at its change of files `step` (audit events of Python)."""

    def run() -> None:
        left = [step]

        def hook(event: str, args: Any) -> None:
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in STEPS:
                left[0] -= 1
                if left[0] == -1:  # the kill is an event too
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action()
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def copy_of(library: Library, to: Path) -> Library:
    shutil.copytree(library.folder, to)
    return Library(to)


@pytest.mark.parametrize("what", ["first", "replace", "remove"])
def test_killed_at_any_step_the_library_is_as_before_or_as_after(
    what: str, library: Library, tmp_path: Path, adapters: list[Path], base: str
) -> None:
    actions: dict[str, Callable[[Library], Any]] = {
        "first": lambda mine: mine.add(adapters[3], entry_for(base, "d")),
        "replace": lambda mine: mine.add(adapters[3], entry_for(base, "b", recipe="query"), replace=True),
        "remove": lambda mine: mine.remove("b"),
    }
    before = [] if what == "first" else [(entry.name, entry.recipe) for entry in library.entries()]
    seen, step = [], 0
    while True:
        mine = Library(tmp_path / str(step)) if what == "first" else copy_of(library, tmp_path / str(step))
        ended = killed(lambda mine=mine: actions[what](mine), step)
        seen.append([(entry.name, entry.recipe) for entry in mine.entries()])
        assert mine.verify() == []
        mine.add(adapters[0], entry_for(base, "next"))  # the lock went with the process; what was left is swept
        folders = {entry.folder for entry in mine.entries()}
        assert {path.name for path in mine.folder.iterdir() if path.is_dir()} == folders
        assert {path.name for path in mine.folder.iterdir() if path.is_file()} == {INDEX, PREVIOUS, ".lock"}
        assert mine.verify() == []
        if not ended:
            break
        step += 1
    assert step >= 8 and seen[0] == before and seen[-1] != before
    after = seen[-1]
    assert all(state in (before, after) for state in seen) and seen == sorted(seen, key=lambda state: state == after)


def test_nothing_of_a_document_that_is_removed_stays(library: Library) -> None:
    folder = library.path(library.remove("b"))
    assert not folder.exists()
    assert not any(folder.name in path.read_text() for path in library.folder.iterdir() if path.is_file())
    kept = library.path(library.get("c"))
    (kept / "notes.txt").write_text("of somebody else")
    refused(lambda: library.remove("c"), str(kept), "not the library's", "delete it")


def test_two_processes_add_at_once(tmp_path: Path, adapters: list[Path], base: str) -> None:
    def add_all(prefix: str) -> None:
        for number in range(5):
            Library(tmp_path / "books").add(adapters[number % 4], entry_for(base, f"{prefix}{number}"))
        os._exit(0)

    processes = [FORK.Process(target=add_all, args=(prefix,)) for prefix in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    library = Library(tmp_path / "books")
    assert {entry.name for entry in library.entries()} == {f"{p}{n}" for p in "xy" for n in range(5)}
    assert library.verify() == []


def test_a_full_disk_leaves_the_library_as_it_was(
    library: Library, adapters: list[Path], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(lambda: library.add(adapters[3], entry_for(base, "d")), "No space left")
    entries = library.entries()
    assert len(entries) == 3
    assert {path.name for path in library.folder.iterdir() if path.is_dir()} == {entry.folder for entry in entries}
