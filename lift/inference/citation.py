"""Where in its text an answer stands: the sentence that the answer's tokens attend to more than those of the question do.

Every slot of a compact memory knows the token that it stood for. The weight of a slot is its part of the attention of all
heads of all layers, beside the window: the mean over the positions that predict the answer, less the mean over those of the
prompt before them, of sum of w p_l, with w of (3) of `gated_memory` and p_l the softmax over the memory's slots. Without the
prompt's share a text's first tokens, which take attention that no query needs, outweigh all that is said (of 35 right
answers 5 were cited so, and 35 with it: docs/lift.md).

B: rows, L: tokens, H: query heads, K: key/value heads, S: slots, A: answer tokens, D: head dimension.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from lift.inference.routing import Place
from lift.library.attach import Attached
from lift.library.compact_store import CompactStore, Sources
from lift.memory.compact_memory import CompactMemory
from lift.memory.document_cache import nothing_predicted, standing_in
from lift.memory.gated_memory import gates
from lift.memory.tuner import GatedMemoryLayer, layers
from longthread.errors import ConfigError


class Citation(NamedTuple):
    """A sentence of a document: its segment, its number and characters, and its share of what the answer attends to more."""

    place: Place
    sentence: int
    characters: tuple[int, int]
    share: float


def check_sources(stores: Mapping[str, CompactStore]) -> None:
    """Raise `ConfigError` for a memory that does not say where its slots stood."""
    for name, store in stores.items():
        if store.sources is None:
            raise ConfigError(
                f"{name!r} does not say where in its text it stands: fit it again with this version", setting="cite"
            )


def slot_weights(memory: CompactMemory, q_AHD: Tensor, gate_AH: Tensor) -> Tensor:
    """Return each slot's weight for queries after RoPE and the memory's gates: (S,), in the order of its keys."""
    weights_S = torch.zeros(len(memory.biases), device=q_AHD.device)
    first, kv_heads = 0, len(memory.slots[0])
    heads_of = torch.arange(q_AHD.shape[1], device=q_AHD.device).view(kv_heads, -1)
    rows: list[list[Tensor]] = [[] for _ in range(kv_heads)]
    for counts in memory.slots:
        for head, count in enumerate(counts):
            rows[head].append(torch.arange(first, first + count, device=q_AHD.device))
            first += count
    for head in range(kv_heads):
        at_S = torch.cat(rows[head])
        if len(at_S):
            scores_ARS = q_AHD[:, heads_of[head]].float() @ memory.keys[at_S].float().T + memory.biases[at_S]
            weights_S[at_S] = (gate_AH[:, heads_of[head], None] * scores_ARS.softmax(-1)).sum((0, 1))
    return weights_S


def reference_slot_weights(memory: CompactMemory, q_AHD: Tensor, gate_AH: Tensor) -> Tensor:
    """Compute `slot_weights` slowly, as its specification: token by token and head by head."""
    weights = [0.0] * len(memory.biases)
    kv_heads = len(memory.slots[0])
    of_slot = [head for counts in memory.slots for head, count in enumerate(counts) for _ in range(count)]
    for q_HD, gate_H in zip(q_AHD.double(), gate_AH.double(), strict=True):
        for h, q_D in enumerate(q_HD):
            inside = [i for i, head in enumerate(of_slot) if head == h * kv_heads // len(q_HD)]
            scores = torch.stack([q_D @ memory.keys[i].double() + memory.biases[i] for i in inside])
            for i, p in zip(inside, scores.softmax(0).tolist(), strict=True):
                weights[i] += float(gate_H[h]) * p
    return torch.tensor(weights)


class CitingLayer(nn.Module):
    """A layer that stands in for a memory's layer, adds up the weights of its slots, and does what that layer does."""

    needs_lse = True

    def __init__(self, layer: GatedMemoryLayer, prompt: int):
        super().__init__()
        self.layer, self.probe, self.prompt = layer, layer.probe, prompt
        self.weights: dict[str, Tensor] = {}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Mix the memories into the attention output `x`, (1, length, heads * dim), and project it."""
        assert self.probe.q_rope is not None and self.probe.lse is not None
        q_BLHD = self.probe.q_rope.transpose(1, 2)
        memories = {name: cast(CompactMemory, self.layer.gm_memory[name]) for name in self.layer.documents}
        recalled = [memory(q_BLHD) for memory in memories.values()]
        for (name, memory), gate_BLH in zip(memories.items(), gates(recalled, "lse", self.probe.lse), strict=True):
            if memory.slots:
                before, answer = (
                    slot_weights(memory, q_AHD, gate_AH) / len(q_AHD)
                    for q_AHD, gate_AH in zip(self._parts(q_BLHD[0]), self._parts(gate_BLH[0]), strict=True)
                )
                self.weights[name] = answer - before
        return self.layer(x, *args, **kwargs)

    def _parts(self, x_L: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions of the prompt but its last, and those that predict the reply."""
        return x_L[: self.prompt - 1], x_L[self.prompt - 1 : -1]


