"""A passage of filler with what each way to cut it costs in tokens."""

from dataclasses import dataclass

import numpy as np


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
