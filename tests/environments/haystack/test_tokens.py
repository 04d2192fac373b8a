"""Counting in place, the chat frame, and what a tokenizer must have."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.tokens import BREAK, LEFT, PLACEHOLDER, RIGHT, Tokens, load_tokenizer
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer, make_haystacks

PIECES = [
    "The house stood empty.",
    'Nobody said "yes" that day.',
    "One heir named by Ola Brenth is Kail Motoral Vex.",
    "The registration number of Ola Brenth is 0ff1ce00-1234-4abc-8def-0123456789ab.",
    "On 3 May 1874 09:32:17, it rained!",
    "Was it 1234567890?",
]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6)


def tokens_of(name: str) -> Tokens:
    return make_haystacks(name).tokens


@settings(max_examples=40, deadline=None)
@given(first=texts, second=texts)
def test_counts_in_place_add_up(first: list[str], second: list[str]) -> None:
    for name in ("gpt2", "mistral", "cl100k-like"):
        tokens = tokens_of(name)
        whole = BREAK.join([LEFT, " ".join(first), " ".join(second), RIGHT])
        total = len(tokens.encode(LEFT + BREAK + RIGHT))
        for paragraph in (first, second):
            if len(paragraph) == 1:
                total += sum(tokens.alone(paragraph))
            else:
                total += sum(tokens.initial(paragraph[:1]) + tokens.mid(paragraph[1:-1]) + tokens.final(paragraph[-1:]))
        assert len(tokens.encode(whole)) == total


def test_a_blank_line_costs_what_the_place_says() -> None:
    """The reason for four places: "." and the blank line behind it are fewer tokens than the two apart."""
    tokens = tokens_of("cl100k-like")
    text = "The house stood empty."
    assert len(tokens.encode("." + BREAK)) == 1
    assert tokens.final([text]) == tokens.mid([text])


def test_head_and_tail(tokenizer_name: str) -> None:
    tokens = tokens_of(tokenizer_name)
    before, after = tokens.frame(f"Read this.{BREAK}{PLACEHOLDER}{BREAK}Question: why?")
    before, after = before.removesuffix(BREAK), after.removeprefix(BREAK)
    assert before.endswith("Read this.") and after.startswith("Question: why?")
    if tokenizer_name != "crossing":
        middle = "Nobody knew."
        whole = len(tokens.encode(BREAK.join([before, middle, after])))
        assert whole == tokens.head(before) + tokens.alone([middle])[0] + tokens.tail(after)


def test_render_encodes_special_tokens_once(tokenizer_name: str) -> None:
    tokens = tokens_of(tokenizer_name)
    ids = tokens.encode(tokens.render([{"role": "user", "content": "Hello there."}]))
    asked = tokens.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello there."}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert ids == asked
    assert tokens.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == tokens.decode(ids)


def test_offsets_cover_the_text(tokenizer_name: str) -> None:
    tokens = tokens_of(tokenizer_name)
    text = " ".join(PIECES)
    ids, offsets = tokens.offsets(text)
    assert ids == tokens.encode(text) and len(ids) == len(offsets)
    assert offsets[-1][1] == len(text) and all(a[0] <= b[0] for a, b in zip(offsets, offsets[1:], strict=False))


def test_fingerprint_tells_tokenizers_apart_and_ignores_truncation() -> None:
    names = ("gpt2", "mistral", "cl100k-like", "crossing")
    assert len({tokens_of(name).fingerprint for name in names}) == len(names)
    tokenizer = copy.deepcopy(build_tokenizer("crossing"))
    before = Tokens(tokenizer).fingerprint
    tokenizer("some text", truncation=True, max_length=2)
    assert Tokens(tokenizer).fingerprint == before
    tokenizer.chat_template += " "
    assert Tokens(tokenizer).fingerprint != before


def test_truncation_left_on_does_not_shorten_counts() -> None:
    """A tokenizer that was used with truncation elsewhere keeps it in its backend."""
    tokenizer = copy.deepcopy(build_tokenizer("crossing"))
    text = " ".join(PIECES)
    right = len(Tokens(tokenizer).encode(text))
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokens = Tokens(tokenizer)
    assert len(tokens.encode(text)) == right
    assert tokens.lengths([text]) == [right]


def test_special_tokens_are_listed(tokenizer_name: str) -> None:
    special = tokens_of(tokenizer_name).special
    assert special and all(token.strip() for token in special)
    assert ("</s>" if tokenizer_name == "mistral" else "<|im_end|>") in special


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_no_template() -> None:
    tokenizer = copy.deepcopy(build_tokenizer("crossing"))
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template") as error:
        Tokens(tokenizer)
    assert "instruct" in one_line(error)


def test_slow_tokenizer() -> None:
    slow = SimpleNamespace(is_fast=False, chat_template="x", name_or_path="old/slow")
    with pytest.raises(ConfigError, match="'old/slow' is not a fast tokenizer") as error:
        Tokens(slow)
    assert "tokenizer.json" in one_line(error)


def test_unknown_name_or_empty_folder(tmp_path) -> None:
    for name, word in (("nobody/nothing-of-the-kind", "name"), (str(tmp_path), "folder")):
        with pytest.raises(ConfigError, match=f"tokenizer {word}") as error:
            load_tokenizer(name)
        assert name in one_line(error) and error.value.settings == ("tokenizer_name",)


def test_a_prompt_by_paragraphs_has_the_tokens_of_the_whole(
    tokenizer_name: str, haystacks_of: Callable[..., Any]
) -> None:
    tokens = Tokens(haystacks_of(tokenizer_name).tokens.tokenizer)
    for numbered in (False, True):
        haystacks = haystacks_of(tokenizer_name, numbered=numbered)
        for seed, length in enumerate((900, 2000, 900, 3000, 2000, 900)):
            sample = haystacks.sample(seed, "train", "multi_value", length, depths=[0.0, 0.5, 1.0])
            text = tokens.render(sample.messages)
            assert tokens.encode_prompt(text, length) == tokens.encode(text)
    assert tokens._joins
    for text in ("no blank line", "a\n\n\n\nb", "\n\n", ""):
        assert tokens.encode_prompt(text, len(tokens.encode(text))) == tokens.encode(text)
        with pytest.raises(ConfigError, match="not 3000: the pieces") as error:
            tokens.encode_prompt(text, 3000)
        one_line(error)


@pytest.mark.parametrize("trusted", [False, True])
def test_tokens_that_do_not_join_at_blank_lines(trusted: bool, haystacks_of: Callable[..., Any]) -> None:
    """Found out by the first prompts, or by the count of any."""
    haystacks = haystacks_of("gpt2")
    tokens = Tokens(haystacks.tokens.tokenizer)
    tokens._joins = True if trusted else None
    tokens._paragraph = lambda text: [1]
    for seed in range(3):
        text = tokens.render(haystacks.sample(seed, "train", "single", 900).messages)
        assert tokens.encode_prompt(text, 900) == tokens.encode(text)
    assert tokens._joins is trusted
