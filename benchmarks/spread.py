"""Independent jobs over all GPUs of a machine, one or more at a time on each.

for key, result in spread(measure, {"a": (1, 2), "b": (3, 4)}, devices=torch.cuda.device_count()):
    ...
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any


def spread(
    work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], devices: int, seconds: float = 1e9, each: int = 1
) -> Iterator[tuple[str, Any]]:
    """Each job's key with `work(*arguments)`, as they end; no job begins after so many seconds.

    A job that raises ends alone: its exception takes the place of its result. `each`: jobs at a time on a device, which keep
    it busy where one alone waits for the host. One job at a time in all runs in this process, in order.
    """
    began, waiting = time.monotonic(), list(jobs)
    if devices * each <= 1:
        for key in waiting:
            if time.monotonic() - began < seconds:
                yield key, _result(work, jobs[key])
        return
    free = _pools(devices, each)
    running: dict[Future, tuple[str, ProcessPoolExecutor]] = {}
    pools = list(free)
    try:
        while waiting or running:
            while waiting and free and time.monotonic() - began < seconds:
                key, pool = waiting.pop(0), free.pop()
                running[pool.submit(_result, work, jobs[key])] = key, pool
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                key, pool = running.pop(done)
                free.append(pool)
                yield key, done.result()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def checked(result: Any) -> Any:
    """Return a job's result. Raises what the job has raised."""
    if isinstance(result, Exception):
        raise result
    return result


def _pools(devices: int, each: int) -> list[ProcessPoolExecutor]:
    """`each` processes for a visible device, which see no other.

    The device is in the environment they start with: a module that they import may ask for devices before they could set it.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    pools = []
    try:
        for device in (given.split(",") if given else [*map(str, range(devices))]) * each:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            pools.append(ProcessPoolExecutor(1, mp_context=context))
            pools[-1].submit(os.getpid)  # starts it
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if given:
            os.environ["CUDA_VISIBLE_DEVICES"] = given
    return pools


def _result(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return work(*arguments)
    except Exception as error:  # one of many: the others' hours count
        return error
