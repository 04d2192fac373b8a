"""The plugin: what it does to a model and a trainer at each of Axolotl's hooks (0.19 to 0.21).

    register             checks the config and sets what follows from it (config.py)
    post_model_build     puts sparse attention into the model, or keeps packed documents apart in its own
    pre_lora_load        checks that the model computes the RoPE asked for, and has as many tokens as before
    post_lora_load       embeddings and norms as fp32 masters; with `rl: dpo` and its like at post_trainer_create
    post_trainer_create  the callback that chooses each step's attention, learning rates, which rows keep their activations,
                         and the table of all this
    post_train_unload    restores the models
    post_lora_merge      (0.21) writes the RoPE into the merged config

A model or a config that cannot be trained ends the run in one line.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from axolotl.integrations.expert_parallel import shard
from axolotl.telemetry.manager import TelemetryManager
from peft import PeftModel
from rich.console import Console

from longthread.files import JsonObject, write_json
from longthread.language_model import CausalLM
from trainer_configs.longlora import telemetry
from trainer_configs.longlora.attention.documents import (
    ONE_DOCUMENT,
    DocumentMask,
    keep_documents_apart,
    takes_positions,
)
from trainer_configs.longlora.attention.parallel_documents import is_parallel, tails
from trainer_configs.longlora.attention.transformers_hook import SparseAttention, install
from trainer_configs.longlora.axolotl_config import AxolotlConfig, ConfigDict
from trainer_configs.longlora.config import (
    LongLoRAError,
    configure,
    is_enabled,
    is_training,
    model_config,
    one_line,
    section,
)
from trainer_configs.longlora.conflicts import splits_sequences
from trainer_configs.longlora.kept_activations import KeptActivations
from trainer_configs.longlora.pair_logits import PAIRED, can_keep, completions_alone
from trainer_configs.longlora.rope.extension import check as check_rope
from trainer_configs.longlora.row_files import restarts
from trainer_configs.longlora.schedule import Schedule, Trainer, with_rates
from trainer_configs.longlora.startup_summary import check_logits, kept_tokens, table
from trainer_configs.longlora.trainable import prepare, save_sharded

DEFAULT_SEED = 42  # transformers' own
BY_POSITIONS = ("sample_packing", "batch_flattening", "use_pose")
LOOKED_AT = 64  # rows that are looked at for packed documents


class LongLoRAPlugin(BasePlugin):
    """The Axolotl plugin, with the state of one run.

    Every hook does nothing where the config has no `longlora:` section.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[SparseAttention] = []
        self.apart: list[DocumentMask] = []  # with attention: full
        self.kept: list[KeptActivations] = []
        self.prepared = False
        self.rows = 0  # of the input embedding as it was loaded

    def register(self, cfg: ConfigDict) -> None:
        """Check the config, and set Axolotl's keys that follow from the `longlora:` section."""
        if not is_enabled(cfg):
            return
        configure(cfg)
        if telemetry.is_offline() and telemetry.turn_off(TelemetryManager.get_instance()):
            Console().print("longlora: offline, so Axolotl's telemetry is off: it would hold up the end of the run")

    def get_input_args(self) -> str:
        """Return the name of the schema that Axolotl adds to its own."""
        return "trainer_configs.longlora.section.LongLoRAArgs"

    def post_model_build(self, cfg: AxolotlConfig, model: CausalLM) -> None:
        """Put shifted sparse attention into the model, or keep packed documents apart in its own."""
        if not cfg.longlora:
            return
        self.rows = _embedding_rows(model)
        settings = section(cfg)
        if not is_training(cfg):
            return
        with one_line():
            if settings.attention != "full":
                group, parallel = settings.group(cfg.sequence_len), settings.parallel_documents
                attention = install(model, group, settings.sink_tokens, parallel, settings.attention)
                self.attentions.append(attention)
            elif not splits_sequences(cfg):
                _check_positions(cfg, model)
                self.apart.append(keep_documents_apart(model, settings.parallel_documents))

    def pre_lora_load(self, cfg: AxolotlConfig, model: CausalLM) -> None:
        """Refuse a resized embedding and a RoPE that is not the one asked for."""
        if not cfg.longlora:
            return
        if (rows := _embedding_rows(model)) != self.rows:
            raise LongLoRAError(
                f"the tokenizer made {rows} of the model's {self.rows} embeddings, and PEFT could not load the adapter: "
                "use the model's own tokenizer, or save a resized model first"
            )
        if changes := _rope_changes(cfg):
            # Axolotl raises it to sequence_len, and dynamic scaling would then do nothing.
            model.config.get_text_config().max_position_embeddings = changes["max_position_embeddings"]
            with one_line():
                check_rope(model, changes)

    def post_lora_load(self, cfg: AxolotlConfig, model: CausalLM) -> None:
        """Prepare embeddings and norms to be trained in fp32."""
        if cfg.longlora and is_training(cfg) and isinstance(model, PeftModel):
            self._prepare(model)
            for attention in self.attentions:
                attention.watch(model)

    def get_training_args(self, cfg: AxolotlConfig) -> dict[str, bool]:
        """Return arguments for the trainer: without CUDA it must be told to use the CPU."""
        return {} if torch.cuda.is_available() or not cfg.longlora else {"use_cpu": True}

    def post_trainer_create(self, cfg: AxolotlConfig, trainer: Trainer) -> None:
        """Add the schedule, the learning rates and the saving of shards to the trainer, and print the table."""
        if not cfg.longlora:
            return
        settings = section(cfg)
        _check_rows(cfg, trainer)
        if not self.prepared:  # preference trainers wrap the model themselves
            self._prepare(trainer.model)
            # Axolotl then saves the inner model too, into the adapter's folder: tied weights fail there, others litter it.
            base: Any = trainer.model.get_base_model()
            base.save_pretrained = trainer.model.save_pretrained
        if torch.cuda.is_available() and not cfg.rl:
            check_logits(cfg, trainer.model)
        if short := kept_tokens(cfg, trainer.model):
            self.kept.append(KeptActivations(trainer.model, short))
        if cfg.fsdp_config:
            shard.save_fsdp2_lora_adapter = lambda _, folder: save_sharded(trainer.model, folder)
        if cfg.rl in PAIRED and can_keep(trainer):
            trainer._compute_loss = completions_alone(trainer)
        trainer.create_optimizer = with_rates(trainer, settings.embedding_lr, settings.norm_lr)
        if self.attentions:
            seed = cfg.seed if cfg.seed is not None else DEFAULT_SEED
            trainer.add_callback(Schedule(self.attentions, settings.full_attention_steps, seed))
        if os.environ.get("RANK", "0") == "0":
            Console(width=120).print(table(cfg, trainer.model, self.attentions))

    def post_train_unload(self, cfg: AxolotlConfig) -> None:
        """Give the models their own attention back."""
        for hooks in (self.attentions, self.apart, self.kept):
            while hooks:
                hooks.pop().uninstall()
        self.prepared = False
        if cfg.longlora:
            import posthog

            telemetry.settle(TelemetryManager.get_instance(), posthog)

    def post_lora_merge(self, cfg: AxolotlConfig, adapter_path: str, output_path: str) -> None:
        """Write the RoPE into the merged config. Before 0.21 `merge_method` is legacy, which keeps it."""
        path = Path(output_path) / "config.json"
        if cfg.longlora and (changes := _rope_changes(cfg)) and path.is_file():
            write_json(path, json.loads(path.read_text()) | changes)

    def _prepare(self, model: PeftModel) -> None:
        with one_line():
            prepare(model)
        self.prepared = True


