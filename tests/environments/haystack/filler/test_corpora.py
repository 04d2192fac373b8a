"""The user's own text: what the cleaner keeps and drops, where sentences end, and what errors say."""

import gzip
import json
import re
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler.corpora import (
    FOLLOWED,
    PARAGRAPH_CHARS,
    CorpusError,
    dataset_passages,
    folder_passages,
    split_sentences,
    to_passages,
)

NOVEL = Path(__file__).parents[3] / "data" / "persuasion.txt.gz"
SPECIAL = ("<|im_end|>", "</s>", "<s>")
words = st.text("abcdefgh", min_size=2, max_size=7).filter(lambda word: not FOLLOWED.fullmatch(word))
marks = st.sampled_from([".", "?", "!", "...", '."', "?'"])
plain_sentence = st.builds(
    lambda first, rest, mark: " ".join([first.capitalize(), *rest]) + mark, words, st.lists(words, min_size=1), marks
)
# Text with everything that cleaning is about.
debris = st.lists(
    st.one_of(
        plain_sentence,
        st.sampled_from(
            [*SPECIAL, "<|im", "_end|>", "\n", "\n\n", "\r\n", "\t", " ", "\x00", "\ufeff", "\u200b", "-\n", "e\u0301"]
        ),
        st.text(max_size=8),
    ),
    max_size=40,
).map(lambda parts: " ".join(parts))


def sentences(text, **options):
    return [s for passage in to_passages(text, **options) for paragraph in passage for s in paragraph]


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- cleaning ---------------------------------------------------------------------------------------------------


@given(debris, st.booleans())
@settings(max_examples=200, deadline=None)
def test_whatever_comes_in_clean_sentences_come_out(text, markdown):
    for passage in to_passages(text, SPECIAL, markdown):
        assert passage and all(passage)
        for sentence in (s for paragraph in passage for s in paragraph):
            assert sentence == " ".join(sentence.split()) == unicodedata.normalize("NFC", sentence)
            assert not re.search(r"[\x00-\x1f\x7f\u200b\ufeff]", sentence)
            assert not any(token in sentence for token in SPECIAL)
            assert re.search(r"[.?!\u2026][\"'\u2019\u201d\u00bb)\]]*$", sentence)
            assert 2 <= len(sentence.split()) <= 120


@given(st.lists(st.lists(plain_sentence, min_size=1, max_size=6), min_size=1, max_size=8))
@settings(deadline=None)
def test_clean_text_comes_through_unchanged(paragraphs):
    text = "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)
    kept = [paragraph for passage in to_passages(text) for paragraph in passage]
    assert [" ".join(paragraph) for paragraph in kept] == text.split("\n\n")


@given(st.lists(plain_sentence, min_size=1, max_size=30), st.integers(20, 90))
@settings(deadline=None)
def test_hard_wrapping_does_not_change_the_sentences(written, width):
    text = " ".join(written)
    wrapped = re.sub(rf"(.{{1,{width}}})(?: |$)", "\\1\n", text)
    assert sentences(wrapped) == sentences(text)
    assert sentences(wrapped.replace("\n", "\r\n")) == sentences(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was a for-\ngotten word.", ["It was a forgotten word."]),
        ("He came--\nand went.", ["He came--and went."]),
        ("A page\r\nof text.\r\rAnother one here.", ["A page of text.", "Another one here."]),
        ("Cafe\u0301 \u00a0 culture.", ["Caf\u00e9 culture."]),
        ("Bell\x07 and\x00 null.\ufeff", ["Bell and null."]),
        ("Soft\u00adhyphen goes. Zero\u200bwidth too.", ["Softhyphen goes.", "Zerowidth too."]),
        ("Done here.<|im_end|> Next one.", ["Done here.", "Next one."]),
        ("Nested <|im_<|im_end|>end|> goes.", ["Nested <|im_ end|> goes."]),
        ("Whole one. And then it was cut off in the", ["Whole one."]),
        ("CHAPTER ONE\n\nIt began here.", ["It began here."]),
        ("Yes. It was so.", ["It was so."]),
        ("", []),
        ("\n \n\t\n", []),
    ],
)
def test_cleaning(text, expected):
    assert sentences(text, forbidden=SPECIAL) == expected


