"""Filler from the user's own text: a folder of .txt and .md files, one such file, or a dataset, as passages.

    for passage in folder_passages(Path("books")): ...
    for passage in dataset_passages("owner/name", "text"): ...    # streamed; or a local .jsonl, .parquet, .csv, .txt

A passage is a list of paragraphs, each a list of sentences. Whatever the source, only whole sentences come out, so a
haystack is never cut in the middle of one. Text streams through: memory holds a paragraph, not a corpus.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

Passage = list[list[str]]  # paragraphs, each a list of sentences

PASSAGE_WORDS = 300  # paragraphs are grouped until a passage has so many words
SENTENCE_WORDS = (2, 120)  # shorter is a heading or debris, longer is a table or a list without full stops
ENDLESS = "- " * (SENTENCE_WORDS[1] + 1)  # stands for the begin of a sentence that will be dropped for its length
PARAGRAPH_CHARS = 100_000  # text without an empty line is cut at a line end there, so that memory stays flat
READ_BYTES = 1 << 16
SUFFIXES = (".txt", ".md")
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}


class CorpusError(ValueError):
    """The user's text cannot be used; one line names the value, the limit and the fix."""


# ---- cleaning ---------------------------------------------------------------------------------------------------

HYPHENATED = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad]\n\s*(?=[a-z\u00df-\u00ff])")  # "for-\ngotten" -> "forgotten"
DASH_AT_END = re.compile(r"(?<=--|.\u2014)\n\s*")  # a dash joins its words without a space
# Control and format characters but tab, line end and the joiners that scripts need; lone surrogates; private use.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ufffd"
    "\ud800-\udfff\ue000-\uf8ff]"
)
LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")

FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
HEADING = re.compile(r"\s{0,3}#{1,6}(\s|$)|\s{0,3}(=+|-+|\*[\s*]*\*|_[\s_]*_)\s*$")
TABLE = re.compile(r"\s*\||\s*:?-{2,}:?\s*\||.* \| .* \| ")
LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+")
INLINE = (
    (re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>\n]*>", re.DOTALL), ""),  # comments and tags
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # images
    (re.compile(r"\[([^\]]+)\]\([^)]*\)|\[([^\]]+)\]\[[^\]]*\]"), r"\1\2"),  # links keep their words
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"`([^`\n]*)`"), r"\1"),
)


def _remove(text: str, forbidden: Sequence[str]) -> str:
    """`text` without the strings of `forbidden`, also those that come about when others are taken out."""
    tokens = [token for token in forbidden if token.strip()]
    while any(token in text for token in tokens):
        for token in tokens:
            text = " ".join(text.replace(token, " ").split())
    return text


def _paragraph(lines: list[str], forbidden: Sequence[str]) -> str:
    """Hard-wrapped lines as one line of clean text."""
    text = INVISIBLE.sub("", DASH_AT_END.sub("", HYPHENATED.sub("", "\n".join(lines))))
    return _remove(" ".join(unicodedata.normalize("NFC", text).split()), forbidden)


