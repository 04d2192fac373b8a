"""Many requests at a time: what is counted, what fails one request and what ends the run, and what Ctrl-C leaves on disk."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from environments.inference.contracts import Completion
from environments.inference.errors import BadReply, RequestRejected
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.row_log import RowLog, RowLost
from environments.rollouts.runner import Progress, Runner, failure_line, on_signals
from longthread.errors import RunError
from longthread.files import read_jsonl

REQUESTS = [RolloutRequest(i, i, "train", "single", 900) for i in range(12)]


def group_of(request: RolloutRequest, score: float = 0.5) -> RolloutGroup:
    """Two completions of 3 tokens to a prompt of 10."""
    completions: list[Any] = [Completion("x", [1, 2, 3], None, "stop")] * 2
    scores: list[Any] = [SimpleNamespace(score=score)] * 2
    return RolloutGroup(request, sample=None, prompt=[0] * 10, completions=completions, scores=scores)  # type: ignore[arg-type]


async def run(
    path: Path, sample: Any, workers: int = 4, max_failures: int = 2, signals: bool = False, to_row: Any = None
) -> tuple[Progress, list[int]]:
    """The progress of a run over `REQUESTS`, and the items on disk after it."""
    runner = Runner("test", "groups", sample, to_row or (lambda group: {}), workers, max_failures)
    with RowLog(path, "run", [r.index for r in REQUESTS]) as log:
        progress = await runner.run(REQUESTS, lambda request: request.index, log, signals)
    return progress, sorted(row["item"] for row in read_jsonl(log.path))


async def sampled(request: RolloutRequest) -> RolloutGroup:
    await asyncio.sleep(0)
    return group_of(request)


async def test_every_request_is_sampled_once_and_counted(tmp_path: Path) -> None:
    progress, items = await run(tmp_path / "rows.jsonl", sampled)
    assert items == [r.index for r in REQUESTS] and progress.finished and progress.failed == 0
    assert (progress.completions, progress.prompt_tokens, progress.completion_tokens) == (24, 120, 72)
    assert progress.mean_score == 0.5 and progress.summary() == "mean score 0.50 of 24 completions, 0 failed"
    assert progress.postfix(2.0) == {"score": "0.50", "read": "60.0 tok/s", "written": "36.0 tok/s", "failed": "0"}


async def test_no_more_at_a_time_than_workers(tmp_path: Path) -> None:
    now = most = 0

    async def sample(request: RolloutRequest) -> RolloutGroup:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return group_of(request)

    await run(tmp_path / "rows.jsonl", sample, workers=3)
    assert most == 3


async def test_rows_that_exist_are_not_sampled_again(tmp_path: Path) -> None:
    with RowLog(tmp_path / "rows.jsonl", "run", range(12)) as log:
        for index in (0, 3, 5):
            log.add(index, {})
    seen = []

    async def sample(request: RolloutRequest) -> RolloutGroup:
        seen.append(request.index)
        return group_of(request)

    _, items = await run(tmp_path / "rows.jsonl", sample)
    assert items == [*range(12)] and not {0, 3, 5} & set(seen) and len(seen) == 9


async def test_a_request_that_fails_is_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def sample(request: RolloutRequest) -> RolloutGroup:
        if request.index == 4:
            raise BadReply("no answer")
        if request.index == 7:
            raise ValueError("score nan\nis not finite")
        return group_of(request)

    progress, items = await run(tmp_path / "rows.jsonl", sample)
    assert items == [i for i in range(12) if i not in (4, 7)] and progress.finished and progress.failed == 2
    error = capsys.readouterr().err
    assert "item 4 failed: no answer\n" in error and "item 7 failed: ValueError: score nan is not finite\n" in error


async def test_too_many_failures_end_the_run(tmp_path: Path) -> None:
    async def sample(request: RolloutRequest) -> RolloutGroup:
        raise BadReply("no answer")

    progress, items = await run(tmp_path / "rows.jsonl", sample, workers=1, max_failures=3)
    assert not progress.finished and progress.failed == 4 and items == []
    assert progress.summary() == "4 failed"


async def test_a_server_that_rejects_all_ends_the_run_with_its_settings(tmp_path: Path) -> None:
    async def sample(request: RolloutRequest) -> RolloutGroup:
        if request.index == 2:
            raise RequestRejected("no key", setting="openai.api_key")
        return group_of(request)

    with pytest.raises(RunError, match="^no key; the same command continues where this one stopped") as caught:
        await run(tmp_path / "rows.jsonl", sample, workers=1)
    assert caught.value.settings == ("openai.api_key",)
    assert [row["item"] for row in read_jsonl(tmp_path / "rows.jsonl")] == [0, 1]


@pytest.mark.parametrize("error", [RowLost("the disk is full"), KeyError("a bug")])
async def test_what_is_no_requests_fault_is_raised(tmp_path: Path, error: Exception) -> None:
    def to_row(group: RolloutGroup) -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)):
        await run(tmp_path / "rows.jsonl", sampled, to_row=to_row)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_keeps_what_is_being_saved(tmp_path: Path, number: signal.Signals) -> None:
    saving, go_on = threading.Event(), threading.Event()

    def to_row(group: RolloutGroup) -> dict[str, Any]:
        saving.set()
        assert go_on.wait(60)
        return {}

    async def sample(request: RolloutRequest) -> RolloutGroup:
        if request.index:
            await asyncio.to_thread(saving.wait)
            os.kill(os.getpid(), number)  # while the first row is on its way to the disk
            go_on.set()
            await asyncio.Event().wait()
        return group_of(request)

    progress, items = await run(tmp_path / "rows.jsonl", sample, workers=2, signals=True, to_row=to_row)
    assert not progress.finished and items == [0]


async def test_signals_are_taken_while_it_is_entered_and_given_back() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), asyncio.Event()
    with on_signals([signal.SIGTERM], seen.set):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(seen.wait(), 60)
    assert signal.getsignal(signal.SIGTERM) == before


async def test_other_threads_leave_signals_alone() -> None:
    async def enter() -> None:
        with on_signals([signal.SIGTERM], lambda: None):
            pass

    await asyncio.to_thread(lambda: asyncio.run(enter()))


def test_a_failure_is_its_own_line_or_names_its_type() -> None:
    assert failure_line(BadReply("no answer", setting="openai.timeout")) == "no answer (openai.timeout)"
    assert failure_line(ValueError("a\nb")) == "ValueError: a b"
