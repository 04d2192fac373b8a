"""What a document is asked: queries of every head, with the attention over their windows, of rows that the model reads.

Rows that the document should answer are read with all of it beside the window, exactly, by (1) of `gated_memory`; rows of
other things without it. The document ends where the window begins: it is read at positions below 0.

B: rows, L: tokens, N: tokens that are kept, H: query heads, K: key/value heads, T: tokens of the document, D: head dimension.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lift.memory.document_cache import KeysValues, standing_in
from lift.memory.gated_memory import Recalled, mix
from lift.memory.log_sum_exp import document_attention
from lift.memory.selection import Reference
from lift.memory.tuner import GatedMemoryLayer, layers
from longthread.language_model import AdaptedLM


class Queries(NamedTuple):
    """Queries of one layer after RoPE, their attention over the window, and its log-sum-exp."""

    q_NHD: Tensor
    window_NHD: Tensor
    lse_window_NH: Tensor


@dataclass
class Kept:
    """Which tokens of the batch that is being read are to be kept."""

    tokens_BL: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))


class ReferenceLayer(nn.Module):
    """A layer that stands in for a memory's layer, keeps queries, and attends to the document's own keys, if any."""

    needs_lse = True

    def __init__(self, layer: GatedMemoryLayer, document: KeysValues | None, kept: Kept):
        super().__init__()
        self.base_layer, self.probe, self.heads = layer.get_base_layer(), layer.probe, layer.heads
        self.document, self.kept = document, kept
        self.queries: list[Queries] = []

    def forward(self, x: Tensor) -> Tensor:
        """Mix the document into the attention output `x`, (batch, length, heads * dim), and project it."""
        q_BHLD, lse_BLH = self.probe.q_rope, self.probe.lse
        assert q_BHLD is not None and lse_BLH is not None
        self.probe.clear()
        o_BLHD, kept_BL = x.unflatten(-1, (self.heads, -1)), self.kept.tokens_BL
        self.queries.append(Queries(q_BHLD.transpose(1, 2)[kept_BL], o_BLHD[kept_BL], lse_BLH[kept_BL]))
        if self.document is None:
            return self.base_layer(x)
        m_BLHD, lse_document_BLH = document_attention(q_BHLD, *self.document, self.probe.scale)
        document = Recalled(m_BLHD, lse_document_BLH, torch.ones(self.heads, device=x.device))
        return self.base_layer(mix(o_BLHD, [document], "lse", lse_BLH).flatten(-2))


@torch.no_grad()
def observe(
    model: AdaptedLM,
    batches: Iterable[Sequence[Sequence[int]]],
    document: Sequence[KeysValues] | None,
    share: float,
    seed: int,
) -> list[Queries]:
    """Read batches of rows and return each layer's queries: of a random `share` of the tokens.

    `document` holds its keys and values in each layer, read to end at position -1; None: it is not there. The first token
    of a row sees no document and is never kept.
    """
    kept = Kept()
    documents: Sequence[KeysValues | None] = document or [None] * len(layers(model))
    recording = [ReferenceLayer(layer, each, kept) for layer, each in zip(layers(model), documents, strict=True)]
    rng = torch.Generator().manual_seed(seed)
    with standing_in(model, recording):
        for rows in batches:
            ids_BL, present_BL = _padded(rows)
            present_BL[:, 0] = False
            chosen_BL = torch.rand(ids_BL.shape, generator=rng) < share
            kept.tokens_BL = (present_BL & chosen_BL).to(model.device)
            model(input_ids=ids_BL.to(model.device), use_cache=False, logits_to_keep=1)
    return [Queries(*map(torch.cat, zip(*layer.queries, strict=True))) for layer in recording]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return rows padded on the right, and which tokens are theirs."""
    width = max(map(len, rows))
    ids_BL = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids_BL, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def by_head(parts: Sequence[tuple[list[Queries], bool]], kv_heads: int) -> Reference:
    """Return the queries of all layers by key/value head, those of its query heads one behind the other.

    `parts` holds queries of each layer, and whether these queries should hear the document.
    """
    joined = [
        Queries(*map(torch.cat, zip(*of_layer, strict=True))) for of_layer in zip(*(q for q, _ in parts), strict=True)
    ]

    def grouped(x_NH: Tensor) -> Tensor:  # (N, H, ...) -> (K, H/K N, ...)
        return x_NH.unflatten(1, (kv_heads, -1)).transpose(0, 1).transpose(1, 2).flatten(1, 2)

    heard_N = torch.cat([torch.full((len(queries[0].q_NHD),), heard) for queries, heard in parts])
    q_GND, window_GND, lse_GN = (torch.cat([grouped(layer[i]) for layer in joined]) for i in range(3))
    repeated = joined[0].q_NHD.shape[1] // kv_heads
    return Reference(q_GND, window_GND, lse_GN, heard_N.repeat(repeated).to(q_GND.device))
