"""What a memory gave and what it took: closed-book recall, recall beside a window, forgetting, selectivity of the gate.

    results = evaluate(model, tokenizer, document, items, neutral=text, unrelated=questions, other=(document_2, items_2))
    save({"lse": results}, Path("evaluation"))        # evaluate_plot.py

The model is a PEFT model with the document's memory on; "off" is the same model with its adapter disabled.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from environments.rollouts.scoring import normalise
from lift import LiftError
from lift.document.document import Document
from lift.document.token_spans import Placed
from lift.evaluation.results import Z95, Rate, Results
from lift.inference.generate import MIN_WINDOW, answers, chat
from lift.tasks import Item, right

BINS = 10  # of depth
GENERAL = "general knowledge"  # the name under which unrelated questions are asked
LOGIT_BYTES = 2**30  # of the 32-bit logits held at once
OF_DOCUMENT = 4  # the first stages ask about the document itself: told apart by kind


class Prompt(NamedTuple):
    """`name` of the document that the question is about, and the text before it."""

    name: str
    question: str
    window: str = ""


Answer = Callable[[Sequence[Prompt]], list[str]]
Gate = Callable[[Any, torch.Tensor], torch.Tensor]


# ---- what the model says of a text ----


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """No dropout and no gradients, and the model afterwards as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _off(model: Any) -> AbstractContextManager:
    # A model without adapters may be evaluated too: the row to compare all others with.
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def nll(model: Any, ids: Sequence[int], window_tokens: int) -> np.ndarray:
    """Negative log-likelihood in nats of each token but the first of each window, windows side by side.

    The softmax is in 32 bits. Where the logits of a window would take more than `LOGIT_BYTES`, the window is read once
    for each part of its positions: the same figures, more slowly.
    """
    rows = max(1, LOGIT_BYTES // (4 * model.config.get_text_config().vocab_size))
    found: list[torch.Tensor] = []
    with _still(model):
        for window in _windows(ids, window_tokens):
            ids_BT = torch.tensor([window], device=model.device)
            for first in range(0, len(window) - 1, rows):
                at = torch.arange(first, min(first + rows, len(window) - 1), device=model.device)
                logits_TV = model(input_ids=ids_BT, logits_to_keep=at, use_cache=False).logits[0].float()
                said_T = logits_TV.gather(1, ids_BT[0, at + 1, None])[:, 0]
                found.append((logits_TV.logsumexp(-1) - said_T).double().cpu())
    return torch.cat(found).numpy() if found else np.zeros(0)


def _windows(ids: Sequence[int], tokens: int) -> list[list[int]]:
    return [list(ids[first : first + tokens]) for first in range(0, len(ids), tokens)]


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive score is above a negative one, ties counting half: exact, from ranks."""
    scores, n = np.concatenate([positive, negative]), len(positive)
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]  # of equal scores, the middle one
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def _scores(model: Any, gate: Gate, texts: Sequence[Placed], window_tokens: int) -> np.ndarray:
    found = [np.zeros(0)]
    with _still(model):
        for window in (window for text in texts for window in _windows(text.ids, window_tokens)):
            scores = gate(model, torch.tensor([window], device=model.device)).double().flatten().cpu().numpy()
            if len(scores) != len(window) or not np.isfinite(scores).all():
                raise LiftError(
                    f"the gate gave no finite number for each of {len(window)} tokens: fit the memory again"
                )
            found.append(scores)
    return np.concatenate(found)


# ---- all of it ----


class _Stage(NamedTuple):
    """Questions to ask with the memory on or off. `name` is the field of `Results` that they fill."""

    name: str
    items: Sequence[Item]
    prompts: list[Prompt]


def evaluate(
    model: Any,
    tokenizer: Any,
    document: Document,
    items: Sequence[Item],
    *,
    neutral: str,
    unrelated: Sequence[Item],
    other: tuple[Document, Sequence[Item]],
    window_tokens: int = 2048,
    gate: Gate | None = None,
    progress: bool = True,
    answer: Answer | None = None,
) -> Results:
    """Everything that `Results` holds, for the memory of `document` that is on in `model`.

    `items` should be worded otherwise than those it was fitted on; `neutral` is text that no document holds; `other` is
    another document with its questions, such as a model can answer that was never trained on their form (needles: `right`
    finds a value in a sentence). `gate(model, ids [1, T])` gives T numbers; None where the method has no gate.
    `answer` replies to prompts in place of the model. Raises `LiftError`.
    """
    here, there, plain = (Placed(tokenizer, text) for text in (document.text, other[0].text, neutral))
    if window_tokens < MIN_WINDOW:
        raise LiftError(f"window_tokens {window_tokens} is below {MIN_WINDOW}: give more")
    if len(plain.ids) < 2:
        raise LiftError(f"the neutral text has {len(plain.ids)} tokens: give at least 2, better 2,000")
    ask = answer or (lambda prompts: answers(model, tokenizer, [chat(tokenizer, *prompt) for prompt in prompts]))
    stages = _stages(document, here, items, unrelated, (other[0], there, other[1]), window_tokens)
    judged: dict[str, list[bool]] = {}
    with tqdm(total=sum(len(s.items) for s in stages), unit=" questions", disable=not progress) as bar:
        for name, asked, prompts in stages:
            bar.set_description(name.replace("_", ", "))
            with _off(model) if name.endswith("_off") else nullcontext():
                replies = ask(prompts) if prompts else []
            judge = _spoken(unrelated) if name.startswith("unrelated") else right
            judged[name] = [judge(item, reply) for item, reply in zip(asked, replies, strict=True)]
            bar.update(len(asked))
    kinds: dict[str, Any] = {s.name: _by_kind(s.items, judged[s.name]) for s in stages[:OF_DOCUMENT]}
    totals: dict[str, Any] = {s.name: Rate(sum(judged[s.name]), len(s.items)) for s in stages[OF_DOCUMENT:]}
    return Results(
        document=document.name,
        digest=document.digest,
        tokens=len(here.ids),
        window_tokens=window_tokens,
        depths=_by_depth(here, items, judged["closed"]),
        **kinds,
        **totals,
        **_forgetting(model, plain.ids, window_tokens),
        gate_auroc=auroc(*(_scores(model, gate, of, window_tokens) for of in ([here], [plain, there])))
        if gate
        else None,
    )


def _stages(
    document: Document,
    here: Placed,
    items: Sequence[Item],
    unrelated: Sequence[Item],
    other: tuple[Document, Placed, Sequence[Item]],
    window: int,
) -> list[_Stage]:
    closed = [Prompt(document.name, item.question) for item in items]
    beside = [Prompt(document.name, item.question, here.around(item.evidence, window)) for item in items]
    held = [item for item in items if item.evidence]
    apart = [Prompt(document.name, item.question, here.away(item.evidence, window)) for item in held]
    stranger, there, asked = other
    strange = [Prompt(stranger.name, item.question, there.around(item.evidence, window)) for item in asked]
    general = [Prompt(GENERAL, item.question) for item in unrelated]
    return [
        _Stage("closed", items, closed),
        _Stage("window", items, beside),
        _Stage("window_off", items, beside),
        _Stage("elsewhere", held, apart),
        _Stage("other", asked, strange),
        _Stage("other_off", asked, strange),
        _Stage("unrelated", unrelated, general),
        _Stage("unrelated_off", unrelated, general),
    ]


def _spoken(items: Sequence[Item]) -> Callable[[Item, str], bool]:
    """Right is a first line that holds the answer and none of the other items' answers, those in the question aside.

    An untrained model replies to such questions in whole sentences, which `right` would call wrong, all of them.
    """
    every = {normalise(text) for item in items for text in (item.answer, *item.alternatives)}

    def judge(item: Item, reply: str) -> bool:
        said, asked = (f" {normalise(text)} " for text in (reply.strip().partition("\n")[0], item.question))
        gold = {normalise(text) for text in (item.answer, *item.alternatives)}
        named = {text for text in every if _names(said, text) and (text in gold or not _names(asked, text))}
        return bool(named) and named <= gold

    return judge


def _names(text: str, answer: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(answer)}(?![\w-])", text) is not None


def _by_kind(items: Sequence[Item], judged: Sequence[bool]) -> dict[str, Rate]:
    rates: dict[str, Rate] = defaultdict(Rate)
    for item, good in zip(items, judged, strict=True):
        rates[item.kind] += Rate(int(good), 1)
    return dict(rates)


def _by_depth(here: Placed, items: Sequence[Item], judged: Sequence[bool]) -> dict[str, list[Rate]]:
    rates: dict[str, list[Rate]] = defaultdict(lambda: [Rate()] * BINS)
    for item, good in zip(items, judged, strict=True):
        if len(item.evidence) == 1:
            rates[item.kind][min(int(here.depth(item.evidence[0]) * BINS), BINS - 1)] += Rate(int(good), 1)
    return dict(rates)


def _forgetting(model: Any, ids: Sequence[int], window_tokens: int) -> dict[str, Any]:
    on = nll(model, ids, window_tokens)
    with _off(model):
        off = nll(model, ids, window_tokens)
    if not np.isfinite([on, off]).all():
        raise LiftError("the likelihood of the neutral text is not finite: fit the memory again, at a lower rate")
    change = on - off
    middle, reach = float(change.mean()), Z95 * float(change.std()) / math.sqrt(len(change))
    return {"nll": float(on.mean()), "nll_off": float(off.mean()), "nll_change": (middle - reach, middle + reach)}
