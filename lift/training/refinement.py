"""The gradient steps of recipe `compact+`, on a segment's memory that has been made in closed form.

A step reads two packed sequences (`packing`): questions about the segment, among them some whose answer it does not give,
and other text, on which the model should predict as the base model does. Values and biases are trained, keys at a fraction of
their rate: keys decide which query finds what, and the closed form has chosen them (arXiv 2508.17032 finds that they hardly
move). Logits are computed at answers and at the last tokens of other text alone.
"""

import math
import time
from collections.abc import Sequence
from itertools import chain
from random import Random
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lift.document.segments import IGNORED
from lift.inference.capacity import trained_tokens
from lift.memory.compact_memory import CompactMemory
from lift.memory.tuner import layers
from lift.training import checkpoint
from lift.training.batches import LONG, RegularizationRow, Row, SupervisedRow
from lift.training.cuda_graph import CudaGraph, zero_gradients
from lift.training.job import FitJob
from lift.training.losses import TopLogits, divergence, logits_at, token_loss
from lift.training.packing import PackedBatch, Room, collate_packed, packs
from lift.training.regularization import prose_rows, reading_rows, talk_rows
from lift.training.teacher_targets import with_teacher
from longthread.errors import RunError
from longthread.language_model import AdaptedLM

TALK_ROWS = 96  # of other text, at most, drawn from again and again; each costs a reply
TALK_TOKENS = 96  # of such a row, about
READING_ONE_IN, PROSE_ONE_IN = 12, 6  # long rows, to so many rows of talk
MOST_EPOCHS = 10  # over the questions, as often as the other recipes ask them
WARM_STEPS = 5
LEAST_RATE = 0.05  # of the whole rate, at the last step
ENOUGH = 0.03  # nats a token of an answer: nothing is left to learn
CHECKPOINT_SECONDS = 60
ADAPTER = "default"


