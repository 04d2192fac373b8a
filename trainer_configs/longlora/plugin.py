"""The plugin: what it does to a model and a trainer at each of Axolotl's hooks (0.19 to 0.21).

    register             checks the config, sets what follows from it (args.py)
    post_model_build     puts shifted sparse attention into the model
    pre_lora_load        the model computes the RoPE asked for, and has as many tokens as before
    post_lora_load       embeddings and norms as fp32 masters; with `rl: dpo` and its like at post_trainer_create
    post_trainer_create  the callback that chooses each step's attention, learning rates, and the table of all this
    post_train_unload    the models as they were
    post_lora_merge      (0.21) the merged config carries the RoPE

What it cannot do ends the run in one line.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from axolotl.integrations.expert_parallel import shard
from peft import PeftModel
from rich.console import Console
from transformers import TrainerCallback

from trainer_configs.longlora import config as args
from trainer_configs.longlora.attention.shifted_sparse import AttentionError
from trainer_configs.longlora.attention.transformers_hook import ShiftedSparse, install
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.rope import extension as rope
from trainer_configs.longlora.startup_summary import check_logits, table
from trainer_configs.longlora.trainable import TrainableError, parameter_groups, prepare, save_sharded


class LongLoRAPlugin(BasePlugin):
    """One run's state. Every hook does nothing where the config has no `longlora:` section."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[ShiftedSparse] = []
        self.prepared = False
        self.rows = 0  # of the input embedding as it was loaded

    def register(self, cfg: Any) -> None:
        if args.enabled(cfg):
            args.configure(cfg)

    def get_input_args(self) -> str:
        return "trainer_configs.longlora.config.LongLoRAArgs"

    def post_model_build(self, cfg: Any, model: Any) -> None:
        if not cfg.longlora:
            return
        self.rows = model.get_input_embeddings().weight.shape[0]
        if cfg.longlora["attention"] == "shifted" and args.training(cfg):
            with one_line(AttentionError):
                settings = cfg.longlora
                self.attentions.append(install(model, settings["group_size"], settings["sink_tokens"]))

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        if not cfg.longlora:
            return
        if (rows := model.get_input_embeddings().weight.shape[0]) != self.rows:
            raise LongLoRAError(
                f"the tokenizer made {rows} of the model's {self.rows} embeddings, and PEFT could not load the adapter: "
                "use the model's own tokenizer, or save a resized model first"
            )
        if changes := rope_changes(cfg):
            # Axolotl raises it to sequence_len, and dynamic scaling would then do nothing.
            model.config.get_text_config().max_position_embeddings = changes["max_position_embeddings"]
            with one_line(rope.RopeError):
                rope.check(model, changes)

    def post_lora_load(self, cfg: Any, model: Any) -> None:
        if cfg.longlora and args.training(cfg) and isinstance(model, PeftModel):
            self._prepare(model)

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        return {} if torch.cuda.is_available() or not cfg.longlora else {"use_cpu": True}

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        if not cfg.longlora:
            return
        if not self.prepared:  # preference trainers wrap the model themselves
            self._prepare(trainer.model)
            # Axolotl then saves the inner model too, into the adapter's folder: tied weights fail there, others litter it.
            trainer.model.get_base_model().save_pretrained = trainer.model.save_pretrained
        if torch.cuda.is_available() and not cfg.rl:
            check_logits(cfg, trainer.model)
        if cfg.fsdp_config:
            shard.save_fsdp2_lora_adapter = lambda _, folder: save_sharded(trainer.model, folder)
        settings = cfg.longlora
        trainer.create_optimizer = with_rates(trainer, settings.get("embedding_lr"), settings.get("norm_lr"))
        if self.attentions:
            seed = cfg.seed if cfg.seed is not None else 42
            trainer.add_callback(Schedule(self.attentions, settings["full_attention_steps"], seed))
        if os.environ.get("RANK", "0") == "0":
            Console(width=120).print(table(cfg, trainer.model, self.attentions))

    def post_train_unload(self, cfg: Any) -> None:
        while self.attentions:
            self.attentions.pop().uninstall()

    def post_lora_merge(self, cfg: Any, adapter_path: str, output_path: str) -> None:
        """Only there from 0.21 on; before it, `merge_method` is legacy, which keeps the RoPE."""
        path = Path(output_path) / "config.json"
        if cfg.longlora and (changes := rope_changes(cfg)) and path.is_file():
            path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")

    def _prepare(self, model: Any) -> None:
        with one_line(TrainableError):
            prepare(model)
        self.prepared = True


