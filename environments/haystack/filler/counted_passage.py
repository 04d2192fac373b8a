"""A passage of filler with what each way to cut it costs in tokens."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Span = tuple[int, int]  # the characters text[start:end]


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Paragraphs joined by blank lines: the breaks. A cut is a space between two sentences where a needle may stand.

    All counts are of tokens inside a haystack; `tokens` includes the blank line behind the passage.
    """

    text: str
    tokens: int
    cut_chars: np.ndarray  # int64 (cuts,): a needle may stand before the space at text[cut]
    cut_tokens: np.ndarray  # int64 (cuts,): tokens before that space
    break_chars: np.ndarray  # int64 (paragraphs - 1,): where the blank lines begin
    break_tokens: np.ndarray  # int64 (paragraphs - 1,): tokens before them, their own included
    relabel: int  # what the first sentence costs more when a "[12] " stands before it instead of a blank line

    def paragraphs(self) -> list[Span]:
        """Return the characters of each paragraph."""
        ends = [*self.break_chars.tolist(), len(self.text)]
        return list(zip([0, *(end + 2 for end in ends[:-1])], ends, strict=True))  # 2: the blank line

    def sentences(self) -> list[Span]:
        """Return the characters of each sentence."""
        starts = [start for start, _ in self.paragraphs()]
        borders = sorted([*starts, *(cut + 1 for cut in self.cut_chars.tolist()), len(self.text) + 1])
        paragraph_starts = set(starts)
        return [(a, b - (2 if b in paragraph_starts else 1)) for a, b in pairwise(borders)]
