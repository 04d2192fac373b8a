"""What `benchmarks.lift` measures of one document: a fit and its evaluation, or a model with the document in its window."""

import gc
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from lift import tasks
from lift.document.document import Document, read
from lift.document.token_spans import TokenSpans
from lift.evaluation.evaluate import Prompt, Settings, evaluate
from lift.inference import steps
from lift.inference.capacity import prefill_seconds
from lift.inference.generate import answers, chat
from lift.library import base_model
from lift.memory.tuner import gate, layers
from lift.tasks import Item, right, synthetic_document
from lift.tasks.synthetic_document import ControlSet, DocumentQuestions
from lift.training.fit import FitOptions, adapter_config, fit
from lift.training.recipes import RECIPES, Recipe
from longthread.errors import DataError
from longthread.model_shape import kv_bytes

NEEDLES, ABSENT, OTHERS = 32, 12, 16  # questions of an evaluation, beside all linked ones, cloze and order
OF_TEXT = 32  # questions of each kind about a real text
OTHER_TOKENS = 2048  # of the other document
WINDOW = 1024  # tokens of a text before a question
REPLY = 40  # tokens, at most
STEPWISE = ("needle", "linked", "absent")  # kinds of questions that have a form with steps


class Made(NamedTuple):
    """A document with its questions, in wordings that no method is trained on."""

    document: Document
    items: list[Item]


def equal(config: Any) -> dict[str, Any]:
    """Rank and slots at which all adapters of a model are of one size, that of a gated memory."""
    bare = RECIPES["published-v4"]
    gated = parameters(config, RECIPES["lse"])
    rank = round(gated / parameters(config, replace(bare, rank=1)))
    return {"rank": rank, "alpha": 2 * rank, "slots": round(2 * gated / kv_bytes(config, 1))}


def parameters(config: Any, given: Recipe) -> int:
    """Trained numbers of the recipe's adapter in a model of this config."""
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(deepcopy(config)), adapter_config(given))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def questions(document: Document, facts: Sequence[Any], seed: int) -> list[Item]:
    """In held-out wordings, every fact as often as any other."""
    asked = tasks.make(document, ("needle",), NEEDLES, seed, "eval")
    asked += [item for item in synthetic_document.items(facts) if item.kind == "linked"]
    asked += tasks.make(document, ("linked",), 12, seed, "eval")
    asked += tasks.make(document, ("absent",), ABSENT, seed, "eval")
    return asked + tasks.make(document, ("cloze", "order"), 8, seed, "eval")


def made(tokenizer: Any, tokens: int, source: int | Path) -> Made:
    """The made-up document of a seed, or the first `tokens` tokens of a text file, which is asked for gaps and order."""
    if isinstance(source, int):
        document, facts = synthetic_document.generate(tokenizer, tokens, source)
        return Made(document, questions(document, facts, source))
    text = read(source)
    spans = TokenSpans.encode(tokenizer, text.text)
    if len(spans.ids) < tokens:
        raise DataError(f"{source} has {len(spans.ids):,} tokens, {tokens:,} are asked for: give a longer text")
    document = Document(text.name, text.text[: spans.characters((0, tokens))[1]])
    return Made(document, tasks.make(document, ("cloze", "order"), OF_TEXT, 0, "eval"))


def load(folder: Path) -> tuple[Any, Any]:
    """The model, in bf16 on a GPU where there is one, and its tokenizer. Raises `ConfigError` where the folder has none."""
    logging.set_verbosity_error()
    return base_model.load(folder, base_model.device("auto")), base_model.tokenizer(folder)


def free() -> None:
    """Gives back what torch holds and no longer needs: others fit on the same GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measured(folder: Path, given: Recipe | None, tokens: int, source: int | Path, out: Path) -> dict[str, Any]:
    """One fit and its evaluation; without a recipe the model that has the whole document in its window."""
    free()  # what the last one held
    model, tokenizer = load(folder)
    document, items = made(tokenizer, tokens, source)
    seed = source if isinstance(source, int) else 0
    if given is None:
        done = _read(model, tokenizer, document)
    else:
        sized = replace(given, **equal(model.config))
        fitted = fit(document, model, tokenizer, sized, FitOptions(out, seed, progress=False))
        done = {
            "seconds": fitted.seconds, "prefill": fitted.prefill_seconds, "bytes": fitted.bytes, "kv": fitted.kv_bytes,
            "steps": fitted.steps, "losses": fitted.losses,
        }  # fmt: skip
        del model
        free()
        model = PeftModel.from_pretrained(load(folder)[0], str(out)).eval()
    other, _ = synthetic_document.generate(tokenizer, OTHER_TOKENS, 1000 + seed)
    unlike = tasks.make(other, ("needle",), OTHERS, seed, "eval")
    control = ControlSet(
        synthetic_document.neutral("eval"), synthetic_document.unrelated(), DocumentQuestions(other, unlike)
    )
    whole = document if given is None else None
    settings = Settings(
        window_tokens=WINDOW, progress=False, gate=gate if layers(model) else None,
        answer=lambda prompts: answers(model, tokenizer, [_ids(tokenizer, each, whole) for each in prompts], REPLY),
    )  # fmt: skip
    results = evaluate(model, tokenizer, DocumentQuestions(document, items), control, settings)
    in_steps = step_by_step(model, tokenizer, items, whole.text if whole else "")
    return {"results": results.to_json(), "in steps": in_steps, **done}


def step_by_step(model: Any, tokenizer: Any, items: Sequence[Item], window: str = "") -> dict[str, list[int]]:
    """Right answers and questions of each kind, each asked step by step (`lift ask --steps`), the text `window` before it."""
    asked = [item for item in items if item.kind in STEPWISE]
    prompts = [steps.chat(tokenizer, item.question, window) for item in asked]
    replies = answers(model, tokenizer, prompts, steps.NEW_TOKENS)
    shares = {kind: [0, 0] for kind in STEPWISE}
    for item, reply in zip(asked, replies, strict=True):
        shares[item.kind][0] += right(item, steps.value(reply))
        shares[item.kind][1] += 1
    return shares


def _read(model: Any, tokenizer: Any, document: Document) -> dict[str, Any]:
    """What it costs to have the document in the window: its keys and values are all that is kept of it."""
    ids = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
    seconds, size = prefill_seconds(model, ids), kv_bytes(model.config, len(ids))
    return {"seconds": seconds, "prefill": seconds, "bytes": size, "kv": size, "steps": 0, "losses": {}}


def _ids(tokenizer: Any, prompt: Prompt, whole: Document | None) -> list[int]:
    """The prompt's tokens, with the document `whole` before a question about it that has no text before it."""
    if whole and prompt.name == whole.name and not prompt.window:
        prompt = prompt._replace(window=whole.text)
    return chat(tokenizer, *prompt)
