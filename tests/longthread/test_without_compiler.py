"""Transformers and PEFT are imported without torch's compiler and DTensors, and each is there for whoever needs it later."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

SPARED = ("torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "triton", "sympy")
IMPORT = """
import json, sys
from longthread.without_compiler import undistributed, without_compiler
from longthread.without_packages import without
# of these packages some import the compiler
with without("bitsandbytes", "scipy", "sklearn", "torchao"), without_compiler(), undistributed():
    import peft
    from transformers import AutoModelForCausalLM, masking_utils
"""
PRINT = "\nprint(json.dumps([name for name in {} if name in sys.modules]))"


def printed(program: str, **environment: str) -> Any:
    """What a program prints, as JSON, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_neither_is_imported() -> None:
    assert printed(IMPORT + PRINT.format(SPARED)) == []


def test_several_processes_have_dtensors() -> None:
    assert printed(IMPORT + PRINT.format(["torch.distributed.tensor"]), WORLD_SIZE="2") == ["torch.distributed.tensor"]


def test_afterwards_the_compiler_is_there_and_masks_find_what_they_use_of_it() -> None:
    later = """
import torch
assert torch.distributed.is_available()
with masking_utils.TransformGetItemToIndex():
    pass
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as real
print(json.dumps([type(masking_utils.TransformGetItemToIndex()) is real, callable(torch._dynamo.optimize)]))
"""
    assert printed(IMPORT + later) == [True, True]


@pytest.mark.parametrize("use", ["torch._dynamo.optimize", "__import__('torch._dynamo.config')._dynamo.config.verbose"])
def test_what_is_no_mark_is_answered_by_the_compiler_itself(use: str) -> None:
    program = f"""
import json, sys, torch
from longthread.without_compiler import without_compiler
with without_compiler():
    {use}
    within = sys.modules["torch._dynamo"]
import torch._dynamo
print(json.dumps([hasattr(within, "__file__"), within is torch._dynamo, within is sys.modules["torch._dynamo"]]))
"""
    assert printed(program) == [True, True, True]


def test_marks_leave_functions_as_they_are() -> None:
    program = """
import json, torch
from longthread.without_compiler import without_compiler
with without_compiler():
    marks = [torch.compiler.disable, torch.compiler.disable(recursive=False), torch._dynamo.allow_in_graph]
    print(json.dumps([mark(len) is len for mark in marks]))
"""
    assert printed(program) == [True, True, True]
