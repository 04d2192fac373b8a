"""The section `longlora:` of an Axolotl config, as a model of its keys with their defaults."""

from typing import Literal

from pydantic import BaseModel, Field
from transformers import PretrainedConfig

from trainer_configs.longlora.rope.extension import Extension, plan

CHUNK = 4096  # tokens of a chunk of tail-global attention, by default


def default_group_size(sequence_len: int) -> int:
    """Return a quarter of the row's tokens, made even: half of a group is where the shifted heads divide the row."""
    return sequence_len // 8 * 2


class ContextExtension(BaseModel, extra="allow"):
    """Arguments of `rope.extended`: the method and the target length, in tokens.

    The method's own options (`beta_fast`, `long_factor`, `native_length`, …) stand beside these two.
    """

    method: Literal["linear", "ntk", "dynamic", "yarn", "longrope", "llama3"]
    target_length: int = Field(gt=0)


class LongLoRA(BaseModel, extra="forbid"):
    """The settings of the `longlora:` section. Lengths are in tokens."""

    attention: Literal["shifted", "tail_global", "full"] = "shifted"
    group_size: int | None = Field(default=None, gt=1)  # None: a quarter of sequence_len; tail_global: at most 4096
    sink_tokens: int = Field(default=0, ge=0)
    # Sparse steps alone keep perplexity and lose retrieval; a quarter of full ones wins most of it back.
    full_attention_steps: float = Field(default=0.25, ge=0, le=1)
    parallel_documents: bool = False  # in a row, read apart; the tail behind a jump of positions sees them all
    train_embeddings: bool = True
    train_norms: bool = True
    embedding_lr: float | None = Field(default=None, gt=0)  # None: learning_rate
    norm_lr: float | None = Field(default=None, gt=0)
    context_extension: ContextExtension | None = None
    min_score: float = Field(default=1.0, ge=0, le=1)  # of completions, for datasets of type rollouts

    def group(self, sequence_len: int) -> int:
        """Return how many tokens one group has, for rows of `sequence_len` tokens."""
        default = default_group_size(sequence_len)
        return self.group_size or (min(default, CHUNK) if self.attention == "tail_global" else default)

    def extension(self, config: PretrainedConfig) -> Extension | None:
        """Return the context extension for a model's config as it is stored; None without one. Raises `ConfigError`."""
        if (asked := self.context_extension) is None:
            return None
        return plan(config, asked.method, asked.target_length, **(asked.model_extra or {}))


class LongLoRAArgs(BaseModel):
    """The key that Axolotl adds to its own config schema: the `longlora:` section."""

    longlora: LongLoRA | None = None
