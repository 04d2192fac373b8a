"""The recipe's training of one attention pattern in this process: the plugin's own parts in a plain loop, without Axolotl.

Axolotl takes half a minute to begin, and packages that a bare GPU machine lacks. Ranks, learning rates and what is trained
are the recipe's (trainer_configs/smollm2-135m-32k.yaml); the rate rises over the first twentieth of the budget and falls
over the last fifth. Rows hold one document each. A step is one row; its logits are computed where a label is.

The pattern pose trains in full attention on shorter rows, whose positions skip ahead (PoSE, arXiv 2309.10400): those of
`longlora reader-rows --pose`.
"""

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from benchmarks.gpu_timing import clear, peak
from benchmarks.longlora_model import checkpointing
from benchmarks.longlora_training import METHODS, RECIPE
from longthread.errors import ConfigError
from trainer_configs.longlora.attention.tail_global import IGNORED
from trainer_configs.longlora.attention.transformers_hook import SparseAttention, install
from trainer_configs.longlora.data.run_folder import shards
from trainer_configs.longlora.rope.methods import OPTIONS
from trainer_configs.longlora.row_files import restarts
from trainer_configs.longlora.schedule import is_full
from trainer_configs.longlora.section import LongLoRA
from trainer_configs.longlora.trainable import module_names, parameter_groups, prepare

WARM_UP, DECAY = 0.05, 0.2  # shares of the budget, as of the recipe's 400 steps
CLIP = 1.0
POSE = "pose"
PATTERNS = {**METHODS, POSE: METHODS["full"]}
TEMPERATURE = 0.103  # of SmolLM's by arXiv 2512.12167
ROPES: dict[str, dict[str, Any]] = {  # by name: options of `context_extension`
    **{method: {"method": method} for method in OPTIONS},
    "ntk_temperature": {"method": "ntk", "temperature": TEMPERATURE},
}
LORA, ALL = "lora", "all"  # what is trained: LoRA alone, all weights; else LoRA with embeddings and norms
FULL_RATE = 1e-4  # of all weights: between LoRA's and that of the embeddings
MOST_LOGITS = 32_768 * 49_152  # of a row: 19 GB with their gradients; of 131,072 tokens of plain text they would be 77
KEPT_TOKENS = 16_384  # of the longest rows whose activations are kept; of longer ones attention alone, as in the recipe


class Method(NamedTuple):
    """A method by its parts, PATTERN+ROPE:LEARNS; what is left out behind the pattern is the recipe's."""

    pattern: str
    rope: str = ""
    learns: str = ""

    @classmethod
    def of(cls, name: str) -> "Method":
        """Return the parts of a name. Raises `ConfigError` for others than there are."""
        before, _, learns = name.partition(":")
        pattern, _, rope = before.partition("+")
        known = (
            pattern in PATTERNS and (rope in ROPES or before == pattern) and (learns in (LORA, ALL) or before == name)
        )
        if not known:
            raise ConfigError(
                f"methods must be of {', '.join(PATTERNS)}, with +{', +'.join(ROPES)} or with :{LORA}, :{ALL} (got {name})",
                setting="methods",
            )
        return cls(pattern, rope, learns)


class Row(NamedTuple):
    """A row of T tokens: ids and labels (1, T), the places K whose next token is learnt, those tokens (1, K), and positions
    (1, T) where these skip ahead.
    """

    ids: Tensor
    labels: Tensor
    places: Tensor
    learnt: Tensor
    positions: Tensor | None = None

    @property
    def reach(self) -> int:
        """Return how many positions a window needs for the row."""
        return self.ids.shape[1] if self.positions is None else int(self.positions[0, -1]) + 1


class Budget(NamedTuple):
    """How long a training takes: so many seconds, or so many steps where `seconds` is 0; none where both are."""

    seconds: float = 0.0
    steps: int = 0

    def share(self, began: float, step: int) -> float:
        """Return how much of it is used, 1 for all."""
        if self.seconds:
            return (time.perf_counter() - began) / self.seconds
        return step / self.steps if self.steps else 1.0


