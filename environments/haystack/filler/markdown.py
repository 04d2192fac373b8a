"""The prose of a Markdown text: no front matter, headings, tables, code blocks, images and tags."""

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\n(?=\w[\w-]*\s*:).*?(?:\n---[ \t]*(?:\n|$)|\Z)", re.DOTALL)
TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>\n]*>", re.DOTALL)
LEFT_OUT = ("heading", "table")
# Indented text is prose that somebody indented more often than it is code, which is fenced.
PARSER = MarkdownIt("commonmark").enable("table").disable("code")


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of `text`, with their line ends; each list item is a paragraph of its own."""
    depth = 0  # within blocks that are left out
    for token in PARSER.parse(FRONT_MATTER.sub("", text, count=1)):
        block, _, side = token.type.rpartition("_")
        if block in LEFT_OUT:
            depth += 1 if side == "open" else -1
        elif token.type == "html_block":
            yield TAG.sub("", token.content)
        elif token.type == "inline" and not depth:
            yield _text(token.children or ())


def _text(tokens: Sequence[Token]) -> str:
    """The words of a paragraph: links keep theirs, images and tags go."""
    texts = {"text", "code_inline"}
    breaks = {"softbreak", "hardbreak"}
    return "".join("\n" if t.type in breaks else t.content if t.type in texts else "" for t in tokens)
