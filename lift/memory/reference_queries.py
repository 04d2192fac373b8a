"""What a document is asked: queries of every head, with the attention over their windows, of rows that the model reads.

Rows that the document should answer are read with all of it beside the window, exactly, by (1) of `gated_memory`; rows of
other things without it. The document ends where the window begins: it is read at positions below 0.

B: rows, L: tokens, N: tokens that are kept, H: query heads, K: key/value heads, T: tokens of the document, D: head dimension.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lift.memory.document_cache import (
    KeysValues,
    before_each,
    beginning,
    common_tokens,
    nothing_predicted,
    shared_tokens,
    standing_in,
)
from lift.memory.gated_memory import Recalled, mix
from lift.memory.log_sum_exp import document_attention
from lift.memory.selection import Given, Reference
from lift.memory.tuner import GatedMemoryLayer, layers
from longthread.cache_argument import CACHE
from longthread.language_model import AdaptedLM

WIDTH = 8  # rows are padded to a multiple: at odd lengths cuDNN 9.19 (torch 2.11) computes wrong gradients of attention

Recall = Callable[[Tensor], Recalled]  # what a document gives to queries after RoPE, (B, L, H, D)


class ReferenceRow(NamedTuple):
    """Tokens to read, and the positions at which the prediction of the next one matters."""

    ids: Sequence[int]
    predicted: Sequence[int]


class Shares(NamedTuple):
    """Shares of the tokens whose queries are kept: of those that predict something that matters, and of the others."""

    predicted: float
    others: float

    @classmethod
    def of(cls, rows: Sequence[ReferenceRow], most: int) -> "Shares":
        """Return shares with which about `most` tokens of the rows are kept, those that predict something first.

        An answer is read out token by token, each by queries of its own. While two in five of all tokens were kept, digits
        and words of answers had none (facts of a document of 2,048 tokens: 22 of 32, against 27).
        """
        predicted = sum(len(row.predicted) for row in rows)
        others = sum(len(row.ids) - repeated(rows[0], row) for row in rows) - predicted
        left = (most - predicted) / others if others > 0 else 0.0
        return cls(min(1.0, most / predicted) if predicted else 0.0, min(1.0, max(0.0, left)))


def repeated(first: ReferenceRow, row: ReferenceRow) -> int:
    """Return how many tokens a row begins with that stand in the first row: their queries are the same. 0 for that row."""
    return 0 if row is first else common_tokens([first.ids, row.ids])


class Queries(NamedTuple):
    """Queries of one layer after RoPE, their attention over the window, its log-sum-exp, and for how many each one stands.

    `memory_NHD` and `lse_NH` are what they were given of the document, in fp32: 0 where it was not there.
    """

    q_NHD: Tensor
    window_NHD: Tensor
    lse_window_NH: Tensor
    weight_NH: Tensor
    memory_NHD: Tensor
    lse_NH: Tensor


@dataclass(frozen=True)
class ExactMemory:
    """All keys and values of a document in one layer."""

    document: KeysValues
    layer: GatedMemoryLayer

    def __call__(self, q_BLHD: Tensor) -> Recalled:
        """Return what attention to the whole document gives to queries after RoPE."""
        m_BLHD, lse_BLH = document_attention(q_BLHD.transpose(1, 2), *self.document, self.layer.probe.scale)
        return Recalled(m_BLHD, lse_BLH, torch.ones(q_BLHD.shape[2], device=q_BLHD.device))


@dataclass
class Kept:
    """How many times each token of the batch that is being read is to be kept; so often its queries count."""

    times_BL: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))


class ReferenceLayer(nn.Module):
    """A layer that stands in for a memory's layer, keeps queries, and recalls a document, if any."""

    needs_lse = True

    def __init__(self, layer: GatedMemoryLayer, recall: Recall | None, kept: Kept):
        super().__init__()
        self.base_layer, self.probe, self.heads = layer.get_base_layer(), layer.probe, layer.heads
        self.recall, self.kept = recall, kept
        self.queries: list[Queries] = []

    def forward(self, x: Tensor) -> Tensor:
        """Mix the document into the attention output `x`, (batch, length, heads * dim), and project it."""
        q_BHLD, lse_BLH = self.probe.q_rope, self.probe.lse
        assert q_BHLD is not None and lse_BLH is not None
        self.probe.clear()
        q_BLHD, o_BLHD = q_BHLD.transpose(1, 2), x.unflatten(-1, (self.heads, -1))
        kept_BL = self.kept.times_BL > 0
        lse_NH = lse_BLH[kept_BL].detach()
        times_NH = self.kept.times_BL[kept_BL, None].to(lse_NH).expand_as(lse_NH)
        window_NHD, mixed_BLHD = o_BLHD[kept_BL].detach(), o_BLHD
        nothing = lse_NH.new_zeros(())
        given = nothing.expand(window_NHD.shape), nothing.expand(lse_NH.shape)
        if self.recall:
            recalled = self.recall(q_BLHD)
            given = recalled.memory_BLHD[kept_BL].detach(), recalled.score_BLH[kept_BL].detach()
            mixed_BLHD = mix(o_BLHD, [recalled], "lse", lse_BLH)
        self.queries.append(Queries(q_BLHD[kept_BL].detach(), window_NHD, lse_NH, times_NH, *given))
        return self.base_layer(mixed_BLHD.flatten(-2))


