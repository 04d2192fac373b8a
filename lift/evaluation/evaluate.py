"""Measure a memory: closed-book recall, recall beside a window, forgetting, selectivity of the gate.

    results = evaluate(model, tokenizer, DocumentQuestions(document, items), control_set(tokenizer))
    save({"lse": results}, Path("evaluation"))        # results.py

The model is a PEFT model with the document's memory on; "off" is the same model with its adapter disabled.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from environments.rollouts.thinking import without_thinking
from environments.rollouts.values import normalise
from lift.document.token_spans import TokenSpans
from lift.evaluation.results import Results
from lift.inference.generate import MIN_WINDOW, WINDOW_TOKENS, answers, chat
from lift.inference.switch import auroc
from lift.tasks import Item, right
from lift.tasks.synthetic_document import ControlSet, DocumentQuestions
from longthread.errors import ConfigError, RunError
from longthread.files import JsonObject
from longthread.language_model import CausalLM, ChatTokenizer
from longthread.statistics import Z95, Share

BINS = 10  # of depth
GENERAL = "general knowledge"  # the name under which unrelated questions are asked
LOGIT_BYTES = 2**30  # of the 32-bit logits held at once


class Prompt(NamedTuple):
    """A question, the `name` of the document that it is about, and the text (`window`) before the question."""

    name: str
    question: str
    window: str = ""


Answer = Callable[[Sequence[Prompt]], list[str]]
Gate = Callable[[CausalLM, torch.Tensor], torch.Tensor]  # token ids (1, T) -> how far it is open at each, T numbers


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation.

    `window_tokens` is the length of the text before a question. `gate` measures how far the memory is open at each
    token; None for a method without gates. `answer` replies to prompts in place of the model.
    """

    window_tokens: int = WINDOW_TOKENS
    gate: Gate | None = None
    answer: Answer | None = None
    progress: bool = True


# ---- what the model predicts of a text ----


@contextmanager
def _inference(model: CausalLM) -> Iterator[None]:
    """Turn dropout and gradients off, and afterwards back to what they were."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _memory_off(model: CausalLM) -> AbstractContextManager[None]:
    # A model without adapters may be evaluated too: the row to compare all others with.
    disable = getattr(model, "disable_adapter", None)
    return disable() if disable else nullcontext()


def nll(model: CausalLM, ids: Sequence[int], window_tokens: int) -> np.ndarray:
    """Return the negative log-likelihood in nats of every token but the first of each window; windows do not overlap.

    The softmax is computed in 32 bits. If the logits of a window would take more than `LOGIT_BYTES`, the model reads the
    window once for each part of its positions: slower, with the same result.
    """
    rows = max(1, LOGIT_BYTES // (4 * model.config.get_text_config().vocab_size))
    losses: list[torch.Tensor] = []
    with _inference(model):
        for window in _windows(ids, window_tokens):
            ids_BT = torch.tensor([window], device=model.device)
            for first in range(0, len(window) - 1, rows):
                at = torch.arange(first, min(first + rows, len(window) - 1), device=model.device)
                logits_TV = model(input_ids=ids_BT, logits_to_keep=at, use_cache=False).logits[0].float()
                logits_T = logits_TV.gather(1, ids_BT[0, at + 1, None])[:, 0]
                losses.append((logits_TV.logsumexp(-1) - logits_T).double().cpu())
    return torch.cat(losses).numpy() if losses else np.zeros(0)


def _windows(ids: Sequence[int], tokens: int) -> list[list[int]]:
    return [list(ids[first : first + tokens]) for first in range(0, len(ids), tokens)]


def _gate_scores(model: CausalLM, gate: Gate, texts: Sequence[TokenSpans], window_tokens: int) -> np.ndarray:
    parts = [np.zeros(0)]
    with _inference(model):
        for window in (window for text in texts for window in _windows(text.ids, window_tokens)):
            scores = gate(model, torch.tensor([window], device=model.device)).double().flatten().cpu().numpy()
            if len(scores) != len(window) or not np.isfinite(scores).all():
                raise RunError(f"the gate gave no finite number for each of {len(window)} tokens: fit the memory again")
            parts.append(scores)
    return np.concatenate(parts)


# ---- questions ----


@dataclass(frozen=True)
class _Stage:
    """Questions to ask with the memory on or off. `name` is the field of `Results` that they fill."""

    name: str
    items: Sequence[Item]
    prompts: list[Prompt]
    judge: Callable[[Item, str], bool] = right
    by_kind: bool = False  # the field has a share for each kind of question

    @property
    def memory_off(self) -> bool:
        return self.name.endswith("_off")


def evaluate(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    asked: DocumentQuestions,
    control: ControlSet,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
) -> Results:
    """Measure the active memory of `model`, which must be that of the document in `asked`, and return the results.

    The questions in `asked` should be worded differently from those the memory was fitted on. Questions of
    `control.other` should be answerable by a model never trained on their form, such as needles: `right` finds a value
    in a sentence. Raises `ConfigError`, and `RunError` for a memory that yields NaN or infinity.
    """
    window_tokens, gate = settings.window_tokens, settings.gate
    if window_tokens < MIN_WINDOW:
        raise ConfigError(f"a window of {window_tokens} tokens is below {MIN_WINDOW}: give more")
    document, items = asked
    texts = (document.text, control.other.document.text, control.neutral)
    spans, other_spans, neutral = (TokenSpans.encode(tokenizer, text) for text in texts)
    if len(neutral.ids) < 2:
        raise ConfigError(f"the neutral text has {len(neutral.ids)} tokens: give at least 2, better 2,000")
    answer = settings.answer or (
        lambda prompts: answers(model, tokenizer, [chat(tokenizer, *prompt) for prompt in prompts])
    )
    stages = [*_about(asked, spans, window_tokens), *_about_others(control, other_spans, window_tokens)]
    correct = _ask(model, stages, answer, settings.progress)
    fields: JsonObject = {
        stage.name: _by_kind(stage.items, correct[stage.name])
        if stage.by_kind
        else Share(sum(correct[stage.name]), len(stage.items))
        for stage in stages
    }
    scores = [_gate_scores(model, gate, side, window_tokens) for side in ([spans], [neutral, other_spans]) if gate]
    return Results(
        document=document.name,
        digest=document.digest,
        tokens=len(spans.ids),
        window_tokens=window_tokens,
        depths=_by_depth(spans, items, correct["closed"]),
        **fields,
        **_forgetting(model, neutral.ids, window_tokens),
        gate_auroc=auroc(*scores) if scores else None,
    )


def _ask(model: CausalLM, stages: Sequence[_Stage], answer: Answer, progress: bool) -> dict[str, list[bool]]:
    """Ask the questions of all stages. Returns for each stage's name which of its questions were answered right."""
    correct = {}
    with tqdm(total=sum(len(stage.items) for stage in stages), unit=" questions", disable=not progress) as bar:
        for stage in stages:
            bar.set_description(stage.name.replace("_", ", "))
            with _memory_off(model) if stage.memory_off else nullcontext():
                replies = answer(stage.prompts) if stage.prompts else []
            correct[stage.name] = [stage.judge(*pair) for pair in zip(stage.items, replies, strict=True)]
            bar.update(len(stage.items))
    return correct


