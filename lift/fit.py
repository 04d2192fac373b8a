"""Writes a document into an adapter: one loop for every method, on one device or many (accelerate).

    fitted = fit(read(Path("book.txt")), model, tokenizer, RECIPES["lse"], Path("out"))

The adapter is PEFT's format (adapter_config.json, adapter_model.safetensors). A run that was killed goes on where its last
checkpoint stands, which is safetensors and JSON too. A loss that is no number ends the run with the last good weights kept.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from peft import CartridgeConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from environments.haystack import prose
from lift import LiftError, segments, tasks
from lift.asking import chat, ends
from lift.documents import Document
from lift.objectives import IGNORED, Teacher, Top, distil, divergence, token_loss, top
from lift.recipes import Recipe, Stage
from lift.tasks import Item
from lift.tuner import GatedMemoryConfig, check

BATCH_TOKENS = 16_384  # of a forward pass with its backward pass; more rows are added up
NEUTRAL_TOKENS = 128  # of a row of neutral text
NEUTRAL_ROWS, HELD_OUT = 64, 16
OBSERVED_ROWS = 256  # of questions that the teacher reads
CHECKPOINT_SECONDS = 60
ADAPTER = "default"


@dataclass(frozen=True)
class Row:
    """A sequence to learn, or one (`neutral`: its number) on which the model is to stay as it was."""

    ids: Sequence[int]
    labels: Sequence[int]
    neutral: int | None = None


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
    ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
    torch.manual_seed(seed)
    accelerator = Accelerator()
    model = model.to(accelerator.device)
    prefill = prefill_seconds(model, ids)
    began = time.perf_counter()
    model = adapted(model, tokenizer, recipe, document)
    items = [*tasks.make(document, recipe.tasks, recipe.items, seed, "train"), *more]
    rows = task_rows(items, document.name, tokenizer, model)
    run = _Run(accelerator, model, tokenizer, recipe, document, ids, rows, out, seed, progress)
    losses = run.work()
    seconds = time.perf_counter() - began
    model.eval()
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        for left in out.glob("checkpoint*"):
            left.unlink()
    accelerator.wait_for_everyone()
    size = (out / "adapter_model.safetensors").stat().st_size
    return Fitted(out, seconds, prefill, len(ids), size, kv_bytes(model.config, len(ids)), run.step, losses)


# ---- the model --------------------------------------------------------------------------------------------------


def adapted(model: Any, tokenizer: Any, recipe: Recipe, document: Document) -> Any:
    """The model with a new adapter of the recipe's method."""
    if recipe.method == "gated":
        config: Any = GatedMemoryConfig(gate=recipe.gate, width=recipe.width, published_init=recipe.published_init)
    elif recipe.method == "lora":
        config = LoraConfig(
            r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets), task_type="CAUSAL_LM"
        )
    else:
        config = CartridgeConfig(num_virtual_tokens=recipe.slots, task_type="CAUSAL_LM")
    made = get_peft_model(model, config)
    if recipe.method == "cartridge":
        from peft import initialize_kv_prefix_from_text

        initialize_kv_prefix_from_text(made, tokenizer, text=document.text)
    return made


def kv_bytes(config: Any, tokens: int, itemsize: int = 2) -> int:
    """Of a document's keys and values in bf16."""
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return (
        2 * text.num_hidden_layers * (text.num_key_value_heads or text.num_attention_heads) * size * tokens * itemsize
    )