def test_sentences_beyond_120_words_are_dropped():
    fits, long = ("word " * 119 + "end.").capitalize(), ("word " * 120 + "end.").capitalize()
    assert sentences(f"{fits} {long} Short one.") == [fits, "Short one."]


MARKDOWN = """---
title: A report
---
# Heading one.

Some *soft* and **bold text** with [a link](http://x.org/a_b) and `code`.
It goes on. ![Picture.](a.png)

Underlined heading
------------------

| Left | Right. |
|------|--------|
| One. | Two it is. |

```python
print("This is code. It must go.")
```

> Quoted words are kept.

- First item is here.
- Second item is there.

1. A numbered point.

~~~
More code. Still more.
~~~
<!-- A comment. It is hidden. -->The snake_case name stays.
"""


def test_markdown_is_reduced_to_prose():
    assert sentences(MARKDOWN, markdown=True) == [
        "Some soft and bold text with a link and code.",
        "It goes on.",
        "Quoted words are kept.",
        "First item is here.",
        "Second item is there.",
        "A numbered point.",
        "The snake_case name stays.",
    ]


def test_a_rule_at_the_top_is_no_front_matter():
    assert sentences("---\nProse begins at once. It goes on.\n\n---\n\nAnd ends.", markdown=True) == [
        "Prose begins at once.",
        "It goes on.",
        "And ends.",
    ]


def test_markdown_signs_stay_in_plain_text():
    assert sentences("# A sign *here* | stays.") == ["# A sign *here* | stays."]


# ---- sentences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",  # | marks where it is split
    [
        "Mr. Smith met Mrs. Jones at St. Paul's. |They talked.",
        "Dr. J. K. Rowe came, e.g. The Times wrote so. |It rained.",
        "It cost 3.14 pounds. |Nobody paid.",
        "See No. 5 and Fig. 3 of Vol. II there. |No. |It is not there.",
        "He bought nails, tar, etc. |Then he left. |He had ropes, etc. and left.",
        "Wait... what is it? |Wait... |No!",
        '"Is it you?" he said. |"It is I." |She turned.',
        "\u201cCome in!\u201d |\u201cThank you.\u201d |(He came.) |All was well.",
        "The meeting is at 5 p.m. on Jan. 3 in the hall. |Be there.",
        "The U.S. Army came. |So did we.",
        "It was I. |He knew it.",
        "1. The first point. |2. The second one.",
        "In 1984. |42 people came.",
        "What?! |Really!! |Yes.",
        "Visit www.example.com today. |Or not.",
        "He stopped. . . . |And went on.",
        "\u00c9mile left. |\u00c9mile returned.",
        "no mark at all",
    ],
)
def test_where_sentences_end(text):
    assert split_sentences(text.replace("|", "")) == [piece.strip() for piece in text.split("|")]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6).flatmap(lambda _: debris))
@settings(deadline=None)
def test_joined_sentences_give_the_paragraph_back(text):
    paragraph = " ".join(text.split())
    assert " ".join(split_sentences(paragraph)) == paragraph


@given(st.lists(plain_sentence, min_size=1, max_size=20))
def test_plain_sentences_are_found_again(written):
    assert split_sentences(" ".join(written)) == written


# ---- passages ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def novel():
    return gzip.decompress(NOVEL.read_bytes()).decode()


def test_a_novel_gives_passages_of_about_300_words(novel):
    passages = list(to_passages(novel))
    lengths = [sum(len(s.split()) for paragraph in passage for s in paragraph) for passage in passages]
    assert all(300 <= length <= 720 for length in lengths[:-1])
    assert sum(lengths) > 0.9 * len(
        novel.split()
    )  # the rest: headings, sentences over 120 words, paragraphs that end in --
    assert passages[0][0][0].startswith("Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who,")


