"""What a document is learnt by: next tokens, answers, the model's own attention over the document, its logits, and staying
as it was on other text.

Attention distillation needs no backward pass through the model: the frozen model reads the document in pieces, then reads
questions with these pieces' keys and values beside its window; every query, what it found in the document (m*, LSE*) and
what it found in the window are the data on which each head's memory is regressed, all heads of all layers at once.

T: tokens, V: vocabulary, H: heads (of all layers together), D: head dimension.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import DynamicCache

from lift import LiftError
from lift.document.segments import IGNORED
from lift.memory.gated_memory import Observed, recall
from lift.memory.tuner import layers, unmasked

TOP = 64  # logits kept of a teacher's, and the rest as one


def logits_at(model: Any, ids_BL: Tensor, at_N: Tensor) -> Tensor:
    """The model's logits at these places of the rows one after the other, (N, V), and nowhere else: a number for every
    token of the vocabulary at every place is most of a small model's step. Rows are padded on the right. Differentiable."""

    def picked(head: Any, args: Any) -> Any:
        own = args[0][:, -ids_BL.shape[1] :]  # without what an adapter has put in front
        return (own.flatten(0, 1).index_select(0, at_N)[None], *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(picked)
    try:
        with unmasked():
            return model(input_ids=ids_BL, use_cache=False).logits[0]
    finally:
        hook.remove()


def token_loss(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The sum of the cross entropies of the targets that are not `IGNORED`."""
    return F.cross_entropy(logits_NV.float(), targets_N, ignore_index=IGNORED, reduction="sum")


class Top(NamedTuple):
    """A teacher's most likely tokens and their log-probabilities, (T, k) each."""

    ids: Tensor
    log_p: Tensor


def top(logits_TV: Tensor, k: int = TOP) -> Top:
    log_p, ids = logits_TV.float().log_softmax(-1).topk(min(k, logits_TV.shape[-1]), dim=-1)
    return Top(ids, log_p)


def divergence(logits_TV: Tensor, teacher: Top) -> Tensor:
    """KL(teacher || model) of each token, (T), with all that is not among the teacher's top tokens as one more."""
    log_q = logits_TV.float().log_softmax(-1).gather(-1, teacher.ids)
    p, q = teacher.log_p.exp(), log_q.exp()
    p_rest, q_rest = ((1 - x.sum(-1)).clamp(min=1e-6) for x in (p, q))
    return (p * (teacher.log_p - log_q)).sum(-1) + p_rest * (p_rest.log() - q_rest.log())


# ---- attention distillation -------------------------------------------------------------------------------------


@dataclass
class Teacher:
    """The frozen model with a document beside its window. `keys` and `values` of each layer, (K, S, D)."""

    model: Any
    keys: list[Tensor]
    values: list[Tensor]
    length: int  # of a piece: questions stand behind it

    @classmethod
    @torch.no_grad()
    def read(cls, model: Any, prefix: Sequence[int], ids: Sequence[int], piece: int) -> "Teacher":
        """Reads the document in pieces of as many tokens, each behind `prefix`, which takes the attention that a model
        spends on its first tokens and is not kept: the window has such tokens of its own."""
        piece = min(piece, len(ids))
        starts = [*range(0, len(ids) - piece, piece), len(ids) - piece]
        keys: list[list[Tensor]] = [[] for _ in layers(model)]
        values: list[list[Tensor]] = [[] for _ in layers(model)]
        done = 0
        with model.disable_adapter():
            for start in starts:
                row = torch.tensor([[*prefix, *ids[start : start + piece]]], device=model.device)
                # A sliding window's own cache would drop what has left the window.
                slides = getattr(model.config.get_text_config(), "sliding_window", None)
                own = DynamicCache() if slides else None
                cache = model(input_ids=row, past_key_values=own, use_cache=True, logits_to_keep=1).past_key_values
                new = len(prefix) + max(0, done - start)  # the last piece overlaps the one before
                for i, layer in enumerate(layers(model)):
                    held = cache.layers[layer.index]
                    keys[i].append(held.keys[0, :, new:])
                    values[i].append(held.values[0, :, new:])
                done = start + piece
        return cls(model, [torch.cat(x, 1) for x in keys], [torch.cat(x, 1) for x in values], len(prefix) + piece)

    @contextmanager
    def beside(self) -> Iterator[list[list[Observed]]]:
        """The document in every layer's attention, exactly; what each layer observes is collected."""
        seen: list[list[Observed]] = [[] for _ in self.keys]
        try:
            for layer, k, v, mine in zip(layers(self.model), self.keys, self.values, seen, strict=True):
                layer.exact = (k, v, mine)
                layer.tell()
            yield seen
        finally:
            for layer in layers(self.model):
                layer.exact = None
                layer.tell()

    @torch.no_grad()
    def logits(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, list[Observed]]:
        """The model's logits with the document, and what each layer observed at the tokens that `mask_BL` says are
        there, but the first of a row; what is padded stands on the right."""
        positions = (mask_BL.cumsum(1) - 1).clamp(min=0) + self.length
        with self.beside() as seen:
            out = self.model(input_ids=ids_BL, position_ids=positions, use_cache=False).logits
        keep = mask_BL.cumsum(1).mul(mask_BL) > 1  # the first has no document to see
        return out, [Observed(*(x[:, keep.flatten()] for x in mine[0])) for mine in seen]


def gap(seen: Observed, weights: dict[str, Tensor]) -> Tensor:
    """How far the heads' memories are from the document's attention: the error of the whole output, of the memory and of
    the log-sum-exp, each against the size of what it should be."""
    memory, score = recall(seen.q_HTD, weights, "lse")
    g, wanted = torch.sigmoid(score - seen.lse_window_HT), torch.sigmoid(seen.lse_document_HT - seen.lse_window_HT)
    out = g[..., None] * (memory - seen.window_HTD)
    right = wanted[..., None] * (seen.memory_HTD - seen.window_HTD)
    size = (right + seen.window_HTD).square().mean((1, 2), keepdim=True) + 1e-6
    error = ((out - right).square() / size).mean()
    own = ((memory - seen.memory_HTD).square() / (seen.memory_HTD.square().mean((1, 2), keepdim=True) + 1e-6)).mean()
    return error + 0.1 * own + 0.1 * F.smooth_l1_loss(score, seen.lse_document_HT)


def distil(
    model: Any, seen: Sequence[Observed], name: str, steps: int, rate: float, batch: int = 2048, progress: bool = False
) -> dict[str, float]:
    """Regresses the memories of all layers on what was observed, opens them, and says how near they came: mean cosine of
    memory and document's attention, mean error of the log-sum-exp in nats, on a held-out tenth. Raises `LiftError`."""
    memories: list[Any] = [layer.gm_memory[name] for layer in layers(model)]
    names = [key for key, p in memories[0].named_parameters() if key != "share"]
    weights = {key: torch.cat([dict(m.named_parameters())[key].detach() for m in memories]) for key in names}
    data = Observed(*(torch.cat(parts).float() for parts in zip(*seen, strict=True)))
    weights["level"] += data.lse_document_HT.mean(1)  # where a linear fit would begin
    order = torch.randperm(data.q_HTD.shape[1], generator=torch.Generator().manual_seed(0)).to(data.q_HTD.device)
    held, order = order[: max(1, len(order) // 10)], order[len(order) // 10 :]
    batch = min(batch, len(order))
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps), pct_start=0.1)
    for step in tqdm(range(steps), desc="distilling attention", unit="step", disable=not progress, leave=False):
        at = (step * batch) % len(order)
        part = order[at : at + batch]
        loss = gap(Observed(*(x[:, part] for x in data)), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise LiftError(f"distillation came to what is no number: lower its learning rate (distil_rate {rate:g})")
    with torch.no_grad():
        memory, score = recall(data.q_HTD[:, held], weights, "lse")
        cosine = F.cosine_similarity(memory, data.memory_HTD[:, held], dim=-1).mean().item()
        error = (score - data.lse_document_HT[:, held]).abs().mean().item()
        for key, whole in weights.items():
            for memory_of, part_of in zip(memories, whole.chunk(len(memories)), strict=True):
                getattr(memory_of, key).copy_(part_of)
        for memory_of in memories:
            memory_of.share.fill_(1.0)
    return {"cosine": cosine, "lse_error": error}
