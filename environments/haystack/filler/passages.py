"""Clean text as passages: paragraphs of whole sentences, grouped to about 300 words.

A passage is a list of paragraphs, each a list of sentences. Only whole sentences come out, so a haystack is never cut in
the middle of one. Text streams through: memory holds a paragraph, not a corpus.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from environments.haystack.filler.scripts import count_words
from environments.haystack.filler.sentences import ENGLISH, SentenceRules

Passage = list[list[str]]  # paragraphs, each a list of sentences

PASSAGE_WORDS = 300  # paragraphs are grouped until a passage has so many words
SENTENCE_WORDS = (2, 120)  # shorter is a heading or debris, longer is a table or a list without full stops
ENDLESS = "- " * (SENTENCE_WORDS[1] + 1)  # stands for the beginning of a sentence that will be dropped for its length
PARAGRAPH_CHARS = 100_000  # text without an empty line is cut at a line end there, so that memory stays flat

HYPHENATED = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad]\n\s*(?=[a-z\u00df-\u00ff])")  # "for-\ngotten" -> "forgotten"
DASH_AT_END = re.compile(r"(?<=--|.\u2014)\n\s*")  # a dash joins its words without a space
# Control and format characters but tab, line end and the joiners that scripts need; lone surrogates; private use.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ufffd"
    "\ud800-\udfff\ue000-\uf8ff]"
)
LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")


def to_passages(
    text: str, forbidden: Sequence[str] = (), markdown: bool = False, rules: SentenceRules = ENGLISH
) -> Iterator[Passage]:
    """Yield the clean sentences of `text` as passages of about 300 words.

    NFC, line ends, hyphenation and hard wraps undone, control characters and the strings of `forbidden` (special tokens
    such as "<|im_end|>") removed, white space collapsed. Of a paragraph that ends without a mark the last piece is
    dropped; so are sentences under 2 or over 120 words. Of Markdown only the prose is kept.
    """
    text = LINE_ENDS.sub("\n", text)
    return passages_of(markdown_lines(text) if markdown else text.split("\n"), forbidden, rules)


def markdown_lines(text: str) -> Iterator[str]:
    """Yield the prose of a Markdown text as lines, with an empty one behind each paragraph."""
    from environments.haystack.filler.markdown import prose  # few corpora are Markdown

    return (line for paragraph in prose(text) for line in (*paragraph.split("\n"), ""))


def passages_of(
    lines: Iterable[str], forbidden: Sequence[str] = (), rules: SentenceRules = ENGLISH
) -> Iterator[Passage]:
    """Yield the clean sentences of a text as passages, as `to_passages` does, from its lines without their line ends.

    Consecutive paragraphs are grouped until a passage has about 300 words; a longer paragraph is split between sentences.
    """
    passage: Passage = []
    words = 0
    for paragraph in _paragraphs(lines, forbidden, rules):
        sentences: list[str] = []
        for sentence in _whole_sentences(paragraph, rules):
            sentences.append(sentence)
            words += rules.count(sentence)
            if words >= 2 * PASSAGE_WORDS:
                yield [*passage, sentences]
                passage, sentences, words = [], [], 0
        if sentences:
            passage.append(sentences)
        if words >= PASSAGE_WORDS:
            yield passage
            passage, words = [], 0
    if passage:
        yield passage


def _paragraphs(lines: Iterable[str], forbidden: Sequence[str], rules: SentenceRules) -> Iterator[str]:
    """Yield clean paragraphs; an empty line separates two."""
    waiting: list[str] = []
    size = 0
    for line in chain(lines, [""]):
        if line.strip():
            waiting.append(line.strip())
            size += len(line)
        if waiting and (not line.strip() or size > PARAGRAPH_CHARS):
            paragraph = _clean(waiting, forbidden)
            waiting, size = [], 0
            if line.strip():  # cut for its length: the last piece goes on
                *whole, rest = rules.split(paragraph) or [""]
                waiting, paragraph = [rest if len(rest) < PARAGRAPH_CHARS // 2 else ENDLESS], " ".join(whole)
            if paragraph:
                yield paragraph


def _clean(lines: list[str], forbidden: Sequence[str]) -> str:
    """Return hard-wrapped lines as one line of clean text."""
    text = INVISIBLE.sub("", DASH_AT_END.sub("", HYPHENATED.sub("", "\n".join(lines))))
    return _remove(" ".join(unicodedata.normalize("NFC", text).split()), forbidden)


def _remove(text: str, forbidden: Sequence[str]) -> str:
    """Return `text` without the strings of `forbidden`, also those that appear when others are taken out."""
    tokens = [token for token in forbidden if token.strip()]
    while any(token in text for token in tokens):
        for token in tokens:
            text = " ".join(text.replace(token, " ").split())
    return text


def _whole_sentences(paragraph: str, rules: SentenceRules) -> list[str]:
    """Return the sentences fit for a haystack: ended by a mark, between 2 and 120 words."""
    sentences = rules.split(paragraph)
    if sentences and not rules.is_whole(sentences[-1]):
        sentences.pop()
    low, high = SENTENCE_WORDS
    return [sentence for sentence in sentences if low <= rules.count(sentence) <= high]


# ---- text as it stands ------------------------------------------------------------------------------------------

BLOCK_WORDS = 60  # a longer block of lines is split at a line end


def blocks_of(lines: Iterable[str], forbidden: Sequence[str] = ()) -> Iterator[Passage]:
    """Yield text as it stands, for verse and code: passages of blocks of lines, each a paragraph that is never cut.

    A block ends at an empty line, or at a line end behind 60 words; each keeps its line ends and indents.
    """
    return _in_passages((block, count_words(block)) for block in _blocks(lines, forbidden))


def _in_passages(blocks: Iterable[tuple[str, int]]) -> Iterator[Passage]:
    """Yield blocks, which come with their words, as passages of so many that they have `PASSAGE_WORDS`."""
    passage: Passage = []
    words = 0
    for block, count in blocks:
        passage.append([block])
        words += count
        if words >= PASSAGE_WORDS:
            yield passage
            passage, words = [], 0
    if passage:
        yield passage


def _blocks(lines: Iterable[str], forbidden: Sequence[str]) -> Iterator[str]:
    waiting: list[str] = []
    words = 0
    for line in chain(lines, [""]):
        clean = _clean_line(line, forbidden)
        if waiting and (not clean or words >= BLOCK_WORDS):
            yield "\n".join([waiting[0].lstrip(), *waiting[1:]])
            waiting, words = [], 0
        if clean and 0 < (count := count_words(clean)) <= SENTENCE_WORDS[1]:
            waiting.append(clean)
            words += count


def _clean_line(line: str, forbidden: Sequence[str]) -> str:
    text = unicodedata.normalize("NFC", INVISIBLE.sub("", line)).rstrip()
    for token in (token for token in forbidden if token.strip()):
        while token in text:
            text = text.replace(token, " ").rstrip()
    return text


# ---- source code ------------------------------------------------------------------------------------------------

CODE_WORDS = 400  # a longer top-level block is left out
CLOSES = re.compile(r"[)\]}]|(?:else|elif|except|finally|catch)\b")  # goes on with the block before it
QUOTES = re.compile(r"\"\"\"|\'\'\'")


def top_level_blocks(lines: Iterable[str], forbidden: Sequence[str] = ()) -> Iterator[Passage]:
    """Yield source code as passages of top-level blocks, each a paragraph that is never cut.

    A block ends at an empty line behind which a line without indent begins another; its own empty lines are taken out.
    """
    counted = ((block, count_words(block)) for block in _top_level(lines, forbidden))
    return _in_passages((block, count) for block, count in counted if count <= CODE_WORDS)


def _top_level(lines: Iterable[str], forbidden: Sequence[str]) -> Iterator[str]:
    block: list[str] = []
    ended = quoted = False  # behind an empty line; inside a string of several lines
    for line in lines:
        clean = _clean_line(line, forbidden)
        if not clean:
            ended = not quoted
            continue
        if block and ended and not clean[0].isspace() and not CLOSES.match(clean):
            yield "\n".join(block)
            block = []
        if block or not clean[0].isspace():
            block.append(clean)
        ended = False
        quoted ^= len(QUOTES.findall(clean)) % 2 == 1
    if block:
        yield "\n".join(block)
