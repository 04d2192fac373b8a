"""What a memory could give at best: what a model finds with exact keys and values of documents beside its window.

- `exact`: closed book, with every key and value of the document beside the window. A compact memory copies this.
- `in steps`: the same, each question asked step by step (`lift ask --steps`).
- `evidence`, `around`: no memory, but the sentences that state the answer in the window, alone or with text around them. What
  a memory could give that copies the model with the right piece open.
- `at once`: with the exact keys and values of all documents beside the window, each read apart from the others.
- `neutral`: nats a token of other text with 0, 1, 2, ... exact documents beside it.
- `gate`: whether the exact gate g = sigmoid(LSE_document - LSE_window) opens wider for a question about the document than
  for one about another: the area under the ROC curve of g, averaged over a question's tokens, for each head.

D: documents, H: heads of all layers, Q: questions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from peft import get_peft_model

from benchmarks.lift_measure import REPLY, STEPWISE, WINDOW, free, load, made, step_by_step
from lift.document.token_spans import TokenSpans
from lift.evaluation.evaluate import auroc, nll
from lift.inference.generate import answers, before_text, chat
from lift.memory.compact_memory import CompactMemory
from lift.memory.document_cache import keys_and_values
from lift.memory.tuner import GatedMemoryConfig, layers
from lift.tasks import Item, right, synthetic_document
from longthread.errors import ConfigError

BEST = 20  # heads whose gates are averaged, chosen on half of the questions and measured on the other half


class Read(NamedTuple):
    """A document that is read exactly: the name of its adapter, its questions, and itself in tokens."""

    name: str
    items: list[Item]
    spans: TokenSpans


def ceilings(folder: Path, given: None, tokens: int, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """All figures of one model over the documents of these seeds. `given` and `out` are what `Store` hands every work."""
    free()
    model, tokenizer = load(folder)
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window and tokens + WINDOW > window:
        raise ConfigError(f"documents of {tokens:,} tokens do not fit beside {WINDOW:,} into a window of {window:,}")
    adapted: Any = get_peft_model(model, GatedMemoryConfig(slots={}))
    documents = []
    for seed in seeds:
        document, items = made(tokenizer, tokens, seed)
        spans = TokenSpans.encode(tokenizer, document.text)
        add_exact(adapted, document.name, [*before_text(tokenizer)], spans.ids)
        documents.append(Read(document.name, [item for item in items if item.kind in STEPWISE], spans))
    names = [each.name for each in documents]
    found: dict[str, Any] = {"documents": names, "neutral": _neutral(adapted, tokenizer, names)}
    for how in ("exact", "in steps", "at once", "evidence", "around"):
        found[how] = _shares(adapted, tokenizer, documents, how)
    if len(documents) > 1:
        found["gate"] = _gates(adapted, tokenizer, documents)
    return found


def switch(model: Any, names: Sequence[str]) -> None:
    """Turn on the memories of these documents, and no other."""
    model.base_model.set_adapter(list(names), inference_mode=True)


@torch.no_grad()
def add_exact(model: Any, name: str, prefix: Sequence[int], ids: Sequence[int]) -> None:
    """Add an adapter that holds every key and value of a document, which ends where a prompt begins.

    The tokens `prefix` are read before it and left out: they take the attention that a model spends on its first tokens.
    """
    text = model.config.get_text_config()
    every = [[len(ids)] * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads)]
    slots = {str(layer.index): every for layer in layers(model)}
    precision = str(model.dtype).removeprefix("torch.")
    model.add_adapter(name, GatedMemoryConfig(slots=slots, precision=precision))
    switch(model, [name])
    model(input_ids=torch.tensor([list(ids[:2])], device=model.device), use_cache=False)  # tells each layer its scale
    read = keys_and_values(model, [*prefix, *ids], -len(prefix) - len(ids))
    for layer, (k_KTD, v_KTD) in zip(layers(model), read, strict=True):
        memory = cast(CompactMemory, layer.gm_memory[name])
        memory.keys.copy_((layer.probe.scale * k_KTD[:, len(prefix) :]).flatten(0, 1))
        memory.values.copy_(v_KTD[:, len(prefix) :].flatten(0, 1))
        memory.biases.zero_()


def _neutral(model: Any, tokenizer: Any, names: Sequence[str]) -> list[float]:
    """Nats a token of neutral text, without and with the first 1, 2, ... documents."""
    ids = TokenSpans.encode(tokenizer, synthetic_document.neutral("eval")).ids
    with model.disable_adapter():
        found = [float(nll(model, ids, WINDOW).mean())]
    for count in range(1, len(names) + 1):
        switch(model, names[:count])
        found.append(float(nll(model, ids, WINDOW).mean()))
    return found


def _shares(model: Any, tokenizer: Any, documents: Sequence[Read], how: str) -> dict[str, list[int]]:
    """Right answers and questions of each kind, over all documents."""
    shares = {kind: [0, 0] for kind in STEPWISE}
    for name, items, spans in documents:
        if how == "in steps":
            switch(model, [name])
            for kind, (found, asked) in step_by_step(model, tokenizer, items).items():
                shares[kind] = [shares[kind][0] + found, shares[kind][1] + asked]
            continue
        tokens = {"evidence": 0, "around": WINDOW}.get(how)
        windows = [
            "" if tokens is None or not item.evidence else spans.window_around(item.evidence, tokens) for item in items
        ]
        prompts = [chat(tokenizer, name, item.question, window) for item, window in zip(items, windows, strict=True)]
        if tokens is None:
            switch(model, [name] if how == "exact" else [each.name for each in documents])
            replies = answers(model, tokenizer, prompts, REPLY)
        else:
            with model.disable_adapter():
                replies = answers(model, tokenizer, prompts, REPLY)
        for item, reply in zip(items, replies, strict=True):
            shares[item.kind][0] += right(item, reply)
            shares[item.kind][1] += 1
    return shares


@torch.no_grad()
def question_gates(model: Any, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Each head's gate, averaged over a prompt's tokens but the first, (Q, H), with the memories that are on."""
    found = []
    try:
        for layer in layers(model):
            layer.records_gates = True
        for prompt in prompts:
            model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=False)
            found.append(
                torch.cat([layer.recorded_BLH[0, 1:].mean(0) for layer in layers(model)]).float().cpu().numpy()
            )
    finally:
        for layer in layers(model):
            layer.records_gates = False
    return np.stack(found)


