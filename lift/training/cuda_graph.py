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


class CudaGraph:
    """Runs `work`, a function of tensors of fixed shapes that returns a loss and figures, as one CUDA graph.

    `run` adds the loss's gradients to the parameters' `.grad`, which `zero_gradients` must have made. Its figures are valid
    until another graph of the `pool` runs: graphs of several shapes share this memory.
    """

    def __init__(
        self,
        work: Callable[..., tuple[Tensor, Tensor]],
        parameters: Sequence[Tensor],
        pool: Any = None,
    ):
        self.work, self.parameters, self.pool = work, list(parameters), pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []  # where the graph writes them
        self.figures = torch.empty(0)
        self.eager = False

    def run(self, *inputs: Tensor) -> Tensor:
        """Run the work on these tensors, add its gradients to `.grad`, and return its figures."""
        if self.eager or not inputs[0].is_cuda:
            return self._compute(inputs)
        if self.graph is None:
            generator = torch.cuda.default_generators[inputs[0].device.index]
            random_state = generator.clone_state()
            try:
                self.graph = self._capture(inputs)
            except RuntimeError as error:  # a step that asks the device something, such as a size, cannot be captured
                reason = str(error).splitlines()[0]
                warnings.warn(f"no CUDA graph, steps are launched one by one: {reason}", stacklevel=2)
                self.eager = True
                generator.graphsafe_set_state(random_state)  # it would wait for the capture's end for good
                torch.cuda.synchronize()
                return self._compute(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()
        torch._foreach_add_(_gradients(self.parameters), self.gradients)
        return self.figures

    def _compute(self, inputs: Sequence[Tensor]) -> Tensor:
        loss, figures = self.work(*inputs)
        loss.backward()
        return figures.detach()

    def _capture(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        self.inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                torch.autograd.grad(self.work(*self.inputs)[0], self.parameters, allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            loss, figures = self.work(*self.inputs)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
            self.gradients = list(gradients)
            self.figures = figures.detach()
        return graph


def zero_gradients(parameters: Sequence[Tensor]) -> None:
    """Set the gradients of all parameters to zero, and create those that are missing."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    torch._foreach_zero_(_gradients(parameters))


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
