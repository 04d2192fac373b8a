"""What the cleaner keeps and drops, of plain text and of Markdown, and how it groups sentences to passages."""

import gzip
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler.passages import PARAGRAPH_CHARS, to_passages
from tests.environments.haystack.filler.strategies import SPECIAL, debris, plain_sentence, sentences

NOVEL = Path(__file__).parents[3] / "data" / "persuasion.txt.gz"

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