@torch.no_grad()
def observe(
    model: AdaptedLM,
    batches: Iterable[Sequence[ReferenceRow]],
    recalls: Sequence[Recall] | None,
    share: Shares,
    seed: int,
) -> list[Queries]:
    """Read batches of rows and return each layer's queries: of a random `share` of the tokens.

    `recalls` gives what the document says in each layer; None: it is not there. The first token of a row sees no document
    and is never kept, nor are those with which a row begins as the first row does. Tokens that all rows of a batch begin with
    may be read once: their queries then stand once for all rows, with the number of rows that keep them as weight.
    """
    kept = Kept()
    of_layers: Sequence[Recall | None] = recalls or [None] * len(layers(model))
    recording = [ReferenceLayer(layer, each, kept) for layer, each in zip(layers(model), of_layers, strict=True)]
    rng, first = torch.Generator().manual_seed(seed), None
    with standing_in(model, recording):
        for rows in batches:
            first = first or rows[0]
            ids_BL, present_BL = _padded(rows)
            for i, row in enumerate(rows):
                present_BL[i, : max(1, repeated(first, row))] = False
            chosen_BL = torch.rand(ids_BL.shape, generator=rng) < _shares(rows, ids_BL, share)
            kept.times_BL = (present_BL & chosen_BL).to(model.device)
            _read(model, ids_BL, shared_tokens([row.ids for row in rows]), kept)
    return [Queries(*map(torch.cat, zip(*layer.queries, strict=True))) for layer in recording]


def _read(model: AdaptedLM, ids_BL: Tensor, shared: int, kept: Kept) -> None:
    """Read a batch, of which the first `shared` tokens of all rows once."""
    cache, times_BL = None, kept.times_BL
    if shared:
        kept.times_BL = times_BL[:, :shared].sum(0, keepdim=True)
        cache = before_each(beginning(model, ids_BL[0, :shared].tolist()), len(ids_BL))
    kept.times_BL = times_BL[:, shared:]
    rest_BL = ids_BL[:, shared:].to(model.device)
    model(input_ids=rest_BL, **{CACHE: cache}, use_cache=bool(shared), **nothing_predicted(model))


def _padded(rows: Sequence[ReferenceRow]) -> tuple[Tensor, Tensor]:
    """Return rows padded on the right, and which tokens are theirs."""
    width = -(-max(len(row.ids) for row in rows) // WIDTH) * WIDTH
    ids_BL = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    return ids_BL, torch.arange(width) < torch.tensor([len(row.ids) for row in rows])[:, None]


def _shares(rows: Sequence[ReferenceRow], ids_BL: Tensor, share: Shares) -> Tensor:
    """Return the share of each token."""
    shares_BL = torch.full(ids_BL.shape, share.others)
    for i, row in enumerate(rows):
        shares_BL[i, list(row.predicted)] = share.predicted
    return shares_BL


def by_head(parts: Sequence[tuple[list[Queries], bool]], kv_heads: int) -> Reference:
    """Return the queries of all layers by key/value head, those of its query heads one behind the other.

    `parts` holds queries of each layer, and whether these queries should hear the document: then they were read beside it.
    """
    first = parts[0][0][0]
    repeats = first.q_NHD.shape[1] // kv_heads
    counts = [len(queries[0].q_NHD) for queries, _ in parts]

    def grouped(field: int) -> Tensor:  # (N, H, ...) of each part and layer -> (K of all layers, H/K N, ...)
        shape = (len(parts[0][0]), kv_heads, repeats, sum(counts), *first[field].shape[2:])
        all_KRN = first[field].new_empty(shape)
        at = 0
        for (queries, _), count in zip(parts, counts, strict=True):
            for of_layer, layer in zip(all_KRN, queries, strict=True):
                of_layer[:, :, at : at + count] = layer[field].unflatten(1, (kv_heads, -1)).movedim(0, 2)
            at += count
        return all_KRN.flatten(2, 3).flatten(0, 1)

    heard_N = torch.cat([torch.full((count,), heard) for (_, heard), count in zip(parts, counts, strict=True)])
    heard_N = heard_N.repeat(repeats).to(first.q_NHD.device)
    q_GND, window_GND, lse_GN, weight_GN, memory_GND, given_GN = map(grouped, range(6))
    return Reference(q_GND, window_GND, lse_GN, weight_GN, heard_N, Given(memory_GND, given_GN, heard_N))
