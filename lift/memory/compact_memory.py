"""The compact memory of one layer: a few keys, biases and values of each key/value head, which stand for a document.

For the queries q of a key/value head's query heads, after RoPE and with the attention's scale in the keys,

    s(q) = log sum_l exp(q k_l + b_l),   m(q) = softmax_l(q k_l + b_l) v_l                                               (1)

are what (1) of `gated_memory` takes for LSE_C and m, so the gate is exact by construction. With every key of the document,
b = 0 and its own values this is the document's attention itself; `compact` makes do with few (arXiv 2602.16284).
A document longer than the model's window has one such set for each of its segments; those that are not open are not seen.

B: rows, L: tokens, H: query heads, K: key/value heads, S: slots of the head with the most, D: head dimension.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lift.memory.gated_memory import Recalled
from lift.memory.log_sum_exp import NOTHING, SCORES
from longthread.language_model import CausalLM

VIEWS = 64  # choices of open segments whose slots are kept at hand
# Of some key/value heads, in fp32: keys and values, (K, S, D), and biases, (K, S).
Slots = tuple[Tensor, Tensor, Tensor]


class CompactMemory(nn.Module):
    """Keys, biases and values (1) of one layer, flat over segments and key/value heads.

    `slots` says how many each key/value head of each segment has. A new memory is closed: its biases are `NOTHING`.
    """

    after_rope = True

    def __init__(self, heads: int, dim: int, slots: Sequence[Sequence[int]], dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.heads, self.slots, self.dtype = heads, [list(counts) for counts in slots], dtype
        total = sum(map(sum, self.slots))
        self.keys = nn.Parameter(torch.zeros(total, dim, dtype=dtype))
        self.values = nn.Parameter(torch.zeros(total, dim, dtype=dtype))
        self.biases = nn.Parameter(torch.full((total,), NOTHING))
        self._views: dict[tuple[tuple[int, ...], torch.device], list[tuple[Tensor, Tensor]]] = {}
        self._at_hand: dict[tuple[int, ...], list[Slots]] | None = None  # by the open segments, see `slots_at_hand`
        self.open(range(len(self.slots)))

    def keep_dtype(self) -> None:
        """Cast keys and values to the memory's own dtype and biases to fp32, whatever the model's dtype."""
        self.keys.data, self.values.data = self.keys.data.to(self.dtype), self.values.data.to(self.dtype)
        self.biases.data = self.biases.data.float().clamp(min=NOTHING)  # which fp16 cannot hold

    def open(self, segments: Sequence[int]) -> None:
        """Let queries see the slots of these segments alone. A new memory has all segments open."""
        self._open = tuple(segments)

    def _view(self, segments: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Return the indices of the segments' slots for each key/value head, (K, S), and which of them are no padding.

        On a CPU for one head after the other, without padding: the longest of a layer has often ten times the slots of
        the shortest. A GPU takes all heads at once.
        """
        device = self.keys.device
        if (segments, device) in self._views:
            return self._views[segments, device]
        n_kv_heads = len(self.slots[0]) if self.slots else 1
        of_head: list[list[Tensor]] = [[torch.empty(0, dtype=torch.long)] for _ in range(n_kv_heads)]
        first = 0
        for segment, counts in enumerate(self.slots):
            for head, count in enumerate(counts):
                if segment in segments:
                    of_head[head].append(torch.arange(first, first + count))
                first += count
        rows = [torch.cat(slots) for slots in of_head]
        view = []
        for together in [[row] for row in rows] if device.type == "cpu" else [rows]:
            slots_KS = pad_sequence(together, batch_first=True)
            seen_KS = torch.arange(slots_KS.shape[1]) < torch.tensor([len(row) for row in together])[:, None]
            view.append((slots_KS.to(device), seen_KS.to(device)))
        if len(self._views) == VIEWS:
            self._views.clear()
        self._views[segments, device] = view
        return view

    def _slots(self, segments: tuple[int, ...]) -> list[Slots]:
        """Return the segments' keys, values and biases, as `_view` puts heads together."""
        kept = {} if self._at_hand is None or torch.is_grad_enabled() else self._at_hand
        if segments not in kept:
            kept[segments] = [self._gather(*slots) for slots in self._view(segments)]
        return kept[segments]

    def _gather(self, slots_KS: Tensor, seen_KS: Tensor) -> Slots:
        biases_KS = self.biases[slots_KS].masked_fill(~seen_KS, NOTHING)
        return self.keys[slots_KS].float(), self.values[slots_KS].float(), biases_KS

    def forward(self, q_BLHD: Tensor, segments: tuple[int, ...] | None = None) -> Recalled:
        """Return memory m, score s and a share of 1 for queries after RoPE, (B, L, H, D).

        `segments`: those that these queries see, instead of the open ones.
        """
        rows, length, heads, _ = q_BLHD.shape
        parts = self._slots(self._open if segments is None else segments)
        of_part = [len(biases_KS) for _, _, biases_KS in parts]
        kv_heads = sum(of_part)
        q_KND = q_BLHD.float().unflatten(2, (kv_heads, -1)).permute(2, 0, 1, 3, 4).flatten(1, 3)
        found = [self._of(q, *slots) for q, slots in zip(q_KND.split(of_part), parts, strict=True)]
        memory_KND, score_KN = (torch.cat(parts) for parts in zip(*found, strict=True))
        shape = (rows, length, heads // kv_heads)
        memory_BLKRD = memory_KND.unflatten(1, shape).permute(1, 2, 0, 3, 4)
        score_BLKR = score_KN.unflatten(1, shape).permute(1, 2, 0, 3)
        return Recalled(memory_BLKRD.flatten(2, 3), score_BLKR.flatten(2, 3), torch.ones(heads, device=q_BLHD.device))

    @staticmethod
    def _of(q_KND: Tensor, k_KSD: Tensor, v_KSD: Tensor, b_KS: Tensor) -> tuple[Tensor, Tensor]:
        """Return memory and score of some key/value heads, (K, N, D) and (K, N); `NOTHING` without slots."""
        if not b_KS.numel():
            return torch.zeros_like(q_KND), torch.full_like(q_KND[..., 0], NOTHING)
        memory, score = [], []
        for q_part in q_KND.split(max(1, SCORES // b_KS.numel()), dim=1):
            scores_KNS = torch.baddbmm(b_KS[:, None], q_part, k_KSD.transpose(1, 2))
            score.append(scores_KNS.logsumexp(-1))
            memory.append(scores_KNS.softmax(-1) @ v_KSD)
        return torch.cat(memory, 1), torch.cat(score, 1)


@contextmanager
def slots_at_hand(model: CausalLM | nn.Module) -> Iterator[None]:
    """Keep the slots that are open to one token for the next ones, in a `with` block in which no memory changes.

    Each token would gather and cast them again in every layer, two fifths of what a memory takes a CPU.
    """
    memories = [module for module in model.modules() if isinstance(module, CompactMemory)]
    try:
        for memory in memories:
            memory._at_hand = {}
        yield
    finally:
        for memory in memories:
            memory._at_hand = None


def reference_recall(memory: CompactMemory, q_BLHD: Tensor, segments: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Compute m and s of the open `segments` slowly, as the specification of `CompactMemory`: (1) head by head."""
    kv_heads = len(memory.slots[0])
    of_head: list[list[int]] = [[] for _ in range(kv_heads)]
    at = 0
    for segment, counts in enumerate(memory.slots):
        for head, count in enumerate(counts):
            of_head[head] += range(at, at + count) if segment in segments else ()
            at += count
    memories, scores = [], []
    for h in range(q_BLHD.shape[2]):
        slots = of_head[h * kv_heads // q_BLHD.shape[2]]
        scores_BLS = q_BLHD[:, :, h].float() @ memory.keys[slots].float().T + memory.biases[slots]
        scores.append(scores_BLS.logsumexp(-1))
        memories.append(scores_BLS.softmax(-1) @ memory.values[slots].float())
    return torch.stack(memories, 2), torch.stack(scores, 2)
