"""Import PEFT and transformers without packages that both import where they are installed, and that `lift` never calls.

In an environment with bitsandbytes, SciPy, scikit-learn and torchao they are a third of the time in which `lift ask` starts,
and torchao writes warnings. A process that goes on to use one of them must not leave it out: PEFT and transformers remember
that it was missing. So the command `lift` allows it for its own process, and a quantised model has all packages. Torch's
compiler and DTensors, another third, are left until something needs them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from longthread.without_compiler import undistributed, without_compiler
from longthread.without_packages import without

UNUSED = ("bitsandbytes", "scipy", "sklearn", "torchao")
_allowed = False


def allow() -> None:
    """Let `import_for` leave packages out: this process runs a command of `lift` and nothing else."""
    global _allowed
    _allowed = True


def import_for(folder: Path) -> None:
    """Import PEFT and transformers' models, and no package that the model in the folder does not need."""
    with loading(folder):
        import accelerate  # noqa: F401  # before: it counts the processes of a fit

        with undistributed() if _light(folder) else nullcontext():
            _import()


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Load the model in the folder and attach adapters to it in a `with` block, without what both would import by themselves.

    To lay out empty tensors asks for torch's compiler, and PEFT looks for every package that could have quantised a layer.
    """
    if not _light(folder):
        yield
        return
    with without(*UNUSED), without_compiler():
        yield


def _light(folder: Path) -> bool:
    return _allowed and not _quantised(folder)


def _import() -> None:
    import peft  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401  # brings generation, whose imports take longest


def _quantised(folder: Path) -> bool:
    """Return whether the model's config names a quantisation, or cannot be read."""
    try:
        return "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