def read_rows(folder: Path, device: str) -> list[Row]:
    """Return the rows of `longthread longlora reader-rows`, on the device. Raises `ConfigError` for packed ones."""
    import pyarrow.parquet as pq

    rows = []
    for shard in shards(folder):
        for row in pq.read_table(shard, columns=["input_ids", "labels", "position_ids"]).to_pylist():
            if restarts(row["position_ids"]):
                raise ConfigError(f"{shard} holds rows of several documents: make them with --parallel 0 and no chats")
            ids, labels, positions = (
                torch.tensor([row[name]], device=device) for name in ("input_ids", "labels", "position_ids")
            )
            places, skips = (labels[0, 1:] != IGNORED).nonzero()[:, 0], int(positions[0, -1]) >= ids.shape[1]
            rows.append(Row(ids, labels, places, labels[:, 1:][:, places], positions if skips else None))
    if not rows:
        raise ConfigError(f"{folder} holds no rows: make them with longthread longlora reader-rows", setting="rows")
    return rows


def rate_share(share: float) -> float:
    """Return the learning rate as a share of the highest, at a share of the budget."""
    return max(0.02, min(1.0, share / WARM_UP, (1.0 - share) / DECAY))


@dataclass
class Trained:
    """A model after its training, in evaluation mode with full attention, and what the training took."""

    model: Any
    losses: list[float] = field(default_factory=list)
    step_seconds: dict[str, list[float]] = field(default_factory=lambda: {"full": [], "sparse": []})
    peak_gib: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Return steps, their seconds, those of a median step of either kind, loss of the last ten, and peak memory."""
        both = self.step_seconds["full"] + self.step_seconds["sparse"]
        figures: dict[str, Any] = {"steps": len(both), "seconds": sum(both), "peak_gib": self.peak_gib}
        figures |= {f"{kind}_step": statistics.median(times) for kind, times in self.step_seconds.items() if times}
        return figures | ({"loss": statistics.mean(self.losses[-10:])} if self.losses else {})


class InProcess:
    """One pattern's model, wrapped and prepared as the plugin does it, with its optimizer.

    `method` is a name of `Method`; `length` is the window to which the model is extended: that of the longest row, but for
    pose.
    """

    def __init__(self, folder: Path, method: str, length: int, seed: int):
        self.recipe = yaml.safe_load(RECIPE.read_text())
        own = {name: value for name, value in self.recipe["longlora"].items() if name != "group_size"}
        pattern, rope, self.learns = Method.of(method)
        extension = ROPES[rope or own["context_extension"]["method"]] | {"target_length": length}
        self.settings = LongLoRA(**own | PATTERNS[pattern] | {"context_extension": extension})
        if (self.settings.group_size or 0) > length // 4:
            self.settings.group_size = None  # the plugin's default
        self.seed, self.length, self.short = seed, length, pattern == POSE
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(seed)
        base = self._base(folder)
        self.sparse: SparseAttention | None = None
        if self.settings.attention != "full":
            group = self.settings.group(length)
            self.sparse = install(base, group, self.settings.sink_tokens, pattern=self.settings.attention)
        self.model = base if self.learns == ALL else self._wrapped(base)
        if self.sparse and self.learns != ALL:
            self.sparse.watch(self.model)
        if self.length > KEPT_TOKENS and not self.short:
            checkpointing(self.model, attention=True)
        self.model.train()
        groups: list[dict[str, Any]] = [{"params": list(base.parameters()), "lr": FULL_RATE}]
        if self.learns != ALL:
            groups = parameter_groups(
                self.model, self.recipe["learning_rate"], self.settings.embedding_lr, self.settings.norm_lr
            )
        betas = self.recipe["adam_beta1"], self.recipe["adam_beta2"]
        self.optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=0.0, fused=self.device == "cuda")
        self.rates = [group["lr"] for group in groups]

    def _base(self, folder: Path) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder)
        if (window := config.get_text_config().max_position_embeddings) >= self.length:
            self.settings.context_extension = None
        if (extension := self.settings.extension(config)) is not None:
            for name, value in extension.changes.items():
                setattr(config, name, value)
        elif window < self.length:
            raise ConfigError(f"{folder} reads {window} tokens, rows have {self.length}: choose another model")
        # What is trained stays in fp32, as the plugin has it.
        dtype = torch.bfloat16 if self.device == "cuda" and self.learns != ALL else torch.float32
        model: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)
        return model.to(self.device)

    def _wrapped(self, base: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        saved = None if self.learns == LORA else module_names(base)
        lora = LoraConfig(
            r=self.recipe["lora_r"],
            lora_alpha=self.recipe["lora_alpha"],
            target_modules=self.recipe["lora_target_modules"],
            modules_to_save=saved,
            ensure_weight_tying=bool(saved and base.config.get_text_config().tie_word_embeddings),
            task_type="CAUSAL_LM",
        )
        model: Any = get_peft_model(base, lora)
        prepare(model)
        return model

    def train(self, rows: Sequence[Row], budget: Budget) -> Trained:
        """Train within the budget; the first pass of either kind of step, unpaid, is not learnt from and not timed."""
        clear(self.device)
        for full in (True, False) if self.sparse else (True,):
            self._backward(rows[0], full)
            self.optimizer.zero_grad(set_to_none=True)
        result = Trained(self.model)
        share_full = self.settings.full_attention_steps if self.sparse else 1.0
        began = time.perf_counter()
        for step, row in enumerate(self._endless(rows)):
            if (share := budget.share(began, step)) >= 1.0:
                break
            full, start = is_full(self.seed, step, share_full), time.perf_counter()
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * rate_share(share)
            loss = self._backward(row, full)
            torch.nn.utils.clip_grad_norm_(
                [parameter for group in self.optimizer.param_groups for parameter in group["params"]], CLIP
            )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            result.losses.append(loss.item())  # waits for the device
            result.step_seconds["full" if full else "sparse"].append(time.perf_counter() - start)
        result.peak_gib = peak(self.device)
        result.model = self._merged()
        return result

    def _endless(self, rows: Sequence[Row]) -> Iterator[Row]:
        order = random.Random(self.seed).sample(rows, len(rows))
        return itertools.cycle(order)

    def _backward(self, row: Row, full: bool) -> Tensor:
        """Compute the mean loss of a row's labels, and the gradients. Raises RuntimeError for another attention.

        Of labels whose logits would be too many those count that lie evenly over the row.
        """
        calls, vocabulary = 0, self.model.config.get_text_config().vocab_size
        every = math.ceil(len(row.places) * vocabulary / MOST_LOGITS) or 1
        if self.sparse:
            self.sparse.sparse, calls = not full, self.sparse.calls
        skipped = {}
        if row.positions is not None:
            # The mask of ones: without one, transformers takes what stands behind a skip for another document.
            skipped = {"position_ids": row.positions, "attention_mask": torch.ones_like(row.ids)}
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss: Tensor = self.model(
                input_ids=row.ids, labels=row.labels, logits_to_keep=row.places[::every],
                shift_labels=row.learnt[:, ::every],
                use_cache=False, **skipped,
            ).loss  # fmt: skip
        loss.backward()
        if self.sparse and (self.sparse.calls > calls) == full:
            raise RuntimeError(f"a step ran in another attention than {'full' if full else 'sparse'}")
        return loss.detach()

    def _merged(self) -> Any:
        """Return the model without LoRA, in the dtype that it is served in, with its own attention."""
        if self.sparse:
            self.sparse.uninstall()
        self.optimizer.param_groups.clear()
        self.optimizer.state.clear()
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        merged = (self.model if self.learns == ALL else self.model.merge_and_unload()).eval()
        for parameter in merged.parameters():  # not the buffers: RoPE's frequencies are fp32 in any model
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(dtype)
        gc.collect()
        return merged
