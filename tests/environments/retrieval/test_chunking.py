"""Chunks of a text: nothing is lost, nothing is doubled beyond the overlap, and counts are those of the text's tokens."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.haystack.tokens import Tokens
from environments.retrieval.chunking import Chunk, Span, fixed_chunks, semantic_chunks, windows
from environments.retrieval.headings import heading_lines
from environments.retrieval.sentence_spans import sentence_spans
from environments.retrieval.terms import word_offsets
from longthread.errors import ConfigError
from tests.environments.tiny_model import tiny_tokenizer

TOKENS = Tokens(tiny_tokenizer())  # a token a byte: an emoji has four
LETTER = 4  # tokens at most

pieces = st.sampled_from(
    [
        "\r\n",
        "\n",
        "\n\n",
        "\r\n\r\n",
        "\r",
        " ",
        "\t",
        "\u2028",
        "# Head\n",
        "Title\n===\n",
        "CHAPTER IV\n\n",
        "A. ",
        "So it is. ",
    ]
    + [
        "他说：“好。”",
        "天气很好！",
        "ไปไหนมา ",
        "😀",
        "👩\u200d👧",
        "e\u0301",
        "x" * 40,
        "\0",
        "\ufeff",
        "```\n# no\n```\n",
        "- item\n",
        "\u0964",
    ]
)
hostile = st.one_of(st.text(max_size=80), st.lists(pieces, max_size=25).map("".join))
sizes = st.integers(1, 60)


def tokens_within(offsets: list[Span], start: int, end: int) -> int:
    """The slow count: tokens whose first character stands in the span."""
    return sum(start <= first < end for first, _ in offsets)


def check_whole(text: str, chunks: list[Chunk], offsets: list[Span]) -> None:
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks)][: len(chunks)]
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end] and chunk.text
        assert chunk.tokens == tokens_within(offsets, chunk.start, chunk.end)
    assert sum(chunk.tokens for chunk in chunks) == len(offsets)


@given(hostile, sizes)
def test_fixed_chunks_are_the_text(text: str, size: int) -> None:
    offsets = TOKENS.offsets(text)[1]
    chunks = fixed_chunks(text, offsets, size)
    check_whole(text, chunks, offsets)
    assert all(chunk.tokens < size + LETTER for chunk in chunks)


@given(hostile, sizes, st.integers(0, 59))
def test_neighbours_share_the_overlap_and_no_more(text: str, size: int, overlap: int) -> None:
    overlap %= size
    offsets = TOKENS.offsets(text)[1]
    chunks = fixed_chunks(text, offsets, size, overlap)
    reach = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.start <= reach < chunk.end  # no gap, and something new
        assert chunk.start == 0 or overlap - LETTER < tokens_within(offsets, chunk.start, reach) < overlap + LETTER
        reach = chunk.end
    assert reach == len(text)


@given(st.text(alphabet="ab \n", max_size=200), sizes, st.integers(0, 59))
def test_where_a_letter_is_a_token_windows_are_exact(text: str, size: int, overlap: int) -> None:
    overlap %= size
    chunks = fixed_chunks(text, TOKENS.offsets(text)[1], size, overlap)
    assert [range(chunk.start, chunk.end) for chunk in chunks] == windows(len(text), size, size - overlap)


@given(hostile, sizes)
def test_semantic_chunks_are_the_text(text: str, size: int) -> None:
    offsets = TOKENS.offsets(text)[1]
    chunks = semantic_chunks(text, offsets, size)
    check_whole(text, chunks, offsets)
    assert all(chunk.tokens <= max(size, LETTER) for chunk in chunks)


@given(hostile, sizes)
def test_words_serve_as_tokens(text: str, size: int) -> None:
    offsets = word_offsets(text)
    for chunks in (semantic_chunks(text, offsets, size), fixed_chunks(text, offsets, size)):
        check_whole(text, chunks, offsets)
        assert all(chunk.tokens <= size for chunk in chunks)


@given(hostile)
def test_sentences_leave_out_white_space_alone(text: str) -> None:
    spans = sentence_spans(text)
    kept = "".join(text[start:end] for start, end in spans)
    assert re.sub(r"\s", "", kept) == re.sub(r"\s", "", text)


def words_of(text: str, size: int) -> list[str]:
    return [chunk.text.strip() for chunk in semantic_chunks(text, word_offsets(text), size)]


def test_cuts_are_made_at_the_highest_border_that_serves() -> None:
    sections = "# One\n\nA b c. D e f.\n\nG h i.\n\n# Two\n\nJ k. L m n o p q.\n"
    assert words_of(sections, 99) == [sections.strip()]
    assert words_of(sections, 12) == ["# One\n\nA b c. D e f.\n\nG h i.", "# Two\n\nJ k. L m n o p q."]
    assert words_of(sections, 8) == ["# One\n\nA b c. D e f.", "G h i.", "# Two\n\nJ k.", "L m n o p q."]
    assert words_of("A b c d e f", 4) == ["A b c d", "e f"]


def test_the_end_of_a_section_is_not_joined_with_the_next() -> None:
    text = "# One\n\nA b c d.\n\nE f.\n\n# Two\n\nG h.\n\n# Three\n\nI j.\n"
    assert words_of(text, 8) == ["# One\n\nA b c d.\n\nE f.", "# Two\n\nG h.\n\n# Three\n\nI j."]
    assert words_of(text, 6) == ["# One\n\nA b c d.", "E f.", "# Two\n\nG h.", "# Three\n\nI j."]


def test_sections_within_a_section_stay_apart_from_the_next_section() -> None:
    text = "# A\n\n## B\n\na b c d e.\n\n## C\n\nf.\n\n# D\n\ng h.\n"
    assert words_of(text, 9) == ["# A\n\n## B\n\na b c d e.", "## C\n\nf.", "# D\n\ng h."]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_headings_of_every_kind_are_found_and_fences_are_not(newline: str) -> None:
    text = "# Title\n\ntext\n\n```\n# comment\n```\n\nUnder\n-----\nmore\n\nCHAPTER IV\n\nPart of it was late.\n"
    found = heading_lines(text := text.replace("\n", newline))
    assert [(text[line.start : line.end].strip(), line.level) for line in found] == [
        ("# Title", 1),
        (f"Under{newline}-----", 2),
        ("CHAPTER IV", 1),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_hard_wrapped_sentence_is_one(newline: str) -> None:
    text = newline.join(["He went home", "by night. She", "stayed.", "", "Later."])
    assert [" ".join(text[a:b].split()) for a, b in sentence_spans(text)] == [
        "He went home by night.",
        "She stayed.",
        "Later.",
    ]


def test_one_giant_line_is_cut_between_words() -> None:
    text = "word " * 20_000
    chunks = semantic_chunks(text, word_offsets(text), 512)
    assert max(chunk.tokens for chunk in chunks) == 512 and all(chunk.text.startswith("word") for chunk in chunks)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-1, 0), (4, 4), (4, -1)])
def test_sizes_that_cannot_work_are_refused_in_a_line(size: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match=r"must (have at least 1|be smaller than the chunk)"):
        fixed_chunks("a b", word_offsets("a b"), size, overlap)