def _paragraphs(lines: Iterable[str], markdown: bool, forbidden: Sequence[str]) -> Iterator[str]:
    """Clean paragraphs from lines without their line ends; an empty line parts two paragraphs."""
    held: list[str] = []
    size = 0
    for line in chain(_prose_lines(lines) if markdown else lines, [""]):
        if line.strip():
            held.append(line.strip())
            size += len(line)
        if held and (not line.strip() or size > PARAGRAPH_CHARS):
            text = "\n".join(held)
            for pattern, kept in INLINE if markdown else ():
                text = pattern.sub(kept, text)
            paragraph = _paragraph(text.split("\n"), forbidden)
            held, size = [], 0
            if line.strip():  # cut for its length: the last piece goes on
                *whole, rest = split_sentences(paragraph) or [""]
                held, paragraph = [rest if len(rest) < PARAGRAPH_CHARS // 2 else ENDLESS], " ".join(whole)
            if paragraph:
                yield paragraph


def _prose_lines(lines: Iterable[str]) -> Iterator[str]:
    """Markdown lines without front matter, headings, tables and fenced code; each list item a paragraph of its own."""
    fence = ""
    held: str | None = None  # the last line: an underline behind it would make it a heading
    front = False  # the first line was ---
    for number, line in enumerate(lines):
        if fence:
            closes = line.strip().startswith(fence) and not line.strip().strip(fence[0])
            fence = "" if closes else fence
            continue
        if number == 0 and line.strip("\ufeff \t") == "---":
            front = True
            continue
        if number == 1 and front and re.match(r"\w[\w-]*\s*:", line):
            fence = "---"
            continue
        if opening := FENCE.match(line):
            fence, line = opening[1], ""
        elif HEADING.match(line):
            if held is not None and re.fullmatch(r"\s{0,3}(=+|-+)\s*", line):
                held = None
            line = ""
        elif TABLE.match(line):
            line = ""
        elif item := LIST_ITEM.match(line):
            if held is not None:
                yield held
            held, line = "", line[item.end() :]
        else:
            line = re.sub(r"^\s*(?:>\s?)+", "", line)
        if held is not None:
            yield held
        held = line
    if held is not None:
        yield held


# ---- sentences --------------------------------------------------------------------------------------------------

CLOSERS = "\"'\u2019\u201d\u00bb)\\]"
OPENERS = "\"'\u2018\u201c\u00ab(\\["
TERMINAL = re.compile(rf"[.?!\u2026][{CLOSERS}]*$")
BORDER = re.compile(rf"(?<=[.?!\u2026])([{CLOSERS}]*)\s+(?=[{OPENERS}]*([^\W_]))")  # groups: closers, first letter
FOLLOWED = re.compile(  # never the last word: titles, and abbreviations that need a follower
    r"mr|mrs|ms|mx|dr|prof|st|sr|jr|rev|hon|capt|col|gen|lt|sgt|maj|cmdr|gov|sen|rep|pres|messrs|mme|mlle"
    r"|e\.g|i\.e|cf|viz|vs|ca|approx|figs?|eqs?|sec|ch|vols?|pp|eds?|nos|al|op|cit|art|refs?"
)
LAST_OR_NOT = re.compile(  # goes on when a digit follows: No. 5, Jan. 3
    r"no|nr|etc|inc|ltd|co|corp|bros|dept|est|[ap]\.m|ph\.d"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
)


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a clean paragraph; joined by a space they give it back.

    A mark (. ? ! ...) with its closing quotes ends a sentence when a capital, a digit or an opening quote follows, but
    not after a title (Mr.), an initial (J.), an abbreviation that needs a follower (e.g.), or within "3.14".
    """
    sentences = []
    start = 0
    for border in BORDER.finditer(paragraph):
        if border[2].islower() or (not border[1] and _abbreviated(paragraph[start : border.start()], border[2])):
            continue
        sentences.append(paragraph[start : border.end()].strip())
        start = border.end()
    rest = paragraph[start:].strip()
    return [*sentences, rest] if rest else sentences


def _abbreviated(before: str, after: str) -> bool:
    """Whether the full stop at the end of `before`, with `after` as the next letter, ends a word and no sentence."""
    word = re.search(rf"(?:^|[\s{OPENERS}\u2014-])([^\s{OPENERS}\u2014-]*[^\s.])\.$", before)
    if word is None:
        return False
    bare = word[1].lower()
    if FOLLOWED.fullmatch(bare):
        return True
    if LAST_OR_NOT.fullmatch(bare):
        return after.isdigit()
    if re.fullmatch(r"[A-Z]|(?:[A-Z]\.)+[A-Z]", word[1]):
        return word[1] != "I"  # initials: J. K. Smith
    return not before[: word.start(1)].strip() and re.fullmatch(r"\d{1,3}|[ivxlc]+", bare) is not None  # "1. First"


def _sentences(paragraph: str) -> list[str]:
    """The sentences fit for a haystack: ended by a mark, between 2 and 120 words."""
    sentences = split_sentences(paragraph)
    if sentences and not TERMINAL.search(sentences[-1]):
        sentences.pop()
    low, high = SENTENCE_WORDS
    return [sentence for sentence in sentences if low <= len(sentence.split()) <= high]


def _group(paragraphs: Iterable[str]) -> Iterator[Passage]:
    """Consecutive paragraphs until a passage has about 300 words; a longer paragraph is parted between sentences."""
    passage: Passage = []
    words = 0
    for paragraph in paragraphs:
        held: list[str] = []
        for sentence in _sentences(paragraph):
            held.append(sentence)
            words += len(sentence.split())
            if words >= 2 * PASSAGE_WORDS:
                yield [*passage, held]
                passage, held, words = [], [], 0
        if held:
            passage.append(held)
        if words >= PASSAGE_WORDS:
            yield passage
            passage, words = [], 0
    if passage:
        yield passage


def to_passages(text: str, forbidden: Sequence[str] = (), markdown: bool = False) -> Iterator[Passage]:
    """Clean sentences of `text` as passages of about 300 words.

    NFC, line ends, hyphenation and hard wraps undone, control characters and the strings of `forbidden` (special tokens
    such as "<|im_end|>") removed, white space collapsed. Of a paragraph that ends without a mark the last piece is
    dropped; so are sentences under 2 or over 120 words. With `markdown` also headings, tables and code are dropped.
    """
    return _group(_paragraphs(LINE_ENDS.sub("\n", text).split("\n"), markdown, forbidden))


# ---- files ------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, decoded piece by piece; a line is at most `PARAGRAPH_CHARS` and a piece long."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, offset = "", 0
    with path.open("rb") as file:
        while True:
            block = file.read(READ_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                held += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset - waiting + error.start
                raise CorpusError(
                    f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {where}; convert it "
                    f"(iconv -f latin1 -t utf-8) or take it out of the folder"
                ) from None
            offset += len(block)
            if not block:
                break
            carry = "\r" if held.endswith("\r") else ""  # perhaps the first half of \r\n
            lines = LINE_ENDS.sub("\n", held.removesuffix("\r")).split("\n")
            held = lines.pop() + carry
            yield from lines
            if len(held) > PARAGRAPH_CHARS:  # a line without end: cut it at a space if it has one
                head, _, tail = held.rpartition(" ")
                yield head or held
                held = tail if head else ""
    yield from LINE_ENDS.sub("\n", held).split("\n")


def _found(passages: Iterable[Passage], source: str) -> Iterator[Passage]:
    """`passages`, or the error that there is none."""
    empty = True
    for passage in passages:
        empty = False
        yield passage
    if empty:
        low, high = SENTENCE_WORDS
        raise CorpusError(
            f"no sentence found in {source}: give prose with sentences of {low} to {high} words that end in . ? or !"
        )


def folder_passages(path: Path, forbidden: Sequence[str] = ()) -> Iterator[Passage]:
    """Passages of all .txt and .md files below a folder, in the order of their paths, or of one such file.

    Raises `CorpusError` at once for a missing folder or one without such files, and while it runs for a file that is
    not UTF-8 or a corpus without a sentence.
    """
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"corpus {path} does not exist: give a folder of .txt or .md files, or one such file")
    files = [path] if path.is_file() else _files(path)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"corpus file {path} is neither .txt nor .md: rename it, or load it with dataset_passages")
    if not files:
        raise CorpusError(f"no .txt or .md file below {path}: put text there, or give another folder")
    each = (_group(_paragraphs(_lines(file), file.suffix.lower() == ".md", forbidden)) for file in files)
    return _found(chain.from_iterable(each), str(path))


def _files(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


# ---- datasets ---------------------------------------------------------------------------------------------------


def dataset_passages(
    name: str, column: str, split: str = "train", config: str | None = None, forbidden: Sequence[str] = ()
) -> Iterator[Passage]:
    """Passages of one column of a dataset, streamed: a name on the Hub, or a local .jsonl, .json, .parquet, .csv, .txt.

    A cell is text, or a chat: a list of {"role", "content"}, whose contents become paragraphs. Paragraphs of one row
    stay together; passages never mix rows. Raises `CorpusError` at once for an unknown dataset, split or column.
    """
    rows = _load(name, split, config)
    columns = rows.column_names
    if columns is None:  # a stream may not know its columns before its first row
        columns = list(next(iter(rows), {}))
    if columns and column not in columns:
        raise CorpusError(f"dataset {name} has no column {column!r}: use one of {', '.join(sorted(columns))}")
    each = (to_passages(_cell_text(row[column], name, column), forbidden) for row in rows)
    return _found(chain.from_iterable(each), f"column {column!r} of {name}, split {split}")


def _load(name: str, split: str, config: str | None) -> Any:
    import datasets  # slow to import, and needed for this source alone

    builder = BUILDERS.get(Path(name).suffix.lower())
    local = builder is not None
    if local and not Path(name).is_file():
        raise CorpusError(f"dataset file {name} does not exist: give a local file or the name of a dataset on the Hub")
    arguments: dict[str, Any] = (
        {"path": builder, "data_files": {split: name}} if local else {"path": name, "name": config}
    )
    if builder == "text":
        arguments["sample_by"] = "paragraph"
    try:
        return datasets.load_dataset(**arguments, split=split, streaming=True)
    except Exception as error:  # load_dataset raises a dozen types, network errors among them
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"cannot load dataset {name!r} (config {config!r}, split {split!r}): {type(error).__name__}: {reason}; "
            "check the name, the split and the network, or give a local file"
        ) from error


def _cell_text(cell: object, name: str, column: str) -> str:
    """The text of a cell: itself, the contents of a chat, or nothing."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Mapping):
        return _cell_text(cell.get("content", cell.get("value")), name, column)
    if isinstance(cell, Sequence) and not isinstance(cell, bytes):
        return "\n\n".join(_cell_text(part, name, column) for part in cell)
    raise CorpusError(
        f"column {column!r} of {name} holds {type(cell).__name__}, neither text nor messages: name a text column"
    )
