"""Attention distillation: each head's memory is regressed on the model's own attention over the document.

No backward pass goes through the model. The frozen model reads the document in pieces, then questions with the keys and
values of these pieces beside its window. For every query this yields the attention over the document (m, LSE_C) and over the
window (o_W, LSE_W), on which the memories of all heads of all layers are regressed at once. Equations: see `gated_memory`.

T: tokens, H: heads (of all layers together), K: key/value heads, S: tokens of the document, D: head dimension.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lift.memory.document_cache import keys_and_values, standing_in
from lift.memory.gated_memory import GatedMemory, Recalled, mix, recall
from lift.memory.log_sum_exp import document_attention
from lift.memory.tuner import GatedMemoryLayer, layers
from longthread.errors import RunError
from longthread.language_model import AdaptedLM

# Beside the error of the whole output, which has weight 1. Where a gate is closed, the output does not depend on the memory,
# and these two alone teach it. They are small so that the output leads elsewhere. Not tuned.
MEMORY_WEIGHT, LSE_WEIGHT = 0.1, 0.1
HELD_OUT_ONE_IN = 10  # tokens: measured and not learnt
BETAS = (0.9, 0.95)  # of AdamW, as in recipes lse and query
WARM_UP = 0.1  # of the steps, until the rate is whole


class Observed(NamedTuple):
    """What one layer observed, in fp32.

    Queries before RoPE, their attention over window and over document, and the log-sum-exp of each.
    """

    q_HTD: Tensor
    window_HTD: Tensor
    lse_window_HT: Tensor
    memory_HTD: Tensor
    lse_document_HT: Tensor


class DocumentLayer(nn.Module):
    """A layer that stands in for a memory's layer and attends to the document's own keys and values.

    `observed` gets one record for each forward pass.
    """

    needs_lse = True

    def __init__(self, layer: GatedMemoryLayer, k_KSD: Tensor, v_KSD: Tensor):
        super().__init__()
        self.base_layer, self.probe, self.heads = layer.get_base_layer(), layer.probe, layer.heads
        self.k_KSD, self.v_KSD = k_KSD, v_KSD
        self.observed: list[Observed] = []

    def forward(self, x: Tensor) -> Tensor:
        """Mix the document into the attention output `x`, (batch, length, heads * dim), by (1), and project it."""
        q_BLHD, q_rope_BHLD, lse_BLH = self.probe.query(self.heads), self.probe.q_rope, self.probe.lse
        assert q_rope_BHLD is not None and lse_BLH is not None
        self.probe.clear()
        o_BLHD = x.unflatten(-1, (self.heads, -1))
        m_BLHD, lse_document_BLH = document_attention(q_rope_BHLD, self.k_KSD, self.v_KSD, self.probe.scale)
        by_head = (t.float().flatten(0, 1).transpose(0, 1) for t in (q_BLHD, o_BLHD, lse_BLH, m_BLHD, lse_document_BLH))
        self.observed.append(Observed(*by_head))
        document = Recalled(m_BLHD, lse_document_BLH, torch.ones(self.heads, device=x.device))
        return self.base_layer(mix(o_BLHD, [document], "lse", lse_BLH).flatten(-2))


@dataclass
class Teacher:
    """The frozen model that sees a document's keys and values beside its window.

    `keys` and `values` hold one tensor for each layer, (key/value heads, document tokens, head dimension).
    """

    model: AdaptedLM
    keys: list[Tensor]
    values: list[Tensor]
    length: int  # of a piece: questions stand behind it

    @classmethod
    @torch.no_grad()
    def read(cls, model: AdaptedLM, prefix: Sequence[int], ids: Sequence[int], piece: int) -> "Teacher":
        """Read the document `ids` in pieces of `piece` tokens, each behind the tokens `prefix`, and return the teacher.

        The prefix takes the attention that a model spends on its first tokens. Its keys and values are dropped: the
        window has such tokens of its own.
        """
        piece = min(piece, len(ids))
        starts = [*range(0, len(ids) - piece, piece), len(ids) - piece]
        keys: list[list[Tensor]] = [[] for _ in layers(model)]
        values: list[list[Tensor]] = [[] for _ in layers(model)]
        done = 0
        for start in starts:
            new = len(prefix) + max(0, done - start)  # the last piece overlaps the one before
            for i, read in enumerate(keys_and_values(model, [*prefix, *ids[start : start + piece]])):
                keys[i].append(read.k_KTD[:, new:])
                values[i].append(read.v_KTD[:, new:])
            done = start + piece
        return cls(model, [torch.cat(x, 1) for x in keys], [torch.cat(x, 1) for x in values], len(prefix) + piece)

    @contextmanager
    def beside(self) -> Iterator[list[DocumentLayer]]:
        """Replace every memory's layer by a `DocumentLayer` in a `with` block, and give these layers."""
        teachers = [DocumentLayer(*parts) for parts in zip(layers(self.model), self.keys, self.values, strict=True)]
        with standing_in(self.model, teachers):
            yield teachers

    @torch.no_grad()
    def logits(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, list[Observed]]:
        """Return the model's logits with the document beside the window, and what each layer observed.

        Observed are the tokens where `mask_BL` (batch, length) is 1, except the first of each row. Rows are padded on
        the right.
        """
        positions = (mask_BL.cumsum(1) - 1).clamp(min=0) + self.length
        with self.beside() as teachers:
            logits_BLV = self.model(input_ids=ids_BL, position_ids=positions, use_cache=False).logits
        keep = mask_BL.cumsum(1).mul(mask_BL) > 1  # the first has no document to see
        return logits_BLV, [Observed(*(x[:, keep.flatten()] for x in teacher.observed[0])) for teacher in teachers]


