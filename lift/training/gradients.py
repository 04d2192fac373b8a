"""The gradients of an optimizer step, in passes: its rows are short or long, and padded to the one width or the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lift.document.segments import IGNORED
from lift.training.batches import EMPTY, Row, batches, padded, supervised
from lift.training.cuda_graph import Captured, clear
from lift.training.losses import Top, divergence, logits_at, token_loss
from lift.training.recipes import Recipe
from lift.training.teacher_targets import goal

CAPTURED_ON = "cuda"  # elsewhere the rows that fill a pass up would only cost time


@dataclass(frozen=True)
class Pass:
    """Rows that are padded to one width, 0 for that of the longest: some with answers, for which there is always `room`, and
    some of other text."""

    width: int
    answered: Sequence[Row]
    room: int
    quiet: Sequence[Row]


class Gradients:
    """Of the parameters that are trained. `tokens`: of what is computed at a time; `answer`: of the longest answer."""

    def __init__(self, model: Any, recipe: Recipe, trained: list[Tensor], tokens: int, answer: int):
        self.model, self.recipe, self.trained, self.tokens, self.answer = model, recipe, trained, tokens, answer
        self.device = trained[0].device
        self.captured: dict[tuple[torch.Size, ...], Captured] = {}  # by the shapes of what they take
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def of(self, passes: Sequence[Pass], share: float) -> Tensor:
        """Leaves them in `.grad`; the loss, a `share` of each answer's tokens, and the divergence. Passes of one shape are
        captured; others come as they are."""
        each, figures = torch.tensor(share, device=self.device), torch.zeros(2, device=self.device)
        clear(self.trained)
        for one in passes:
            rows = one.room + len(one.quiet)
            if self.device.type == CAPTURED_ON and one.width and 0 < rows * one.width <= self.tokens:
                figures += self._captured(one, each)
                continue
            for batch in [*batches(one.answered, self.tokens), *batches(one.quiet, self.tokens)]:
                ids = padded(batch, self.device)
                wanted = supervised(batch, ids.shape[1], self.device)
                loss, parts = self._losses(ids, *wanted, each, *goal(batch, self.device))
                loss.backward()
                figures += parts.detach()
                del loss, parts  # a pass that is held keeps the next from being captured
        return figures

    def _captured(self, one: Pass, share: Tensor) -> Tensor:
        filled = [*one.answered, *[EMPTY] * (one.room - len(one.answered)), *one.quiet]
        ids, room = padded(filled, self.device, one.width), one.room * self.answer
        wanted, told = supervised(filled, one.width, self.device, room), goal(filled, self.device, room)
        inputs = (ids, *wanted, share, *told)
        shapes = tuple(each.shape for each in inputs)
        if shapes not in self.captured:
            self.captured[shapes] = Captured(self._losses, self.trained, self.pool)
        return self.captured[shapes].run(*inputs)

    def _losses(
        self, ids: Tensor, at: Tensor, targets: Tensor, weights: Tensor, share: Tensor, top_ids: Tensor, log_p: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of a batch, at these places: first those of answers, then those of other text. No mask: what is padded stands on
        the right, where nothing sees it."""
        logits = logits_at(self.model, ids, at)
        answers, wanted = len(targets), Top(top_ids, log_p)
        if self.recipe.learnt == "logits":
            told = Top(*(x[:answers] for x in wanted))
            loss = torch.where(targets != IGNORED, divergence(logits[:answers], told), 0).sum() * share
        else:
            loss = token_loss(logits[:answers], targets) * share
        kl = torch.zeros_like(loss)
        if others := len(weights):
            quiet = Top(*(x[-others:] for x in wanted))
            kl = (weights * divergence(logits[answers:], quiet)).sum() / self.recipe.kl_rows
        return loss + self.recipe.kl_weight * kl, torch.stack([loss, kl])
