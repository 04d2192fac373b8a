"""The user's own text: which files and datasets are read, in what order, and what errors say."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler.corpora import dataset_passages, folder_passages
from environments.haystack.filler.passages import to_passages
from longthread.errors import DataError
from tests.environments.haystack.filler.strategies import SPECIAL, one_line, plain_sentence

# ---- folders ----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name, text in [("b.txt", "Second it is."), ("a/z.md", "# No.\n\nFirst it is."), ("c/a.TXT", "Third it is.")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "d.html").write_text("Not this one.")
    (tmp_path / "e.txt").mkdir()
    assert list(folder_passages(tmp_path)) == [[["First it is."]], [["Second it is."]], [["Third it is."]]]
    assert list(folder_passages(tmp_path / "b.txt")) == [[["Second it is."]]]
    assert list(folder_passages(tmp_path, ["Second"]))[1] == [["it is."]]


@given(st.lists(plain_sentence, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\r\n", "\r"]))
@settings(max_examples=30, deadline=None)
def test_reading_in_pieces_gives_what_reading_at_once_gives(tmp_path_factory, written, end):
    text = end.join([*written, "\u00c9t\u00e9 na\u00efve \u4e2d words."])
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("environments.haystack.filler.files.READ_BYTES", 3)
        assert list(folder_passages(path)) == list(to_passages(text))


@pytest.mark.parametrize(
    "text",
    ["One sentence is here. Another is there.\n\n", "One line. And it has no end. ", "no mark ", "nospace", "a line\n"],
)
def test_memory_is_flat(tmp_path, monkeypatch, text):
    monkeypatch.setattr("environments.haystack.filler.files.READ_BYTES", 2_000)
    for module in ("corpora", "passages"):
        monkeypatch.setattr(f"environments.haystack.filler.{module}.PARAGRAPH_CHARS", 5_000)

    def peak(size):
        path = _written(tmp_path / "big.txt", b"It begins here.\n\n" + (text * (size // len(text))).encode())
        tracemalloc.start()
        passages = sum(1 for _ in folder_passages(path))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert passages
        return used

    peak(10_000)  # fills the caches of `re`
    assert peak(400_000) < peak(50_000) + 50_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", r"corpus .*missing does not exist: give a folder"),
        (lambda folder: folder, r"no \.txt or \.md file below .*: put text there"),
        (lambda folder: _written(folder / "a.pdf", b"x"), r"a\.pdf is neither \.txt nor \.md: rename it"),
    ],
)
def test_a_folder_without_text_is_refused_at_once(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as error:
        folder_passages(make(tmp_path))
    one_line(error)


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("before", [0, 10, 65_530, 200_000])
def test_a_file_that_is_not_utf8_is_named_with_the_offset(tmp_path, before):
    content = b"Some words. " * (before // 12 + 1)
    _written(tmp_path / "latin.txt", content + "caf\xe9 noir.".encode("latin1"))
    with pytest.raises(DataError, match=rf"latin\.txt is not UTF-8: byte 0xe9 at offset {len(content) + 3};") as error:
        list(folder_passages(tmp_path))
    one_line(error)
    cut = _written(tmp_path / "latin.txt", content + "\u4e2d".encode()[:2])
    with pytest.raises(DataError, match=rf"byte 0xe4 at offset {len(content)};"):
        list(folder_passages(cut))


def test_a_corpus_without_a_sentence_is_an_error(tmp_path):
    _written(tmp_path / "a.txt", b"no mark here")
    with pytest.raises(DataError, match=r"no sentence found in .*: give prose") as error:
        list(folder_passages(tmp_path))
    one_line(error)
    assert isinstance(error.value, ValueError)


# ---- datasets ---------------------------------------------------------------------------------------------------

CHAT = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is here. And th"}]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": "One is here.\n\nTwo is there.", "chat": CHAT},
        {"text": None, "chat": []},
        {"text": "Three.", "chat": CHAT},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_column_of_text(rows):
    assert list(dataset_passages(str(rows), "text")) == [[["One is here."], ["Two is there."]]]


def test_a_column_of_chats(rows):
    assert list(dataset_passages(str(rows), "chat")) == [[["What is it?"], ["It is here."]]] * 2


def test_special_tokens_are_removed_from_rows(tmp_path):
    path = _written(tmp_path / "a.jsonl", b'{"text": "It ends here.</s>"}\n')
    assert list(dataset_passages(str(path), "text", forbidden=SPECIAL)) == [[["It ends here."]]]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "txt"])
def test_other_local_files(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "txt":
        path.write_text("It came as a file.\n")
    else:
        from datasets import Dataset

        getattr(Dataset.from_dict({"text": ["It came as a file."]}), f"to_{suffix}")(path)
    assert list(dataset_passages(str(path), "text")) == [[["It came as a file."]]]


def test_an_unknown_column_is_refused_with_those_there_are(rows):
    with pytest.raises(DataError, match=r"rows\.jsonl has no column 'body': use one of chat, text") as error:
        dataset_passages(str(rows), "body")
    one_line(error)


def test_a_column_of_numbers_is_refused(tmp_path):
    path = _written(tmp_path / "n.jsonl", b'{"n": 3}\n')
    with pytest.raises(DataError, match=r"column 'n' of .* holds int, neither text nor messages") as error:
        list(dataset_passages(str(path), "n"))
    one_line(error)


def test_a_dataset_without_a_sentence_is_an_error(tmp_path):
    path = _written(tmp_path / "e.jsonl", b'{"text": "none"}\n')
    with pytest.raises(DataError, match=r"no sentence found in column 'text' of .*e\.jsonl, split train") as error:
        list(dataset_passages(str(path), "text"))
    one_line(error)


def test_a_missing_file_and_an_unknown_dataset_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"dataset file .*none\.jsonl does not exist"):
        dataset_passages(str(tmp_path / "none.jsonl"), "text")

    def refuse(*_, **__):
        raise FileNotFoundError("Couldn't find any data\nfile at nobody/nothing")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match=r"cannot load dataset 'nobody/nothing' .*FileNotFoundError.*check") as error:
        dataset_passages("nobody/nothing", "text")
    one_line(error)


def test_the_hub_is_asked_for_a_stream(monkeypatch):
    import datasets

    asked = {}

    def load(**arguments):
        asked.update(arguments)
        return datasets.Dataset.from_dict({"text": ["A row is here."]}).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load)
    assert list(dataset_passages("owner/name", "text", "test", "small")) == [[["A row is here."]]]
    assert asked == {"path": "owner/name", "name": "small", "split": "test", "streaming": True}