def _embedding_rows(model: CausalLM) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _check_rows(cfg: AxolotlConfig, trainer: Trainer) -> None:
    """Raise `LongLoRAError` for rows that would be cut silently, or whose documents would see each other."""
    longest = getattr(getattr(trainer, "args", None), "max_length", None)
    if cfg.rl and longest is not None and longest < cfg.sequence_len:
        raise LongLoRAError(
            f"the trainer would cut pairs at {longest} tokens, sequence_len is {cfg.sequence_len}: set them equal"
        )
    rows: Any = getattr(trainer, "train_dataset", None)
    if "position_ids" not in (getattr(rows, "column_names", None) or ()):
        return
    positions = rows[:LOOKED_AT]["position_ids"]
    base: Any = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model
    if any(map(restarts, positions)) and not takes_positions(base):
        raise LongLoRAError(
            f"{type(base).__name__} takes no positions, by which documents of a row are known: {ONE_DOCUMENT}"
        )
    _check_parallel_documents(section(cfg).parallel_documents, positions, trainer)
    split = splits_sequences(cfg) and not cfg.get("sample_packing")
    if split and any(map(restarts, positions)):
        raise LongLoRAError(
            "rows of several documents, split across GPUs, would be one document each: make them with longthread longlora "
            "data --mode window, or leave out the split"
        )


def _check_positions(cfg: AxolotlConfig, model: CausalLM) -> None:
    """Raise `LongLoRAError` for settings that work by positions, with a model that takes none."""
    if takes_positions(model):
        return
    asked = [name for name in BY_POSITIONS if cfg.get(name)]
    asked += ["longlora.parallel_documents"] * section(cfg).parallel_documents
    if asked:
        raise LongLoRAError(f"{type(model).__name__} takes no positions, which {asked[0]} works by: leave it out")


def _check_parallel_documents(wanted: bool, positions: list[list[int]], trainer: Trainer) -> None:
    """Raise `LongLoRAError` for rows of parallel documents that the setting does not go with, or that are malformed."""
    if not wanted:
        if any(is_parallel(row) for row in positions):
            raise LongLoRAError(
                "rows hold parallel documents, whose tail would see the last of them alone: set "
                "longlora.parallel_documents true"
            )
        return
    tokenizer = getattr(getattr(trainer, "data_collator", None), "tokenizer", None)
    if getattr(tokenizer, "padding_side", "right") != "right":
        raise LongLoRAError(
            "longlora.parallel_documents take rows padded on the right: set tokenizer.padding_side right"
        )
    with one_line():
        for row in positions:
            tails(torch.tensor([row]))


def _rope_changes(cfg: AxolotlConfig) -> JsonObject:
    """Return what the section's context extension sets on the model's config; nothing without one."""
    extension = section(cfg).extension(model_config(cfg))
    return extension.changes if extension else {}