def _gates(model: Any, tokenizer: Any, documents: Sequence[Read]) -> dict[str, float]:
    """How well the gates tell own questions from another document's, both asked under the document's own name.

    Means over documents of: the mean over heads, the best head, and the mean gate of the `BEST` heads.
    """
    rows = []
    for number, (name, items, _) in enumerate(documents):
        switch(model, [name])
        own, others = (
            question_gates(model, [chat(tokenizer, name, item.question) for item in asked if item.evidence])
            for asked in (items, documents[number - 1].items)
        )
        rows.append(separation(own, others))
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def separation(own_QH: np.ndarray, others_QH: np.ndarray) -> dict[str, float]:
    """Areas under the ROC curve of gates: mean over heads, best head, and the best heads' mean.

    The best ones are chosen on every other question, and measured on the rest; their gates are standardised by the former.
    """
    (own, own_held), (others, others_held) = ((x[::2], x[1::2]) for x in (own_QH, others_QH))
    chosen = np.array([auroc(a, b) for a, b in zip(own.T, others.T, strict=True)])
    held = np.array([auroc(a, b) for a, b in zip(own_held.T, others_held.T, strict=True)])
    best = np.argsort(-chosen, kind="stable")[:BEST]
    both = np.concatenate([own, others])[:, best]
    centre, spread = both.mean(0), both.std(0) + 1e-12
    together = [((x[:, best] - centre) / spread).mean(1) for x in (own_held, others_held)]
    return {"mean": float(held.mean()), "best": float(held[best[0]]), f"best {BEST}": auroc(*together)}
