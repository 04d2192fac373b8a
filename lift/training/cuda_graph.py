"""A training step's forward and backward pass as one CUDA graph. A small model's step is thousands of small kernels, and the
host takes ten times as long to launch them as the device to run them; a graph launches them all at once.

Off the device, or where a model cannot be captured, `run` computes the same kernel by kernel.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP = 1  # passes before the capture, in which libraries set themselves up: launched one by one, each takes long


class Captured:
    """`work` takes tensors of always the same shapes and returns a loss and figures; `run` adds the loss's gradients to the
    parameters' `.grad`, which `clear` has made, and returns the figures, to be read before another pass of the pool runs."""

    def __init__(self, work: Callable[..., tuple[Tensor, Tensor]], parameters: Sequence[Tensor], pool: Any = None):
        self.work, self.parameters = work, list(parameters)
        self.pool = pool  # memory that passes of several shapes can share, since one runs at a time
        self.graph: Any = None
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []  # where the graph writes them
        self.figures = torch.empty(0)
        self.eager = False

    def run(self, *inputs: Tensor) -> Tensor:
        if self.eager or not inputs[0].is_cuda:
            return self._computed(inputs)
        if self.graph is None:
            numbers = torch.cuda.default_generators[inputs[0].device.index]
            before = numbers.clone_state()
            try:
                self._capture(inputs)
            except RuntimeError as error:  # a step that asks the device something, such as a size, cannot be captured
                warnings.warn(
                    f"no CUDA graph, steps are launched one by one: {str(error).splitlines()[0]}", stacklevel=2
                )
                self.graph, self.eager = None, True
                numbers.graphsafe_set_state(before)  # it would wait for the capture's end for good
                torch.cuda.synchronize()
                return self._computed(inputs)
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        torch._foreach_add_(_gradients(self.parameters), self.gradients)
        return self.figures

    def _computed(self, inputs: Sequence[Tensor]) -> Tensor:
        loss, figures = self.work(*inputs)
        loss.backward()
        return figures.detach()

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [each.clone() for each in inputs]
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                torch.autograd.grad(self.work(*self.inputs)[0], self.parameters, allow_unused=True)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.pool):
            loss, figures = self.work(*self.inputs)
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
            self.gradients = list(found)
            self.figures = figures.detach()


def clear(parameters: Sequence[Tensor]) -> None:
    """Gradients of zero, to which passes add theirs."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    torch._foreach_zero_(_gradients(parameters))


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
