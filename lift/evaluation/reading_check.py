"""Whether a model reads at all: what `compact` keeps is what the model finds, so a model that finds little is told apart.

Three generated passages of some 500 tokens with four facts each, as the window of twelve questions. A right answer is judged
as in `lift evaluate`. The result of a model is kept by its fingerprint, in `~/.cache/longthread/reading.json`.
"""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from environments.inference.embedded.demo_model import cache_dir
from lift.inference.generate import answers, chat
from lift.tasks import right
from lift.tasks.synthetic_document import passage_with_facts
from longthread.errors import ConfigError
from longthread.files import write_json
from longthread.language_model import CausalLM, ChatTokenizer

PASSAGES, FACTS = 3, 4
# Of the answers, to be right: far below a reader (95 % of facts in 8,192 tokens, docs/lift.md), and far above a model that
# guesses. Not tuned.
LEAST = 0.6
KEPT = "reading.json"
_STORED = TypeAdapter(dict[str, tuple[int, int]])


class Reading(NamedTuple):
    """How many of the questions about short passages a model answered rightly."""

    right: int
    asked: int


def measure(model: CausalLM, tokenizer: ChatTokenizer) -> Reading:
    """Ask the model about facts in passages that stand in its window."""
    found, asked = 0, 0
    for seed in range(PASSAGES):
        document, items = passage_with_facts(seed, FACTS)
        prompts = [chat(tokenizer, document.name, item.question, document.text) for item in items]
        replies = answers(model, tokenizer, prompts, read_once=True)
        found += sum(right(item, reply) for item, reply in zip(items, replies, strict=True))
        asked += len(items)
    return Reading(found, asked)


def check(model: CausalLM, tokenizer: ChatTokenizer, fingerprint: str) -> Reading:
    """Return how well the model of this fingerprint reads, from the cache or measured. Raises `ConfigError` below `LEAST`."""
    kept, path = _kept(), cache_dir() / KEPT
    if fingerprint not in kept:
        kept[fingerprint] = measure(model, tokenizer)
        write_json(path, kept)
    reading = Reading(*kept[fingerprint])
    if reading.right < LEAST * reading.asked:
        raise ConfigError(
            f"the model answers {reading.right} of {reading.asked} questions about short texts in its window, and compact "
            f"keeps no more than a model reads (at least {LEAST:.0%}): take a reader, another recipe, or fit anyway",
            setting=("model", "recipe", "anyway"),
        )
    return reading


def _kept() -> dict[str, tuple[int, int]]:
    """Return what was measured before; nothing from a file that is missing or damaged."""
    try:
        return _STORED.validate_python(json.loads(Path(cache_dir() / KEPT).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return {}
