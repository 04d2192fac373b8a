"""The layer that wraps `o_proj` and holds a memory for each document."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lift.memory.compact_memory import CompactMemory
from lift.memory.gated_memory import Gate, GatedMemory, Recalled, gates, mix, of_rows
from lift.memory.tuner.attention import PROBED, AttentionProbe
from lift.memory.tuner.config import GatedMemoryConfig
from lift.memory.tuner.opened import OpenMemory, OpenRows
from longthread.errors import ConfigError

PREFIX = "gm_"


class GatedMemoryLayer(nn.Module, BaseTunerLayer):
    """Mixes the memories of the active documents into the attention's output, then projects it.

    The model's attention, which runs before it, fills `probe`. `index` is the number of the model's layer. With `rows`
    each row of a batch has memories of its own, whichever adapters are active.
    """

    adapter_layer_names = ("gm_memory",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, probe: AttentionProbe, heads: int, index: int):
        super().__init__()
        self.base_layer = base_layer
        self.gm_memory = nn.ModuleDict({})
        self.probe, self.heads, self.index, self.merged_adapters = probe, heads, index, []
        self.gate: Gate = "lse"
        self.rows: OpenRows | None = None
        self.records_gates = False
        self.recorded_BLH = torch.empty(0)  # the gates of the last forward pass, summed over documents

    def update_layer(self, name: str, config: GatedMemoryConfig) -> None:
        """Add a new memory called `name` to the layer. Raises `ConfigError` if the layer has one with another gate."""
        base = cast(nn.Linear, self.get_base_layer())
        if self.gm_memory and config.gate != self.gate:
            raise ConfigError(f"gate {config.gate} beside an adapter of gate {self.gate}: ask one document at a time")
        self.gate = cast(Gate, config.gate)
        dim = base.in_features // self.heads
        self.gm_memory[name] = memory = self._new_memory(dim, config)
        self._move_adapter_to_device_of_base_layer(name)
        memory.keep_dtype()  # which PEFT has just made the base model's
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _new_memory(self, dim: int, config: GatedMemoryConfig) -> GatedMemory | CompactMemory:
        if config.slots is None:
            return GatedMemory(self.heads, dim, self.gate, config.width, config.published_init)
        return CompactMemory(self.heads, dim, config.slots.get(str(self.index), []), getattr(torch, config.precision))

    @property
    def documents(self) -> list[str]:
        """Return the adapters that have a memory here and are on for any row; none while adapters are disabled."""
        if self.rows is not None:
            return self.rows.adapters
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in self.gm_memory]

    @property
    def needs_lse(self) -> bool:
        """Return whether the attention must compute its log-sum-exp: for gate "lse" and an active document.

        Computing it takes time.
        """
        return self.gate == "lse" and bool(self.documents)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Mix the memories that are on into the attention output `x`, (batch, length, heads * dim), and project it."""
        names = self.documents
        if not names:
            self.probe.clear()
            return self.base_layer(x, *args, **kwargs)
        q_BLHD, q_rope_BHLD, lse_BLH = self.probe.query(self.heads), self.probe.q_rope, self.probe.lse
        self.probe.clear()
        if lse_BLH is None and self.needs_lse:
            raise ConfigError(
                f"the model's attention was changed after its memory was attached: set_attn_implementation({PROBED!r})"
            )
        queries = {False: q_BLHD} if q_rope_BHLD is None else {False: q_BLHD, True: q_rope_BHLD.transpose(1, 2)}
        o_BLHD = x.unflatten(-1, (self.heads, -1))
        if self.rows is None:
            recalled = [self._recall(OpenMemory(name), queries) for name in names]
        else:
            recalled = self._recall_rows(self.rows, o_BLHD, queries)
        if self.gate == "query" and len(recalled) > 1:
            raise ConfigError("gates of kind query do not compose: ask one document at a time")
        if self.records_gates:
            self.recorded_BLH = torch.stack(gates(recalled, self.gate, lse_BLH)).sum(0).detach()
        mixed_BLHD = mix(o_BLHD, recalled, self.gate, lse_BLH)
        return self.base_layer(mixed_BLHD.flatten(-2), *args, **kwargs)

    def _recall_rows(self, opened: OpenRows, o_BLHD: Tensor, queries: Mapping[bool, Tensor]) -> list[Recalled]:
        """Return what each row's own memories recall, closed where a row has fewer than others."""
        found = [
            (rows, places, self._recall(memory, {after_rope: q[rows] for after_rope, q in queries.items()}))
            for memory, rows, places in opened.groups
        ]
        return of_rows(found, opened.most, o_BLHD)

    def _recall(self, opened: OpenMemory, queries: Mapping[bool, Tensor]) -> Recalled:
        memory = cast(GatedMemory | CompactMemory, self.gm_memory[opened.adapter])
        q_BLHD = queries[memory.after_rope]
        return memory(q_BLHD) if opened.segments is None else cast(CompactMemory, memory)(q_BLHD, opened.segments)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Raise `NotImplementedError`: a gated memory is not a matrix and cannot be merged into one."""
        raise NotImplementedError("a gated memory is not a matrix: it cannot be merged")

    unmerge = merge
