"""Pieces of a document hold the evidence, or none of it, and no more tokens than asked for."""

from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lift.document import token_spans
from lift.document.token_spans import GAP, TokenSpans
from tests.environments.tiny_model import tiny_tokenizer

tiny_tokenizer_once = cache(tiny_tokenizer)
TEXT = " ".join(f"word{i}" for i in range(100))
spans = st.lists(
    st.tuples(st.integers(0, len(TEXT) - 1), st.integers(1, 20)).map(lambda s: (s[0], min(s[0] + s[1], len(TEXT)))),
    min_size=1,
    max_size=4,
)


@given(spans, st.integers(80, 1000))
def test_window_around_holds_all_evidence_and_no_more_tokens(evidence: list[tuple[int, int]], tokens: int) -> None:
    placed = TokenSpans.encode(tiny_tokenizer_once(), TEXT)
    window = placed.window_around(evidence, tokens)
    for first, behind in evidence:
        assert TEXT[first:behind].strip() in window
    pieces = window.split(GAP)
    assert sum(map(len, pieces)) <= tokens  # one token a byte
    assert all(piece in TEXT for piece in pieces)
    hull = max(b for _, b in evidence) - min(a for a, _ in evidence)
    assert len(pieces) == 1 or hull > tokens


@given(spans, st.integers(32, 1000))
@example([(0, 1), (300, 320), (309, 316)], 463)  # one within another
def test_window_away_is_of_the_document_and_holds_no_evidence(evidence: list[tuple[int, int]], tokens: int) -> None:
    marked = list("abcdefgh" * 99)[: len(TEXT)]
    for first, behind in evidence:
        marked[first:behind] = "#" * (behind - first)
    text = "".join(marked)
    window = TokenSpans.encode(tiny_tokenizer_once(), text).window_without(evidence, tokens)
    assert "#" not in window
    longest = max(map(len, text.split("#")))
    assert len(window) == min(tokens, longest)
    assert window in text


def test_window_without_evidence_and_of_an_empty_text() -> None:
    placed = TokenSpans.encode(tiny_tokenizer(), TEXT)
    assert 90 <= len(placed.window_around((), 100)) <= 100
    assert TokenSpans.encode(tiny_tokenizer(), "").window_around((), 100) == ""
    assert TokenSpans.encode(tiny_tokenizer(), "").window_without((), 100) == ""


def test_depth_is_the_share_of_other_tokens_before() -> None:
    placed = TokenSpans.encode(tiny_tokenizer(), TEXT)
    assert placed.depth((0, 9)) == 0
    assert placed.depth((len(TEXT) - 9, len(TEXT))) == 1
    assert placed.depth((100, 110)) == 100 / (len(TEXT) - 10)
    assert placed.depth((0, len(TEXT))) == 0


@pytest.mark.parametrize("tokenizer", ["bytes", "words"])
@given(text=st.text("ab .\n,é", min_size=0, max_size=400), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_text_that_is_encoded_in_pieces_has_the_tokens_of_the_whole(tokenizer: str, text: str, seed: int) -> None:
    rng = Random(seed)
    long = " ".join("".join(rng.choices("abcdefgh,.", k=rng.randint(1, 7))) for _ in range(150)) + text
    encode = tiny_tokenizer_once() if tokenizer == "bytes" else word_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_spans, "PIECE", 300)
        patch.setattr(token_spans, "SHARED", 120)
        patch.setattr(token_spans, "AGREED", 4)
        spans = TokenSpans.encode(encode, long)
    whole = encode(long, add_special_tokens=False, return_offsets_mapping=True)
    assert spans.ids.tolist() == whole["input_ids"]
    assert spans.starts.tolist() == [start for start, _ in whole["offset_mapping"]]


@cache
def word_tokenizer() -> Any:
    """A token a word of up to three letters, with the blank before it, else a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ġa", "b"), ("a", "b"), ("c", "d"), ("ab", "cd"), (".", ".")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)
