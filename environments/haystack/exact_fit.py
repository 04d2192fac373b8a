"""Fits needles and filler between the two ends of a prompt, to the token, whatever the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Layout, LayoutError, lay_out
from environments.haystack.tokens import BREAK

CORRECTIONS = 160  # budgets tried with a tokenizer whose counts do not add up
TRIES_PER_ORDER = 8  # of them, with one order of passages: only the ending changes then, so the error hardly does


@dataclass(frozen=True, slots=True)
class Frame:
    """The prompt around the haystack: its text, the tokens before the haystack, and the tokens left for it."""

    before: str
    after: str
    head: int
    room: int
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Sentences to hide and their depths; the tokens of the last of them, where they have been counted before."""

    texts: Sequence[str]
    depths: Sequence[float]
    known: np.ndarray


def fit(pool: Pool, frame: Frame, plan: Plan, numbered: bool, rng: Random) -> tuple[Layout, np.ndarray, np.ndarray]:
    """The haystack, and for all needles their first tokens and those behind their last, from the haystack's start on.

    Sums only, where the tokenizer's counts add up. Raises `LayoutError`.
    """
    if not pool.additive:
        return _fit_and_correct(pool, frame, plan, numbered, rng)
    laid = lay_out(pool, plan.texts, plan.depths, frame.room, rng, numbered, plan.known)
    return laid, laid.starts, laid.starts + laid.costs


def _fit_and_correct(
    pool: Pool, frame: Frame, plan: Plan, numbered: bool, rng: Random
) -> tuple[Layout, np.ndarray, np.ndarray]:
    """The same by tokenising the finished prompt, mending the budget and trying again."""
    for attempt in range(CORRECTIONS):
        if attempt % TRIES_PER_ORDER == 0:
            order, budget = rng.getrandbits(64), frame.room
        laid = lay_out(pool, plan.texts, plan.depths, budget, Random(order), numbered, plan.known)
        ids, offsets = pool.tokens.offsets(BREAK.join([frame.before, laid.text, frame.after]))
        if len(ids) == frame.length:
            first, spans = len(frame.before) + len(BREAK), []
            for chars, text in zip(laid.chars, plan.texts, strict=True):
                low, high = first + chars, first + chars + len(text)
                inside = [i for i, (start, end) in enumerate(offsets) if start < high and end > low]
                spans.append((inside[0] - frame.head, inside[-1] + 1 - frame.head))
            starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
            return laid, starts, ends
        budget += frame.length - len(ids)
    raise LayoutError(
        f"no haystack of exactly {frame.length} tokens was found in {CORRECTIONS} tries: the counts of this tokenizer's "
        "pieces do not add up; ask for another length or another tokenizer"
    )
