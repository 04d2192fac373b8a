"""One decode step of fixed shapes over a static cache: plain, or replayed as a CUDA graph.

A graph holds the addresses of the weights, of the cache and of the step's inputs and outputs, so all of these are written in
place and never replaced.

Shapes: B rows, Q queries of a row, K columns, H key/value heads, D head size, V vocabulary, R = B Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from environments.inference.embedded.batch import DEAD, SHARED, Columns, as_cache
from environments.inference.embedded.sampling import Choice, draw
from longthread.cache_argument import CACHE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from environments.inference.embedded.batch import Prompt

PADDING = -2  # owner of column 0 of each row, which padding writes and alone reads
FIELDS = 8  # of a query: token, position, column, owner, and the four numbers of a `Choice`
WARM_UPS = 2  # passes before a capture: kernels are chosen and workspaces allocated in them


class Cache:
    """Keys and values of all rows, two tensors (B, H, K, D) a layer, and the owners of their columns (B, K).

    All tensors keep their address until `resize`.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]], owner_BK: Tensor) -> None:
        self.layers, self.owner_BK = layers, owner_BK

    @classmethod
    def like(cls, layers: Sequence[Columns]) -> Cache:
        """Return an empty cache for keys and values like those of `layers`."""
        empty = [
            tuple(buffer.new_zeros(0, buffer.shape[1], 0, buffer.shape[3]) for buffer in layer.buffers)
            for layer in layers
        ]
        device = layers[0].buffers[0].device
        return cls([(keys, values) for keys, values in empty], torch.zeros(0, 0, dtype=torch.int32, device=device))

    def resize(self, rows: int, columns: int) -> None:
        """Replace all tensors by others of this shape, with as much of the content as they hold.

        A layer at a time, so that no more than one stands in memory twice. Where memory runs out all keep the shape that
        the old and the new have in common, what they took beyond it is given back, and the error is raised.
        """
        owner_BK = self.owner_BK.new_full((rows, columns), DEAD)
        common = tuple(min(sizes) for sizes in zip(self.owner_BK.shape, owner_BK.shape, strict=True))
        owner_BK[: common[0], : common[1]] = self.owner_BK[: common[0], : common[1]]
        owner_BK[:, 0] = PADDING
        try:
            for i, old_pair in enumerate(self.layers):
                new = [old.new_zeros(rows, old.shape[1], columns, old.shape[3]) for old in old_pair]
                for old, resized in zip(old_pair, new, strict=True):
                    resized[: common[0], :, : common[1]] = old[: common[0], :, : common[1]]
                self.layers[i] = new[0], new[1]
            self.owner_BK = owner_BK
        except RuntimeError:  # OutOfMemoryError is one
            self.layers = [(k[: common[0], :, : common[1]], v[: common[0], :, : common[1]]) for k, v in self.layers]
            self.owner_BK = self.owner_BK[: common[0], : common[1]]
            for i, (keys, values) in enumerate(self.layers):
                self.layers[i] = keys.clone(), values.clone()  # a view would hold all of what it is cut from
            raise

    def fill(self, row: int, prompt: Prompt, length: int) -> None:
        """Copy a prompt of `length` tokens into a row."""
        for ours, layer in zip(self.layers, prompt.layers, strict=True):
            for buffer, source in zip(ours, layer.buffers, strict=True):
                buffer[row, :, 1 : 1 + length] = source[prompt.row, :, :length]
        self.owner_BK[row, 1:] = DEAD
        self.owner_BK[row, 1 : 1 + length] = SHARED

    def keep(self, row: int, columns_K: Tensor) -> None:
        """Move these columns of a row to its beginning; the others are nobody's."""
        columns_K = columns_K.to(self.owner_BK.device)
        count = len(columns_K)
        for pair in self.layers:
            for buffer in pair:
                buffer[row, :, :count] = buffer[row].index_select(1, columns_K)
        kept_K = self.owner_BK[row, columns_K]
        self.owner_BK[row] = DEAD
        self.owner_BK[row, :count] = kept_K


