"""Where sentences end in clean text: in English and what is written like it here, in other scripts by `sentencex`.

`ENGLISH` is the rule that recipes rest on; `SCRIPTS` takes each paragraph by the script it is written in.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from environments.haystack.filler.scripts import PHRASED, count_words, language_of

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
WORD_BEFORE = re.compile(rf"(?:^|[\s{OPENERS}\u2014-])([^\s{OPENERS}\u2014-]*[^\s.])\.$")


def split_sentences(paragraph: str) -> list[str]:
    """Split a clean paragraph into its sentences; joined by a space they give it back.

    A mark (. ? ! ...) with its closing quotes ends a sentence when a capital, a digit or an opening quote follows, but
    not after a title (Mr.), an initial (J.), an abbreviation that needs a follower (e.g.), or within "3.14".
    """
    sentences = []
    start = 0
    for border in BORDER.finditer(paragraph):
        if border[2].islower() or (not border[1] and _is_abbreviated(paragraph[start : border.start()], border[2])):
            continue
        sentences.append(paragraph[start : border.end()].strip())
        start = border.end()
    rest = paragraph[start:].strip()
    return [*sentences, rest] if rest else sentences


def _is_abbreviated(before: str, after: str) -> bool:
    """True when the full stop at the end of `before`, with `after` as the next letter, ends a word but no sentence."""
    word = WORD_BEFORE.search(before)
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


# ---- other scripts ----------------------------------------------------------------------------------------------

OTHER_MARKS = (
    ".?!\u2026\u3002\uff0e\uff01\uff1f\uff61"  # Latin, Chinese and Japanese
    "\u061f\u06d4\u0964\u0965\u104b\u1362\u1367\u1368\u17d4\u17d5\u0589\u0f0d\u0f0e"  # and the others
)
OTHER_CLOSERS = "\u2019\u201d\u00bb)\\]\u300d\u300f\uff09\u3011\u300b\u3009"
OTHER_TERMINAL = re.compile(f"[{OTHER_MARKS}][\"'{OTHER_CLOSERS}\\s]*$")
LEADING_CLOSERS = re.compile(f"^[{OTHER_CLOSERS}]+\\s*")
STRETCH = 2000  # characters given to sentencex at a time, whose time grows with their square in Chinese and Japanese
STRETCH_END = re.compile(f"[{OTHER_MARKS}][{OTHER_CLOSERS}]*(?![{OTHER_MARKS}\\d])")
KHMER_BORDER = re.compile(r"(?<=[\u17d4\u17d5])\s*")
PHRASE_WORDS = 12  # where no mark ends a sentence, blanks do: pieces are joined until they have so many words


def split_by_script(paragraph: str) -> list[str]:
    """Split a clean paragraph into its sentences by the rules of the script it is written in.

    English rules hold for scripts that use its marks; Wikimedia's `sentencex` knows the others. Thai and its like
    have no mark, so they are split at blanks.
    """
    language = language_of(paragraph)
    if not language:
        return split_sentences(paragraph)
    if language in PHRASED:
        return _phrases(paragraph)
    sentences: list[str] = []
    for piece in KHMER_BORDER.split(paragraph) if language == "km" else _segments(language, paragraph):
        closers = LEADING_CLOSERS.match(piece) if sentences else None
        if closers:  # a bracket that closes belongs to what it closes
            sentences[-1] += closers[0]
            piece = piece[closers.end() :]
        if piece.strip():
            sentences.append(piece)
    return [sentence.strip() for sentence in sentences]


def _segments(language: str, paragraph: str) -> Iterator[str]:
    from sentencex import segment  # few corpora need it

    start = 0
    while start < len(paragraph):
        end = STRETCH_END.search(paragraph, start + STRETCH)
        yield from segment(language, paragraph[start : end.end() if end else None])
        start = end.end() if end else len(paragraph)


def _phrases(paragraph: str) -> list[str]:
    phrases: list[str] = []
    for piece in paragraph.split():
        if phrases and count_words(phrases[-1]) < PHRASE_WORDS:
            phrases[-1] += f" {piece}"
        else:
            phrases.append(piece)
    return phrases


def _ends_by_script(sentence: str) -> bool:
    return language_of(sentence) in PHRASED or OTHER_TERMINAL.search(sentence) is not None


@dataclass(frozen=True)
class SentenceRules:
    """How a clean paragraph is split, how the words of a sentence are counted, and which last one is whole."""

    split: Callable[[str], list[str]]
    count: Callable[[str], int]
    is_whole: Callable[[str], bool]


ENGLISH = SentenceRules(split_sentences, lambda text: len(text.split()), lambda text: TERMINAL.search(text) is not None)
SCRIPTS = SentenceRules(split_by_script, count_words, _ends_by_script)
