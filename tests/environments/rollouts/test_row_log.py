"""Rows that survive: torn lines, kill -9, full disks, two writers, files of others."""

import json
import resource
import threading
from pathlib import Path

import pytest

from environments.rollouts.row_log import RowLog, RowLost, digest
from longthread.errors import ConfigError
from longthread.files import read_jsonl


def fill(path: Path, items: list[int], run: str = "a", wanted: int = 5) -> Path:
    with RowLog(path, run, range(wanted)) as rows:
        for item in items:
            rows.add(item, {"text": f"zwölf {item}\n\u2028\r"})
    return rows.path


def test_a_row_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    """Fact 12: atroposlib keeps up to 8 KB of rows in a buffer."""
    rows = RowLog(tmp_path / "rows.jsonl", "a", [0])
    rows.add(0, {"n": 1})
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [{"run": "a", "item": 0, "n": 1}]
    rows.close()


def test_an_unfinished_file_is_continued_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    assert fill(path, [0, 3]) == path
    with RowLog(path, "a", range(5)) as rows:
        assert (rows.path, rows.done) == (path, {0, 3})
    assert fill(path, [1, 2, 4]) == path
    assert [row["item"] for row in read_jsonl(path)] == [0, 3, 1, 2, 4]
    before = path.read_bytes()
    assert fill(path, [0]) == path.with_name("rows_1.jsonl")
    assert fill(path, [1]) == path.with_name("rows_1.jsonl")
    assert path.read_bytes() == before


def test_a_longer_run_of_the_same_settings_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = fill(tmp_path / "rows.jsonl", [0, 1], wanted=2)
    with RowLog(path, "a", range(3)) as rows:
        assert (rows.path, rows.done) == (path, {0, 1})


def test_a_different_run_takes_the_next_free_name(tmp_path: Path) -> None:
    path = fill(tmp_path / "rows.jsonl", [0])
    assert fill(path, [0], run="b").name == "rows_1.jsonl"
    assert fill(path, [0], run="c").name == "rows_2.jsonl"
    assert fill(path, [1], run="b").name == "rows_1.jsonl"


@pytest.mark.parametrize("cut", [1, 5, 9, 30, -1])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = fill(tmp_path / "rows.jsonl", [0, 1])
    whole, last = path.read_bytes().split(b"\n")[0] + b"\n", path.read_bytes().split(b"\n")[1]
    path.write_bytes(whole + last[:cut])
    with RowLog(path, "a", range(5)) as rows:
        assert (rows.path, rows.done) == (path, {0})
        assert path.read_bytes() == whole
        rows.add(1, {})
    assert [row["item"] for row in read_jsonl(path)] == [0, 1]


def test_a_torn_only_line_of_this_run_is_dropped(tmp_path: Path) -> None:
    path = fill(tmp_path / "rows.jsonl", [0])
    path.write_bytes(path.read_bytes()[:-5])
    assert fill(path, [0]) == path
    assert len(list(read_jsonl(path))) == 1


@pytest.mark.parametrize(
    "content", [b'{"precious": 1}', b"a diary", b"[1]\n", b'{"run": "a"}\n', b'{"run": "b", "item": 0', b"\xff\xfe\n"]
)
def test_a_file_of_someone_else_is_never_touched(tmp_path: Path, content: bytes) -> None:
    """A file without a line end is no torn line of ours: it was emptied once."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert fill(path, [0]) == tmp_path / "rows_1.jsonl"
    assert path.read_bytes() == content


def test_an_empty_file_is_anyones(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert fill(tmp_path / "rows.jsonl", [0]).name == "rows.jsonl"


def test_two_runs_at_once_do_not_share_a_file(tmp_path: Path) -> None:
    with (
        RowLog(tmp_path / "rows.jsonl", "a", range(2)) as first,
        RowLog(tmp_path / "rows.jsonl", "a", range(2)) as second,
    ):
        assert second.path.name == "rows_1.jsonl"
        first.add(0, {})
        second.add(0, {})
    assert [row["item"] for row in read_jsonl(first.path)] == [0]


def test_rows_of_many_threads_stay_whole(tmp_path: Path) -> None:
    with RowLog(tmp_path / "rows.jsonl", "a", range(24)) as rows:
        ready = threading.Barrier(24)

        def add(item: int) -> None:
            ready.wait()
            rows.add(item, {"text": str(item) * 100_000})

        threads = [threading.Thread(target=add, args=(item,)) for item in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(row["item"] for row in read_jsonl(rows.path)) == list(range(24))


def test_a_full_disk_says_so_and_leaves_whole_rows(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RowLog(tmp_path / "rows.jsonl", "a", range(3)) as rows:
        rows.add(0, {"text": "x" * 1000})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(RowLost, match="cannot write to .*rows.jsonl.*the same command continues"):
                rows.add(1, {"text": "y" * 9000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert rows.done == {0}
        rows.add(2, {"text": "z"})
    assert [row["item"] for row in read_jsonl(rows.path)] == [0, 2]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").touch()
    for path in (
        tmp_path / "folder.jsonl",
        tmp_path / "file" / "rows.jsonl",
        Path("/dev/full"),
        Path("/proc/x/y.jsonl"),
    ):
        with pytest.raises(ConfigError, match="cannot write to .*; give another path") as caught:
            RowLog(path, "a", [0])
        assert "\n" not in str(caught.value)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    with RowLog(tmp_path / "rows.jsonl", "a", [0]) as rows:
        for value in (float("nan"), float("inf")):
            with pytest.raises(ValueError):
                rows.add(0, {"score": value})
    assert rows.path.read_bytes() == b"" and not rows.done


def test_digest_depends_on_the_settings_and_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert len(json.dumps(digest({}))) == 18


def test_a_whole_last_row_that_lacks_its_line_end_counts(tmp_path: Path) -> None:
    path = fill(tmp_path / "rows.jsonl", [0, 1])
    path.write_bytes(path.read_bytes()[:-1])
    assert fill(path, [2]) == path
    assert [row["item"] for row in read_jsonl(path)] == [0, 1, 2]