@contextmanager
def one_line(kind: type[Exception]) -> Iterator[None]:
    """Errors of that kind end the run as `LongLoRAError` does: in one line."""
    try:
        yield
    except kind as error:
        raise LongLoRAError(str(error)) from None


def rope_changes(cfg: Any) -> dict[str, Any]:
    """What the section's context extension sets on the model's config; nothing without one."""
    extension = args.extension_of(cfg, args.model_config(cfg))
    return extension.changes if extension else {}


# ---- which attention a step has ---------------------------------------------------------------------------------


def is_full(seed: int, step: int, share: float) -> bool:
    """Whether that optimizer step runs in full attention. Evenly spread from a place that the seed draws: of any n steps
    in a row n·share do, rounded up or down. The same on every rank, and after a resume."""
    start = Random(seed).random()
    return math.floor((step + 1) * share + start) > math.floor(step * share + start)


class Schedule(TrainerCallback):
    """Sets every optimizer step's attention, and ends a run whose sparse steps were none."""

    def __init__(self, attentions: list[ShiftedSparse], share: float, seed: int):
        self.attentions, self.share, self.seed = attentions, share, seed
        self.full = self.sparse = self._calls = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        full = is_full(self.seed, state.global_step, self.share)
        for attention in self.attentions:
            attention.sparse = not full
        self._calls = self._total()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sparse = self.attentions[0].sparse
        self.sparse, self.full = self.sparse + sparse, self.full + (not sparse)
        if sparse == (self._total() == self._calls):
            raise LongLoRAError(
                f"step {state.global_step} was to run in {'sparse' if sparse else 'full'} attention and did not: another "
                "plugin or patch replaces the model's attention; leave it out or set longlora.attention full"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            Console(width=120).print(f"longlora: {self.sparse} steps in sparse attention, {self.full} in full")

    def _total(self) -> int:
        return sum(attention.calls for attention in self.attentions)


# ---- learning rates ---------------------------------------------------------------------------------------------


def with_rates(trainer: Any, embedding_lr: float | None, norm_lr: float | None) -> Callable[..., Any]:
    """The trainer's `create_optimizer`, whose groups are then parted by kind. Axolotl never asks plugins for an optimizer,
    and its own `embedding_lr` is the rate of all of `modules_to_save`. Embeddings and norms are not decayed: towards zero
    is away from the base model."""
    create = trainer.create_optimizer

    def create_optimizer(*given: Any, **named: Any) -> Any:
        optimizer = create(*given, **named)
        kinds = {id(p): group["name"] for group in parameter_groups(trainer.model, 0.0) for p in group["params"]}
        rates = {"embedding": embedding_lr, "head": embedding_lr, "norm": norm_lr}
        if groups := getattr(optimizer, "param_groups", None):  # DeepSpeed's stand-in has none
            parts = [part for group in groups for part in parted(group, kinds, rates)]
            groups[:] = sorted(
                parts, key=lambda part: kinds.get(id(part["params"][0])) in rates
            )  # logs show the first's
        return optimizer

    return create_optimizer


def parted(group: dict[str, Any], kinds: dict[int, str], rates: dict[str, float | None]) -> list[dict[str, Any]]:
    """An optimizer's group as one for each kind of its parameters."""
    parts: dict[str, dict[str, Any]] = {}
    for parameter in group["params"]:
        kind = kinds.get(id(parameter), "")
        change = {"lr": rates[kind] or group["lr"], "weight_decay": 0.0} if kind in rates else {}
        parts.setdefault(kind, {**group, **change, "params": []})["params"].append(parameter)
    return list(parts.values())
