"""Cut a text into chunks: fixed windows of tokens, or whole sections, paragraphs and sentences up to a size.

Both take the (start, end) characters of the text's tokens, from `Tokens.offsets` or from `word_offsets`. Chunks hold the
text as it stands, white space included: without an overlap they join to the text again, and their token counts add up to
its tokens. A token belongs to the chunk in which its first character stands, so a character is never cut in two.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

from environments.retrieval.headings import heading_levels, heading_lines
from environments.retrieval.sentence_spans import sentence_spans
from longthread.errors import ConfigError

Span = tuple[int, int]  # the first character, and the one behind the last
Borders = Callable[[Span], Sequence[int]]  # where parts of one kind begin within a span, its own start left out

_NEWLINE = r"(?:\r\n?+|\n)"
_PARAGRAPH = re.compile(rf"{_NEWLINE}(?:[^\S\r\n]*+{_NEWLINE})+")
_LINE = re.compile(_NEWLINE)
_BLANK = re.compile(r"\s++")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document: its text, the characters [start, end) that it stands for, and how many tokens they have.

    `document` names the document, where several are searched together.
    """

    text: str
    start: int
    end: int
    tokens: int
    document: str = ""


def windows(n_tokens: int, length: int, stride: int) -> list[range]:
    """Return overlapping ranges of up to `length` token positions that cover all `n_tokens`, one every `stride` tokens.

    The last is the first that reaches the end. Its predecessor does not, so the last is longer than the overlap
    (`length - stride`), unless it is the only one. Raises `ConfigError`.
    """
    if length < 1 or n_tokens < 0:
        raise ConfigError(f"segments of {length} tokens from {n_tokens}: the length must be at least 1, the count 0")
    if not 1 <= stride <= length:
        raise ConfigError(
            f"stride {stride} is outside 1 to {length}: beyond the segment's length tokens would be left out"
        )
    beyond_first = max(0, n_tokens - length)
    starts = range(0, min(n_tokens, -(-beyond_first // stride) * stride + 1), stride)
    return [range(start, min(start + length, n_tokens)) for start in starts]


def fixed_chunks(text: str, offsets: Sequence[Span], size: int, overlap: int = 0, document: str = "") -> list[Chunk]:
    """Cut a text into windows of `size` tokens, of which two neighbours share `overlap`. Raises `ConfigError`.

    A window is longer than `size` only where it begins within a character of several tokens: it then begins with it.
    """
    _check_size(size)
    if not 0 <= overlap < size:
        raise ConfigError(f"overlap of {overlap} tokens is outside 0 to {size - 1}: it must be smaller than the chunk")
    text_tokens = _TextTokens(text, offsets)
    found = windows(len(offsets), size, size - overlap) or [range(0)]
    chunks: list[Chunk] = []
    for window in found:
        span = text_tokens.start(window.start), text_tokens.start(window.stop) if window.stop else len(text)
        if span[1] > (chunks[-1].end if chunks else 0):  # a window may lie within one character
            chunks.append(text_tokens.chunk(span, document))
    return chunks


def semantic_chunks(text: str, offsets: Sequence[Span], size: int, document: str = "") -> list[Chunk]:
    """Cut a text into whole sections, paragraphs and sentences, neighbours joined up to `size` tokens.

    What is longer is cut at the next lower border: heading by its level, paragraph, sentence, line, blank, token. Sections
    are joined only if each is whole, so a chunk never holds the end of one and the beginning of the next. Raises
    `ConfigError`.
    """
    _check_size(size)
    text_tokens = _TextTokens(text, offsets)
    lines = heading_lines(text)
    sections = [_Level(partial(_within, starts), joins_pieces=False) for starts in heading_levels(lines, len(text))]
    headed = {line.end for line in lines}  # a heading belongs to what follows it
    levels = [
        *sections,
        _Level(lambda span: [at for at in _ends(_PARAGRAPH, text, span) if at not in headed]),
        _Level(lambda span: [span[0] + start for start, _ in sentence_spans(text[span[0] : span[1]])[1:]]),
        _Level(partial(_ends, _LINE, text)),
        _Level(partial(_ends, _BLANK, text)),
        _Level(lambda span: text_tokens.cuts(span, size)),
    ]
    return (
        [text_tokens.chunk(span, document) for span in _pack((0, len(text)), levels, text_tokens.count, size)]
        if text
        else []
    )


@dataclass(frozen=True)
class _Level:
    """A kind of border, and whether pieces of two parts that were cut may be joined across it."""

    borders: Borders
    joins_pieces: bool = True


def _pack(span: Span, levels: Sequence[_Level], count: Callable[[Span], int], size: int) -> Iterator[Span]:
    """Yield the spans of the chunks of a span, in order."""
    if count(span) <= size or not levels:
        yield span
        return
    level, *lower = levels
    waiting: Span | None = None  # joined as far as the size allows
    for part in pairwise([span[0], *level.borders(span), span[1]]):
        whole = count(part) <= size
        pieces = iter([part]) if whole else _pack(part, lower, count, size)
        if not whole and not level.joins_pieces:
            if waiting:
                yield waiting
                waiting = None
            yield from pieces
        for piece in pieces:
            if waiting and count((waiting[0], piece[1])) <= size:
                piece = (waiting[0], piece[1])
            elif waiting:
                yield waiting
            waiting = piece
    if waiting:
        yield waiting


def _within(starts: Sequence[int], span: Span) -> Sequence[int]:
    return starts[bisect_right(starts, span[0]) : bisect_left(starts, span[1])]


def _ends(pattern: re.Pattern[str], text: str, span: Span) -> list[int]:
    """Return where the matches of a pattern end within a span."""
    return [end for match in pattern.finditer(text, *span) if span[0] < (end := match.end()) < span[1]]


class _TextTokens:
    """A text and the character at which each of its tokens begins."""

    def __init__(self, text: str, offsets: Sequence[Span]):
        self.text = text
        # Tokens of one character have the same offsets; a few tokenizers give (0, 0) to a token of no character.
        self._starts = list(accumulate((start for start, _ in offsets), max))

    def start(self, token: int) -> int:
        """Return the character at which a window that begins with this token begins."""
        return 0 if token == 0 else self._starts[token] if token < len(self._starts) else len(self.text)

    def count(self, span: Span) -> int:
        """Return the number of tokens that begin within a span."""
        return self._before(span[1]) - self._before(span[0])

    def _before(self, char: int) -> int:
        return bisect_left(self._starts, char) if 0 < char < len(self.text) else len(self._starts) * (char > 0)

    def cuts(self, span: Span, size: int) -> list[int]:
        """Return where to cut a span into parts of at most `size` tokens, or of one character that has more."""
        found = []
        at, behind = self._before(span[0]), self._before(span[1])
        while at + size < behind:
            char = self._starts[at + size]
            if char <= self._starts[at]:
                following = bisect_right(self._starts, char)
                if following >= behind:
                    break
                char = self._starts[following]
            found.append(char)
            at = bisect_left(self._starts, char)
        return found

    def chunk(self, span: Span, document: str) -> Chunk:
        """Return the chunk of a span."""
        return Chunk(self.text[span[0] : span[1]], *span, self.count(span), document)


def _check_size(size: int) -> None:
    if size < 1:
        raise ConfigError(f"chunks of {size} tokens: a chunk must have at least 1")
