"""Which tokens a training sequence has: overlapping segments, and the published context in front of one.

LIFT (arXiv 2502.14644v3, 3.1 and 3.3). Segments of `length` tokens start at 0, stride, 2·stride, …, so that a token
near the border of one stands inside another. Pure functions of counts and ids; nothing here knows a model.
"""

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from random import Random
from typing import Any

from lift import LiftError

IGNORED = -100  # the label that cross-entropy leaves out
ELLIPSIS = "..."
RECITE = "\n\nThese are parts of a longer text. Recite the following segment of it:\n\n"


@dataclass(frozen=True)
class Sequence:
    """One training sequence. `labels` are as long as `ids` and not shifted; `IGNORED` where nothing is supervised."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Joints:
    """What stands between the parts of a contextualised sequence, in tokens."""

    ellipsis: tuple[int, ...]
    instruction: tuple[int, ...]


def segments(n_tokens: int, length: int, stride: int | None = None) -> list[range]:
    """Spans of at most `length` tokens that cover `n_tokens`, one every `stride` (3/8 of the length by default).

    The last segment is the first that reaches the end. Its predecessor does not, so it is longer than the overlap
    (`length - stride`), unless the document is one segment only; the published code goes on to ever shorter ones, down
    to a few tokens. Raises `LiftError`.
    """
    if length < 1 or n_tokens < 0:
        raise LiftError(f"segments of {length} tokens from {n_tokens}: the length must be at least 1, the count 0")
    stride = max(1, 3 * length // 8) if stride is None else stride
    if not 1 <= stride <= length:
        raise LiftError(
            f"stride {stride} is outside 1 to {length}: beyond the segment's length tokens would be left out"
        )
    beyond_first = max(0, n_tokens - length)
    starts = range(0, min(n_tokens, -(-beyond_first // stride) * stride + 1), stride)
    return [range(start, min(start + length, n_tokens)) for start in starts]


def plain(ids: Ids[int], segment: range) -> Sequence:
    """The segment alone, every token supervised."""
    tokens = list(ids[segment.start : segment.stop])
    return Sequence(tokens, list(tokens))


def joints(tokenizer: Any) -> Joints:
    """The joints in the tokens of a tokenizer, without special ones."""
    return Joints(*(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (ELLIPSIS, RECITE)))


def context(n_tokens: int, rng: Random, budget: int = 4096, window: int = 4096) -> tuple[range, range]:
    """Where the context of a segment comes from: a span of the first `window` tokens and one of the last.

    Together they have `budget` tokens, or all `n_tokens` of a shorter document; how many the head has, and where each
    span begins, is uniform. Raises `LiftError` where the two windows cannot hold the budget.
    """
    if not 0 <= budget <= 2 * window:
        raise LiftError(f"context of {budget} tokens is outside 0 to {2 * window}, twice the window of {window}")
    reach, total = min(window, n_tokens), min(budget, n_tokens)
    least, most = max(0, total - reach), min(total, reach)
    head = rng.randrange(least, most) if least < most else least
    at = rng.randint(0, reach - head)
    tail_at = n_tokens - reach + rng.randint(0, reach - (total - head))
    return range(at, at + head), range(tail_at, tail_at + total - head)


def contextualised(
    ids: Ids[int], segment: range, rng: Random, joints: Joints, budget: int = 4096, window: int = 4096
) -> Sequence:
    """The segment behind unsupervised context: head, ellipsis, tail, the instruction to recite.

    Each call draws anew, so a call an epoch resamples (the published code draws once a document).
    """
    head, tail = context(len(ids), rng, budget, window)
    prefix = [*ids[head.start : head.stop], *joints.ellipsis, *ids[tail.start : tail.stop], *joints.instruction]
    alone = plain(ids, segment)
    return Sequence(prefix + alone.ids, [IGNORED] * len(prefix) + alone.labels)
