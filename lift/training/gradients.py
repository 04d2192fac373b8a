"""The gradients of an optimizer step, in micro-batches of short and of long rows, each padded to a width of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lift.document.segments import IGNORED
from lift.training.batches import EMPTY, Batch, RegularizationRow, SupervisedRow, collate, row_batches
from lift.training.cuda_graph import CudaGraph, zero_gradients
from lift.training.losses import TopLogits, divergence, logits_at, token_loss
from lift.training.recipes import Recipe
from longthread.language_model import CausalLM

CAPTURED_ON = "cuda"  # elsewhere the rows that fill a micro-batch up would only cost time


@dataclass(frozen=True)
class MicroBatch:
    """Rows that are padded to one `width` (0: to the longest).

    `room` is how many supervised rows a fixed shape holds.
    """

    width: int
    supervised: Sequence[SupervisedRow]
    room: int
    regularization: Sequence[RegularizationRow]


class Gradients:
    """Computes the gradients of the parameters `trained` for an optimizer step.

    `tokens` is how many tokens one pass takes at most. `answer_tokens` is the length of the longest answer.
    """

    def __init__(self, model: CausalLM, recipe: Recipe, trained: list[Tensor], tokens: int, answer_tokens: int):
        self.model, self.recipe, self.trained = model, recipe, trained
        self.tokens, self.answer_tokens = tokens, answer_tokens
        self.device = trained[0].device
        self.graphs: dict[tuple[torch.Size, ...], CudaGraph] = {}  # by the shapes of what they take
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def accumulate(self, micro_batches: Sequence[MicroBatch], answer_weight: float) -> Tensor:
        """Compute the step's gradients into `.grad`. Returns its token loss and its divergence on other text, (2,).

        `answer_weight` is the weight of each token of an answer. Micro-batches of one shape run as CUDA graphs, others
        eagerly.
        """
        weight, figures = torch.tensor(answer_weight, device=self.device), torch.zeros(2, device=self.device)
        zero_gradients(self.trained)
        for part in micro_batches:
            rows = part.room + len(part.regularization)
            if self.device.type == CAPTURED_ON and part.width and 0 < rows * part.width <= self.tokens:
                figures += self._captured(part, weight)
                continue
            batches = [collate(rows, [], self.device) for rows in row_batches(part.supervised, self.tokens)]
            batches += [collate([], rows, self.device) for rows in row_batches(part.regularization, self.tokens)]
            for batch in batches:
                loss, losses = self._losses(*batch, weight)
                loss.backward()
                figures += losses.detach()
                del loss, losses  # a graph of autograd that is held keeps the next micro-batch from being captured
        return figures

    def _captured(self, part: MicroBatch, weight: Tensor) -> Tensor:
        filled = [*part.supervised, *[EMPTY] * (part.room - len(part.supervised))]
        batch = collate(filled, part.regularization, self.device, part.width, part.room * self.answer_tokens)
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self.graphs:
            self.graphs[shapes] = CudaGraph(self._losses, self.trained, self.pool)
        return self.graphs[shapes].run(*batch, weight)

    def _losses(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise and its parts, (2,).

        Takes the tensors of a `Batch` and the weight of an answer's token.
        """
        batch, answer_weight = Batch(*tensors[:-1]), tensors[-1]
        logits_PV = logits_at(self.model, batch.ids_BL, batch.at)  # P = N + M
        answer_NV, quiet_MV = logits_PV.split([len(batch.answer_at_N), len(batch.quiet_at_M)])
        loss = self._answer_loss(answer_NV, batch) * answer_weight
        kl = torch.zeros_like(loss)
        if len(batch.quiet_at_M):
            kl_M = divergence(quiet_MV, TopLogits(batch.quiet_top_MK, batch.quiet_log_p_MK))
            kl = (batch.quiet_weight_M * kl_M).sum() / self.recipe.kl_rows
        return loss + self.recipe.kl_weight * kl, torch.stack([loss, kl])

    def _answer_loss(self, logits_NV: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of the answers, or the divergence from their teacher, summed over tokens."""
        if self.recipe.learnt == "answers":
            return token_loss(logits_NV, batch.answer_N)
        kl_N = divergence(logits_NV, TopLogits(batch.answer_top_NK, batch.answer_log_p_NK))
        return torch.where(batch.answer_N != IGNORED, kl_N, 0).sum()
