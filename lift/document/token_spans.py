"""A document in tokens: where its evidence stands, and windows of text around it or without it."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from lift.document.document import Span
from longthread.language_model import ChatTokenizer

GAP = "\n[...]\n"  # between pieces that stand apart in the document
PIECE = 1 << 16  # characters that are encoded at a time
SHARED = 2048  # characters of a piece that the next one has too
AGREED = 16  # tokens that two pieces must have in common where they are joined


class TokenSpans:
    """A text with its token ids. Converts spans of characters to spans of tokens."""

    def __init__(self, text: str, ids: Sequence[int], offsets: Sequence[Span]):
        self.text, self.ids = text, array("i", ids)
        self.starts = array("i", (start for start, _ in offsets))
        self._ends = array("i", (end for _, end in offsets))

    @classmethod
    def encode(cls, tokenizer: ChatTokenizer, text: str) -> "TokenSpans":
        """Encode the text without special tokens, and keep the character span of every token.

        A long text is encoded in pieces that overlap, as what a tokenizer returns takes hundreds of bytes a token. Two
        pieces are joined where both have the same `AGREED` tokens; a text in which they never agree is encoded whole.
        """
        spans = cls(text, (), ())
        first = 0
        while first < len(text) or not first:
            piece = _encode(tokenizer, text, first, first + PIECE)
            if not spans._join(piece):
                return cls(text, *_encode(tokenizer, text, 0, len(text)))
            first += PIECE - SHARED
            if first + SHARED >= len(text):
                break
        return spans

    def _join(self, piece: tuple[Sequence[int], Sequence[Span]]) -> bool:
        """Add a piece that begins within the last one. Returns whether both agree somewhere."""
        ids, offsets = piece
        kept = skipped = len(self.ids)
        if kept:
            kept, skipped = self._seam(ids, offsets)
            if not kept:
                return False
        del self.ids[kept:], self.starts[kept:], self._ends[kept:]
        self.ids.extend(ids[skipped:])
        self.starts.extend(start for start, _ in offsets[skipped:])
        self._ends.extend(end for _, end in offsets[skipped:])
        return True

    def _seam(self, ids: Sequence[int], offsets: Sequence[Span]) -> tuple[int, int]:
        """Return how many tokens to keep, and how many of the next piece to skip; 0 and 0 where the two never agree."""
        middle = offsets[0][0] + SHARED // 2 if offsets else 0
        for at, (start, _) in enumerate(offsets):
            before = bisect_left(self.starts, start)
            same = slice(before, before + AGREED)
            if start >= middle and self.ids[same].tolist() == list(ids[at : at + AGREED]):
                spans = list(zip(self.starts[same], self._ends[same], strict=True))
                if len(spans) == AGREED and spans == [tuple(each) for each in offsets[at : at + AGREED]]:
                    return before, at
        return 0, 0

    def span(self, characters: Span) -> Span:
        """Return the token span (first, one behind the last) of all tokens that overlap a character span."""
        return bisect_right(self._ends, characters[0]), bisect_left(self.starts, characters[1])

    def characters(self, tokens: Span) -> Span:
        """Return the span of characters of a span of tokens that is not empty."""
        return self.starts[tokens[0]], self._ends[tokens[1] - 1]

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
        return self.text[self.starts[span[0]] : self._ends[span[1] - 1]].strip() if span[0] < span[1] else ""


def _encode(tokenizer: ChatTokenizer, text: str, first: int, stop: int) -> tuple[list[int], list[Span]]:
    """Return the tokens of text[first:stop] and their characters in the whole text."""
    encoded = tokenizer(text[first:stop], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["input_ids"], [(first + start, first + end) for start, end in encoded["offset_mapping"]]