def gap(seen: Observed, weights: dict[str, Tensor]) -> Tensor:
    """Return a loss that says how far the heads' memories are from the attention over the document.

    It adds the errors of the whole output (1), of the memory and of the log-sum-exp. The first two are relative to the
    size of their targets.
    """
    memory_HTD, score_HT = recall(seen.q_HTD, weights, "lse")
    g_HT = torch.sigmoid(score_HT - seen.lse_window_HT)
    right_g_HT = torch.sigmoid(seen.lse_document_HT - seen.lse_window_HT)
    change_HTD = g_HT[..., None] * (memory_HTD - seen.window_HTD)
    right_HTD = right_g_HT[..., None] * (seen.memory_HTD - seen.window_HTD)
    output = ((change_HTD - right_HTD).square() / _size(right_HTD + seen.window_HTD)).mean()
    memory = ((memory_HTD - seen.memory_HTD).square() / _size(seen.memory_HTD)).mean()
    return output + MEMORY_WEIGHT * memory + LSE_WEIGHT * F.smooth_l1_loss(score_HT, seen.lse_document_HT)


def _size(x_HTD: Tensor) -> Tensor:
    """Return the mean square of each head, (heads, 1, 1)."""
    return x_HTD.square().mean((1, 2), keepdim=True) + 1e-6


@dataclass(frozen=True)
class Regression:
    """Settings of a regression with AdamW.

    It takes `steps` steps of `batch` observed tokens each, at a learning rate of at most `rate`.
    """

    steps: int
    rate: float
    batch: int = 2048
    progress: bool = False


def distil(model: AdaptedLM, seen: Sequence[Observed], name: str, how: Regression) -> dict[str, float]:
    """Train the memories called `name` in all layers to give the observed attention, and open their gates.

    Returns the mean cosine between memory and document attention, and the mean error of the log-sum-exp in nats, on a
    held-out tenth of the tokens. Raises `RunError` if the regression diverges.
    """
    memories: list[GatedMemory] = [layer.gm_memory[name] for layer in layers(model)]  # type: ignore[misc]
    names = [key for key, _ in memories[0].named_parameters() if key != "share"]
    weights = {key: torch.cat([dict(m.named_parameters())[key].detach() for m in memories]) for key in names}
    data = Observed(*(torch.cat(parts).float() for parts in zip(*seen, strict=True)))
    weights["level"] += data.lse_document_HT.mean(1)  # where a linear fit would begin
    order = torch.randperm(data.q_HTD.shape[1], generator=torch.Generator().manual_seed(0)).to(data.q_HTD.device)
    n_held_out = max(1, len(order) // HELD_OUT_ONE_IN)
    held_out = Observed(*(x[:, order[:n_held_out]] for x in data))
    _regress(weights, data, order[len(order) // HELD_OUT_ONE_IN :], how)
    with torch.no_grad():
        memory_HTD, score_HT = recall(held_out.q_HTD, weights, "lse")
        cosine = F.cosine_similarity(memory_HTD, held_out.memory_HTD, dim=-1).mean().item()
        error = (score_HT - held_out.lse_document_HT).abs().mean().item()
        for key, whole in weights.items():
            for memory, part in zip(memories, whole.chunk(len(memories)), strict=True):
                getattr(memory, key).copy_(part)
        for memory in memories:
            memory.share.fill_(1.0)
    return {"cosine": cosine, "lse_error": error}


def _regress(weights: dict[str, Tensor], data: Observed, order: Tensor, how: Regression) -> None:
    """Minimise `gap` over the tokens `order`, batch by batch, in place."""
    batch = min(how.batch, len(order))
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), lr=how.rate, betas=BETAS, weight_decay=0.0)
    steps = max(2, how.steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=steps, pct_start=WARM_UP)
    bar = tqdm(range(how.steps), desc="distilling attention", unit="step", disable=not how.progress, leave=False)
    for step in bar:
        first = (step * batch) % len(order)
        tokens = order[first : first + batch]
        loss = gap(Observed(*(x[:, tokens] for x in data)), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise RunError(
            f"distillation diverged to NaN or infinite weights: lower its learning rate (distil_rate {how.rate:g})"
        )