@torch.no_grad()
def cite(
    attached: Attached,
    stores: Mapping[str, CompactStore],
    places: Sequence[Place],
    prompt: Sequence[int],
    reply: Sequence[int],
) -> Citation | None:
    """Return the sentence that a reply stands on, with the segments `places` open; None for a reply without tokens."""
    if not reply or not places:
        return None
    model = attached.model
    citing = [CitingLayer(layer, len(prompt)) for layer in layers(model)]
    with standing_in(model, citing):
        ids = torch.tensor([[*prompt, *reply]], device=model.device)
        model(ids, use_cache=False, **nothing_predicted(model))
    names = dict.fromkeys(place.document for place in places)
    of_token = {name: _token_weights(citing, attached.key(name), stores[name], places, name) for name in names}
    whole = sum(float(weights.sum()) for weights in of_token.values())
    best = [_best_sentence(name, stores[name], weights) for name, weights in of_token.items() if weights.any()]
    if not best:
        return None
    weight, name, sentence, token = max(best)
    sources = _sources(stores[name])
    start, end = sources.sentences[sentence].tolist()
    opened = [place for place in places if place.document == name]
    inside = (p for p in opened if sources.segments[p.segment].start <= token < sources.segments[p.segment].stop)
    return Citation(next(inside), sentence, (start, end), weight / whole)


def _sources(store: CompactStore) -> Sources:
    assert store.sources is not None
    return store.sources


def _token_weights(
    citing: Sequence[CitingLayer], key: str, store: CompactStore, places: Sequence[Place], name: str
) -> np.ndarray:
    """Return the weight of each token of a document, over all layers: 0 for one that the prompt attends to more."""
    sources = _sources(store)
    weights_T = np.zeros(len(sources.token_starts))
    segments = [place.segment for place in places if place.document == name]
    for layer in citing:
        if segments and key in layer.weights:
            positions = torch.cat([sources.positions(layer.layer.index, segment) for segment in segments])
            np.add.at(weights_T, positions.numpy(), layer.weights[key].double().cpu().numpy())
    return weights_T.clip(0)


def _best_sentence(name: str, store: CompactStore, weights_T: np.ndarray) -> tuple[float, str, int, int]:
    """Return the weight of the heaviest sentence, the document, the sentence's number, and its heaviest token."""
    sources = _sources(store)
    starts = sources.sentences[:, 0].numpy()
    of_token = np.searchsorted(starts, sources.token_starts.numpy() + 1, side="left").clip(1) - 1
    sums = np.bincount(of_token, weights_T, len(starts))
    sentence = int(sums.argmax())
    token = int(np.where(of_token == sentence, weights_T, -1).argmax())
    return float(sums[sentence]), name, sentence, token
