"""Pieces of a document by tokens: around its evidence, or away from it."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from lift.tasks.reading import Span

GAP = "\n[...]\n"  # between pieces that stand apart in the document


class Placed:
    """A text by tokens: `ids`, and the pieces of it that stand around evidence or away from it."""

    def __init__(self, tokenizer: Any, text: str):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        self.text, self.ids = text, list(encoded["input_ids"])
        self._starts, self._ends = map(list, zip(*encoded["offset_mapping"], strict=True)) if self.ids else ([], [])

    def span(self, characters: Span) -> Span:
        """The tokens that hold these characters: the first, and the one behind the last."""
        return bisect_right(self._ends, characters[0]), bisect_left(self._starts, characters[1])

    def depth(self, characters: Span) -> float:
        """The share of all other tokens that stand before it: 0 is the start of the text, 1 its end."""
        first, behind = self.span(characters)
        return first / max(1, len(self.ids) - (behind - first))

    def around(self, evidence: Sequence[Span], tokens: int) -> str:
        """At most `tokens` tokens with the evidence in the middle; a piece around each where it lies too far apart."""
        spans = sorted(map(self.span, evidence)) or [(len(self.ids) // 2, len(self.ids) // 2)]
        if spans[-1][1] - spans[0][0] <= tokens:
            spans = [(spans[0][0], max(behind for _, behind in spans))]
        pieces: list[Span] = []
        for span in spans:
            first, behind = self._widened(span, tokens // len(spans))
            if pieces and first <= pieces[-1][1]:
                before = pieces.pop()
                first, behind = min(first, before[0]), max(behind, before[1])
            pieces.append((first, behind))
        return GAP.join(map(self._piece, pieces))

    def away(self, evidence: Sequence[Span], tokens: int) -> str:
        """The middle of the longest stretch that holds none of the evidence, at most `tokens` tokens."""
        gaps, reach = [], 0
        for first, behind in [*sorted(map(self.span, evidence)), (len(self.ids), len(self.ids))]:
            gaps.append((reach, first))
            reach = max(reach, behind)  # of two spans the later may end first
        first, behind = max(gaps, key=lambda gap: gap[1] - gap[0])
        spare = max(behind - first - tokens, 0) // 2
        return self._piece((first + spare, min(behind, first + spare + tokens)))

    def _widened(self, span: Span, tokens: int) -> Span:
        first = max(0, min(span[0] - (tokens - (span[1] - span[0])) // 2, len(self.ids) - tokens))
        first = min(first, span[0])
        return first, min(len(self.ids), max(first + tokens, span[1]))

    def _piece(self, span: Span) -> str:
        return self.text[self._starts[span[0]] : self._ends[span[1] - 1]].strip() if span[0] < span[1] else ""
