"""Attention matching: a document's keys and values made few, in closed form (arXiv 2602.16284), by what a head puts out.

A head puts out o = (1 - g) o_W + g m, (1) of `gated_memory`. Of the document's keys those that matter are kept (`selection`).
With p_il = exp(q_i k_l - LSE_i), the whole head's attention to the kept key l of the exact document, biases b = log w and
values v are those of

    w = argmin sum_i u_i^2 (sum_l w_l p_il - g_i)^2,   u_i = (1 - g_i) |m_i - o_W,i|,   w within `BOX`                     (1)
    v = argmin sum_i |sum_l x_il v_l - (o_i - (1 - h_i) o_W,i)|^2                                                          (2)

with x_il = w_l p_il / (sum_l w_l p_il + 1 - g_i) the head's attention to the memory, and h_i = sum_l x_il its gate. The term
of (1) is the error of the output in first order. Queries to which the document should say nothing have g_i = 0 and
o_i = o_W,i in place of the document's own. Both problems are held near a prior: one common weight, and the kept keys' own
values.

G: key/value heads of all layers, N: reference queries, T: tokens of the document, S: slots, D: head dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lift.memory import least_squares
from lift.memory.selection import DocumentAttention, Reference, attend, pieces, select

BOX = (1e-3, 1e3)  # of a weight: a bias moves attention for every query, so it may not do all the work
LEAST = 16  # keys of each head, where there are as many
SHARE = 1 / 30  # of the bytes of keys and values, unless told otherwise
# Slots a head on average, of what is kept unless told otherwise. With 68 (a thirtieth of 2,046 tokens) facts of a short text
# came out mixed up; with some 256 (an eighth) 27 of 32 were found.
LEAST_AVERAGE = 256
RULE = f"1/{1 / SHARE:.0f} of the bytes of keys and values, at least {LEAST_AVERAGE} slots a head"
ALIKE = 1.25  # heads are solved together up to so many times the slots of the smallest


@dataclass(frozen=True)
class Compaction:
    """Settings of a compaction.

    `slots` are for all heads together. `bias_ridge` and `value_ridge` are relative to the mean diagonal of the normal
    equations. A query that should hear nothing counts `quiet_weight` times as much as one that should.
    """

    slots: int
    bias_ridge: float = 1e-3
    value_ridge: float = 1e-3
    quiet_weight: float = 1.0
    biases: bool = True
    values: bool = True


class Slots(NamedTuple):
    """Keys, biases and values of one key/value head, in the order of the document; `tokens` says where they stood."""

    k_SD: Tensor
    b_S: Tensor
    v_SD: Tensor
    tokens_S: Tensor


def slots(share: float | None, heads: int, tokens: int, dim: int) -> int:
    """Return how many slots all heads of a segment have together, with `share` of the bytes of its keys and values.

    None: by `RULE`. Never more than there are keys. A slot has a bias in fp32 beside key and value in bf16.
    """
    of_token, of_slot = 4 * dim, 4 * dim + 4
    least = 1 if share is not None else LEAST_AVERAGE
    share = SHARE if share is None else share
    kept = tokens * heads if share >= 1 else int(share * heads * tokens * of_token / of_slot)
    return min(heads * tokens, max(heads * least, kept))


@torch.no_grad()
def compact(reference: Reference, k_GTD: Tensor, v_GTD: Tensor, how: Compaction) -> list[Slots]:
    """Return the slots of each key/value head. `k_GTD` are keys after RoPE, times the attention's scale.

    With a slot for every key, the memory is the document's own. Raises `RunError` where a problem cannot be solved.
    """
    tokens = k_GTD.shape[1]
    document = attend(reference, k_GTD, v_GTD)
    kept_GT = select(document.score_GT, how.slots, LEAST)
    if kept_GT.all():
        every, none = torch.arange(tokens, device=k_GTD.device), torch.zeros(tokens, device=k_GTD.device)
        return [Slots(k_TD, none, v_TD.float(), every) for k_TD, v_TD in zip(k_GTD, v_GTD, strict=True)]
    of_head: dict[int, Slots] = {}
    for heads, tokens_GS, live_GS in _alike(kept_GT):
        seen = DocumentAttention(*(x[heads] for x in document))
        k_GSD, v_GSD = (x[heads].gather(1, tokens_GS[..., None].expand(-1, -1, x.shape[-1])) for x in (k_GTD, v_GTD))
        problem = _Problem(reference.heads(heads), seen, k_GSD.float(), v_GSD.float(), live_GS, how)
        w_GS = problem.weights()
        fitted_GSD = problem.fitted(w_GS)
        for i, head in enumerate(heads.tolist()):
            live = live_GS[i]
            of_head[head] = Slots(k_GSD[i, live], w_GS[i, live].log(), fitted_GSD[i, live], tokens_GS[i, live])
    return [of_head[head] for head in range(len(kept_GT))]


def _alike(kept_GT: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield heads with similar numbers of kept keys: which they are, their slots' tokens, and which of these are live."""
    counts = kept_GT.sum(1)
    order = counts.argsort().tolist()
    sizes = counts.tolist()
    while order:
        most = max(LEAST, ALIKE * sizes[order[0]])
        group = [head for head in order if sizes[head] <= most]
        order = order[len(group) :]
        heads = torch.tensor(group, device=kept_GT.device)
        width = sizes[group[-1]]
        # A stable sort puts the kept tokens first, in the order of the document.
        tokens = kept_GT[heads].to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :width]
        yield heads, tokens, torch.arange(width, device=kept_GT.device) < counts[heads][:, None]


