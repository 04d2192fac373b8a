"""Import transformers and PEFT without torch's compiler, and without DTensors, for a process that uses neither.

They import both to mark functions for the compiler, and for models that are spread over processes: with SymPy and Triton,
which the compiler imports, that is a third of their time. Nothing else changes: what needs the compiler later imports it.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
INDEXING = f"{COMPILER}._trace_wrapped_higher_order_op"  # the one part that transformers calls itself, for some masks


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let stand-ins take the marks for torch's compiler in a `with` block, unless the compiler is imported already.

    Whatever else is asked of them there, the compiler itself answers: then it is imported as ever.
    """
    if COMPILER in sys.modules:
        yield
        return
    marks = {"allow_in_graph": _unmarked, "assume_constant_result": _unmarked, "disable": _unmarked}
    names = {"TransformGetItemToIndex": _item_to_index}
    stand_ins = {name: _StandIn(name, given) for name, given in ((COMPILER, marks), (INDEXING, names))}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _step_aside()


@contextmanager
def undistributed() -> Iterator[None]:
    """Let torch say in a `with` block that it has no `torch.distributed`, unless this is one of several processes.

    What is imported there for the first time then does nothing for DTensors, as on a machine whose torch was built without.
    """
    import torch

    available = torch.distributed.is_available
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = available


class _StandIn(ModuleType):
    """A module with a few names, which steps aside for the real one where it is asked for another."""

    def __init__(self, name: str, given: dict[str, Callable[..., Any]]):
        super().__init__(name, f"Stands in for {name}.")
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (name, self.__name__) != ("__path__", COMPILER):  # what import itself looks for
            raise AttributeError(name)
        _step_aside()
        return getattr(importlib.import_module(self.__name__), name)


def _step_aside() -> None:
    for name in (COMPILER, INDEXING):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
    """Return the function as it is; used with options, return what returns it."""
    return _unmarked if function is None else function


def _item_to_index(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module(INDEXING).TransformGetItemToIndex(*args, **kwargs)
