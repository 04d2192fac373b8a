"""Sample groups concurrently: each is on disk once it is done, and a signal or too many failures end the run cleanly."""

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from environments.inference.completions import failure_reason
from environments.inference.errors import CompletionError, RequestRejected
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.row_log import Key, RowLog
from longthread.counts import counted
from longthread.errors import RunError
from longthread.files import JsonObject

# Of one request: no completions; a sample that cannot be built, or a score that is not finite.
EXPECTED_ERRORS = (CompletionError, ValueError)


@dataclass
class Progress:
    """What a run has done so far. `finished` is False when a signal or failures ended it."""

    failed: int = 0
    completions: int = 0
    missing: int = 0  # completions without content
    score: float = 0.0  # the sum over the completions
    prompt_tokens: int = 0  # each prompt once a group
    completion_tokens: int = 0
    finished: bool = True

    def add(self, group: RolloutGroup) -> None:
        """Count a finished group."""
        self.completions += len(group.scores)
        self.missing += sum(bool(completion.missing) for completion in group.completions)
        self.score += sum(score.score for score in group.scores)
        self.prompt_tokens += len(group.prompt)
        self.completion_tokens += sum(len(c.tokens) for c in group.completions)

    @property
    def mean_score(self) -> float:
        """The mean score of all completions; 0 before the first."""
        return self.score / self.completions if self.completions else 0.0

    def summary(self) -> str:
        """Return mean score, completions and failures in one line."""
        completions = counted(self.completions, "completion")
        scores = f"mean score {self.mean_score:.2f} of {completions}, " if self.completions else ""
        missing = f"{self.missing} without content, " if self.missing else ""
        return f"{scores}{missing}{self.failed} failed"

    def postfix(self, seconds: float) -> dict[str, str]:
        """Return what the progress bar shows after so many seconds: mean score, tokens per second, failures."""
        read, written = (
            f"{tqdm.format_sizeof(tokens / max(seconds, 1e-9))} tok/s"
            for tokens in (self.prompt_tokens, self.completion_tokens)
        )
        return {"score": f"{self.mean_score:.2f}", "read": read, "written": written, "failed": str(self.failed)}


@dataclass
class Runner:
    """Runs many requests at a time: `sample_group` makes a request's group, `to_row` its row, in a worker thread."""

    name: str
    unit: str
    sample_group: Callable[[RolloutRequest], Awaitable[RolloutGroup]]
    to_row: Callable[[RolloutGroup], JsonObject]
    workers: int
    max_failures: int

    async def run(
        self, requests: Sequence[RolloutRequest], key: Callable[[RolloutRequest], Key], log: RowLog, signals: bool
    ) -> Progress:
        """Sample every request whose key is not in the log. `signals`: SIGINT and SIGTERM end the run cleanly.

        Raises what is not the fault of one request: a full disk (`RowLost`), a server that rejects all (`RunError`).
        """
        pending = [request for request in requests if key(request) not in log.done]
        queue, stop, progress = iter(pending), asyncio.Event(), Progress()
        saving: set[asyncio.Task[None]] = set()  # never cancelled: these completions are made and paid for
        bar = tqdm(
            total=len(requests), initial=len(requests) - len(pending), unit=self.unit, desc=self.name, smoothing=0.1
        )

        async def sample_and_save(request: RolloutRequest) -> None:
            group = await self.sample_group(request)
            task = asyncio.create_task(asyncio.to_thread(self._save, log, key(request), group))
            saving.add(task)
            task.add_done_callback(saving.discard)
            await asyncio.shield(task)
            progress.add(group)
            bar.set_postfix(progress.postfix(bar.format_dict["elapsed"]), refresh=False)
            bar.update()

        async def work() -> None:
            for request in queue:
                try:
                    await sample_and_save(request)
                except RequestRejected as error:
                    message = f"{error.message}; the same command continues where this one stopped"
                    raise RunError(message, setting=error.settings) from None
                except EXPECTED_ERRORS as error:
                    progress.failed += 1
                    bar.write(f"item {request.index} failed: {failure_line(error)}", file=sys.stderr)
                    if progress.failed > self.max_failures:
                        stop.set()
                        return

        numbers = (signal.SIGINT, signal.SIGTERM) if signals else ()
        with on_signals(numbers, stop.set), logging_redirect_tqdm(), bar:
            workers = [asyncio.create_task(work()) for _ in range(max(1, min(self.workers, len(pending))))]
            try:
                await _wait_for_all(workers, stop)
            finally:
                await asyncio.gather(*saving, return_exceptions=True)
        progress.finished = not stop.is_set()
        return progress

    def _save(self, log: RowLog, key: Key, group: RolloutGroup) -> None:
        log.add(key, self.to_row(group))


async def _wait_for_all(workers: Sequence[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Wait until all have ended, one has failed or `stop` is set, and cancel the rest. Raises the failure."""
    ended = asyncio.create_task(asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*workers, ended, stopped):
            task.cancel()
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def failure_line(error: Exception) -> str:
    """Return why a request failed, in one line."""
    return str(error) if isinstance(error, CompletionError) else failure_reason(error)


@contextlib.contextmanager
def on_signals(numbers: Sequence[signal.Signals], act: Callable[[], object]) -> Iterator[None]:
    """While the block runs, call `act` on these signals instead of ending the process; only in the main thread."""
    loop = asyncio.get_running_loop()
    numbers = numbers if threading.current_thread() is threading.main_thread() else ()
    for number in numbers:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
