"""A document in tokens: where its evidence stands, and windows of text around it or without it."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from lift.document.document import Span
from longthread.language_model import ChatTokenizer

GAP = "\n[...]\n"  # between pieces that stand apart in the document


class TokenSpans:
    """A text with its token ids. Converts spans of characters to spans of tokens."""

    def __init__(self, text: str, ids: Sequence[int], offsets: Sequence[Span]):
        self.text, self.ids = text, list(ids)
        self._starts, self._ends = map(list, zip(*offsets, strict=True)) if offsets else ([], [])

    @classmethod
    def encode(cls, tokenizer: ChatTokenizer, text: str) -> "TokenSpans":
        """Encode the text without special tokens, and keep the character span of every token."""
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return cls(text, encoded["input_ids"], encoded["offset_mapping"])

    def span(self, characters: Span) -> Span:
        """Return the token span (first, one behind the last) of all tokens that overlap a character span."""
        return bisect_right(self._ends, characters[0]), bisect_left(self._starts, characters[1])

    def characters(self, tokens: Span) -> Span:
        """Return the span of characters of a span of tokens that is not empty."""
        return self._starts[tokens[0]], self._ends[tokens[1] - 1]

    def depth(self, characters: Span) -> float:
        """Return the depth of the characters, 0 (start of the text) to 1 (end): the share of all other tokens before
        them."""
        first, behind = self.span(characters)
        return first / max(1, len(self.ids) - (behind - first))

    def window_around(self, evidence: Sequence[Span], tokens: int) -> str:
        """Return at most `tokens` tokens of text with the evidence (character spans) in the middle.

        Evidence that is longer is kept whole. If the spans do not fit into one window, return one piece of text around
        each, joined by `GAP`. Without evidence, return the middle of the text.
        """
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
        return GAP.join(map(self._text, pieces))

    def window_without(self, evidence: Sequence[Span], tokens: int) -> str:
        """Return up to `tokens` tokens from the middle of the longest stretch of text without any evidence."""
        stretches, reach = [], 0
        for first, behind in [*sorted(map(self.span, evidence)), (len(self.ids), len(self.ids))]:
            stretches.append((reach, first))
            reach = max(reach, behind)  # of two spans the later may end first
        first, behind = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
        spare = max(behind - first - tokens, 0) // 2
        return self._text((first + spare, min(behind, first + spare + tokens)))

    def _widened(self, span: Span, tokens: int) -> Span:
        first = max(0, min(span[0] - (tokens - (span[1] - span[0])) // 2, len(self.ids) - tokens))
        first = min(first, span[0])
        return first, min(len(self.ids), max(first + tokens, span[1]))

    def _text(self, span: Span) -> str:
        return self.text[self._starts[span[0]] : self._ends[span[1] - 1]].strip() if span[0] < span[1] else ""
