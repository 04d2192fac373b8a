"""Which files are read, packed or not, and what a broken one says."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from environments.haystack.filler import files
from environments.haystack.filler.corpora import dataset_passages, folder_passages
from longthread.errors import DataError
from tests.environments.haystack.filler.strategies import one_line

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
TEXT = "The river ran past the old house. Nobody said much about it."
READ = [[["The river ran past the old house.", "Nobody said much about it."]]]
ROW = json.dumps({"text": TEXT}) + "\n"


@pytest.mark.parametrize("suffix", PACK)
def test_packed_text_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(PACK[suffix](TEXT.encode()))
    assert list(folder_passages(path)) == list(folder_passages(tmp_path)) == READ
    marked = tmp_path / f"page.md{suffix}"
    marked.write_bytes(PACK[suffix](f"# Heading.\n\n{TEXT}".encode()))
    assert list(folder_passages(marked)) == READ


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
def test_packed_datasets_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"rows{kind}{suffix}"
    path.write_bytes(PACK[suffix]((ROW * 3 if kind == ".jsonl" else f"{TEXT}\n\n" * 3).encode()))
    assert list(dataset_passages(str(path), "text")) == READ * 3
    with pytest.raises(DataError, match=r"has no column 'body': use one of text"):
        list(dataset_passages(str(path), "body"))


def test_a_folder_of_text_is_read_as_ever_whatever_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    for name, content in (("b.txt.gz", gzip.compress(b"Not this one.")), ("c.jsonl", b"{"), ("d.py", b"x = 1\n")):
        (tmp_path / name).write_bytes(content)
    assert list(folder_passages(tmp_path)) == READ


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_a_folder_of_tables_is_read_by_its_column(tmp_path: Path, kind: str) -> None:
    from datasets import Dataset

    for name in ("b", "a"):
        path, rows = tmp_path / f"{name}.{kind}", Dataset.from_dict({"story": [f"It is {name}. {TEXT}"]})
        if kind == "jsonl.gz":
            path.write_bytes(gzip.compress((json.dumps({"story": rows["story"][0]}) + "\n").encode()))
        else:
            {"csv": rows.to_csv, "parquet": rows.to_parquet}.get(kind, rows.to_json)(path)
    read = list(folder_passages(tmp_path, column="story"))
    assert [passage[0][0] for passage in read] == ["It is a.", "It is b."]
    with pytest.raises(DataError, match="has no column 'text': use one of story"):
        list(folder_passages(tmp_path))


def test_source_code_is_read_as_it_stands(tmp_path: Path) -> None:
    code = "import os\n\n\ndef f(x):\n    if x:\n        return os\n\n    return x\n"
    (tmp_path / "a.py").write_text(code)
    assert list(folder_passages(tmp_path)) == [
        [["import os"], ["def f(x):\n    if x:\n        return os"], ["return x"]]
    ]


def test_lines_are_kept_for_verse_and_special_tokens_are_not(tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_text("O river\n  that runs</s>\r\nto the sea\n\n\nO sea\n")
    with pytest.raises(DataError, match="read as they stand with filler_sentences lines"):
        list(folder_passages(path))
    read = list(folder_passages(path, ["</s>"], "lines"))
    assert read == [[["O river\n  that runs\nto the sea"], ["O sea"]]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt.gz", b"not packed at all", r"a\.txt\.gz cannot be unpacked"),
        ("a.txt.gz", gzip.compress(TEXT.encode() * 99, mtime=0)[:-9], r"a\.txt\.gz cannot be unpacked"),
        ("a.txt.bz2", b"BZh9 no", r"a\.txt\.bz2 cannot be unpacked"),
        ("a.txt.xz", lzma.compress(TEXT.encode())[:30], r"a\.txt\.xz cannot be unpacked"),
        (
            "a.txt.gz",
            gzip.compress("caf\xe9".encode("latin1"), mtime=0),
            r"a\.txt\.gz is not UTF-8: byte 0xe9 at offset 3",
        ),
        ("a.txt.zst", b"x", r"a\.txt\.zst is packed: unpack it"),
        ("a.zip", b"x", r"a\.zip is packed: unpack it"),
        ("a.csv.gz", b"x", "neither .txt nor .md"),
    ],
)
def test_a_bad_archive_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(folder_passages(path))
    one_line(error)


def test_a_folder_of_other_archives_names_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no \.txt or \.md file below .*: unpack a\.txt\.zst"):
        folder_passages(tmp_path)


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", ["bomb.txt", "bomb.jsonl"])
def test_what_unpacks_to_much_more_than_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str
) -> None:
    monkeypatch.setattr(files, "UNPACKED_ALLOWED", 1 << 16)
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(PACK[suffix](b" " * (1 << 24)))
    with pytest.raises(DataError, match=rf"{name}{suffix} unpacks to more than \d+ bytes, 200 times its size") as error:
        list(folder_passages(path))
    one_line(error)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("broken", ['{"text": "cut in the mid', "no json", "[1, 2]", '{"text": "a",}'])
def test_a_broken_line_far_into_a_file_is_named(tmp_path: Path, broken: str, packed: bool) -> None:
    """An own idea beside EleutherAI/lm-evaluation-harness 2109: mistakes of the user end in one line."""
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    content = (ROW * 3000 + broken + "\n" + ROW * 3000).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=rf"{path.name}: line 3001 is not a JSON object") as error:
        list(dataset_passages(str(path), "text"))
    one_line(error)
    with pytest.raises(DataError, match="line 3001"):
        list(folder_passages(tmp_path))


def test_a_cell_of_another_kind_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((ROW * 5 + '{"text": 3}\n' + ROW).encode()))
    with pytest.raises(
        DataError, match=r"column 'text' of .* holds int, neither text nor messages.*\(row 6\)"
    ) as error:
        list(dataset_passages(str(path), "text"))
    one_line(error)


def test_other_rows_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_bytes(b"text,n\n" + f'"{TEXT}",1\n'.encode() * 20_000 + b"caf\xe9,1\n")
    with pytest.raises(DataError, match=r"rows\.csv cannot be read behind row \d+ .*; mend or remove") as error:
        list(dataset_passages(str(table), "text"))
    one_line(error)


def test_a_stream_that_breaks_off_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def rows():
        yield {"text": TEXT}
        raise ConnectionError("the server\nhung up")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr("datasets.load_dataset", lambda **_: stream)
    passages = dataset_passages("owner/name", "text")
    assert next(passages) == READ[0]
    with pytest.raises(
        DataError, match=r"owner/name cannot be read behind row 1 \(ConnectionError: the server hung up"
    ):
        list(passages)
