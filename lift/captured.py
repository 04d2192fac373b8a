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
    """`work` takes tensors of always the same shapes and returns a loss and figures; `run` leaves the loss's gradients in
    the parameters' `.grad` and returns the figures."""

    def __init__(self, work: Callable[..., tuple[Tensor, Tensor]], parameters: Sequence[Tensor], pool: Any = None):
        self.work, self.parameters = work, list(parameters)
        # Memory that passes of several shapes can share: one runs at a time, and its figures are read.
        self.pool = pool
        self.graph: Any = None
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []  # where the graph writes them, whatever `.grad` has become since
        self.figures = torch.empty(0)
        self.eager = False

    def run(self, *inputs: Tensor) -> Tensor:
        if self.eager or not inputs[0].is_cuda:
            return self._computed(inputs)
        if self.graph is None:
            try:
                self._capture(inputs)
            except RuntimeError as error:  # a step that asks the device something, such as a size, cannot be captured
                warnings.warn(
                    f"no CUDA graph, steps are launched one by one: {str(error).splitlines()[0]}", stacklevel=2
                )
                self.graph, self.eager = None, True
                torch.cuda.synchronize()
                return self._computed(inputs)
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        for p, gradient in zip(self.parameters, self.gradients, strict=True):
            p.grad = gradient
        return self.figures

    def _computed(self, inputs: Sequence[Tensor]) -> Tensor:
        for p in self.parameters:
            p.grad = None
        loss, figures = self.work(*inputs)
        loss.backward()
        return figures.detach()

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [each.clone() for each in inputs]
        self.gradients = [torch.zeros_like(p) for p in self.parameters]
        for p, gradient in zip(self.parameters, self.gradients, strict=True):
            p.grad = gradient
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self.work(*self.inputs)[0].backward()
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.pool):
            torch._foreach_zero_(self.gradients)
            loss, figures = self.work(*self.inputs)
            loss.backward()
            self.figures = figures.detach()
