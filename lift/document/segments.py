"""Which tokens a training sequence has: overlapping segments, and the published context in front of one.

LIFT (arXiv 2502.14644v3, 3.1 and 3.3). Segments of `length` tokens start at 0, stride, 2·stride, …, so that a token
near the border of one stands inside another. Pure functions of counts and ids, without a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from longthread.errors import ConfigError
from longthread.language_model import ChatTokenizer

IGNORED = -100  # the label that cross-entropy leaves out
ELLIPSIS = "..."
RECITE = "\n\nThese are parts of a longer text. Recite the following segment of it:\n\n"


class LabelledIds(NamedTuple):
    """One training sequence. `labels` are as long as `ids` and not shifted; `IGNORED` where nothing is supervised."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Context:
    """The text in front of a segment: `budget` tokens of the document's beginning and end, and the tokens that join them.

    Each part comes from `window` tokens at its end of the document.
    """

    ellipsis: tuple[int, ...]
    instruction: tuple[int, ...]
    budget: int = 4096
    window: int = 4096

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> "Context":
        """The published context, with its joining text in the tokens of a tokenizer."""
        ellipsis, instruction = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ELLIPSIS, RECITE))
        return cls(tuple(ellipsis), tuple(instruction))

    def spans(self, n_tokens: int, rng: Random) -> tuple[range, range]:
        """Draw the tokens of the document to take: a span of the first `window` and one of the last.

        Together they have `budget` tokens, or all `n_tokens` of a shorter document. How many the head has, and where
        each span begins, is uniform. Raises `ConfigError` where the two windows cannot hold the budget.
        """
        if not 0 <= self.budget <= 2 * self.window:
            raise ConfigError(
                f"context of {self.budget} tokens is outside 0 to {2 * self.window}, twice the window of {self.window}"
            )
        reach, total = min(self.window, n_tokens), min(self.budget, n_tokens)
        least, most = max(0, total - reach), min(total, reach)
        head = rng.randrange(least, most) if least < most else least
        head_at = rng.randint(0, reach - head)
        tail_at = n_tokens - reach + rng.randint(0, reach - (total - head))
        return range(head_at, head_at + head), range(tail_at, tail_at + total - head)


def segments(n_tokens: int, length: int, stride: int | None = None) -> list[range]:
    """Spans of at most `length` tokens that cover `n_tokens`, one every `stride` (3/8 of the length by default).

    The last segment is the first that reaches the end. Its predecessor does not, so it is longer than the overlap
    (`length - stride`), unless the document is one segment only; the published code goes on to ever shorter ones, down
    to a few tokens. Raises `ConfigError`.
    """
    if length < 1 or n_tokens < 0:
        raise ConfigError(f"segments of {length} tokens from {n_tokens}: the length must be at least 1, the count 0")
    stride = max(1, 3 * length // 8) if stride is None else stride
    if not 1 <= stride <= length:
        raise ConfigError(
            f"stride {stride} is outside 1 to {length}: beyond the segment's length tokens would be left out"
        )
    beyond_first = max(0, n_tokens - length)
    starts = range(0, min(n_tokens, -(-beyond_first // stride) * stride + 1), stride)
    return [range(start, min(start + length, n_tokens)) for start in starts]


def plain(ids: Sequence[int], segment: range) -> LabelledIds:
    """The segment alone, every token supervised."""
    tokens = list(ids[segment.start : segment.stop])
    return LabelledIds(tokens, list(tokens))


def contextualised(ids: Sequence[int], segment: range, rng: Random, context: Context) -> LabelledIds:
    """The segment behind unsupervised context: head, ellipsis, tail, the instruction to recite.

    Each call draws a new context. Called once an epoch, it resamples; the published code draws once a document.
    """
    head, tail = context.spans(len(ids), rng)
    prefix = [*ids[head.start : head.stop], *context.ellipsis, *ids[tail.start : tail.stop], *context.instruction]
    alone = plain(ids, segment)
    return LabelledIds(prefix + alone.ids, [IGNORED] * len(prefix) + alone.labels)
