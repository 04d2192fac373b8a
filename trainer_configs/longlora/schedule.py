"""Which attention each optimizer step runs in, and how fast each kind of parameter learns."""

import math
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from longthread.counts import counted
from trainer_configs.longlora.attention.transformers_hook import SparseAttention
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.trainable import parameter_groups

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.optim import Optimizer

ParameterGroup = dict[str, Any]  # of a torch optimizer: params, lr, weight_decay and its own


class Trainer(Protocol):
    """What the plugin asks of a trainer of transformers."""

    model: "PeftModel"
    args: TrainingArguments
    train_dataset: Any
    create_optimizer: "Callable[..., Optimizer]"
    _compute_loss: Callable[..., Any]  # of TRL's preference trainers

    def add_callback(self, callback: TrainerCallback) -> None:
        """Have the callback called at every step."""
        ...


# ---- attention --------------------------------------------------------------------------------------------------


def is_full(seed: int, step: int, share: float) -> bool:
    """Return whether an optimizer step runs in full attention, the same on every rank and after a resume.

    Full steps are evenly spread from a place that the seed draws: of any n steps in a row n·share are full, rounded up or
    down.
    """
    start = Random(seed).random()
    return math.floor((step + 1) * share + start) > math.floor(step * share + start)


class Schedule(TrainerCallback):
    """Chooses every optimizer step's attention, sparse or full, and ends a run whose steps did not run in it."""

    def __init__(self, attentions: list[SparseAttention], share: float, seed: int):
        self.attentions, self.share, self.seed = attentions, share, seed
        self.full = self.sparse = self._calls_before = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Choose sparse or full attention for the step that begins."""
        full = is_full(self.seed, state.global_step, self.share)
        for attention in self.attentions:
            attention.sparse = not full
        self._calls_before = self._calls()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Count the step. Raises `LongLoRAError` if it did not run in the attention chosen for it."""
        sparse = self.attentions[0].sparse
        self.sparse, self.full = self.sparse + sparse, self.full + (not sparse)
        if sparse == (self._calls() == self._calls_before):
            raise LongLoRAError(
                f"step {state.global_step} was to run in {'sparse' if sparse else 'full'} attention and did not: another "
                "plugin or patch replaces the model's attention; leave it out or set longlora.attention full"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Print how many steps ran in each attention."""
        if state.is_world_process_zero:
            sparse = f"{counted(self.sparse, 'step')} in sparse attention"
            Console(width=120).print(f"longlora: {sparse}, {self.full} in full")

    def _calls(self) -> int:
        return sum(attention.calls for attention in self.attentions)


# ---- learning rates ---------------------------------------------------------------------------------------------


def with_rates(trainer: Trainer, embedding_lr: float | None, norm_lr: float | None) -> "Callable[..., Optimizer]":
    """Return the trainer's `create_optimizer`, with parameter groups split by kind; a rate left out is the group's own.

    Axolotl never asks plugins for an optimizer, and its own `embedding_lr` is the rate of all of `modules_to_save`.
    Embeddings and norms are not decayed: towards zero is away from the base model.
    """
    create = trainer.create_optimizer

    def create_optimizer(*args: object, **kwargs: object) -> "Optimizer":
        optimizer = create(*args, **kwargs)
        kinds = {id(p): group["name"] for group in parameter_groups(trainer.model, 0.0) for p in group["params"]}
        rates = {"embedding": embedding_lr, "head": embedding_lr, "norm": norm_lr}
        if groups := getattr(optimizer, "param_groups", None):  # DeepSpeed's stand-in has none
            parts = [part for group in groups for part in split_by_kind(group, kinds, rates)]
            # LoRA's come first: logs show the rate of the first group.
            groups[:] = sorted(parts, key=lambda part: kinds.get(id(part["params"][0])) in rates)
        return optimizer

    return create_optimizer


def split_by_kind(group: ParameterGroup, kinds: dict[int, str], rates: dict[str, float | None]) -> list[ParameterGroup]:
    """Split a parameter group of an optimizer into one for each kind of its parameters.

    `kinds` gives the kind of a parameter by its id(), `rates` the learning rate of a kind.
    """
    parts: dict[str, ParameterGroup] = {}
    for parameter in group["params"]:
        kind = kinds.get(id(parameter), "")
        change = {"lr": rates[kind] or group["lr"], "weight_decay": 0.0} if kind in rates else {}
        parts.setdefault(kind, {**group, **change, "params": []})["params"].append(parameter)
    return list(parts.values())
