"""Commands as processes of their own that need not import anything again.

They are forked from the tests' process, best before it runs any threads, and wait to be told their arguments. Where CUDA is
initialised already, which a fork cannot use, they are started anew.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

Main = Callable[[Sequence[str]], object]


class Forked(NamedTuple):
    """A process that waits for `begin`; what it prints is in the files `out` and `err`."""

    process: BaseProcess
    told: Connection
    out: Path
    err: Path

    def begin(self, *arguments: str, **environment: str) -> None:
        """Run the command."""
        self.told.send((arguments, environment))


def _run(main: Main, told: Connection, out: Path, err: Path) -> None:
    arguments, environment = told.recv()
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ |= environment
    torch.set_num_threads(1)
    main(arguments)


@contextlib.contextmanager
def forked(main: Main, count: int, folder: Path) -> Iterator[list[Forked]]:
    """So many processes that each will run `main` with the arguments that they are told; killed at the end."""
    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    waiting: list[Forked] = []
    for number in range(count):
        told, tell = context.Pipe(duplex=False)
        out, err = folder / f"out-{number}", folder / f"err-{number}"
        process = context.Process(target=_run, args=(main, told, out, err), daemon=True)
        process.start()
        waiting.append(Forked(process, tell, out, err))
    try:
        yield waiting
    finally:
        for one in waiting:
            one.process.kill()
            one.process.join()
