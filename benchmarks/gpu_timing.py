"""Time, memory and attention kernels of a piece of work on a GPU; on a CPU the time alone."""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Row = dict[str, Any]  # of a table: what was measured, with figures or an error


class Machine(NamedTuple):
    """Where a benchmark runs, and in which dtype."""

    device: str
    dtype: torch.dtype


class Backends(TorchDispatchMode):
    """The attention kernels that a forward pass calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_scaled_dot_product" in (name := str(op)):
            self.names.add(name.split("_scaled_dot_product_")[1].split(".")[0].removesuffix("_attention"))
        return op(*args, **(kwargs or {}))


def seconds(device: str, run: Callable[[], Any]) -> float:
    """Seconds that `run` takes on the device."""
    if device == "cpu":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def peak(device: str) -> float:
    """GiB, since the last `clear`."""
    return torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else 0.0


def clear(device: str) -> None:
    """Free the memory that nothing uses, and count its peak anew."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def guarded(row: Row, device: str, measure: Callable[..., Row], *args: Any) -> Row:
    """The row with the figures of `measure(*args)`, or with its error."""
    clear(device)
    try:
        return row | measure(*args)
    except torch.OutOfMemoryError:
        row = row | {"error": "out of memory"}
    except Exception as error:  # one row must not cost the others: the machine is lent for minutes
        row = row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}
    clear(device)
    return row
