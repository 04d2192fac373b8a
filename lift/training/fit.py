"""Writes a document into an adapter: one loop for every method, on one device or many (accelerate).

    fitted = fit(read(Path("book.txt")), model, tokenizer, RECIPES["lse"], Path("out"))

The adapter is PEFT's format (adapter_config.json, adapter_model.safetensors). A run that was killed goes on where its last
checkpoint stands, which is safetensors and JSON too. A loss that is no number ends the run with the last good weights kept.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from peft import CartridgeConfig, LoraConfig, PeftConfig, get_peft_model
from tqdm import tqdm

from lift import LiftError, tasks
from lift.document.document import Document
from lift.document.segments import IGNORED
from lift.inference.generate import chat
from lift.memory.tuner import GatedMemoryConfig, check
from lift.tasks import Item
from lift.training import checkpoint, teacher_targets
from lift.training.batches import LONG, Row, bucketed, padded, padded_width, present, segment_rows, task_rows
from lift.training.gradients import Gradients, Pass
from lift.training.losses import token_loss
from lift.training.recipes import Recipe, Stage
from lift.training.regularization import prose_rows, reading_rows, talk_rows
from longthread.model_shape import batch_tokens, check_length, kv_bytes, prefill_seconds

PROSE_ROWS, TALK_ROWS, READING_ROWS, HELD_OUT = 64, 384, 96, 4  # of other text
READ_ROWS = 16  # of each kind of long row that the teacher of attention reads beside questions
CHECKPOINT_SECONDS = 60
WARM_STEPS = 10  # at least, until the rate is whole: Adam's first steps are as long as the rate, whatever the gradient
ADAPTER = "default"


@dataclass(frozen=True)
class Fitted:
    """`seconds` to fit, without loading; `prefill_seconds` of the same document; `bytes` of the adapter's file, and of the
    document's keys and values; `losses` at the end, nats a token."""

    folder: Path
    seconds: float
    prefill_seconds: float
    tokens: int
    bytes: int
    kv_bytes: int
    steps: int
    losses: dict[str, float]


def fit(
    document: Document, model: Any, tokenizer: Any, recipe: Recipe, out: Path, *, seed: int = 0, progress: bool = True,
    more: Sequence[Item] = (),
) -> Fitted:  # fmt: skip
    """Fits one document and leaves its adapter at `out`; `more` are questions beside those made by rule, such as
    self-study's. `model` comes back with the adapter on. Raises `LiftError`."""
    if recipe.method == "gated":
        check(model.config)
    ids = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
    slots = recipe.slots if recipe.method == "cartridge" else 0
    check_length(len(ids), model, slots + LONG if recipe.kl_rows or recipe.window_rows else 0)
    torch.manual_seed(seed)
    accelerator = Accelerator()
    if getattr(model, "hf_quantizer", None) is None:  # a quantised model may not be moved
        model = model.to(accelerator.device)
    model.eval()
    prefill = prefill_seconds(model, ids)
    began = time.perf_counter()
    items = [*tasks.make(document, recipe.tasks, recipe.items, seed, "train"), *more]
    rows = Rows(task_rows(items, document, tokenizer, model, recipe))
    if not rows.tasks and (recipe.distil_steps or recipe.stages[0].sources == ("tasks",)):
        raise LiftError(f"{document.name}: no question could be made of it: use --recipe raw-lora, or --self-study")
    if recipe.window_rows:
        rows.beside = task_rows(items, document, tokenizer, model, recipe, Random(f"windows {seed}"))
    if recipe.kl_rows:
        rows.talk = talk_rows(model, tokenizer, enough(recipe, rows, TALK_ROWS, 1), seed)
        rows.reading = reading_rows(model, tokenizer, enough(recipe, rows, READING_ROWS, 6), seed)
    if recipe.kl_rows or recipe.neutral_budget is not None:
        prose = prose_rows(tokenizer, enough(recipe, rows, PROSE_ROWS, 6) + HELD_OUT, seed)
        rows.prose, rows.held_out = prose[HELD_OUT:], prose[:HELD_OUT]
    model = adapted(model, tokenizer, recipe, document)
    run = _Run(accelerator, model, tokenizer, recipe, document, ids, rows, out, seed, progress)
    with tensor_cores(model.device):
        losses = run.work()
    seconds = time.perf_counter() - began
    model.eval()
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        checkpoint.remove(out)
    accelerator.wait_for_everyone()
    size = (out / "adapter_model.safetensors").stat().st_size
    return Fitted(out, seconds, prefill, len(ids), size, kv_bytes(model.config, len(ids)), run.step, losses)


# ---- the model --------------------------------------------------------------------------------------------------


def adapter_config(recipe: Recipe) -> PeftConfig:
    if recipe.method == "gated":
        return GatedMemoryConfig(gate=recipe.gate, width=recipe.width, published_init=recipe.published_init)
    if recipe.method == "lora":
        return LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return CartridgeConfig(num_virtual_tokens=recipe.slots, task_type="CAUSAL_LM")