def test_a_novel_is_kept_in_order_and_word_for_word(novel):
    flat = re.sub(r"(?<=--) ", "", " ".join(novel.split()))
    position = 0
    for sentence in sentences(novel):
        position = flat.index(sentence, position) + len(sentence)


def test_a_paragraph_beyond_the_limit_is_never_cut_in_a_sentence():
    line = "This is the only sentence there is in this text.\n"
    found = sentences(line * (2 * PARAGRAPH_CHARS // len(line)))
    assert set(found) == {line.strip()} and len(found) == 2 * PARAGRAPH_CHARS // len(line)
    broken = "word " * 10 + "\n"
    endless = broken * (3 * PARAGRAPH_CHARS // len(broken)) + "end here. But this is whole."
    assert sentences(endless) == ["But this is whole."]


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
        patch.setattr("environments.haystack.filler.corpora.READ_BYTES", 3)
        assert list(folder_passages(path)) == list(to_passages(text))


@pytest.mark.parametrize(
    "text",
    ["One sentence is here. Another is there.\n\n", "One line. And it has no end. ", "no mark ", "nospace", "a line\n"],
)
def test_memory_is_flat(tmp_path, monkeypatch, text):
    monkeypatch.setattr("environments.haystack.filler.corpora.READ_BYTES", 2_000)
    monkeypatch.setattr("environments.haystack.filler.corpora.PARAGRAPH_CHARS", 5_000)

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
    with pytest.raises(CorpusError, match=message) as error:
        folder_passages(make(tmp_path))
    one_line(error)


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("before", [0, 10, 65_530, 200_000])
def test_a_file_that_is_not_utf8_is_named_with_the_offset(tmp_path, before):
    content = b"Some words. " * (before // 12 + 1)
    _written(tmp_path / "latin.txt", content + "caf\xe9 noir.".encode("latin1"))
    with pytest.raises(
        CorpusError, match=rf"latin\.txt is not UTF-8: byte 0xe9 at offset {len(content) + 3};"
    ) as error:
        list(folder_passages(tmp_path))
    one_line(error)
    cut = _written(tmp_path / "latin.txt", content + "\u4e2d".encode()[:2])
    with pytest.raises(CorpusError, match=rf"byte 0xe4 at offset {len(content)};"):
        list(folder_passages(cut))


def test_a_corpus_without_a_sentence_is_an_error(tmp_path):
    _written(tmp_path / "a.txt", b"no mark here")
    with pytest.raises(CorpusError, match=r"no sentence found in .*: give prose") as error:
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
    with pytest.raises(CorpusError, match=r"rows\.jsonl has no column 'body': use one of chat, text") as error:
        dataset_passages(str(rows), "body")
    one_line(error)


def test_a_column_of_numbers_is_refused(tmp_path):
    path = _written(tmp_path / "n.jsonl", b'{"n": 3}\n')
    with pytest.raises(CorpusError, match=r"column 'n' of .* holds int, neither text nor messages") as error:
        list(dataset_passages(str(path), "n"))
    one_line(error)


def test_a_dataset_without_a_sentence_is_an_error(tmp_path):
    path = _written(tmp_path / "e.jsonl", b'{"text": "none"}\n')
    with pytest.raises(CorpusError, match=r"no sentence found in column 'text' of .*e\.jsonl, split train") as error:
        list(dataset_passages(str(path), "text"))
    one_line(error)


def test_a_missing_file_and_an_unknown_dataset_are_refused(tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match=r"dataset file .*none\.jsonl does not exist"):
        dataset_passages(str(tmp_path / "none.jsonl"), "text")

    def refuse(*_, **__):
        raise FileNotFoundError("Couldn't find any data\nfile at nobody/nothing")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(CorpusError, match=r"cannot load dataset 'nobody/nothing' .*FileNotFoundError.*check") as error:
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
