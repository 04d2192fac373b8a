"""A corpus of any shape or script gives haystacks exact to the token, with needles whole and at their depths."""

from functools import cache
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from environments.haystack.filler.paragraph_filling import Closings
from environments.haystack.layout import Hidden, LayoutError, lay_out, reference_layout
from environments.haystack.sample import Haystacks, Options, rebuild
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer
from tests.environments.haystack.filler.corpora_of_any_shape import SHAPES, english, written_in

LENGTHS = (1024, 4096)
NEEDLES = [f"Needle number {i} is hidden right here." for i in range(5)]


@pytest.fixture(scope="module")
def haystacks_in(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(shape: str, name: str, **more: Any) -> Haystacks:
        options = SHAPES[shape](tmp_path_factory.mktemp("corpus")) | more
        return Haystacks(build_tokenizer(name), Options(pool_tokens=2 * max(LENGTHS), **options))

    return make


@pytest.mark.parametrize(("shape", "name"), zip(SHAPES, cycle(["gpt2", "mistral"]), strict=False))
def test_every_shape_fits_to_the_token(shape: str, name: str, haystacks_in: Any) -> None:
    """google-research/bert 906 (BookCorpus has one sentence a row); jordan-gibbs/hyperresearch 71 and 7xuanlu/wenlan PR 751
    (scripts without blanks)."""
    haystacks = haystacks_in(shape, name)
    tokens, depths = haystacks.tokens, [0.0, 0.5, 1.0]
    for seed in range(3):
        for length in LENGTHS:
            sample = haystacks.sample(seed, "train", "multi_value", length, depths)
            text = tokens.render(sample.messages)
            ids = tokens.encode(text)
            assert len(ids) == length == len(tokens.encode_prompt(text, length))
            needed = [needle for needle in sample.needles if needle.role == "answer"]
            for needle, depth in zip(needed, depths, strict=True):
                found = tokens.decode(ids[needle.token_start : needle.token_end])
                assert needle.text in found and text.count(needle.text) == 1
                assert abs(needle.depth - depth) < 0.1 if length == 4096 else abs(needle.depth - depth) < 0.25


@pytest.mark.parametrize(
    "shape", ["one sentence a row", "dialogue", "code", "chinese rows", "five sentences of 12 words a row"]
)
@pytest.mark.parametrize("numbered", [False, True])
def test_layouts_by_paragraphs_are_those_of_the_reference(shape: str, numbered: bool, haystacks_in: Any) -> None:
    pool, rng = haystacks_in(shape, "gpt2").pool("train", 0), Random(shape)
    for seed in range(12):
        depths = [rng.choice([0.0, 1.0, rng.random()]) for _ in NEEDLES]
        hidden, budget = Hidden(NEEDLES, depths), rng.randint(500, 3000)
        fast = lay_out(pool, hidden, budget, Random(seed), numbered)
        slow = reference_layout(pool, hidden, budget, Random(seed), numbered)
        assert fast.text == slow.text
        for column in ("starts", "ends", "chars", "passages"):
            assert np.array_equal(getattr(fast, column), getattr(slow, column)), column
        for needle, at in zip(NEEDLES, fast.chars, strict=True):
            assert fast.text[at : at + len(needle)] == needle


@pytest.mark.parametrize("task", ["single", "multi_key", "multi_query", "absent"])
def test_rows_of_one_sentence_hold_every_task_numbered_or_not(task: str, haystacks_in: Any) -> None:
    for numbered in (False, True):
        haystacks = haystacks_in("one sentence a row", "gpt2")
        haystacks = haystacks.variant(Options(**{**vars(haystacks.options), "numbered": numbered}))
        for seed in range(4):
            sample = haystacks.sample(seed, "train", task, 1500)
            assert len(haystacks.tokens.encode(haystacks.tokens.render(sample.messages))) == 1500
            if numbered:
                for needle in sample.needles:
                    start = sample.messages[0]["content"].index(needle.text)
                    before = sample.messages[0]["content"][:start]
                    assert int(before.rpartition("\n\n[")[2].partition("]")[0]) == needle.passage


def test_linked_tasks_with_decoys_between_paragraphs(haystacks_in: Any) -> None:
    haystacks = haystacks_in("one sentence a row", "gpt2")
    sample = haystacks.sample(0, "train", "chain", 4096)
    ids = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
    assert len(ids) == 4096 and sample.decoys.texts
    for text, start, end in zip(*sample.decoys, strict=True):
        assert haystacks.tokens.decode(ids[start:end]).strip() == text
    assert rebuild(sample.recipe, haystacks.tokens.tokenizer) == sample


def test_sentences_of_one_length_are_named_as_the_cause(tmp_path: Path, gpt2: Any) -> None:
    """A corpus whose sentences all take as many tokens can only give multiples of them."""
    path = tmp_path / "same.txt"
    path.write_text("\n\n".join(["The house by the river was quiet and old."] * 3000))
    haystacks = Haystacks(gpt2, Options(filler="folder", filler_path=str(path), pool_tokens=8192))
    with pytest.raises(
        LayoutError, match=r"filler .*same\.txt has no sentences that add up to .* take 12 to 12"
    ) as error:
        haystacks.sample(0, "train", "single", 1024)
    assert error.value.settings == ("filler_path", "lengths") and "\n" not in str(error.value)


def test_too_little_text_names_the_corpus(tmp_path: Path, gpt2: Any) -> None:
    path = tmp_path / "small.txt"
    path.write_text("\n\n".join(english((6, 30), 30)))
    haystacks = Haystacks(gpt2, Options(filler="folder", filler_path=str(path), pool_tokens=8192))
    with pytest.raises(ConfigError, match=r"the filler has \d+ tokens, .*; give more text than .*small\.txt or ask"):
        haystacks.sample(0, "train", "single", 1024)


def test_closings_reach_what_sums_of_sentences_reach(haystacks_in: Any) -> None:
    pool = haystacks_in("five sentences of 12 words a row", "gpt2").pool("train", 0)
    closings, rng = Closings(pool.tokens, pool.passages), Random(0)
    least = closings.costs[0]
    assert closings.find(0, set(), rng) == ([], []) and closings.find(least - 1, set(), rng) is None
    for tokens in range(400, 480):
        closing = closings.find(tokens, set(range(20)), rng)
        assert closing is not None and sum(closing.costs) == tokens
        assert pool.tokens.alone(closing.sentences) == closing.costs
        assert len(set(closing.sentences)) == len(closing.sentences)
        used = "\n".join(passage.text for passage in pool.passages[:20])
        assert not any(sentence in used for sentence in closing.sentences)


def test_scripts_by_paragraph_are_an_option_for_mixed_corpora(tmp_path: Path, gpt2: Any) -> None:
    """By default the English half of a corpus is what it was, since recipes rest on it."""
    path = tmp_path / "mixed.txt"
    path.write_text(written_in("chinese", 1000) + "\n\n" + "\n\n".join(english((6, 30), 1500)))
    options = {"filler": "folder", "filler_path": str(path), "pool_tokens": 8192}
    samples = {
        how: Haystacks(gpt2, Options(**options, filler_sentences=how)).sample(0, "train", "single", 1024)
        for how in ("auto", "script")
    }
    assert "。" not in samples["auto"].messages[0]["content"] and "。" in samples["script"].messages[0]["content"]
    assert "filler_sentences" not in samples["auto"].recipe["options"]
    assert samples["script"].recipe["options"]["filler_sentences"] == "script"
    for sample in samples.values():
        assert rebuild(sample.recipe, gpt2) == sample
