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

from environments.cli import RunError
from environments.inference.completions import reason
from environments.inference.endpoint import AskError, Refused
from environments.rollouts.rollout import Item, Rollout
from environments.rollouts.row_log import Rows

EXPECTED = (AskError, ValueError)  # no completions; a sample that cannot be built or a score that is no number


@dataclass
class Tally:
    """What is shown while it goes on. `finished`: neither a signal nor failures ended it."""

    failed: int = 0
    completions: int = 0
    score: float = 0.0
    read: int = 0  # tokens of prompts, each once a group
    written: int = 0  # tokens of completions
    finished: bool = True

    def add(self, rollout: Rollout) -> None:
        self.completions += len(rollout.scores)
        self.score += sum(score.score for score in rollout.scores)
        self.read += len(rollout.prompt)
        self.written += sum(len(c.tokens) for c in rollout.completions)

    @property
    def mean(self) -> float:
        return self.score / self.completions if self.completions else 0.0

    def said(self) -> str:
        """This run in a line."""
        scores = f"mean score {self.mean:.2f} of {self.completions} completions, " if self.completions else ""
        return f"{scores}{self.failed} failed"

    def shown(self, seconds: float) -> dict[str, Any]:
        rates = (f"{tqdm.format_sizeof(n / max(seconds, 1e-9))} tok/s" for n in (self.read, self.written))
        return {
            "score": f"{self.mean:.2f}",
            **dict(zip(("read", "written"), rates, strict=True)),
            "failed": self.failed,
        }


@dataclass
class Crew:
    """`roll` makes an item's rollout, `keep` its row, in a worker thread."""

    name: str
    unit: str
    roll: Callable[[Item], Awaitable[Rollout]]
    keep: Callable[[Rollout], dict[str, Any]]
    workers: int
    max_failures: int

    async def work_off(self, items: Sequence[Item], key: Callable[[Item], Any], store: Rows, signals: bool) -> Tally:
        """All items that are not in the store. Raises what is no item's fault: a full disk, a server that refuses."""
        todo = [item for item in items if key(item) not in store.done]
        queue, stop, tally = iter(todo), asyncio.Event(), Tally()
        keeping: set[asyncio.Task[None]] = set()  # not cancelled by Ctrl-C: it is made and paid for
        bar = tqdm(total=len(items), initial=len(items) - len(todo), unit=self.unit, desc=self.name, smoothing=0.1)

        async def worker() -> None:
            for item in queue:
                try:
                    rollout = await self.roll(item)
                    kept = asyncio.create_task(asyncio.to_thread(self._put, store, key(item), rollout))
                    keeping.add(kept)
                    kept.add_done_callback(keeping.discard)
                    await asyncio.shield(kept)
                except Refused as error:
                    raise RunError(f"{error}; the same command continues where this one stopped") from None
                except EXPECTED as error:
                    tally.failed += 1
                    bar.write(f"item {item.index} failed: {said(error)}", file=sys.stderr)
                    if tally.failed > self.max_failures:
                        stop.set()
                        return
                else:
                    tally.add(rollout)
                    bar.set_postfix(tally.shown(bar.format_dict["elapsed"]), refresh=False)
                    bar.update()

        numbers = (signal.SIGINT, signal.SIGTERM) if signals else ()
        with on_signals(numbers, stop.set), logging_redirect_tqdm(), bar:
            crew = [asyncio.create_task(worker()) for _ in range(max(1, min(self.workers, len(todo))))]
            ended = asyncio.create_task(asyncio.wait(crew, return_when=asyncio.FIRST_EXCEPTION))
            stopped = asyncio.create_task(stop.wait())
            try:
                both: list[asyncio.Task[Any]] = [ended, stopped]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*crew, ended, stopped):
                    task.cancel()
                outcomes = await asyncio.gather(*crew, return_exceptions=True)
                await asyncio.gather(*keeping, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        tally.finished = not stop.is_set()
        return tally

    def _put(self, store: Rows, key: Any, rollout: Rollout) -> None:
        store.add(key, self.keep(rollout))


def said(error: Exception) -> str:
    """An item's failure in one line."""
    return str(error) if isinstance(error, AskError) else reason(error)


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
