"""Where sentences end in clean text."""

import re

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