@torch.no_grad()
def prefill_seconds(model: Any, ids: Sequence[int]) -> float:
    """The second of two readings of the whole document, what a prompt would cost."""
    row = torch.tensor([ids], device=model.device)
    for _ in range(2):
        _wait(model.device)
        began = time.perf_counter()
        model(input_ids=row, use_cache=True, logits_to_keep=1)
        _wait(model.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_memory(tokens: int, config: Any, recipe: Recipe, device: torch.device) -> None:
    """Raises `LiftError` where the document's keys and values, which prefill and teacher hold, cannot fit."""
    if device.type != "cuda":
        return
    free, needed = torch.cuda.mem_get_info(device)[0], 2 * kv_bytes(config, tokens)
    if needed > free:
        raise LiftError(
            f"{tokens:,} tokens need {needed / 2**30:.1f} GiB for keys and values, {free / 2**30:.1f} are free: "
            "split the document, one adapter a part (gate lse composes them)"
        )


# ---- rows -------------------------------------------------------------------------------------------------------


def task_rows(items: Sequence[Item], name: str, tokenizer: Any, model: Any) -> list[Row]:
    """Questions with their answers; the loss is on the answer and the mark that ends it."""
    stop = next(iter(ends(model, tokenizer)), None)
    rows = []
    for item in items:
        prompt = chat(tokenizer, name, item.question)
        said = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        said = [*said, stop] if stop is not None else said
        rows.append(Row([*prompt, *said], [IGNORED] * len(prompt) + list(said)))
    return rows


def segment_rows(ids: Sequence[int], tokenizer: Any, recipe: Recipe, rng: Random) -> list[Row]:
    spans = segments.segments(len(ids), recipe.segment, recipe.stride)
    if recipe.contextualised:
        joints = segments.joints(tokenizer)
        made = [segments.contextualised(ids, span, rng, joints) for span in spans]
    else:
        made = [segments.plain(ids, span) for span in spans]
    return [Row(each.ids, each.labels) for each in made]


def neutral_rows(tokenizer: Any, rows: int, seed: int) -> list[Row]:
    """Fiction that has nothing to do with any document."""
    ids: list[int] = []
    for passage in prose.passages(1_000_000 + seed, "train"):
        ids += tokenizer(prose.join(passage) + "\n\n", add_special_tokens=False)["input_ids"]
        if len(ids) >= rows * NEUTRAL_TOKENS:
            break
    parts = [ids[i * NEUTRAL_TOKENS : (i + 1) * NEUTRAL_TOKENS] for i in range(rows)]
    return [Row(part, [IGNORED] * len(part), i) for i, part in enumerate(parts)]


def batches(rows: Sequence[Row], tokens: int = BATCH_TOKENS) -> Iterator[list[Row]]:
    """Rows of like length together, at most so many tokens when padded."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batch and (len(batch) + 1) * len(row.ids) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels, (B, L), padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows], device=device)
    labels = torch.tensor([[*row.labels, *[IGNORED] * (width - len(row.ids))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    return ids, mask, labels


# ---- the loop ---------------------------------------------------------------------------------------------------


class _Run:
    """One fit's state."""

    def __init__(
        self, accelerator: Accelerator, model: Any, tokenizer: Any, recipe: Recipe, document: Document,
        ids: Sequence[int], tasks: list[Row], out: Path, seed: int, progress: bool,
    ):  # fmt: skip
        self.accelerator, self.model, self.tokenizer, self.recipe = accelerator, model, tokenizer, recipe
        self.document, self.ids, self.out, self.seed = document, ids, out, seed
        self.device = accelerator.device
        self.tasks = tasks
        if any("tasks" in stage.sources for stage in recipe.stages[:1]) and not self.tasks:
            raise LiftError(f"{document.name}: no question could be made of it: use --recipe raw-lora, or --self-study")
        self.neutral = neutral_rows(tokenizer, NEUTRAL_ROWS + HELD_OUT, seed)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.digest = json.dumps([asdict(recipe), document.digest, seed, sorted(self.trained)], default=str)
        self.total = sum(stage.epochs * self._steps(stage) for stage in recipe.stages)
        self.step, self.saved = 0, time.monotonic()
        self.losses: dict[str, float] = {}
        self.bar = tqdm(
            total=self.total, desc=document.name, unit="step", disable=not (progress and accelerator.is_main_process)
        )

    def _rows(self, stage: Stage, epoch: int) -> list[Row]:
        rng = Random(f"{self.seed} {stage.sources} {epoch}")
        rows = segment_rows(self.ids, self.tokenizer, self.recipe, rng) if "segments" in stage.sources else []
        rows = rows + (self.tasks if "tasks" in stage.sources else [])
        rng.shuffle(rows)
        return rows

    def _steps(self, stage: Stage) -> int:
        return math.ceil(len(self._rows(stage, 0)) / stage.rows) if stage.rows else 1

    def work(self) -> dict[str, float]:
        teacher = self._teacher()
        base = self._neutral_loss() if self.recipe.neutral_budget is not None else 0.0
        optimizer = torch.optim.AdamW(
            self.trained.values(), lr=self.recipe.learning_rate, betas=self.recipe.betas,
            weight_decay=self.recipe.weight_decay,
        )  # fmt: skip
        self._resume(optimizer)
        if self.recipe.distil_steps and not self.step:
            self._distil()
        self.model.train()
        for rows, ends_epoch in self._plan(self.step):
            self._one(rows, teacher, optimizer)
            self.step += 1
            self.bar.update()
            if ends_epoch and self.recipe.neutral_budget is not None:
                rise = self._neutral_loss() - base
                self.losses["neutral rise"] = rise
                if rise > self.recipe.neutral_budget and self.step < self.total:
                    self.bar.write(f"step {self.step}: neutral text lost {rise:.3f} nats a token: stopped")
                    break
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self._checkpoint(optimizer)
        self.bar.close()
        return self.losses

    def _plan(self, done: int) -> Iterator[tuple[list[Row], bool]]:
        """The rows of each optimizer step to come, and whether they end an epoch."""
        at = 0
        for stage in self.recipe.stages:
            for epoch in range(stage.epochs):
                rows = self._rows(stage, epoch)
                size = stage.rows or len(rows)
                for start in range(0, len(rows), size):
                    at += 1
                    if at > done:
                        yield rows[start : start + size], start + size >= len(rows)

    def _rate(self, step: int) -> float:
        if self.recipe.schedule == "constant":
            return 1.0
        warm = min(1.0, (step + 1) / max(1, self.total // 20))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.total))))

    def _one(self, rows: list[Row], teacher: list[Top], optimizer: Any) -> None:
        """One optimizer step: token losses of the rows, and the divergence on a draw of neutral text. Each process takes its
        share of both; summed up, the gradients are those of one process."""
        labelled = max(1, sum(label != IGNORED for row in rows for label in row.labels))
        drawn = Random(f"{self.seed} {self.step}").sample(self.neutral[:NEUTRAL_ROWS], self.recipe.kl_rows)
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = torch.zeros(2, device=self.device)
        for batch in batches([*rows, *drawn][rank::ranks]):
            ids, mask, labels = padded(batch, self.device)
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -ids.shape[1] :]
            loss = token_loss(logits, labels) / labelled
            kl = self._divergence(logits, batch, teacher) / max(1, len(drawn) * NEUTRAL_TOKENS)
            self.accelerator.backward(loss + self.recipe.kl_weight * kl)
            parts += torch.stack([loss.detach(), kl.detach()])
        loss_now, kl_now = self.accelerator.reduce(parts, "sum").tolist()
        if not math.isfinite(loss_now + kl_now):
            raise LiftError(
                f"step {self.step}: the loss is {loss_now}, no number: lower the learning rate "
                f"({self.recipe.learning_rate:g}); the last good checkpoint is kept"
            )
        if ranks > 1:
            for p in self.trained.values():
                p.grad = self.accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        self.accelerator.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._rate(self.step)
        optimizer.step()
        optimizer.zero_grad()
        self.losses["loss"] = loss_now
        if drawn:
            self.losses["KL"] = kl_now
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in self.losses.items()}, refresh=False)

    def _divergence(self, logits: Tensor, batch: list[Row], teacher: list[Top]) -> Tensor:
        at = [i for i, row in enumerate(batch) if row.neutral is not None]
        if not at:
            return logits.new_zeros((), dtype=torch.float32)
        wanted = Top(*(torch.cat(x) for x in zip(*(teacher[batch[i].neutral or 0] for i in at), strict=True)))
        return divergence(logits[at, :NEUTRAL_TOKENS].flatten(0, 1), wanted)

    # ---- what the model was before ----

    @torch.no_grad()
    def _teacher(self) -> list[Top]:
        """The base model's most likely tokens on every neutral row."""
        if not self.recipe.kl_rows:
            return []
        found: list[Top] = []
        with self.model.disable_adapter():
            for at in range(0, NEUTRAL_ROWS, 32):
                ids, _, _ = padded(self.neutral[at : min(at + 32, NEUTRAL_ROWS)], self.device)
                found += [top(logits) for logits in self.model(input_ids=ids, use_cache=False).logits]
        return found

    @torch.no_grad()
    def _neutral_loss(self) -> float:
        """Nats a token on neutral text that is not trained on, with the adapter as it is."""
        ids, _, _ = padded(self.neutral[NEUTRAL_ROWS:], self.device)
        training = self.model.training
        self.model.eval()
        logits = self.model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
        self.model.train(training)
        return (token_loss(logits, ids) / (ids.numel() - len(ids))).item()

    def _distil(self) -> None:
        """Questions, and the document's own text, as the teacher sees them."""
        rows = list(self.tasks)
        Random(self.seed).shuffle(rows)
        prefix = chat(self.tokenizer, self.document.name, "")[:4]  # what a model spends its spare attention on
        teacher = Teacher.read(self.model, prefix, self.ids, self.recipe.piece)
        seen: list[Any] = []
        for batch in batches(rows[:OBSERVED_ROWS]):
            ids, mask, _ = padded(batch, self.device)
            seen.append(teacher.logits(ids, mask)[1])
        joined = [
            type(parts[0])(*(torch.cat(x, 1) for x in zip(*parts, strict=True))) for parts in zip(*seen, strict=True)
        ]
        found = distil(self.model, joined, ADAPTER, self.recipe.distil_steps, self.recipe.distil_rate)
        self.losses |= found

    # ---- checkpoints ----

    def _checkpoint(self, optimizer: Any) -> None:
        """Weights and moments; the JSON comes last, and names the step."""
        self.saved = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        tensors = {f"weight.{name}": p.detach().contiguous() for name, p in self.trained.items()}
        for name, p in self.trained.items():
            state = optimizer.state.get(p, {})
            tensors |= {f"{key}.{name}": state[key].contiguous() for key in ("exp_avg", "exp_avg_sq") if key in state}
        save_file(tensors, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / f"checkpoint-{self.step}.safetensors")
        scratch = self.out / "checkpoint.json.tmp"
        scratch.write_text(json.dumps({"step": self.step, "of": self.digest}))
        scratch.replace(self.out / "checkpoint.json")
        for old in self.out.glob("checkpoint-*.safetensors"):
            if old.name != f"checkpoint-{self.step}.safetensors":
                old.unlink()

    def _resume(self, optimizer: Any) -> None:
        """Goes on where a checkpoint of the very same run stands, if there is one."""
        path = self.out / "checkpoint.json"
        if not path.is_file() or (said := json.loads(path.read_text()))["of"] != self.digest:
            return
        tensors = load_file(self.out / f"checkpoint-{said['step']}.safetensors", device=str(self.device))
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(tensors[f"weight.{name}"])
                if f"exp_avg.{name}" in tensors:
                    moments = {key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[p] = {"step": torch.tensor(float(said["step"])), **moments}
        self.step = said["step"]
        self.bar.update(self.step)
