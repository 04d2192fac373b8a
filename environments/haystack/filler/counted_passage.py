"""A passage of filler with what each way to cut it costs in tokens."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

Span = tuple[int, int]  # the characters text[start:end]


@dataclass(frozen=True, eq=False)
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

    @cached_property
    def end_chars(self) -> np.ndarray:
        """Where the paragraphs end: int64 (paragraphs,)."""
        return np.array([*self.break_chars.tolist(), len(self.text)])

    @cached_property
    def end_tokens(self) -> np.ndarray:
        """Tokens up to the end of each paragraph, with the blank line behind it: int64 (paragraphs,)."""
        return np.array([*self.break_tokens.tolist(), self.tokens])

    def tokens_at(self, char: int) -> int:
        """Return the tokens before a sentence that starts at that character, or up to one that ends there."""
        return self._tokens_at[char]

    @cached_property
    def _tokens_at(self) -> dict[int, int]:
        cuts = list(zip(self.cut_chars.tolist(), self.cut_tokens.tolist(), strict=True))
        ends = list(zip(self.end_chars.tolist(), self.end_tokens.tolist(), strict=True))
        starts = [*((char + 1, tokens) for char, tokens in cuts), *((char + 2, tokens) for char, tokens in ends[:-1])]
        return {0: 0, **dict(cuts), **dict(ends), **dict(starts)}

    def paragraphs(self) -> list[Span]:
        """Return the characters of each paragraph."""
        ends = self.end_chars.tolist()
        return list(zip([0, *(end + 2 for end in ends[:-1])], ends, strict=True))  # 2: the blank line

    def sentences(self) -> list[Span]:
        """Return the characters of each sentence."""
        starts = [start for start, _ in self.paragraphs()]
        borders = sorted([*starts, *(cut + 1 for cut in self.cut_chars.tolist()), len(self.text) + 1])
        paragraph_starts = set(starts)
        return [(a, b - (2 if b in paragraph_starts else 1)) for a, b in pairwise(borders)]


@dataclass(frozen=True, slots=True)
class Block:
    """A passage that stands in the text with a needle in it: what stands before and behind the needle there, and in tokens
    the whole, what is before the needle, and what ends with it."""

    before: str
    after: str
    tokens: int
    start: int
    end: int
