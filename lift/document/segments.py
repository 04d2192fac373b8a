"""Cut a document's tokens into overlapping training segments, and put the published context in front of a segment.

LIFT (arXiv 2502.14644v3, 3.1 and 3.3). Segments of `length` tokens start at 0, stride, 2·stride, …, so that a token
near the border of one stands inside another. Pure functions of counts and ids, without a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from environments.retrieval.chunking import windows
from longthread.errors import ConfigError
from longthread.language_model import ChatTokenizer

IGNORED = -100  # the label that cross-entropy leaves out
ELLIPSIS = "..."
RECITE = "\n\nThese are parts of a longer text. Recite the following segment of it:\n\n"


class LabelledIds(NamedTuple):
    """One training sequence. `labels` has a label for each token of `ids`, not shifted: `IGNORED` where no loss is
    taken."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Context:
    """Settings of the text in front of a segment: `budget` tokens of the document, an ellipsis and an instruction.

    The document's tokens come from its first `window` tokens and its last `window` tokens.
    """

    ellipsis: tuple[int, ...]
    instruction: tuple[int, ...]
    budget: int = 4096
    window: int = 4096

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> "Context":
        """Return the context of the published code, with ellipsis and instruction encoded by the tokenizer."""
        ellipsis, instruction = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ELLIPSIS, RECITE))
        return cls(tuple(ellipsis), tuple(instruction))

    def spans(self, n_tokens: int, rng: Random) -> tuple[range, range]:
        """Draw two ranges of token positions: one within the document's first `window` tokens and one within its last.

        Together they have `budget` tokens, or all `n_tokens` of a shorter document. The length of the first range, and
        where each range begins, are drawn uniformly. Raises `ConfigError` where the two windows cannot hold the budget.
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
    """Return overlapping ranges of up to `length` token positions that cover all `n_tokens` of a document.

    One begins every `stride` tokens (3/8 of the length by default). The last is the first that reaches the document's
    end. Its predecessor does not, so the last is longer than the overlap (`length - stride`), unless it is the only
    one. The published code goes on to ever shorter ones, down to a few tokens. Raises `ConfigError`.
    """
    return windows(n_tokens, length, max(1, 3 * length // 8) if stride is None else stride)


def plain(ids: Sequence[int], segment: range) -> LabelledIds:
    """Return the tokens of one segment, with a loss on every token."""
    tokens = list(ids[segment.start : segment.stop])
    return LabelledIds(tokens, list(tokens))


def contextualised(ids: Sequence[int], segment: range, rng: Random, context: Context) -> LabelledIds:
    """Return a segment behind context without loss: head of the document, ellipsis, tail of it, instruction to recite.

    Each call draws a new context. Called once an epoch, it resamples; the published code draws once a document.
    """
    head, tail = context.spans(len(ids), rng)
    prefix = [*ids[head.start : head.stop], *context.ellipsis, *ids[tail.start : tail.stop], *context.instruction]
    alone = plain(ids, segment)
    return LabelledIds(prefix + alone.ids, [IGNORED] * len(prefix) + alone.labels)