def _about(asked: DocumentQuestions, spans: TokenSpans, window: int) -> list[_Stage]:
    """Return the stages that ask about the document itself."""
    name, items = asked.document.name, asked.items
    beside = [Prompt(name, item.question, spans.window_around(item.evidence, window)) for item in items]
    with_evidence = [item for item in items if item.evidence]
    apart = [Prompt(name, item.question, spans.window_without(item.evidence, window)) for item in with_evidence]
    return [
        _Stage("closed", items, [Prompt(name, item.question) for item in items], by_kind=True),
        _Stage("window", items, beside, by_kind=True),
        _Stage("window_off", items, beside, by_kind=True),
        _Stage("elsewhere", with_evidence, apart, by_kind=True),
    ]


def _about_others(control: ControlSet, spans: TokenSpans, window: int) -> list[_Stage]:
    """Return the stages that ask about another document, which stands in the window, and about general knowledge."""
    name, items = control.other.document.name, control.other.items
    strange = [Prompt(name, item.question, spans.window_around(item.evidence, window)) for item in items]
    general = [Prompt(GENERAL, item.question) for item in control.unrelated]
    judge = _names_alone(control.unrelated)
    return [
        _Stage("other", items, strange),
        _Stage("other_off", items, strange),
        _Stage("unrelated", control.unrelated, general, judge),
        _Stage("unrelated_off", control.unrelated, general, judge),
    ]


def _names_alone(items: Sequence[Item]) -> Callable[[Item, str], bool]:
    """Return a judge that accepts a reply whose first line holds the item's answer and no other item's answer.

    Another item's answer is allowed where the question names it. An untrained model replies to such questions in whole
    sentences, all of which `right` would reject.
    """
    every = {normalise(text) for item in items for text in (item.answer, *item.alternatives)}

    def judge(item: Item, reply: str) -> bool:
        said = without_thinking(reply).strip().partition("\n")[0]
        line, question = (f" {normalise(text)} " for text in (said, item.question))
        gold = {normalise(text) for text in (item.answer, *item.alternatives)}
        named = {text for text in every if _holds(line, text) and (text in gold or not _holds(question, text))}
        return bool(named) and named <= gold

    return judge


def _holds(text: str, answer: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(answer)}(?![\w-])", text) is not None


def _by_kind(items: Sequence[Item], correct: Sequence[bool]) -> dict[str, Share]:
    shares: dict[str, Share] = defaultdict(Share)
    for item, good in zip(items, correct, strict=True):
        shares[item.kind] += Share(int(good), 1)
    return dict(shares)


def _by_depth(spans: TokenSpans, items: Sequence[Item], correct: Sequence[bool]) -> dict[str, list[Share]]:
    shares: dict[str, list[Share]] = defaultdict(lambda: [Share()] * BINS)
    for item, good in zip(items, correct, strict=True):
        if len(item.evidence) == 1:
            tenth = min(int(spans.depth(item.evidence[0]) * BINS), BINS - 1)
            shares[item.kind][tenth] += Share(int(good), 1)
    return dict(shares)


def _forgetting(model: CausalLM, ids: Sequence[int], window_tokens: int) -> JsonObject:
    """Return the fields of `Results` that say how the memory changes the likelihood of neutral text."""
    on = nll(model, ids, window_tokens)
    with _memory_off(model):
        off = nll(model, ids, window_tokens)
    if not np.isfinite([on, off]).all():
        raise RunError("the likelihood of the neutral text is not finite: fit the memory again, at a lower rate")
    change = on - off
    mean, reach = float(change.mean()), Z95 * float(change.std()) / math.sqrt(len(change))
    return {"nll": float(on.mean()), "nll_off": float(off.mean()), "nll_change": (mean - reach, mean + reach)}
