"""What the plugin asks of Axolotl's config, which is a dict before Axolotl validates it and has attributes afterwards."""

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

ConfigDict = MutableMapping[str, Any]  # as it is read from YAML


class AxolotlConfig(Protocol):
    """A validated config (Axolotl's DictDefault): keys that are not set read as None."""

    base_model: str
    sequence_len: int
    micro_batch_size: int | None
    gradient_accumulation_steps: int | None
    gradient_checkpointing: bool | str | None
    selective_checkpointing: Mapping[str, object] | None
    activation_offloading: bool | str | None
    fsdp_config: Mapping[str, object] | None
    deepspeed: str | Mapping[str, object] | None
    attn_implementation: str | None
    lora_dropout: float | None
    liger_fused_linear_cross_entropy: bool | None
    cut_cross_entropy: bool | None
    rl: str | None
    seed: int | None
    longlora: Mapping[str, object] | None

    def get(self, key: str, default: object = None) -> Any:
        """Return the value of a key, or the default."""
        ...
