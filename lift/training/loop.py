"""The training loop of all methods: teachers, distillation, optimizer steps, checkpoints."""

import math
import time
from dataclasses import asdict, replace

import torch
from accelerate import Accelerator
from tqdm import tqdm

from lift.document.segments import IGNORED
from lift.memory.tuner import right_padded
from lift.training import checkpoint, teacher_targets
from lift.training.batches import padded, present
from lift.training.gradients import Gradients
from lift.training.job import FitJob
from lift.training.losses import token_loss
from lift.training.plan import Plan, PlannedStep
from longthread.errors import RunError
from longthread.language_model import AdaptedLM

CHECKPOINT_SECONDS = 60
PROSE_SHARE = 6  # the teacher reads a sixth of the tokens at a time: of prose, many a token has logits to compute
ADAPTER = "default"


class TrainingLoop:
    """Runs the optimizer steps of a fit.

    `step` counts the steps that are done. `losses` holds the last figures by name.
    """

    def __init__(self, accelerator: Accelerator, model: AdaptedLM, job: FitJob, tokens: int):
        self.accelerator, self.model, self.job = accelerator, model, job
        self.tokens = tokens  # computed at a time; the gradients of several passes are added up
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.digest = self._digest()
        answer_tokens = max((len(row.predicted_at) for row in job.rows.tasks), default=0)
        self.gradients = Gradients(model, job.recipe, list(self.trained.values()), tokens, answer_tokens)
        self.plan = Plan(job)
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=job.recipe.learning_rate, betas=job.recipe.betas,
            weight_decay=job.recipe.weight_decay, fused=accelerator.device.type == "cuda",
        )  # fmt: skip
        self.step, self.saved_at = 0, time.monotonic()
        self.losses: dict[str, float] = {}
        self.progress = job.options.progress and accelerator.is_main_process

    def _digest(self) -> str:
        """Return a digest of the fit that a checkpoint belongs to.

        It covers recipe, document, seed, tokenised questions and base model.
        """
        job = self.job
        parts = [
            asdict(job.recipe),
            job.document.digest,
            job.options.seed,
            sorted(self.trained),
            [row.ids for row in job.rows.tasks],
        ]
        return checkpoint.digest_of(parts, (p for p in self.model.parameters() if not p.requires_grad))

    def run(self) -> dict[str, float]:
        """Run the remaining steps. Returns the last losses. Raises `RunError` if training diverges."""
        self._ask_teachers()
        budget = self.job.recipe.neutral_budget
        with self.model.disable_adapter():
            base = self._prose_loss() if budget is not None else 0.0
        stored = checkpoint.load(self.job.options.out, self.digest, self.trained, self.optimizer)
        self.step = stored or 0
        if self.job.recipe.distil_steps and stored is None:
            self.losses |= teacher_targets.distil_attention(self.model, self.job, ADAPTER, self.tokens, self.progress)
            self._save()
        self.model.train()
        title = self.job.document.name
        with (
            right_padded(self.model),
            tqdm(total=self.plan.total, initial=self.step, desc=title, unit="step", disable=not self.progress) as bar,
        ):
            for step in self.plan.steps(self.step):
                self._optimize(step)
                self.step += 1
                bar.update()
                bar.set_postfix({name: f"{value:.3f}" for name, value in self.losses.items()}, refresh=False)
                if step.ends_epoch and budget is not None and self._over_budget(base, budget):
                    bar.write(f"step {self.step}: other text lost {self.losses['rise']:.3f} nats a token: stopped")
                    break
                if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self._save()
        return self.losses

    def _ask_teachers(self) -> None:
        rows, tokens = self.job.rows, self.tokens
        rows.talk = teacher_targets.with_teacher(self.model, rows.talk, tokens, self.progress)
        rows.reading = teacher_targets.with_teacher(self.model, rows.reading, tokens, self.progress)
        rows.prose = teacher_targets.with_teacher(self.model, rows.prose, tokens // PROSE_SHARE, self.progress)
        if self.job.recipe.learnt == "logits":
            rows.tasks = teacher_targets.with_teacher(self.model, rows.tasks, tokens, self.progress)
            # The same questions in the same order, whose teacher gives the same.
            pairs = zip(rows.beside, rows.tasks, strict=False)
            rows.beside = [replace(beside, teacher=alone.teacher) for beside, alone in pairs]

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.accelerator.is_main_process:
            checkpoint.save(self.job.options.out, self.step, self.digest, self.trained, self.optimizer)

    def _over_budget(self, base: float, budget: float) -> bool:
        """Return whether held-out prose has lost more than the budget, with steps still to come."""
        rise = self.losses["rise"] = self._prose_loss() - base
        # More at first: the divergence from the base model takes back what the first steps cost.
        return rise > budget * self.plan.total / self.step and self.step < self.plan.total

    def _optimize(self, step: PlannedStep) -> None:
        """Take one optimizer step: token losses of its rows, and the divergence on a draw of other text.

        Each process takes its share of both. The sum of their gradients is that of one process.
        """
        drawn = self.plan.draw(self.step)
        answer_tokens = max(1, sum(len(row.predicted_at) for row in (*step.rows, *drawn.beside)))
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        losses = self.gradients.accumulate(self.plan.micro_batches(step, drawn, rank, ranks), 1 / answer_tokens)
        losses = self.accelerator.reduce(losses, "sum")
        if ranks > 1:
            for p in self.trained.values():
                p.grad = self.accelerator.reduce(p.grad, "sum")
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), self.job.recipe.clip)
        loss, kl, norm = torch.stack([*losses, norm]).tolist()  # the device is asked once
        if not math.isfinite(loss + kl + norm):
            what = f"gradient norm is {norm}" if math.isfinite(loss + kl) else f"loss is {loss + kl}"
            raise RunError(
                f"step {self.step}: the {what}: lower the learning rate ({self.job.recipe.learning_rate:g}); "
                "the last good checkpoint is kept"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.recipe.learning_rate * self.plan.rate(self.step)
        self.optimizer.step()
        self.losses["loss"] = loss
        if self.job.recipe.kl_rows:
            self.losses["KL"] = kl

    @torch.no_grad()
    def _prose_loss(self) -> float:
        """Return the loss on held-out prose, in nats a token."""
        rows = self.job.rows.held_out
        ids_BL = padded(rows, self.accelerator.device)
        labels_BL = ids_BL.masked_fill(present(rows, ids_BL) == 0, IGNORED)[:, 1:]
        training = self.model.training
        self.model.eval()
        logits_BLV = self.model(input_ids=ids_BL, use_cache=False).logits[:, -ids_BL.shape[1] :]
        self.model.train(training)
        loss = token_loss(logits_BLV[:, :-1].flatten(0, 1), labels_BL.flatten())
        return (loss / (labels_BL != IGNORED).sum()).item()