class Refinement:
    """Trains the memories of a document's segments, one after the other. `steps` counts the steps of all.

    `losses` holds the last step's: of answers, in nats a token, and the divergence from the base model.
    """

    def __init__(self, model: AdaptedLM, job: FitJob):
        self.model, self.job = model, job
        self.tokens = max(1, min(job.recipe.packed, trained_tokens(model) // 2))
        self.quiet = self._other_text()
        self.steps = 0
        self.losses: dict[str, float] = {}

    def _other_text(self) -> list[RegularizationRow]:
        """Return rows of other text with the base model's logits, cut to a sliding window if there is one."""
        tokenizer, seed = self.job.tokenizer, self.job.options.seed
        talk = min(TALK_ROWS, 1 + self.job.recipe.steps * self.tokens // TALK_TOKENS)
        with self.model.disable_adapter():
            rows = talk_rows(self.model, tokenizer, talk, seed)
            rows += reading_rows(self.model, tokenizer, -(-talk // READING_ONE_IN), seed)
        rows += prose_rows(tokenizer, -(-talk // PROSE_ONE_IN), seed)
        # One mask serves all layers of a packed sequence, so no row may be longer than what each of them sees.
        most = min(LONG, getattr(self.model.config.get_text_config(), "sliding_window", None) or LONG)
        cut = [RegularizationRow(row.ids[-most:], min(row.kept, most)) for row in rows]
        return with_teacher(self.model, cut, self.tokens, self.job.options.progress)

    def run(self, rows: Sequence[SupervisedRow], digest: str) -> None:
        """Train the memory that the model holds on the questions `rows` about its segment.

        A run that was killed goes on behind its last checkpoint, known by `digest`. Raises `RunError` if training diverges.
        """
        recipe, out = self.job.recipe, self.job.options.out
        trained = _trained(self.model, recipe.key_rate > 0)
        optimizer = _optimizer(self.model, self.job)
        rates = [group["lr"] for group in optimizer.param_groups]
        plan, room = self._plan(rows)
        step = checkpoint.load(out, digest, trained, optimizer) or 0
        self.steps += step
        graph = CudaGraph(self._losses, list(trained.values()))
        bar = tqdm(plan[step:], desc="refining", unit="step", disable=not self.job.options.progress, leave=False)
        saved_at = time.monotonic()
        for supervised, quiet in bar:
            zero_gradients(list(trained.values()))
            losses = graph.run(*collate_packed(supervised, quiet, room, self.model.device))
            norm = nn.utils.clip_grad_norm_(trained.values(), recipe.clip)
            loss, kl, norm_ = torch.stack([*losses, norm]).tolist()  # the device is asked once
            if not math.isfinite(loss + kl + norm_):
                raise self._diverged(step, "loss is")
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * _factor(step, len(plan))
            optimizer.step()
            step += 1
            self.steps += 1
            self.losses = {"loss": loss, "KL": kl}
            bar.set_postfix({name: f"{value:.3f}" for name, value in self.losses.items()}, refresh=False)
            if loss < ENOUGH:
                break
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                checkpoint.save(out, step, digest, trained, optimizer)
                saved_at = time.monotonic()
        if not all(p.isfinite().all() for p in trained.values()):
            raise self._diverged(step, "memory is")
        for p in trained.values():
            p.requires_grad_(False)
            p.grad = None

    def _diverged(self, step: int, what: str) -> RunError:
        return RunError(
            f"step {step} of the compact memory: the {what} not finite: lower the learning rate "
            f"({self.job.recipe.learning_rate:g}), or use recipe compact"
        )

    def _plan(
        self, rows: Sequence[SupervisedRow]
    ) -> tuple[list[tuple[list[SupervisedRow], list[RegularizationRow]]], Room]:
        """Return the rows of each step, the same for the same fit, and the shape that takes any of them."""
        every: list[Row] = [*rows, *self.quiet]
        longest = max(len(row.ids) for row in every)
        tokens = -(-max(self.tokens, longest) // 8) * 8  # at odd lengths cuDNN's gradients are wrong, see `padded`
        most, rng = self.job.recipe.steps, Random(f"refinement {self.job.options.seed} {len(rows)}")
        asked = list(chain.from_iterable(packs(rows, tokens, rng) for _ in range(MOST_EPOCHS)))[:most]
        quiet: list[list[RegularizationRow]] = []
        while len(quiet) < len(asked):
            quiet += packs(self.quiet, tokens, rng)
        return list(zip(asked, quiet, strict=False)), Room.of(asked, quiet, tokens)

    def _losses(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise and its two parts, (2,). Takes the tensors of a `PackedBatch`."""
        batch = PackedBatch(*tensors)
        logits_PV = logits_at(
            self.model, batch.ids_BT, batch.at, position_ids=batch.positions_BT, attention_mask=batch.mask_B1TT
        )
        answer_NV, quiet_MV = logits_PV.split([len(batch.answer_at_N), len(batch.quiet_at_M)])
        loss = token_loss(answer_NV, batch.answer_N) / (batch.answer_N != IGNORED).sum().clamp(min=1)
        kl_M = divergence(quiet_MV, TopLogits(batch.quiet_top_MK, batch.quiet_log_p_MK))
        kl = (batch.quiet_weight_M * kl_M).sum()
        return loss + self.job.recipe.kl_weight * kl, torch.stack([loss, kl])


def _memories(model: AdaptedLM) -> list[CompactMemory]:
    return [cast(CompactMemory, layer.gm_memory[ADAPTER]) for layer in layers(model)]


def _trained(model: AdaptedLM, keys: bool) -> dict[str, nn.Parameter]:
    """Return the parameters to train, by name, after making them fp32: a step is less than bf16 can tell apart."""
    trained = {}
    for number, memory in enumerate(_memories(model)):
        for name, p in memory.named_parameters():
            p.data = p.data.float()
            p.requires_grad_(keys or name != "keys")
            if p.requires_grad:
                trained[f"{number}.{name}"] = p
    return trained


def _optimizer(model: AdaptedLM, job: FitJob) -> torch.optim.Optimizer:
    """Return AdamW with a group for each parameter, at a rate for its size: Adam's steps are as long as the rate."""
    recipe, groups = job.recipe, []
    for memory in _memories(model):
        sizes = {name: getattr(memory, name).detach().abs().mean().item() for name in ("keys", "values")}
        rates = {"values": sizes["values"], "biases": 1.0, "keys": recipe.key_rate * sizes["keys"]}
        groups += [
            {"params": [p], "lr": recipe.learning_rate * rates[name]}
            for name, p in memory.named_parameters()
            if p.requires_grad
        ]
    fused = model.device.type == "cuda"
    return torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=0.0, fused=fused)


def _factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: a short rise, then a straight fall."""
    return min(1.0, (step + 1) / WARM_STEPS) * max(LEAST_RATE, 1 - step / steps)
