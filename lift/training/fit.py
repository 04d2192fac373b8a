"""Fit a document: write it into an adapter, by any method, on one device or many (accelerate).

    fitted = fit(read(Path("book.txt")), model, tokenizer, RECIPES["lse"], FitOptions(Path("out")))

The adapter is PEFT's format (adapter_config.json, adapter_model.safetensors). A killed run
continues from its last checkpoint, which is safetensors and JSON too. A NaN loss ends the run; the checkpoint stays good.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import CartridgeConfig, LoraConfig, PeftConfig, get_peft_model

from lift.document.document import Document, check_words
from lift.document.repeats import read_once
from lift.document.token_spans import TokenSpans
from lift.inference.capacity import check_length, prefill_seconds, trained_tokens
from lift.library.base_model import fingerprint, record
from lift.memory.tuner import GatedMemoryConfig, check
from lift.training import checkpoint
from lift.training.batches import LONG
from lift.training.compaction import check_positions, check_share, fit_compact, spans_of
from lift.training.job import FitJob, FitOptions
from lift.training.loop import TrainingLoop
from lift.training.recipes import Recipe
from longthread.language_model import AdaptedLM, CausalLM, ChatTokenizer
from longthread.model_shape import kv_bytes


@dataclass(frozen=True)
class Fitted:
    """The result of a fit: the adapter's folder and its cost.

    `seconds` is the time of the fit without loading, `prefill_seconds` that of one pass over the document. `bytes` is
    the size of the adapter's file, `kv_bytes` that of the document's keys and values. `losses` are the last ones, in
    nats a token.
    """

    folder: Path
    seconds: float
    prefill_seconds: float
    tokens: int
    bytes: int
    kv_bytes: int
    steps: int
    losses: dict[str, float]


def fit(document: Document, model: CausalLM, tokenizer: ChatTokenizer, recipe: Recipe, options: FitOptions) -> Fitted:
    """Fit one document, save its adapter to `options.out`, and return its cost.

    `model` then has the adapter; with recipe `compact` an empty one. The adapter's folder states the model's fingerprint.

    A passage that stands twice is read once.

    Raises `ConfigError` for what cannot be fitted, and `RunError` where training diverges.
    """
    check_words(document.text, document.name)
    if recipe.method in ("gated", "compact"):
        check(model.config)
    original, document = document, read_once(document)
    ids = TokenSpans.encode(tokenizer, document.text).ids
    if recipe.method == "compact":
        return _compacted(model, FitJob(document, ids, tokenizer, recipe, options, original=original))
    slots = recipe.slots if recipe.method == "cartridge" else 0
    check_length(len(ids), model, slots + LONG if recipe.kl_rows or recipe.window_rows else 0)
    torch.manual_seed(options.seed)
    accelerator = Accelerator()
    model = _ready(model, accelerator.device)
    base = fingerprint(model)
    prefill = prefill_seconds(model, ids)
    began = time.perf_counter()
    job = FitJob(document, ids, tokenizer, recipe, options)
    job.prepare_rows(model)
    adapted = add_adapter(model, tokenizer, recipe, document)
    loop = TrainingLoop(accelerator, adapted, job, trained_tokens(adapted))
    with tensor_cores(adapted.device):
        losses = loop.run()
    seconds = time.perf_counter() - began
    adapted.eval()
    out = options.out
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        adapted.save_pretrained(out)
        record(out, base)
        checkpoint.remove(out)
    accelerator.wait_for_everyone()
    size = (out / "adapter_model.safetensors").stat().st_size
    return Fitted(out, seconds, prefill, len(ids), size, kv_bytes(adapted.config, len(ids)), loop.step, losses)


def _compacted(model: CausalLM, job: FitJob) -> Fitted:
    """Fit a document with recipe `compact` or `compact+`, in the first process if there are several."""
    recipe, options, ids = job.recipe, job.options, job.ids
    check_positions(model.config)
    check_share(recipe.share)
    spans = spans_of(len(ids), recipe.segment, model.config)
    check_length(len(spans[0]), model)
    torch.manual_seed(options.seed)
    accelerator = Accelerator()
    model = _ready(model, accelerator.device)
    base = fingerprint(model)
    began = time.perf_counter()
    adapted = add_adapter(model, job.tokenizer, recipe, job.document)
    adapted.eval()
    steps, losses = 0, dict[str, float]()
    if accelerator.is_main_process:
        steps, losses = fit_compact(adapted, job, spans)
        record(options.out, base)
        checkpoint.remove(options.out)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - began
    prefill = _prefill_seconds(adapted, job, ids[: len(spans[0])])
    size = (options.out / "adapter_model.safetensors").stat().st_size
    return Fitted(options.out, seconds, prefill, len(ids), size, kv_bytes(adapted.config, len(ids)), steps, losses)


def _prefill_seconds(model: AdaptedLM, job: FitJob, first_segment: Sequence[int]) -> float:
    """Return how long the base model reads the document, as the fit has measured it.

    Read once more where the fit has read nothing, and on a GPU, whose first pass loads kernels.
    """
    reading, tokens = job.reading, len(job.ids)
    if reading.tokens and model.device.type != "cuda":
        return reading.seconds * tokens / reading.tokens
    with model.disable_adapter():
        return prefill_seconds(model, first_segment) * tokens / len(first_segment)


def _ready(model: CausalLM, device: torch.device) -> CausalLM:
    """Return the model on the device, without dropout. A quantised model may not be moved."""
    return (model if getattr(model, "hf_quantizer", None) else model.to(device)).eval()


def adapter_config(recipe: Recipe) -> PeftConfig:
    """Return PEFT's config for the recipe's method: gated memory, compact memory without slots, LoRA or cartridge."""
    if recipe.method == "compact":
        return GatedMemoryConfig(slots={})
    if recipe.method == "gated":
        return GatedMemoryConfig(gate=recipe.gate, width=recipe.width, published_init=recipe.published_init)
    if recipe.method == "lora":
        return LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return CartridgeConfig(num_virtual_tokens=recipe.slots, task_type="CAUSAL_LM")


def add_adapter(model: Any, tokenizer: ChatTokenizer, recipe: Recipe, document: Document) -> AdaptedLM:
    """Return the model with a new adapter of the recipe's method.

    A cartridge starts as the document's first keys and values.
    """
    adapted: Any = get_peft_model(model, adapter_config(recipe))
    if recipe.method == "cartridge":
        from peft import initialize_kv_prefix_from_text

        initialize_kv_prefix_from_text(adapted, tokenizer, text=document.text)
    return adapted


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Let a GPU multiply fp32 matrices in TF32 in a `with` block. The memory's inputs come from a bf16 model anyway."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
