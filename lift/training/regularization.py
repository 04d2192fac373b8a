"""Make rows of other text, on which a model should predict as before.

They are fiction, and questions about other things with the base model's replies.

A model that is only taught a document's answers would give them to every question.
"""

from collections.abc import Iterator
from itertools import cycle, islice
from random import Random

from environments.datasets.other_prompts import (
    OtherPrompt,
    general_prompts,
    prompts_about_nothing,
    prompts_about_text,
)
from environments.haystack.filler import prose
from lift.inference.generate import answers, chat, stop_token_ids
from lift.training.batches import LONG, WIDTHS, RegularizationRow
from longthread.language_model import CausalLM, ChatTokenizer

PROSE_KEPT = 256  # tokens of a row, its last
REPLY_TOKENS = 24
SENTENCES = (2, 40)  # around a fact, in a text that is asked about: up to some 900 tokens
DRAWS = 4  # prompts drawn for each that is to be short enough


def prose_rows(tokenizer: ChatTokenizer, rows: int, seed: int) -> list[RegularizationRow]:
    """Return rows of fiction of 1 to 4 times `PROSE_KEPT` tokens, so that positions up to `LONG` are covered alike."""
    stories = (
        tokenizer(prose.join(passage) + "\n\n", add_special_tokens=False)["input_ids"]
        for passage in prose.passages(1_000_000 + seed, "train")
    )
    pieces = _cut(stories, cycle(range(PROSE_KEPT, LONG + 1, PROSE_KEPT)))
    return [RegularizationRow(ids, PROSE_KEPT) for ids in islice(pieces, rows)]


def _cut(stories: Iterator[list[int]], lengths: Iterator[int]) -> Iterator[list[int]]:
    """Yield pieces of these lengths, cut from the joined stories."""
    ids: list[int] = []
    for length in lengths:
        while len(ids) < length:
            ids += next(stories)
        yield ids[:length]
        ids = ids[length:]


def other_prompts(tokenizer: ChatTokenizer, count: int, seed: int) -> list[list[int]]:
    """Return prompts about other things: general questions, and questions about facts of other texts, in turn.

    Of the latter some have their text in the window and some have not.
    """
    rng = Random(f"other prompts {seed}")
    kinds = cycle((general_prompts(rng), prompts_about_text(rng, SENTENCES), prompts_about_nothing(rng)))
    return [chat(tokenizer, *next(kind)) for kind in islice(kinds, count)]


def talk_rows(model: CausalLM, tokenizer: ChatTokenizer, rows: int, seed: int) -> list[RegularizationRow]:
    """Return rows of short questions with the model's replies, half of them about a sentence or two in the window."""
    rng = Random(f"talk {seed}")
    general = _short(_encoded(tokenizer, general_prompts(rng)), rows - rows // 2, WIDTHS[0])
    about_text = _short(_encoded(tokenizer, prompts_about_text(rng, (0, 1))), rows // 2, WIDTHS[0])
    return _with_replies(model, tokenizer, general + about_text)


def reading_rows(model: CausalLM, tokenizer: ChatTokenizer, rows: int, seed: int) -> list[RegularizationRow]:
    """Return rows of questions with the model's replies, about texts of all lengths in the window.

    A row has up to `LONG` tokens.
    """
    prompts = _encoded(tokenizer, prompts_about_text(Random(f"reading {seed}"), SENTENCES))
    return _with_replies(model, tokenizer, _short(prompts, rows, LONG))


def _encoded(tokenizer: ChatTokenizer, prompts: Iterator[OtherPrompt]) -> Iterator[list[int]]:
    return (chat(tokenizer, *prompt) for prompt in prompts)


def _with_replies(model: CausalLM, tokenizer: ChatTokenizer, prompts: list[list[int]]) -> list[RegularizationRow]:
    stop = stop_token_ids(model, tokenizer)[:1]
    rows = []
    for prompt, reply in zip(prompts, answers(model, tokenizer, prompts, REPLY_TOKENS), strict=True):
        ids = [*prompt, *tokenizer(reply, add_special_tokens=False)["input_ids"][:REPLY_TOKENS], *stop]
        rows.append(RegularizationRow(ids, min(REPLY_TOKENS, len(ids))))
    return rows


def _short(prompts: Iterator[list[int]], count: int, width: int) -> list[list[int]]:
    """Return the first prompts that leave room for a reply within the width, and longer ones if those are too few."""
    short: list[list[int]] = []
    longer: list[list[int]] = []
    for prompt in islice(prompts, DRAWS * count):
        (short if len(prompt) + REPLY_TOKENS + 1 <= width else longer).append(prompt)
        if len(short) == count:
            break
    return (short + longer)[:count]
