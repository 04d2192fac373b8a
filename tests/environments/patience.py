"""How tests hold something to what it may cost, on a machine of any speed: never by seconds on a clock."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

PATIENCE = 600.0  # seconds until a test gives up on something that hangs: far beyond what the slowest machine takes


@cache
def quadratic_scan() -> float:
    """Seconds of CPU that a quadratic search takes here over 100,000 characters, from one over a tenth of them."""

    def scan() -> float:
        began = time.process_time()
        assert not re.search(" +x", " " * 10_000)
        return time.process_time() - began

    return 10**2 * min(scan() for _ in range(3))


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Stops what runs inside with a TimeoutError after so many seconds of CPU; those of other processes do not count."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:.1f} s of CPU")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def grows_linearly(work: Callable[[int], Any], size: int) -> bool:
    """Whether the calls of functions in `work(n)` grow in proportion to n: from two to four times `size` by twice as
    many as from one to two, within a twentieth."""
    work(size)  # what is imported or kept at the first time
    one, two, four = (_calls(work, factor * size) for factor in (1, 2, 4))
    return four - two <= 2.1 * (two - one)


def _calls(work: Callable[[int], Any], size: int) -> int:
    count = 0

    def note(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work(size)
    finally:
        sys.setprofile(before)
    return count