class SlotLayer(DynamicLayer):
    """One layer of a step's cache, in the form that transformers' models take: `update` writes the queries' columns."""

    def __init__(self, keys: Tensor, values: Tensor, columns_BQ: Tensor) -> None:
        super().__init__()
        self.columns, self.columns_BQ = (keys, values), columns_BQ
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the keys and values of the step's queries, shape (B, H, Q, D), and return all columns."""
        index_BHQD = self.columns_BQ[:, None, :, None].expand_as(key_states)
        keys, values = self.columns
        keys.scatter_(2, index_BHQD, key_states)
        values.scatter_(2, index_BHQD, value_states)
        return keys, values


class Step:
    """A step over the first `rows` rows of a cache with `queries` queries each: `set` the queries, `run`, then read.

    `filtered`: whether its sampling knows top_k and top_p. `logits_RV`: the logits of the last run, float32.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache, rows: int, queries: int, filtered: bool) -> None:
        self.model, self.cache, self.rows, self.queries, self.filtered = model, cache, rows, queries, filtered
        cuda = model.device.type == "cuda"
        # float64 holds ids, columns and uniform numbers exactly, so that one copy carries all.
        self.host_BQF = torch.zeros(rows, queries, FIELDS, dtype=torch.float64, pin_memory=cuda)
        self.inputs_BQF = torch.zeros(rows, queries, FIELDS, dtype=torch.float64, device=model.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits_RV = self.drawn_2R = torch.empty(0)
        self._all_padding()

    def set(
        self, row: int, query: int, place: tuple[int, int, int, int], choice: tuple[float, float, float, float]
    ) -> None:
        """Say what a query of the next run is: its token, position, column and owner, and how the next token is drawn."""
        self.values[row][query] = [*place, *choice]

    def run(self) -> tuple[list[int], list[float]]:
        """Run the step, and return every query's next token and its log-probability, row by row, padding included."""
        self.host_BQF.copy_(torch.tensor(self.values, dtype=torch.float64))
        self.inputs_BQF.copy_(self.host_BQF, non_blocking=True)
        self._all_padding()
        if self.graph is None:
            self._forward()
        else:
            self.graph.replay()
        tokens, logprobs = self.drawn_2R.tolist()
        return [int(token) for token in tokens], logprobs

    def capture(self) -> None:
        """Capture the step as a CUDA graph. It runs with padding alone, which nobody reads."""
        self.inputs_BQF.copy_(torch.tensor(self.values, dtype=torch.float64))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._forward()
        self.graph = graph

    def _all_padding(self) -> None:
        self.values = [[[0.0, 0, 0, PADDING, 0, 0, 1, 0] for _ in range(self.queries)] for _ in range(self.rows)]

    def _forward(self) -> None:
        token_BQ, position_BQ, column_BQ, owner_BQ = (self.inputs_BQF[..., i].long() for i in range(4))
        owner_BK = self.cache.owner_BK[: self.rows]
        owner_BK.scatter_(1, column_BQ, owner_BQ.int())
        visible_BQK = (owner_BK[:, None] == owner_BQ[:, :, None]) | (owner_BK == SHARED)[:, None]
        layers = [SlotLayer(keys[: self.rows], values[: self.rows], column_BQ) for keys, values in self.cache.layers]
        logits_BQV = self.model(
            input_ids=token_BQ,
            position_ids=position_BQ,
            attention_mask=visible_BQK[:, None],
            **{CACHE: as_cache(layers)},
            use_cache=True,
        ).logits
        self.logits_RV = logits_BQV.flatten(0, 1).float()
        choice = Choice(*self.inputs_BQF[..., 4:].flatten(0, 1).unbind(dim=-1))
        self.drawn_2R = torch.stack([values_R.double() for values_R in draw(self.logits_RV, choice, self.filtered)])
