"""A captured pass gives the gradients and figures of a computed one."""

import pytest
import torch
from torch import Tensor, nn

from lift.training.cuda_graph import CudaGraph, zero_gradients

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def made(device: str) -> tuple[nn.Module, CudaGraph]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3)).to(device)

    def work(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        loss = (net(x).square().sum(-1) * share).sum()
        return loss, torch.stack([loss, loss * 2])

    return net, CudaGraph(work, list(net.parameters()))


@pytest.mark.parametrize("device", DEVICES)
def test_every_run_has_its_own_inputs_gradients(device: str) -> None:
    net, captured = made(device)
    for seed in range(4):
        torch.manual_seed(seed)
        x, share = torch.randn(5, 4, device=device), torch.rand((), device=device)
        zero_gradients(captured.parameters)
        figures = captured.run(x, share).clone()
        found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        loss = (net(x).square().sum(-1) * share).sum()
        torch.testing.assert_close(figures, torch.stack([loss, 2 * loss]))
        for mine, right in zip(found, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            torch.testing.assert_close(mine, right)
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(0.1)  # as an optimizer would: the next run must see it


@pytest.mark.parametrize("device", DEVICES)
def test_passes_of_several_shapes_add_up(device: str) -> None:
    """Whatever came between, a pass without a graph or another step."""
    net, first = made(device)
    second = CudaGraph(first.work, first.parameters)
    for step, passes in enumerate(((5,), (3, 5), (5, 0, 3), (0,), (3, 5), (5, 5), (3,))):
        torch.manual_seed(step)
        zero_gradients(first.parameters)
        right = [torch.zeros_like(p) for p in first.parameters]
        for rows in passes:
            x, share = torch.randn(rows or 7, 4, device=device), torch.rand((), device=device)
            if rows:
                (first if rows == 5 else second).run(x, share)
            else:
                first.work(x, share)[0].backward()
            loss = (net(x).square().sum(-1) * share).sum()
            right = [a + b for a, b in zip(right, torch.autograd.grad(loss, first.parameters), strict=True)]
            del loss  # a pass that is held keeps the next from being captured
        held = [torch.randn(99, device=device) for _ in range(9)]  # takes what was let go
        for p, gradient in zip(first.parameters, right, strict=True):
            torch.testing.assert_close(p.grad, gradient)
        assert all(each.isfinite().all() for each in held)
    assert all((each.graph is not None) == (device == "cuda") for each in (first, second))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_cannot_be_captured_is_computed() -> None:
    weight = torch.ones(3, device="cuda", requires_grad=True)

    def work(x: Tensor) -> tuple[Tensor, Tensor]:
        loss = (weight * x[x > 0].sum()).sum()  # its size is the device's to say
        return loss, loss[None]

    zero_gradients([weight])
    with pytest.warns(UserWarning, match="no CUDA graph"):
        figures = CudaGraph(work, [weight]).run(torch.tensor([1.0, -2.0, 3.0], device="cuda"))
    assert figures.item() == 12 and weight.grad is not None and weight.grad.tolist() == [4.0] * 3
    assert torch.rand(9, device="cuda").unique().numel() > 1  # random numbers are not left in the capture
