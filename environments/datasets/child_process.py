"""Run a module's `main` until it ends or its starter is gone: `python -m environments.datasets.child_process MODULE ARGS`.

The starter holds the other end of standard input, which closes with it, even after kill -9.
"""

import functools
import importlib
import os
import sys
import threading


def main() -> None:
    """Run the `main` of the module that the first argument names, with the other arguments as its own."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    sys.argv = sys.argv[1:]
    module = importlib.import_module(sys.argv[0])
    # Atropos' generators keep their output file open. Buffered by the line, a row is in it as soon as it is made.
    setattr(module, "open", functools.partial(open, buffering=1))  # noqa: B010 - a global of that module
    module.main()


def _end_with_the_starter() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