@dataclass
class _Problem:
    """Heads with similar numbers of slots: their least-squares problems (1) and (2)."""

    reference: Reference
    document: DocumentAttention
    k_GSD: Tensor
    v_GSD: Tensor
    live_GS: Tensor
    how: Compaction

    def weights(self) -> Tensor:
        """Return the weights (1) of the slots, (G, S); 1 for padding."""
        if not self.how.biases:
            return torch.ones_like(self.live_GS, dtype=torch.float32)
        groups, width = self.live_GS.shape
        a_GSS, b_GS = self.k_GSD.new_zeros(groups, width, width), self.k_GSD.new_zeros(groups, width)
        unit_GS = torch.ones_like(b_GS)
        for g, n in pieces(groups, self.reference.q_GND.shape[1], width, self.k_GSD.device):
            rows, away, wanted = self._attention(unit_GS, g, n)
            distance = (self.document.memory_GND[g, n] - self.reference.window_GND[g, n].float()).norm(dim=-1)
            u = away * distance * self._root_weights(g, n)
            rows *= u[..., None]
            least_squares.add_gram(a_GSS[g], rows)
            b_GS[g] += (rows.transpose(1, 2) @ (u * wanted)[..., None])[..., 0]
        a_GSS = least_squares.mirror(a_GSS)
        common_G = b_GS.sum(1) / a_GSS.sum((1, 2)).clamp(min=1e-30)
        prior_GS = common_G.clamp(*BOX)[:, None].expand_as(b_GS)
        w_GS = least_squares.bounded(a_GSS, b_GS, prior_GS, self.live_GS, BOX, self.how.bias_ridge)
        return w_GS.masked_fill(~self.live_GS, 1.0)

    def fitted(self, w_GS: Tensor) -> Tensor:
        """Return the values (2) of slots with these weights, (G, S, D)."""
        if not self.how.values:
            return self.v_GSD
        groups, width, dim = self.v_GSD.shape
        a_GSS, b_GSD = self.k_GSD.new_zeros(groups, width, width), self.k_GSD.new_zeros(groups, width, dim)
        for g, n in pieces(groups, self.reference.q_GND.shape[1], width, self.k_GSD.device):
            x, away, wanted = self._attention(w_GS, g, n)
            total = x.sum(-1)
            whole = (total + away).clamp(min=1e-30)
            window, memory = self.reference.window_GND[g, n].float(), self.document.memory_GND[g, n]
            target = window + wanted[..., None] * (memory - window) - (1 - total / whole)[..., None] * window
            root = self._root_weights(g, n)
            x *= (root / whole)[..., None]
            least_squares.add_gram(a_GSS[g], x)
            b_GSD[g] += x.transpose(1, 2) @ (root[..., None] * target)
        a_GSS = least_squares.mirror(a_GSS)
        return least_squares.ridge(a_GSS, b_GSD, self.v_GSD, self.live_GS, self.how.value_ridge)

    def _attention(self, w_GS: Tensor, g: slice, n: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for a piece of queries, w p of the slots (0: padding), the window's share 1 - g, and the gate wanted."""
        lse, lse_window = self.document.lse_GN[g, n], self.reference.lse_window_GN[g, n].float()
        away, whole = torch.sigmoid(lse_window - lse), torch.logaddexp(lse, lse_window)
        biases_GS = w_GS[g].log().masked_fill(~self.live_GS[g], -torch.inf)
        scores = torch.baddbmm(biases_GS[:, None], self.reference.q_GND[g, n].float(), self.k_GSD[g].transpose(1, 2))
        scores -= whole[..., None]  # not a column of the product, which a GPU may round to TF32
        return scores.exp_(), away, torch.sigmoid(lse - lse_window) * self.reference.heard_N[n]

    def _root_weights(self, g: slice, n: slice) -> Tensor:
        """Return the square root of each query's weight, (g, n)."""
        of_kind_N = torch.where(self.reference.heard_N[n], 1.0, self.how.quiet_weight)
        return (self.reference.weight_GN[g, n] * of_kind_N).sqrt()
