"""Requests decoded together, one token of each branch a step: which keys and values stand in memory, and who reads them.

A request's n completions are branches of one sequence: n queries of one batch row, and a mask lets each see the prompt and
its own tokens. So the prompt's keys and values stand in memory once and are read once a step, whatever n is.

Shapes: B requests, Q queries of a step, K key/value columns, V vocabulary; in attention also H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from environments.inference.embedded.limits import Limits
from environments.inference.embedded.request import Branch, Request, advance
from environments.inference.embedded.variants import Forward
from longthread.cache_argument import CACHE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "longthread_grouped"  # the attn_implementation that the engine's model must be loaded with
SPARE = 256  # free columns by which a key/value buffer is enlarged
FEW_QUERIES = 64
CLEAN_UP_STEPS = 256  # steps between two clean-ups of dead columns
DEAD, SHARED = -1, 0  # owners of a column: nobody, every branch of the request; branch i owns with i + 1


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # B H Q D
    key: torch.Tensor,  # B H/share K D
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers' sdpa does, but let a few masked queries read shared key/value heads in place.

    Otherwise these heads would be repeated.
    """
    B, H, Q, D = query.shape
    if attention_mask is None or Q > FEW_QUERIES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    share = H // key.shape[1]
    packed = query.reshape(B, H // share, share * Q, D)
    mask = attention_mask.repeat(1, 1, share, 1)
    out = torch.nn.functional.scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return out.reshape(B, H, Q, D).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Columns(DynamicLayer):
    """One layer's keys and values, shape (requests, heads, columns, head size), in buffers with spare columns.

    A step copies only its own columns.

    `reserve`: columns that are known to come, so that they need no enlarging.
    """

    def __init__(self, reserve: int = 0, buffers: Sequence[torch.Tensor] = (), used: int = 0) -> None:
        super().__init__()
        self.reserve, self.buffers, self.used = (
            reserve,
            list(buffers),
            used,
        )  # buffers: keys and values, once there are any
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of a forward pass as new columns, and return views of all columns."""
        states, end = (key_states, value_states), self.used + key_states.shape[2]
        if not self.buffers or end > self.buffers[0].shape[2]:
            width, old = max(end, self.reserve) + SPARE, self.buffers
            self.buffers = [new.new_empty(*new.shape[:2], width, new.shape[3]) for new in states]
            for buffer, filled in zip(self.buffers, old, strict=False):
                buffer[:, :, : self.used] = filled[:, :, : self.used]
        for buffer, new in zip(self.buffers, states, strict=True):
            buffer[:, :, self.used : end] = new
        self.used = end
        return self.first(end)

    def first(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of the keys and values of the first `count` columns."""
        keys, values = self.buffers
        return keys[:, :, :count], values[:, :, :count]

    def get_seq_length(self, *_: object) -> int:
        """Return the number of columns in use."""
        return self.used

    @classmethod
    def gathered(cls, rows: Sequence[tuple[Columns, int, torch.Tensor]]) -> Columns:
        """Return a new layer with a row for each (layer, row, columns) in `rows`: a copy of these columns."""
        width, buffers = max(len(columns_K) for _, _, columns_K in rows), []
        for old in rows[0][0].buffers:
            buffers.append(old.new_zeros(len(rows), old.shape[1], width + SPARE, old.shape[3]))
        for row, (layer, b, columns_K) in enumerate(rows):
            for buffer, old in zip(buffers, layer.buffers, strict=True):
                buffer[row, :, : len(columns_K)] = old[b].index_select(1, columns_K.to(old.device))
        return cls(0, buffers, width)


@dataclass(frozen=True)
class Prompt:
    """A request whose prompt has been read: row `row` of `layers` holds it, and `logits_V` says what may follow it."""

    request: Request
    layers: Sequence[Columns]
    row: int
    logits_V: torch.Tensor


@dataclass
class Batch:
    """Requests decoded together: request b is row b of every layer, and `owner_BK` says which branch reads a column.

        owner_BK     prompt       step 1   step 2   step 3        0  SHARED: all branches of the row
        request 0    0 0 0 0 .    1 2 3    1 2 3    1 3           i  branch i - 1
        request 1    0 0 0 0 0    1 . .    1 . .    1 .           .  DEAD: padding

    A step appends a column for each running branch; here branch 1 of request 0 has ended after step 2. `merge` drops the
    columns of ended branches and pads anew.
    """

    requests: list[Request]
    layers: list[Columns]
    owner_BK: torch.Tensor

    def step(self, model: PreTrainedModel, forward: Forward, eos_ids: Collection[int]) -> None:
        """Run the model once by `forward`, and append one token to every running branch of every request."""
        running = [request.running for request in self.requests]
        if not any(running):  # every client has gone since the batch was formed
            return
        tokens_BQ, positions_BQ, owner_BQ = self._queries(running)
        self.owner_BK = torch.cat([self.owner_BK, owner_BQ], dim=1)
        mask_BQK = _mask(self.owner_BK, owner_BQ, model.dtype)
        logits_BQV = forward(
            [request.variant for request in self.requests],
            input_ids=tokens_BQ.to(model.device),
            position_ids=positions_BQ.to(model.device),
            attention_mask=mask_BQK[:, None].to(model.device),
            **{CACHE: as_cache(self.layers)},
            use_cache=True,
        ).logits
        branches = [Branch(self.requests[b], i) for b, indices in enumerate(running) for i in indices]
        rows = [(b, q) for b, indices in enumerate(running) for q in range(len(indices))]
        advance(branches, logits_BQV[tuple(zip(*rows, strict=True))], eos_ids)

    def _queries(self, running: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return each running branch's last token, its position and its owner, (requests, branches), padded."""
        shape = len(running), max(map(len, running))
        tokens_BQ, positions_BQ = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        owner_BQ = torch.full(shape, DEAD)
        for b, (request, branches) in enumerate(zip(self.requests, running, strict=True)):
            for q, branch in enumerate(branches):
                ids = request.branches[branch].ids
                tokens_BQ[b, q], positions_BQ[b, q] = ids[-1], len(request.prompt) + len(ids) - 1
                owner_BQ[b, q] = branch + 1
        return tokens_BQ, positions_BQ, owner_BQ

    def columns_in_use(self, b: int) -> torch.Tensor:
        """Return the indices of request b's columns that belong to the prompt or to a running branch."""
        owners = torch.tensor([SHARED, *(branch + 1 for branch in self.requests[b].running)])
        return torch.isin(self.owner_BK[b], owners).nonzero().squeeze(1)


def _mask(owner_BK: torch.Tensor, owner_BQ: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask (requests, queries, columns): 0 for the prompt and the branch's own tokens, -inf elsewhere."""
    own_BQK = (owner_BK[:, None] == owner_BQ[:, :, None]) & (owner_BQ != DEAD)[:, :, None]
    # Padding sees the prompt as well: softmax over nothing would be NaN.
    visible_BQK = own_BQK | (owner_BK == SHARED)[:, None]
    return torch.zeros(visible_BQK.shape, dtype=dtype).masked_fill(~visible_BQK, float("-inf"))


def merge(batches: Sequence[Batch]) -> Batch | None:
    """Return one batch of all running requests, without the columns that nobody reads any more; None when none runs."""
    rows = [(batch, b) for batch in batches for b, request in enumerate(batch.requests) if request.running]
    if not rows:
        return None
    first = rows[0][0]
    if len(rows) == 1 and len(first.requests) == 1 and bool((first.owner_BK == SHARED).all()):
        return first  # fresh from its prefill: nothing to move
    columns = [batch.columns_in_use(b) for batch, b in rows]
    owners = [batch.owner_BK[b, columns_K] for (batch, b), columns_K in zip(rows, columns, strict=True)]
    layers = [
        Columns.gathered([(batch.layers[i], b, columns_K) for (batch, b), columns_K in zip(rows, columns, strict=True)])
        for i in range(len(first.layers))
    ]
    requests = [batch.requests[b] for batch, b in rows]
    return Batch(requests, layers, pad_sequence(owners, batch_first=True, padding_value=DEAD))


def as_cache(layers: Sequence[DynamicLayer]) -> Cache:
    """Return the layers as a cache object of transformers, which models take by the name `CACHE`."""
    return Cache(layers=list(layers))


class GrowingDecoder:
    """Decodes requests in one `Batch`, which is formed anew whenever one joins or ends. See `decoder.Decoder`.

    At most `requests` at a time, and `columns` key/value columns with their padding.
    """

    def __init__(self, model: PreTrainedModel, forward: Forward, eos_ids: Collection[int], limits: Limits) -> None:
        self.model, self.forward, self.eos_ids, self.limits = model, forward, eos_ids, limits
        self.batch: Batch | None = None
        self.joined: list[Batch] = []
        self.steps = 0

    @property
    def requests(self) -> list[Request]:
        """All requests, in the order in which they joined."""
        return [request for batch in self._batches for request in batch.requests]

    @property
    def _batches(self) -> list[Batch]:
        return [*([self.batch] if self.batch else []), *self.joined]

    def has_room(self, joining: Sequence[Request], request: Request) -> bool:
        """Return whether a request may join, with others that are about to; an empty decoder takes any one."""
        count = len(self.requests) + len(joining)
        lengths = [len(other.prompt) for other in [*joining, request]]
        width = max([*lengths, *(batch.owner_BK.shape[1] for batch in self._batches)])
        return not count or (count < self.limits.requests and (count + 1) * width <= self.limits.columns)

    def add(self, prompt: Prompt) -> None:
        """Take in a request whose prompt has been read, alone."""
        owner_1K = torch.full((1, len(prompt.request.prompt)), SHARED)
        self.joined.append(Batch([prompt.request], list(prompt.layers), owner_1K))

    def step(self) -> None:
        """Append one token to every running branch of every request."""
        if self.batch is not None:
            self.batch.step(self.model, self.forward, self.eos_ids)
            self.steps += 1

    def settle(self) -> None:
        """Form the next step's batch of the running requests, where these changed or dead columns are to go."""
        ended = not all(request.running for request in self.requests)
        if self.batch is None or self.joined or self.steps % CLEAN_UP_STEPS == 0 or ended:
            self.batch, self.joined = merge(self._batches), []

    def clear(self) -> None:
        """Drop all requests."""
        self.batch, self.joined = None, []
