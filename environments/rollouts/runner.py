"""Works off many items at a time, keeps each as soon as it is done, and stops in order: Ctrl-C, SIGTERM, failures."""

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from environments.inference.completions import failure_reason
from environments.inference.endpoint import CompletionError, RequestRejected
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.row_log import RowLog
from longthread.errors import RunError

EXPECTED_ERRORS = (
    CompletionError,
    ValueError,
)  # no completions; a sample that cannot be built or a score that is no number


@dataclass
class Progress:
    """What is shown while it goes on. `finished`: neither a signal nor failures ended it."""

    failed: int = 0
    completions: int = 0
    score: float = 0.0
    read: int = 0  # tokens of prompts, each once a group
    written: int = 0  # tokens of completions
    finished: bool = True

    def add(self, rollout: RolloutGroup) -> None:
        self.completions += len(rollout.scores)
        self.score += sum(score.score for score in rollout.scores)
        self.read += len(rollout.prompt)
        self.written += sum(len(c.tokens) for c in rollout.completions)

    @property
    def mean(self) -> float:
        return self.score / self.completions if self.completions else 0.0

    def summary(self) -> str:
        """This run in a line."""
        scores = f"mean score {self.mean:.2f} of {self.completions} completions, " if self.completions else ""
        return f"{scores}{self.failed} failed"

    def postfix(self, seconds: float) -> dict[str, Any]:
        rates = (f"{tqdm.format_sizeof(n / max(seconds, 1e-9))} tok/s" for n in (self.read, self.written))
        return {
            "score": f"{self.mean:.2f}",
            **dict(zip(("read", "written"), rates, strict=True)),
            "failed": self.failed,
        }


@dataclass
class Runner:
    """`sample_group` makes a request's group, `to_row` its row, in a worker thread."""

    name: str
    unit: str
    sample_group: Callable[[RolloutRequest], Awaitable[RolloutGroup]]
    to_row: Callable[[RolloutGroup], dict[str, Any]]
    workers: int
    max_failures: int

    async def run(
        self, items: Sequence[RolloutRequest], key: Callable[[RolloutRequest], Any], store: RowLog, signals: bool
    ) -> Progress:
        """All items that are not in the store. Raises what is no item's fault: a full disk, a server that refuses."""
        todo = [item for item in items if key(item) not in store.done]
        queue, stop, progress = iter(todo), asyncio.Event(), Progress()
        keeping: set[asyncio.Task[None]] = set()  # not cancelled by Ctrl-C: it is made and paid for
        bar = tqdm(total=len(items), initial=len(items) - len(todo), unit=self.unit, desc=self.name, smoothing=0.1)

        async def worker() -> None:
            for item in queue:
                try:
                    rollout = await self.sample_group(item)
                    kept = asyncio.create_task(asyncio.to_thread(self._put, store, key(item), rollout))
                    keeping.add(kept)
                    kept.add_done_callback(keeping.discard)
                    await asyncio.shield(kept)
                except RequestRejected as error:
                    raise RunError(f"{error}; the same command continues where this one stopped") from None
                except EXPECTED_ERRORS as error:
                    progress.failed += 1
                    bar.write(f"item {item.index} failed: {failure_line(error)}", file=sys.stderr)
                    if progress.failed > self.max_failures:
                        stop.set()
                        return
                else:
                    progress.add(rollout)
                    bar.set_postfix(progress.postfix(bar.format_dict["elapsed"]), refresh=False)
                    bar.update()

        numbers = (signal.SIGINT, signal.SIGTERM) if signals else ()
        with on_signals(numbers, stop.set), logging_redirect_tqdm(), bar:
            workers = [asyncio.create_task(worker()) for _ in range(max(1, min(self.workers, len(todo))))]
            ended = asyncio.create_task(asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION))
            stopped = asyncio.create_task(stop.wait())
            try:
                both: list[asyncio.Task[Any]] = [ended, stopped]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*workers, ended, stopped):
                    task.cancel()
                outcomes = await asyncio.gather(*workers, return_exceptions=True)
                await asyncio.gather(*keeping, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        progress.finished = not stop.is_set()
        return progress

    def _put(self, store: RowLog, key: Any, rollout: RolloutGroup) -> None:
        store.add(key, self.to_row(rollout))


def failure_line(error: Exception) -> str:
    """An item's failure in one line."""
    return str(error) if isinstance(error, CompletionError) else failure_reason(error)


@contextlib.contextmanager
def on_signals(numbers: Sequence[int], act: Callable[[], Any]) -> Iterator[None]:
    """These signals call `act`, in the main thread: what is there can then be kept and shown."""
    loop = asyncio.get_running_loop()
    numbers = numbers if threading.current_thread() is threading.main_thread() else ()
    for number in numbers:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
