"""Independent jobs over all GPUs of a machine, one at a time on each.

for key, found in spread(measured, {"a": (1, 2), "b": (3, 4)}, devices=torch.cuda.device_count()):
    ...
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any


def spread(
    work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], devices: int, seconds: float = 1e9
) -> Iterator[tuple[str, Any]]:
    """Each job's key with `work(*arguments)`, as they end; nothing is begun after so many seconds. A job that raises ends
    alone: its exception stands in place of its result. Up to one device: all in this process, in order."""
    began, left = time.monotonic(), list(jobs)
    if devices <= 1:
        for key in left:
            if time.monotonic() - began < seconds:
                yield key, _tried(work, jobs[key])
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    free = context.Queue()
    for device in range(devices):
        free.put(device)
    running: dict[Future, str] = {}
    with ProcessPoolExecutor(devices, mp_context=context, initializer=_on_one_of, initargs=(free,)) as pool:
        while left or running:
            while left and len(running) < devices and time.monotonic() - began < seconds:
                key = left.pop(0)
                running[pool.submit(_tried, work, jobs[key])] = key
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()


def _on_one_of(free: Any) -> None:
    """Before torch looks for devices."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(free.get())


def _tried(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return work(*arguments)
    except Exception as error:  # one of many: the others' hours count
        return error
