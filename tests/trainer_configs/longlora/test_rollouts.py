"""Rollouts as Axolotl reads them: the tokens and masks of the environments, one sequence for each completion good enough."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"  # before Axolotl is imported: no test may reach the network

from datasets import load_dataset

from environments.haystack.sample import Haystacks, Options
from environments.inference.contracts import Completion
from environments.rollouts.rollout import NOT_TRAINED, RolloutGroup, RolloutRequest
from environments.rollouts.scoring import score
from tests.environments.tiny_model import tiny_tokenizer
from trainer_configs.longlora.config import ROLLOUTS, LongLoRAError, _set_dataset, section
from trainer_configs.longlora.rollouts import load

LENGTH = 1300  # tokens (bytes, with the tiny tokenizer)
GROUPS = 3


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def rollouts(tokenizer: Any) -> list[RolloutGroup]:
    """Groups of a right, a wrong and an abstaining completion."""
    haystacks = Haystacks(tokenizer, Options(pool_tokens=65_536))
    made = []
    for seed in range(GROUPS):
        sample = haystacks.sample(seed, "train", "single", LENGTH)
        said = [f"<answer>{value}</answer>" for value in (sample.answer.values[0], "zzz", "none")]
        completions = [Completion(text, haystacks.tokens.encode(text) + [257], None, "stop") for text in said]
        scores = [score(text, sample.answer) for text in said]
        prompt = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
        made.append(
            RolloutGroup(RolloutRequest(seed, seed, "train", "single", LENGTH), sample, prompt, completions, scores)
        )
    return made


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path, tokenizer: Any, processes: int | None = None, **longlora: Any) -> list[dict[str, Any]]:
    """The dataset that Axolotl asks the type for, of the lines it reads (test_plugin.py has it ask itself)."""
    cfg = {"longlora": longlora}
    entry: dict[str, Any] = {"path": str(path), "type": ROLLOUTS}
    _set_dataset(entry, section(cfg))
    lines = load_dataset(entry["ds_type"], data_files=entry["path"], split="train")
    return load(tokenizer, cfg, entry).wrap_dataset(lines, process_count=processes).to_list()


@pytest.mark.parametrize("store", ["compact", "full", "atropos"])
def test_sequences_are_the_tokens_that_were_sampled(
    store: str, rollouts: list[RolloutGroup], tokenizer: Any, tmp_path: Path
) -> None:
    rows = [r.scored_data() if store == "atropos" else r.row(store == "full") for r in rollouts]
    dataset = read(written(tmp_path / "rollouts.jsonl", rows), tokenizer)
    assert len(dataset) == GROUPS
    for row, rollout in zip(dataset, rollouts, strict=True):
        completion = rollout.completions[0].tokens
        assert row["input_ids"] == rollout.prompt + completion
        assert row["labels"] == [NOT_TRAINED] * len(rollout.prompt) + completion
        assert row["attention_mask"] == [1] * (LENGTH + len(completion))


def test_all_completions_from_the_lowest_score_on(rollouts: list[RolloutGroup], tokenizer: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "rollouts.jsonl", [rollouts[0].row(True)])
    scores = [s.score for s in rollouts[0].scores]
    for lowest in sorted({0.0, *scores}):
        kept = [
            rollouts[0].prompt + c.tokens for c, s in zip(rollouts[0].completions, scores, strict=True) if s >= lowest
        ]
        assert [row["input_ids"] for row in read(path, tokenizer, min_score=lowest)] == kept
    only_wrong = rollouts[0].scored_data() | {"scores": [0.0, 0.0, 0.5]}
    with pytest.raises(LongLoRAError, match=r"no completion scores 1.0: lower longlora.min_score"):
        read(written(path, [only_wrong]), tokenizer)


def test_later_rows_need_not_look_like_the_first(rollouts: list[RolloutGroup], tokenizer: Any, tmp_path: Path) -> None:
    """Arrow would take the schema of the first and fail on the others; blank lines count as lines and are nothing."""
    odd = rollouts[1].scored_data() | {
        "overrides": None,
        "group_overrides": {"recipe": {"options": "x"}},
        "messages": 3,
    }
    path = written(tmp_path / "rollouts.jsonl", [rollouts[0].row(False), "", odd, rollouts[2].row(True)])
    assert [row["input_ids"][: len(r.prompt)] for row, r in zip(read(path, tokenizer), rollouts, strict=True)] == [
        r.prompt for r in rollouts
    ]


def changed(rollout: RolloutGroup, what: str, tokenizer: Any) -> Any:
    row, compact = rollout.row(True), rollout.row(False)
    recipe = row["recipe"]
    return {
        "json": '{"tokens": [[1, 2',
        "list": [1, 2],
        "messages": {"messages": [], "score": 1.0},
        "flat": row | {"tokens": row["tokens"][0]},
        "fewer": row | {"scores": [1.0]},
        "shorter": row | {"masks": [row["masks"][0][:-1], *row["masks"][1:]]},
        "mask": row | {"masks": [[5] * len(row["masks"][0]), *row["masks"][1:]]},
        "nan": row | {"scores": [float("nan"), 0.0, 0.0]},
        "split": row | {"recipe": recipe | {"split": "eval"}},
        "override": rollout.scored_data() | {"group_overrides": {"recipe": recipe | {"split": "eval"}}},
        "beyond": row | {"tokens": [[len(tokenizer)]], "masks": [[len(tokenizer)]], "scores": [1.0]},
        "bare": {name: value for name, value in compact.items() if name != "recipe"},
        "empty": compact | {"recipe": {"version": recipe["version"]}},
        "tokenizer": compact | {"recipe": recipe | {"tokenizer": "0" * 16}},
        "version": compact | {"recipe": recipe | {"version": 0}},
    }[what]


@pytest.mark.parametrize(
    ("what", "said"),
    {
        "json": "not JSON .*; give rollouts, one group a line",
        "list": "no group of rollouts .*; give tokens, masks, scores",
        "messages": "no group of rollouts .*tokens",
        "flat": "no group of rollouts .*tokens.0",
        "fewer": "3 tokens, 3 masks and 1 scores",
        "shorter": r"sequence 0 has \d+ tokens and \d+ masks",
        "mask": "sequence 0 has a mask that is neither -100 nor its token",
        "nan": "scores.0: Input should be a finite number",
        "split": "of the split 'eval'; what is evaluated on must not be trained on",
        "override": "of the split 'eval'",
        "beyond": "token 258 is beyond the tokenizer's 258",
        "bare": "a compact row without a recipe",
        "empty": "the recipe has no 'tokenizer'",
        "tokenizer": "the recipe is for tokenizer 0000000000000000",
        "version": "recipe version 0 is not 1",
    }.items(),
)
def test_a_wrong_row_is_named_by_file_and_line(
    what: str, said: str, rollouts: list[RolloutGroup], tokenizer: Any, tmp_path: Path
) -> None:
    rows = [rollouts[0].row(True), rollouts[1].row(True), changed(rollouts[2], what, tokenizer)]
    path = written(tmp_path / "rollouts.jsonl", rows)
    with pytest.raises(LongLoRAError, match=said) as error:
        read(path, tokenizer)
    assert str(error.value).startswith(f"{path}:3: ")
    assert "\n" not in str(error.value)


def test_any_number_of_processes_makes_the_same(rollouts: list[RolloutGroup], tokenizer: Any, tmp_path: Path) -> None:
    rows = [rollouts[Random(i).randrange(GROUPS)].row(i % 2 == 0) for i in range(6)]
    path = written(tmp_path / "rollouts.jsonl", rows)
    assert read(path, tokenizer, processes=2) == read(path, tokenizer)
    with pytest.raises(LongLoRAError, match="rollouts.jsonl:7: not JSON"):
        read(written(path, [*rows, "{"]), tokenizer, processes=2)
