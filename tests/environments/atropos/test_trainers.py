"""What a trainer gets from `serve`, over the real run-api, from a real model: each number of every batch computed anew,
and Atropos' own example trainer fed with them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import example_trainer.api as grpo_api
import example_trainer.data as grpo_data
import pytest
import torch
from example_trainer.config import TrainingConfig
from example_trainer.training import compute_grpo_loss, run_training_step
from transformers import AutoModelForCausalLM, AutoTokenizer

from environments.haystack.sample import Options, rebuild
from environments.inference.embedded.server import background
from environments.rollouts.scoring import score
from tests.environments.atropos_api import call, hurry, running_api, take_batches
from tests.environments.loopback import make_env, no_waiting
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import EOS, save_tiny

BUDGET = 64  # tokens of a completion
GROUP, BATCH = 4, 8
# Nobody taught this model anything; a needle of one sign is what it happens to say in about half of its replies.
SIGN = {"tasks": "custom", "needle": "The sign on the door is | today.", "question": "Which sign is on the door?",
        "expected": "|", "answer_format": "plain", "absent_share": 0.0, "lengths": "700,800"}  # fmt: skip
EVERYTHING = {"tasks": "single,multi_key,multi_value,multi_query", "absent_share": 0.5, "numbered": True,
              "lengths": "1500,1700", "temperature": 0.7, "ensure_scores_are_not_same": False}  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_waiting(monkeypatch)
    hurry(monkeypatch)
    monkeypatch.setattr(Options, "pool_tokens", 2**15)  # a pool of the usual size takes seconds to write
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two torch threads that spin for cores which run-api also wants take twice the time of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run_api() -> Iterator[str]:
    with running_api() as url:
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), max_position_embeddings=8192, initializer_range=0.2)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with background(folder, model_name="m", threads=1) as url:
        yield url


@pytest.fixture
def model(folder: Path) -> Any:
    """The served weights, in transformers' own attention: none of the server's own code."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


def serving(folder: Path, server: str, api: str, **settings: Any) -> Any:
    known: dict[str, Any] = {
        "group_size": GROUP,
        "batch_size": BATCH,
        "max_new_tokens": BUDGET,
        "rollout_server_url": api,
    }
    return make_env(folder, server, server={"server_type": "vllm"}, **known | {"total_steps": 1} | settings)


def own_logprobs(model: Any, tokens: list[int], start: int) -> torch.Tensor:
    """Log-probabilities of `tokens[start:]`, each given all tokens before it, at temperature 1."""
    with torch.inference_mode():
        logits_LV = model(torch.tensor([tokens])).logits[0].float()
    chosen = torch.tensor(tokens[start:])
    return logits_LV[start - 1 : -1].log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)


