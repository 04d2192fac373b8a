"""TRL: the reward on whatever completions it gives, and a run of `GRPOTrainer` that reads prompts whole."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.tasksets import core, trl
from longthread.errors import ConfigError, DataError
from tests.environments.loopback import model_folder
from tests.environments.tasksets.frameworks import config, right


@pytest.fixture(scope="module")
def row(tokenizer: Path) -> dict[str, Any]:
    return trl.dataset_row(core.Rows(config(tokenizer, absent_share=0))[0])


def reward(row: dict[str, Any], *completions: Any) -> list[float]:
    n = len(completions)
    return trl.longthread_reward([row["prompt"]] * n, completions, [row["target"]] * n, trainer_state=None)


def test_a_right_reply_earns_one_in_any_form(row: dict[str, Any]) -> None:
    text = right(json.loads(row["target"]))
    spoken = [{"role": "assistant", "content": text}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    assert reward(row, text, spoken, parts, "<answer>no</answer>") == [1.0, 1.0, 1.0, 0.0]


NOTHING = [None, "", [], [{"role": "assistant", "content": None}], [{"role": "assistant", "tool_calls": [{"id": "1"}]}]]


@pytest.mark.parametrize("completion", NOTHING, ids=["none", "empty", "no message", "no content", "tool call"])
def test_no_reply_earns_zero_and_never_none(completion: Any, row: dict[str, Any]) -> None:
    assert reward(row, completion) == [0.0]


# There a judge returned 7, 10 and "0.8x".
@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60) | st.sampled_from(["<answer>", "10", "0.8x", "<answer>7</answer>", "<think>"]))
def test_art_477_a_reward_is_a_number_from_0_to_1(row: dict[str, Any], text: str) -> None:
    (earned,) = reward(row, text)
    assert isinstance(earned, float) and 0 <= earned <= 1


def test_shares_are_logged(row: dict[str, Any]) -> None:
    logged: dict[str, float] = {}
    target, text = row["target"], right(json.loads(row["target"]))
    trl.longthread_reward([""] * 2, [text, "<answer>none</answer>"], [target] * 2, log_metric=logged.__setitem__)
    assert logged == {"longthread/exact": 0.5, "longthread/abstained": 0.5}


def test_rows_that_are_not_ours_or_changed_are_refused(row: dict[str, Any]) -> None:
    changed = json.dumps(json.loads(row["target"]) | {"length": 1})
    with pytest.raises(DataError, match="changed"):
        trl.longthread_reward([""], [""], [changed])
    with pytest.raises(DataError, match="not a row"):
        trl.longthread_reward([""], [""], ["{}"])


def test_rows_are_a_dataset_without_end(tokenizer: Path) -> None:
    asked = config(tokenizer, tasks="single,count")
    got = [json.loads(row["target"])["digest"] for row in islice(trl.rows(asked), 5)]
    assert got == [row["digest"] for row in islice(core.samples(asked), 5)]
    with pytest.raises(ConfigError, match="too short"):
        trl.rows(config(tokenizer, lengths="40"))


# Prompts above `max_prompt_length` ended in an IndexError (4358) or were cut silently (3180).
def test_trl_4358_and_3180_prompts_are_read_whole(tokenizer: Path, tmp_path: Path) -> None:
    grpo = pytest.importorskip("trl", "1.16", reason="TRL 1.16 is not installed: make test-frameworks")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    folder = model_folder(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    read: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, given: read.append((given["input_ids"] if "input_ids" in given else args[0]).shape[1]),
        with_kwargs=True,
    )
    seen: list[float] = []

    def watched(**given: Any) -> list[float]:
        seen.extend(scores := trl.longthread_reward(**given))
        return scores

    args = grpo.GRPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, num_generations=2,
        max_completion_length=4, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], logging_steps=1,
        save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = grpo.GRPOTrainer(
        model=model,
        reward_funcs=watched,
        args=args,
        train_dataset=trl.rows(config(folder, absent_share=0)),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    hook.remove()
    assert trainer.state.global_step == 1
    assert read[0] == 1300 and len(seen) == 2
