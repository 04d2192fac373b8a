"""Import a library without packages that it would import only because they are installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Let imports of these packages fail in a `with` block, except of those already imported."""
    left_out = [name for name in packages if name not in sys.modules]
    try:
        for name in left_out:
            sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say that there is none
        yield
    finally:
        for name in left_out:
            del sys.modules[name]