def check_group(group: dict[str, Any], tokenizer: Any, model: Any) -> None:
    recipe = group["group_overrides"]["recipe"]
    sample = rebuild(recipe, tokenizer)
    prompt = tokenizer.apply_chat_template(sample.messages, add_generation_prompt=True, return_dict=False)
    assert len(prompt) == sample.length == recipe["length"]
    evidence = sample.evidence if recipe["options"]["numbered"] else None
    rows = ("tokens", "masks", "inference_logprobs", "scores", "messages", "overrides")
    assert [len(group[name]) for name in rows] == [GROUP] * len(rows)
    for tokens, mask, logprobs, earned, messages, overrides in zip(*(group[name] for name in rows), strict=True):
        start, completion = len(prompt), tokens[len(prompt) :]
        assert tokens[:start] == prompt and 0 < len(completion) <= BUDGET
        assert EOS not in completion[:-1] and (completion[-1] == EOS or len(completion) == BUDGET)
        assert mask == [-100] * start + completion
        assert logprobs[:start] == [1.0] * start and len(logprobs) == len(tokens)
        torch.testing.assert_close(torch.tensor(logprobs[start:]), own_logprobs(model, tokens, start),
                                   atol=1e-4, rtol=0)  # fmt: skip
        text = tokenizer.decode(completion, skip_special_tokens=True)
        right = score(text, sample.answer, recipe["options"]["answer_format"], evidence)
        assert earned == right.score and math.isfinite(earned) and overrides == {"details": right.to_json()}
        assert messages == [*sample.messages, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("settings", [SIGN, EVERYTHING], ids=["sign", "everything"])
async def test_every_number_of_every_batch(
    settings: dict[str, Any], folder: Path, server: str, run_api: str, model: Any
) -> None:
    """Log-probabilities are the model's own (temperature 1) whatever the rollouts' temperature, as vLLM has them."""
    env = serving(folder, server, run_api, **settings)
    batches, _ = await asyncio.wait_for(asyncio.gather(take_batches(run_api, BATCH, 1), env.env_manager()), PATIENCE)
    assert len(batches) >= 2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    groups = [group for batch in batches for group in batch]
    for group in groups:
        check_group(group, tokenizer, model)
        assert len(set(group["scores"])) > 1 or not env.config.ensure_scores_are_not_same
    assert all(sum(len(group["tokens"]) for group in batch) == BATCH for batch in batches)
    recipes = [group["group_overrides"]["recipe"] for group in groups]
    assert len({(recipe["task"], recipe["length"], recipe["seed"]) for recipe in recipes}) == len(recipes)  # none twice


# ---- the example trainer: atropos-grpo ----


def settings_of(api: str) -> TrainingConfig:
    return TrainingConfig(model_name="m", batch_size=2, gradient_accumulation_steps=BATCH // 2, seq_len=2048, lr=0.01,
                          device="cpu", atropos_url=api, optimizer="adamw")  # fmt: skip


async def grpo_batches(env: Any, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Any]:
    """`/batch`'s answers as they came, and what the example trainer made of them."""
    answers: list[Any] = []

    def get_batch(url: str) -> Any:
        answer = grpo_api.get_batch(url)
        answers.append(copy.deepcopy(answer))  # the trainer writes into it
        return answer

    monkeypatch.setattr(grpo_data, "get_batch", get_batch)
    monkeypatch.setattr(grpo_data, "time", SimpleNamespace(sleep=lambda _: time.sleep(0.02)))
    await call(config.atropos_url, "GET", "/reset_data")
    await asyncio.to_thread(grpo_api.register_trainer, config)
    task = asyncio.create_task(env.env_manager())
    try:
        getting = asyncio.to_thread(grpo_data.get_data, config.batch_size, config.seq_len, config.atropos_url)
        batches, _ = await asyncio.wait_for(getting, PATIENCE)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return [answer["batch"] for answer in answers if answer["batch"] is not None], batches


def padded(row: list[Any], fill: Any, width: int) -> torch.Tensor:
    return torch.tensor(row + [fill] * (width - len(row)))


def check_tensors(groups: list[dict[str, Any]], made: Any) -> None:
    """Rows padded to a multiple of 64, labels and log-probabilities one ahead of the tokens."""
    width = 64 * math.ceil((max(len(row) for group in groups for row in group["tokens"]) - 1) / 64)
    rows: dict[str, list[Any]] = {"tokens": [], "labels": [], "advantages": [], "temperatures": [], "logprobs": []}
    for group in groups:
        mean, deviation = statistics.fmean(group["scores"]), statistics.pstdev(group["scores"])
        for i, earned in enumerate(group["scores"]):
            rows["tokens"].append(padded(group["tokens"][i], 0, width)[:width])
            rows["labels"].append(padded(group["masks"][i], -100, width + 1)[1:])
            rows["logprobs"].append(padded(group["inference_logprobs"][i], 1.0, width + 1)[1:])
            rows["advantages"].append(torch.tensor([(earned - mean) / deviation], dtype=torch.float64))
            rows["temperatures"].append(torch.ones(1, 1))
    for mine, theirs in zip(rows.values(), made, strict=True):
        torch.testing.assert_close(torch.stack(mine), torch.cat(theirs), check_dtype=False)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_atropos_grpo_trains_on_them(
    temperature: float, folder: Path, server: str, run_api: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step trainer and server hold the same weights: all importance ratios are 1. A step then makes
    better completions likelier."""
    config = settings_of(run_api)
    env = serving(folder, server, run_api, **SIGN, temperature=temperature)
    raw, made = await grpo_batches(env, config, monkeypatch)
    assert raw and len(raw) == len(made)
    for groups, tensors in zip(raw, made, strict=True):
        check_tensors(groups, tensors)
    tokens, labels, advantages, temperatures, logprobs = made[0]
    for micro in zip(tokens, labels, advantages, temperatures, logprobs, strict=True):
        loss, metrics = compute_grpo_loss(model, *micro[:4], config.gradient_accumulation_steps, micro[4])
        assert loss.isfinite() and metrics["clipped_fraction"] == 0 and metrics["logprob_diff_max"] < 1e-4
        assert metrics["mean_ratio"] == pytest.approx(1, abs=1e-4)
    before = favoured(model, raw[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    step = run_training_step(model, optimizer, *made[0][:4], config, 0, made[0][4])
    assert math.isfinite(step["loss"]) and 0 < step["grad_norm"] < math.inf
    assert favoured(model, raw[0]) > before


def favoured(model: Any, groups: list[dict[str, Any]]) -> float:
    """How much likelier, a token, better completions of a group are than worse ones."""
    total = 0.0
    for group in groups:
        mean, deviation = statistics.fmean(group["scores"]), statistics.pstdev(group["scores"])
        start = group["masks"][0].count(-100)
        for tokens, earned in zip(group["tokens"], group["scores"], strict=True):
            total += (earned - mean) / deviation * float(own_logprobs(model, tokens, start).mean())
    return total