def adapted(model: Any, tokenizer: Any, recipe: Recipe, document: Document) -> Any:
    """The model with a new adapter of the recipe's method."""
    made = get_peft_model(model, adapter_config(recipe))
    if recipe.method == "cartridge":
        from peft import initialize_kv_prefix_from_text

        initialize_kv_prefix_from_text(made, tokenizer, text=document.text)
    return made


def enough(recipe: Recipe, rows: "Rows", most: int, one_in: int) -> int:
    """Rows of other text of which every step draws one in so many of `kl_rows`: at most all that are drawn, which of a short
    document are few, and cost more there than all else."""
    steps = sum(stage.epochs * -(-len(rows.tasks) // (stage.rows or len(rows.tasks) or 1)) for stage in recipe.stages)
    return max(recipe.kl_rows, min(most, -(-recipe.kl_rows * steps // one_in)))


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Products of fp32, which are the memory's, in TF32 where there is a GPU: their inputs come from a bf16 model anyway."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---- the loop ---------------------------------------------------------------------------------------------------

Batch = tuple[int, list[Row]]  # the width to which a step's rows are padded, 0 for that of the longest; and the rows


@dataclass
class Rows:
    """What a fit is taught: questions; the same beside pieces of the document; and other text: `talk` short, `reading` and
    `prose` long, of which `held_out` is not trained on."""

    tasks: list[Row]
    beside: list[Row] = field(default_factory=list)
    talk: list[Row] = field(default_factory=list)
    reading: list[Row] = field(default_factory=list)
    prose: list[Row] = field(default_factory=list)
    held_out: list[Row] = field(default_factory=list)


class _Run:
    """One fit's state."""

    def __init__(
        self, accelerator: Accelerator, model: Any, tokenizer: Any, recipe: Recipe, document: Document,
        ids: Sequence[int], rows: Rows, out: Path, seed: int, progress: bool,
    ):  # fmt: skip
        self.accelerator, self.model, self.tokenizer, self.recipe = accelerator, model, tokenizer, recipe
        self.document, self.ids, self.rows, self.out, self.seed = document, ids, rows, out, seed
        self.device = accelerator.device
        self.room = batch_tokens(model)  # tokens of a pass; the gradients of several are added up
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.digest = self._digest()
        answer = max((row.places for row in rows.tasks), default=0)  # tokens of the longest
        self.gradients = Gradients(model, recipe, list(self.trained.values()), self.room, answer)
        self.total = sum(stage.epochs * len(self._batches(stage, 0)) for stage in recipe.stages)
        self.widest, self.long = (
            padded_width(max((len(row.ids) for row in each), default=0))
            for each in (rows.talk, [*rows.beside, *rows.reading, *rows.prose])
        )
        self.step, self.saved = 0, time.monotonic()
        self.losses: dict[str, float] = {}
        shown = progress and accelerator.is_main_process
        self.bar = tqdm(total=self.total, desc=document.name, unit="step", disable=not shown)

    def _digest(self) -> str:
        """What a checkpoint has to be of: recipe, document and seed, questions as they are tokenised, the base model."""
        frozen = [p.detach().flatten()[:16].float() for p in self.model.parameters() if not p.requires_grad]
        said = [
            asdict(self.recipe),
            self.document.digest,
            self.seed,
            sorted(self.trained),
            [row.ids for row in self.rows.tasks],
        ]
        base = torch.cat([p.to(self.device) for p in frozen]).cpu().numpy().tobytes()
        return hashlib.sha256(json.dumps(said).encode() + base).hexdigest()

    def _batches(self, stage: Stage, epoch: int) -> list[Batch]:
        """The optimizer steps of an epoch: questions of like length together, segments as they come."""
        rng = Random(f"{self.seed} {stage.sources} {epoch}")
        if stage.sources == ("tasks",) and stage.rows:
            return bucketed(self.rows.tasks, stage.rows, rng)
        rows = segment_rows(self.ids, self.tokenizer, self.recipe, rng) if "segments" in stage.sources else []
        rows = rows + (self.rows.tasks if "tasks" in stage.sources else [])
        rng.shuffle(rows)
        size = stage.rows or max(1, len(rows))
        return [(0, rows[start : start + size]) for start in range(0, len(rows), size)]

    def work(self) -> dict[str, float]:
        """All steps that are still to do; the losses of the last."""
        shown, rows, budget = not self.bar.disable, self.rows, self.recipe.neutral_budget
        rows.talk = teacher_targets.taught(self.model, rows.talk, self.room, shown)
        rows.reading = teacher_targets.taught(self.model, rows.reading, self.room, shown)
        # Of prose, many a token has logits to keep for a moment.
        rows.prose = teacher_targets.taught(self.model, rows.prose, self.room // 6, shown)
        if self.recipe.learnt == "logits":
            rows.tasks = teacher_targets.taught(self.model, rows.tasks, self.room, shown)
            # The same questions in the same order, of which the teacher says the same.
            rows.beside = [replace(a, taught=b.taught) for a, b in zip(rows.beside, rows.tasks, strict=False)]
        with self.model.disable_adapter():
            base = self._quiet_loss() if budget is not None else 0.0
        optimizer = torch.optim.AdamW(
            self.trained.values(), lr=self.recipe.learning_rate, betas=self.recipe.betas,
            weight_decay=self.recipe.weight_decay, fused=self.device.type == "cuda",
        )  # fmt: skip
        found = checkpoint.load(self.out, self.digest, self.trained, optimizer)
        self.step = found or 0
        self.bar.update(self.step)
        if self.recipe.distil_steps and found is None:
            prefix = chat(self.tokenizer, self.document.name, "")
            # Long ones too, and other text: a memory is open wherever it was never shown how little there is to find.
            read = [*rows.tasks, *(row for few in (rows.beside, rows.reading, rows.prose) for row in few[:READ_ROWS])]
            self.losses |= teacher_targets.distilled(
                self.model, prefix, self.ids, read, ADAPTER, self.recipe, self.seed, self.room, shown
            )
            self._save(optimizer)
        self.model.train()
        for (width, batch), size, ends_epoch in self._plan(self.step):
            self._one(width, batch, size, optimizer)
            self.step += 1
            self.bar.update()
            if ends_epoch and budget is not None:
                rise = self._quiet_loss() - base
                self.losses["rise"] = rise
                # More at first: the divergence from the base model takes back what the first steps cost.
                if rise > budget * self.total / self.step and self.step < self.total:
                    self.bar.write(f"step {self.step}: other text lost {rise:.3f} nats a token: stopped")
                    break
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self._save(optimizer)
        self.bar.close()
        return self.losses

    def _save(self, optimizer: Any) -> None:
        self.saved = time.monotonic()
        if self.accelerator.is_main_process:
            checkpoint.save(self.out, self.step, self.digest, self.trained, optimizer)

    def _plan(self, done: int) -> Iterator[tuple[Batch, int, bool]]:
        """The steps to come, the rows that a whole one has, and whether it ends an epoch."""
        at = 0
        for stage in self.recipe.stages:
            for epoch in range(stage.epochs):
                made = self._batches(stage, epoch)
                for i, batch in enumerate(made):
                    at += 1
                    if at > done:
                        yield batch, stage.rows or len(batch[1]), i + 1 == len(made)

    def _rate(self) -> float:
        """The share of the learning rate at this step."""
        if self.recipe.schedule == "constant":
            return 1.0
        warm = min(1.0, (self.step + 1) / max(WARM_STEPS, self.total // 20))
        return warm * 0.5 * (1 + math.cos(math.pi * self.step / max(1, self.total)))

    def _one(self, width: int, rows: list[Row], size: int, optimizer: Any) -> None:
        """One optimizer step: token losses of the rows, and the divergence on a draw of other text. Each process takes its
        share of both; summed up, the gradients are those of one process."""
        rng, pool = Random(f"{self.seed} {self.step}"), self.rows
        sixth = self.recipe.kl_rows // 6
        talk = rng.sample(pool.talk, self.recipe.kl_rows - 2 * sixth)
        far = rng.sample(pool.reading, sixth) + rng.sample(pool.prose, sixth)
        beside = rng.sample(pool.beside, min(self.recipe.window_rows, len(pool.beside)))
        labelled = max(1, sum(row.places for row in (*rows, *beside)))
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        passes = [
            Pass(width and max(width, self.widest), rows[rank::ranks], -(-size // ranks), talk[rank::ranks]),
            Pass(self.long, beside[rank::ranks], -(-len(beside) // ranks), far[rank::ranks]),
        ]
        parts = self.gradients.of(passes, 1 / labelled)
        parts = self.accelerator.reduce(parts, "sum")
        if ranks > 1:
            for p in self.trained.values():
                p.grad = self.accelerator.reduce(p.grad, "sum")
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        loss, kl, length = torch.stack([*parts, norm]).tolist()  # the device is asked once
        if not math.isfinite(loss + kl + length):
            what = f"gradient's length is {length}" if math.isfinite(loss + kl) else f"loss is {loss + kl}"
            raise LiftError(
                f"step {self.step}: the {what}, no number: lower the learning rate "
                f"({self.recipe.learning_rate:g}); the last good checkpoint is kept"
            )
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._rate()
        optimizer.step()
        self.losses["loss"] = loss
        if self.recipe.kl_rows:
            self.losses["KL"] = kl
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in self.losses.items()}, refresh=False)

    @torch.no_grad()
    def _quiet_loss(self) -> float:
        """Nats a token on other text that is not trained on, with the adapter as it is."""
        rows = self.rows.held_out
        ids = padded(rows, self.device)
        labels = ids.masked_fill(present(rows, ids) == 0, IGNORED)[:, 1:]
        training = self.model.training
        self.model.eval()
        logits = self.model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
        self.model.train(training)
        return (token_loss(logits[:, :-1].flatten(0, 1), labels.flatten()) / (labels != IGNORED).sum()).item()
