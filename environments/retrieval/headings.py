"""Where the headings of a text stand: those of Markdown, and chapter lines of plain text."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from markdown_it import MarkdownIt

LEVELS = 6
_PARSER = MarkdownIt("commonmark").disable("code")  # indented text is prose more often than code, which is fenced
_PARSER.core.ruler.enableOnly(["normalize", "block"])  # blocks alone: what stands inside a paragraph does not matter
_LINE_END = re.compile(r"\r\n?+|\n")
_CHAPTER = re.compile(
    r"(?:chapter|part|book|volume|act|scene|section|appendix)\s+(?:\d+|[ivxlc]+|[a-z]|one|two|three|four|five|six|seven|"
    r"eight|nine|ten|eleven|twelve)\b.{0,80}|(?:prologue|epilogue|preface|introduction|conclusion)[.:]?",
    re.IGNORECASE,
)


class Heading(NamedTuple):
    """The lines [start, end) of a heading, in characters, blank lines behind it included; level 1 is the highest."""

    start: int
    end: int
    level: int


def heading_lines(text: str) -> list[Heading]:
    """Return the headings of a text in order: Markdown's of both forms, and lines like "CHAPTER IV" between blank lines."""
    starts = [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]
    found = {}
    for token in _PARSER.parse(text):
        if token.type == "heading_open" and token.level == 0 and token.map:
            found[token.map[0]] = (token.map[1], int(token.tag[1:]))
    lines = [text[start:end].strip() for start, end in zip(starts, starts[1:], strict=False)]
    for at, line in enumerate(lines):
        alone = (at == 0 or not lines[at - 1]) and (at + 1 >= len(lines) or not lines[at + 1])
        if line and alone and at not in found and len(line) <= 100 and _CHAPTER.fullmatch(line):
            found[at] = (at + 1, 1)
    headings = []
    for first, (behind, level) in sorted(found.items()):
        while behind < len(lines) and not lines[behind]:
            behind += 1
        headings.append(Heading(starts[first], starts[min(behind, len(starts) - 1)], level))
    return headings


def heading_levels(headings: Sequence[Heading], end: int) -> list[list[int]]:
    """Return for each level where its sections begin: at its headings and at those of every level above it."""
    return [
        [heading.start for heading in headings if heading.level <= level and 0 < heading.start < end]
        for level in range(1, LEVELS + 1)
    ]
