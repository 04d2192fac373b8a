"""Cross entropy of a language-model head whose logits are never all there: 131,072 tokens x 151,936 words in bf16 are 37 GiB,
and as much again for their gradient. The loss and its gradients are worked out together, a chunk of tokens at a time.

`torch.nn.functional.cross_entropy(hidden @ weight.T, labels)` is the specification: equal in fp64 to rounding; in bf16 the
logits are rounded to bf16, as a bf16 head rounds them, and everything after them is fp32.

T: tokens, D: hidden size, V: vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = (
    4096  # tokens: 5 GB at 152k words; under 2,048 the gradient of the head's weight, added up in fp32, costs too much
)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, labels_T: Tensor, ignore: int, chunk: int) -> Tensor:
        weight = weight_VD.to(hidden_TD.dtype)
        exact = torch.promote_types(hidden_TD.dtype, torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        loss = hidden_TD.new_zeros((), dtype=exact)
        grad_hidden = torch.empty_like(hidden_TD) if wants_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=exact) if wants_weight else None
        for a in range(0, len(hidden_TD), chunk):
            hidden, labels = hidden_TD[a : a + chunk], labels_T[a : a + chunk]
            counts = (labels != ignore)[:, None]
            target = torch.where(counts, labels[:, None], 0)
            log_p = torch.log_softmax(hidden @ weight.T, dim=-1, dtype=exact)
            loss -= (log_p.gather(1, target) * counts).sum()
            if not (wants_hidden or wants_weight):
                continue
            delta = torch.exp(log_p, out=torch.empty_like(log_p, dtype=hidden.dtype))  # p, then dloss/dlogits
            del log_p
            delta.scatter_add_(1, target, delta.new_full((), -1.0).expand(target.shape))
            if grad_hidden is not None:
                torch.mul(delta @ weight, counts, out=grad_hidden[a : a + chunk])
            if grad_weight is not None:
                grad_weight += delta.T @ (hidden * counts)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        if by_hidden is not None:
            by_hidden = by_hidden * grads[0].to(by_hidden.dtype)
        if by_weight is not None:
            by_weight = (by_weight * grads[0]).to(ctx.weight_dtype)
        return by_hidden, by_weight, None, None, None


def linear_cross_entropy(
    hidden_TD: Tensor, weight_VD: Tensor, labels_T: Tensor, ignore_index: int = -100, reduction: str = "mean",
    chunk: int = CHUNK,
) -> Tensor:  # fmt: skip
    """The loss, one number of fp32 (fp64 of fp64). `labels_T` stand where their prediction does: shift them before. The
    weight may be an fp32 master of bf16 hidden states; its gradient then is fp32. "mean" is over the tokens that count
    (0 where none does), "sum" is for a trainer that divides by the tokens of a whole accumulated batch."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction {reduction!r} is neither mean nor sum")
    loss: Tensor = _LinearCrossEntropy.apply(hidden_TD, weight_VD, labels_T, ignore_index, chunk)
    return loss if reduction == "sum" else loss / (labels_T != ignore_index).sum().clamp(min=1)
