"""Requests decoded together, one token of each branch a step: which keys and values stand in memory, and who reads them.

A request's n completions are branches of one sequence: n queries of one batch row, and a mask lets each see the prompt and
its own tokens. So the prompt's keys and values stand in memory once and are read once a step, whatever n is.

Shapes: B requests, Q queries of a step, K key/value columns, V vocabulary; in attention also H heads, D head size.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from environments.inference.embedded.protocol import Generation, Sampling
from environments.inference.embedded.variants import BASE, Forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "longthread_grouped"  # the attn_implementation that the engine's model must be loaded with
SPARE = 256  # free columns by which a key/value buffer is enlarged
FEW_QUERIES = 64
TOP_P_CANDIDATES = 1024  # a sort of the whole vocabulary takes 4 ms a branch
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


class Request:
    """A prompt, its n branches (the completions being generated), and the future that gives them to whoever asked.

    `variant` says which of the server's models reads and writes (`variants`).
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, variant: Hashable = BASE) -> None:
        self.prompt, self.sampling, self.variant = list(prompt), sampling, variant
        self.future: Future[list[Generation]] = Future()
        self.branches = [Generation() for _ in range(sampling.n)]
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        # One generator a branch, on the CPU: what a branch draws depends on nothing else in the batch.
        seeds = [(seed * 1_000_003 + i) % 2**63 for i in range(sampling.n)]
        self.generators = [torch.Generator().manual_seed(value) for value in seeds]

    @property
    def running(self) -> list[int]:
        """Indices of the branches that are not finished; none once the client has gone."""
        return [] if self.future.cancelled() else [i for i, b in enumerate(self.branches) if not b.finish_reason]

    def advance(self, index: int, logits_V: torch.Tensor, eos_ids: Collection[int]) -> None:
        """Draw a branch's next token from its logits, shape (vocabulary,), and see whether the branch ends with it."""
        branch, sampling = self.branches[index], self.sampling
        token = choose(logits_V, sampling, self.generators[index])
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        branch.ids.append(token)
        branch.logprobs.append(float(logprobs_V[token]))
        if sampling.top_logprobs:
            values, ids = logprobs_V.topk(min(sampling.top_logprobs, len(logprobs_V)))
            branch.top.append(list(zip(ids.tolist(), values.tolist(), strict=True)))
        if token in eos_ids or (sampling.stopped is not None and sampling.stopped(branch.ids)):
            branch.finish_reason = "stop"
        elif len(branch.ids) >= sampling.max_tokens:
            branch.finish_reason = "length"
        elif sampling.on_token is not None:
            sampling.on_token(index, branch.ids)

    def fail(self, error: Exception) -> None:
        """Give the error to whoever waits for the branches."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


def choose(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Return the next token: the likeliest at temperature 0, else drawn after top_k and top_p (in this order, as vLLM)."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = (logits_V - logits_V.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scaled_V):
        scaled_V = scaled_V.masked_fill(scaled_V < scaled_V.topk(sampling.top_k).values[-1], float("-inf"))
    probs_V = scaled_V.softmax(dim=-1)
    if sampling.top_p < 1:
        sorted_V, order_V = probs_V.topk(min(TOP_P_CANDIDATES, len(probs_V)))
        if sorted_V.sum() < sampling.top_p:
            sorted_V, order_V = probs_V.sort(descending=True)
        beyond_V = sorted_V.cumsum(dim=-1) - sorted_V >= sampling.top_p  # the token that crosses top_p stays
        beyond_V[0] = False
        probs_V = torch.zeros_like(probs_V)
        probs_V[order_V[~beyond_V]] = sorted_V[~beyond_V]
    return int(torch.multinomial(probs_V, 1, generator=generator))


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
            past_key_values=as_cache(self.layers),
            use_cache=True,
        ).logits
        for request, branches, logits_QV in zip(self.requests, running, logits_BQV, strict=True):
            for branch, logits_V in zip(branches, logits_QV[: len(branches)].float().cpu(), strict=True):
                request.advance(branch, logits_V, eos_ids)

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


def as_cache(layers: Sequence[Columns]) -> Cache:
    """Return the layers as a cache object of transformers, which models take as `past_key_values`."""
    return Cache(layers=list(layers))
