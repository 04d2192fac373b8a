"""Fits needles and filler between the two ends of a prompt, to the token, whatever the tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Hidden, Layout, LayoutError, in_blocks, lay_out
from environments.haystack.listing import Listing
from environments.haystack.tokens import BREAK, Tokens

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


def fit(pool: Pool, frame: Frame, hidden: Hidden, numbered: bool, rng: Random) -> Layout:
    """Return a haystack that fills the frame to the exact token, with the hidden sentences at their depths.

    Raises `LayoutError`.

    By sums alone where the tokenizer's counts add up. Elsewhere the finished prompt is tokenised, the budget corrected
    and the layout tried again; `Layout.starts` and `.ends` are then those of the tokenised prompt.
    """
    if pool.additive:
        return in_blocks(lay_out(pool, hidden, frame.room, rng, numbered), hidden)
    made = lambda budget, order: in_blocks(lay_out(pool, hidden, budget, order, numbered), hidden)  # noqa: E731
    return _corrected(pool.tokens, frame, made, hidden.texts, rng)


def fit_listing(listing: Listing, frame: Frame, rng: Random) -> Layout:
    """Return a text of the listing's items that fills the frame to the exact token, as `fit` does. Raises `LayoutError`."""
    if listing.items.additive:
        return listing.lay_out(frame.room, rng, rng)
    # Closing items stand elsewhere in every try, or two budgets would lead to each other again and again.
    made = lambda budget, order: listing.lay_out(budget, order, rng)  # noqa: E731
    return _corrected(listing.items.tokens, frame, made, (), rng)


def _corrected(
    tokens: Tokens, frame: Frame, made: Callable[[int, Random], Layout], texts: Sequence[str], rng: Random
) -> Layout:
    """Return a layout with which the finished prompt has the frame's length; `made` makes one of a budget of tokens."""
    for attempt in range(CORRECTIONS):
        if attempt % TRIES_PER_ORDER == 0:
            order, budget = rng.getrandbits(64), frame.room
        layout = made(budget, Random(order))
        ids, offsets = tokens.offsets(BREAK.join([frame.before, layout.text, frame.after]))
        if len(ids) == frame.length:
            starts, ends = _tokens_of(layout, texts, frame, offsets)
            return replace(layout, starts=starts, ends=ends)
        budget += frame.length - len(ids)
    raise LayoutError(
        f"no haystack of exactly {frame.length} tokens was found in {CORRECTIONS} tries: the counts of this tokenizer's "
        "pieces do not add up; ask for another length or another tokenizer",
        setting=("lengths", "tokenizer_name"),
    )


def _tokens_of(layout: Layout, texts: Sequence[str], frame: Frame, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Return each needle's first token and the one behind its last, counted in the haystack: int64 (2, needles)."""
    first, spans = len(frame.before) + len(BREAK), []
    for chars, text in zip(layout.chars, texts, strict=True):
        low, high = first + chars, first + chars + len(text)
        inside = [i for i, (start, end) in enumerate(offsets) if start < high and end > low]
        spans.append((inside[0] - frame.head, inside[-1] + 1 - frame.head))
    return np.array(spans, dtype=np.int64).reshape(-1, 2).T
