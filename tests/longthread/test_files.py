"""Files are whole or not there, and a line that a crash has cut off is left out, never taken for another."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longthread import files
from longthread.errors import DataError
from longthread.files import (
    GrowingFile,
    JsonLines,
    read_jsonl,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
same_folder = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def disk_is_full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- whole or not there ----


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("failure", [ValueError("in the middle"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(failure)), replacing(path) as file:
        file.write(b"half")
        raise failure
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(files.os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a crash of the machine leaves an empty file under the name."""
    path, synced, fsync = tmp_path / "file", [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", watched)
    write_text(path, "text")
    assert synced == [(False, False), (True, True)]


def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", no_folders)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "folder"
    with replacing_folder(folder) as draft:
        (draft / "a").write_text("a")
        assert not folder.exists() and draft.parent == folder.parent
    assert (folder / "a").read_text() == "a" and os.listdir(folder.parent) == ["folder"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_whose_block_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), replacing_folder(tmp_path / "folder") as draft:
        (draft / "a").write_text("a")
        raise ValueError("half")
    assert os.listdir(tmp_path) == []


@given(VALUES)
@same_folder
def test_json_comes_back(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_refused_and_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "value.json", value)
    assert os.listdir(tmp_path) == []


# ---- JSON lines ----


def lines_of(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)


@given(st.lists(VALUES, max_size=5), st.data())
@same_folder
def test_a_file_cut_anywhere_gives_its_whole_lines(tmp_path: Path, values: list[Any], data: st.DataObject) -> None:
    """The values before the cut, in order. A last line without its end counts if it is whole JSON, as a number may be."""
    path, written = tmp_path / "rows.jsonl", lines_of(values)
    cut = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:cut])
    whole = written[:cut].count(b"\n")
    lines = JsonLines(path)
    read = [line.value for line in lines]
    assert read[:whole] == values[:whole] and len(read) <= whole + 1
    assert lines.cut == (len(read) == whole and not (written[:cut].endswith(b"\n") or cut == 0))
    assert list(read_jsonl(path)) == read


@given(st.lists(VALUES, max_size=5), st.lists(st.sampled_from([b"\n", b"  \n"]), max_size=3))
@same_folder
def test_places_of_lines(tmp_path: Path, values: list[Any], blank: list[bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(blank) + lines_of(values))
    content = path.read_bytes()
    for line, value in zip(JsonLines(path), values, strict=True):
        assert json.loads(content[line.offset : line.offset + line.size]) == line.value == value
        assert content[: line.offset].count(b"\n") == line.number - 1


@pytest.mark.parametrize("broken", [b'{"a": ', b"no JSON", b"[" * 100_000, b"\xff"])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n" + broken + b"\n2\n")
    with pytest.raises(DataError, match="rows.jsonl:2: invalid JSON: .*; a row of process is wanted") as caught:
        list(JsonLines(path, "a row of process is wanted"))
    assert "\n" not in str(caught.value)


def test_a_growing_file_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    growing = GrowingFile(path)
    assert growing.new_lines() == []
    with path.open("ab", buffering=0) as file:
        file.write(b"one\ntw")
        assert growing.new_lines() == [b"one"] and growing.new_lines() == []
        file.write(b"o\n\nfour\n")
        assert growing.new_lines() == [b"two", b"", b"four"] and growing.new_lines() == []


@same_folder
@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"))), data=st.data())
def test_lines_come_whole_and_once(lines: list[str], data: st.DataObject, tmp_path: Path) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    path, seen = tmp_path / "cut", list[bytes]()
    path.unlink(missing_ok=True)
    growing = GrowingFile(path)
    assert growing.new_lines() == []
    for cut in (*cuts, len(content)):
        path.write_bytes(content[:cut])
        seen += growing.new_lines()
        assert b"".join(line + b"\n" for line in seen) == content[: content[:cut].rfind(b"\n") + 1]
    assert [line.decode() for line in seen] == lines
