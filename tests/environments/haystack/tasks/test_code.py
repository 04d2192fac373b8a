"""Facts in source code: exact, parseable, with one answer; a folder of code is cut between top-level blocks."""

from __future__ import annotations

import ast
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.text_solver import faults, text_of
from environments.haystack.filler import code
from environments.haystack.filler.passages import top_level_blocks
from environments.haystack.sample import Haystacks, Options, rebuild
from environments.rollouts.scoring import score
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer, make_haystacks

TASKS_OF_CODE = ("code_constant", "code_chain", "absent_code_constant", "absent_code_chain")


@pytest.mark.parametrize("task", TASKS_OF_CODE)
@pytest.mark.parametrize("numbered", [False, True])
def test_code_has_one_answer_to_the_token(task: str, numbered: bool) -> None:
    for seed in (0, 3, 7):
        haystacks = make_haystacks("gpt2", numbered=numbered, distractors=seed, hops="2-8")
        sample = haystacks.sample(seed % 4, "eval" if seed % 3 else "train", task, 2048 + seed)
        assert faults(sample) == []
        ids = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
        assert len(ids) == sample.length
        for needle in sample.needles:
            assert haystacks.tokens.decode(ids[needle.token_start : needle.token_end]).strip() == needle.text
        ast.parse(text_of(sample))


@pytest.mark.parametrize("task", TASKS_OF_CODE)
def test_any_tokenizer(task: str, tokenizer_name: str) -> None:
    haystacks = make_haystacks(tokenizer_name)
    sample = haystacks.sample(1, "train", task, 2048)
    assert faults(sample) == [] and rebuild(sample.recipe, build_tokenizer(tokenizer_name)) == sample
    assert len(haystacks.tokens.encode(haystacks.tokens.render(sample.messages))) == 2048


def test_train_and_eval_share_no_name() -> None:
    def names(split: str) -> set[str]:
        source = "\n\n".join(block for passage in islice(code.passages(0, split), 200) for (block,) in passage)
        body = ast.parse(source).body
        defined = [n.name if hasattr(n, "name") else n.targets[0].id.lower() for n in body]  # type: ignore[attr-defined]
        assert len(defined) == len(set(defined))
        return set(defined)

    assert not names("train") & names("eval")


def test_the_stream_is_seeded_and_without_empty_lines() -> None:
    first, again, other = (list(islice(code.passages(seed, "train"), 30)) for seed in (1, 1, 2))
    assert first == again != other
    assert not any("\n\n" in block for passage in first for (block,) in passage)


def test_steps_earn_what_they_earn_in_a_chain() -> None:
    sample = make_haystacks("gpt2", hops="3").sample(0, "train", "code_chain", 2048)
    assert len(sample.answer.steps) == 2 and "name the functions you passed" in sample.messages[0]["content"]
    reply = f"<steps>{sample.answer.steps[0]}(); {sample.answer.steps[1]}()</steps><answer>7</answer>"
    assert score(reply, sample.answer).score == 0.2
    assert score(f'<answer>"{sample.answer.values[0]}"</answer>', sample.answer).score == 1


# ---- a folder of one's own ----

MODULE = '''"""A module."""

import os

LIMIT = 3


@cached
def first(a):
    """Say so.

    And more.
    """
    b = a

    return b


class Thing:
    x = 1

    def method(self):
        return self.x


if LIMIT:
    first(1)

else:
    first(2)
'''


def test_top_level_blocks() -> None:
    blocks = [block for passage in top_level_blocks(MODULE.split("\n")) for (block,) in passage]
    assert [block.split("\n")[0] for block in blocks] == [
        '"""A module."""', "import os", "LIMIT = 3", "@cached", "class Thing:", "if LIMIT:",
    ]  # fmt: skip
    assert all(ast.parse(block) for block in blocks)
    assert ast.dump(ast.parse("\n\n".join(blocks))) == ast.dump(ast.parse(MODULE.replace("\n\n    And", "\n    And")))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_blocks_of_generated_code_come_back(seed: int) -> None:
    passage = next(code.passages(seed, "train"))
    text = "\n\n\n".join(block for (block,) in passage)
    assert [block for found in top_level_blocks(text.split("\n")) for block in found] == passage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules as people write them: imports, functions with empty lines in them, classes with methods."""
    path = tmp_path_factory.mktemp("source")
    for number, passage in enumerate(islice(code.passages(5, "train"), 60)):
        spaced = "\n\n\n".join(block.replace("\n    return", "\n\n    return") for (block,) in passage)
        (path / f"module_{number}.py").write_text(f'"""Module {number}."""\n\nimport os\n\n\n{spaced}\n')
    return path


def of_folder(folder: Path, **options: str) -> Haystacks:
    own = {"filler": "folder", "filler_path": str(folder), "filler_sentences": "code", **options}
    return Haystacks(build_tokenizer("gpt2"), Options(pool_tokens=8192, **own))  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS_OF_CODE)
def test_needles_stand_between_the_blocks_of_ones_own_code(task: str, folder: Path) -> None:
    haystacks = of_folder(folder)
    for seed in range(2):
        sample = haystacks.sample(seed, "train", task, 2000)
        assert faults(sample) == [] and "Module" in text_of(sample)
        assert len(haystacks.tokens.encode(haystacks.tokens.render(sample.messages))) == 2000


def test_code_cut_anywhere_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        of_folder(folder, filler_sentences="auto").sample(0, "train", "code_chain", 2000)
    assert "filler_sentences code" in error.value.message and "\n" not in error.value.message


def test_no_lexical_gap() -> None:
    with pytest.raises(ConfigError, match="no lexical gap"):
        make_haystacks("gpt2", lexical_gap=True).sample(0, "train", "code_chain", 2000)
