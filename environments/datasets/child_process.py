"""Run a module's `main` until it ends or its starter is gone: `python -m environments.datasets.child_process MODULE ARGS`.

The starter holds the other end of standard input, which closes with it, even after kill -9.
"""

import functools
import importlib
import os
import sys
import threading
from types import ModuleType

from longthread.without_packages import without

GENERATORS = ("atroposlib.cli.sft", "atroposlib.cli.dpo")


def main() -> None:
    """Run the `main` of the module that the first argument names, with the other arguments as its own."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    sys.argv = sys.argv[1:]
    module = _imported(sys.argv[0])
    # Atropos' generators keep their output file open. Buffered by the line, a row is in it as soon as it is made.
    setattr(module, "open", functools.partial(open, buffering=1))  # noqa: B010 - a global of that module
    module.main()


def _imported(name: str) -> ModuleType:
    """Import a module; a generator without torch, which only its tokenizer's library would import, for ten seconds."""
    if name not in GENERATORS:
        return importlib.import_module(name)
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # that there is no torch
    with without("torch"):
        return importlib.import_module(name)


def _end_with_the_starter() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
