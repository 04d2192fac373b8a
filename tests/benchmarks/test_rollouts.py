"""The benchmark at toy size: every row has its shape, and only what a trainer could use counts as a group."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks import rollouts
from benchmarks.reference_tokenizers import CHATML
from benchmarks.rollouts import STALL, TICK, Row, Stalls, measure, rows_of
from benchmarks.rollouts_stubs import GROUP, read_group, stubs
from environments.haystack.sample import Options
from environments.haystack.tokens import load_tokenizer

LENGTH = 2048
FIGURES = {"groups", "groups_per_s", "cpu_ms_per_group", "bytes_per_group", "longest_stall_ms", "stalls"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tokenizer of bytes."""
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>")
    made.chat_template = CHATML
    made.save_pretrained(folder := tmp_path_factory.mktemp("tokenizer"))
    return str(folder)


@pytest.fixture(scope="module")
def url(tokenizer: str) -> Iterator[str]:
    with stubs(load_tokenizer(tokenizer)) as running:
        yield running


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little filler, few groups, and none of the five seconds that atroposlib waits "for other instances"."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *_: sleep(min(seconds, 0.02)))
    monkeypatch.setattr(Options, "pool_tokens", 2 * LENGTH)
    monkeypatch.setattr(rollouts, "WARM", 2)
    monkeypatch.setattr(rollouts, "PROMPTS", 2)


@pytest.mark.parametrize("row", rows_of([LENGTH]), ids=lambda row: f"{row.side}-{row.command}-{row.protocol}")
def test_a_row_has_its_figures(row: Row, url: str, tokenizer: str) -> None:
    figures = measure(rollouts.speed, row, url, tokenizer, 4)
    assert figures.keys() >= FIGURES
    assert all(figures[name] > 0 for name in FIGURES - {"longest_stall_ms", "stalls"})
    if row.command == "serve":
        assert figures["tokens"] > LENGTH  # with the completion, in the shortest sequence that arrived
    else:
        assert figures["groups"] == 4


def test_memory_and_disk(url: str, tokenizer: str) -> None:
    compact, full = (
        measure(rollouts.memory, Row("ours", "process", "vllm", LENGTH, store), url, tokenizer, 4)
        for store in ("compact", "full")
    )
    assert 0 < compact["start_mib"] <= compact["peak_mib"] and 0 < compact["end_mib"] <= compact["peak_mib"]
    assert full["bytes_per_group"] > GROUP * LENGTH > compact["bytes_per_group"] / 10


def test_a_blocked_loop_is_a_stall() -> None:
    async def block() -> Stalls:
        with Stalls() as stalls:
            await asyncio.sleep(TICK)
            time.sleep(2 * STALL)
            await asyncio.sleep(TICK)
        return stalls

    figures = asyncio.run(block()).figures()
    assert figures["longest_stall_ms"] >= 1000 * (2 * STALL - TICK) and figures["stalls"] >= 1


def group(**changes: Any) -> dict[str, Any]:
    one = {"tokens": [[1, 2, 3]], "masks": [[-100, 2, 3]], "inference_logprobs": [[1.0, -0.1, -0.1]], "scores": [1.0]}
    return {name: GROUP * values for name, values in one.items()} | changes


def test_a_group_that_a_trainer_can_use_is_read() -> None:
    text = json.dumps(group()).encode()
    assert read_group(gzip.compress(text), "gzip") == read_group(text, "") == 3


@pytest.mark.parametrize(
    "flaw",
    [{"masks": GROUP * [[2, 3]]}, {"scores": [1.0]}, {"inference_logprobs": []}],
    ids=lambda flaw: next(iter(flaw)),
)
def test_one_that_it_cannot_use_is_refused(flaw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tokens, masks and log-probabilities"):
        read_group(json.dumps(group(**flaw)).encode(), "")


@pytest.mark.parametrize("good", [True, False])
def test_targets_are_judged(good: bool, capsys: pytest.CaptureFixture[str]) -> None:
    both = {"command": "serve", "length": LENGTH, "protocol": "vllm", "longest_stall_ms": 1.0}
    speeds = [both | {"side": "default", "groups_per_s": 1.0}, both | {"side": "ours", "groups_per_s": 10.0}]
    few = {"groups": 100, "length": LENGTH, "start_mib": 100.0, "end_mib": 104.0, "peak_mib": 105.0}
    few["bytes_per_group"] = 1000
    if not good:
        speeds[1] |= {"groups_per_s": 9.9, "longest_stall_ms": 51.0}
        few |= {"end_mib": 106.0, "bytes_per_group": 1001}
    table = rollouts.target_table(speeds, few, {"bytes_per_group": 50_000})
    assert list(table.columns[-1].cells) == 4 * ["yes" if good else "no"]


def test_a_server_that_gets_no_group_does_not_wait_for_ever(
    url: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "make_env", lambda *_: SilentEnv())
    with pytest.raises(RuntimeError, match="0 groups arrived"):
        measure(rollouts.speed, Row("ours", "serve", "vllm", LENGTH), url, tokenizer, 4)


class SilentEnv:
    async def env_manager(self) -> None:
        pass


def test_a_failed_run_says_why(url: str, tokenizer: str, tmp_path: Path) -> None:
    async def fail(*_: Any) -> dict[str, Any]:
        print("3 of 4 done")
        raise SystemExit(1)

    with pytest.raises(RuntimeError, match="3 of 4 done"):
        measure(fail, Row("ours", "process", "vllm", LENGTH), url, str(tmp_path), 4)
