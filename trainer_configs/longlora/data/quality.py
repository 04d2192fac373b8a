"""What a text must be to be trained on: small checks, each a share against a threshold.

reason = judge(text, ids, Checks())    # "" or the one reason it is rejected for
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from environments.haystack.filler.sentences import TERMINAL
from trainer_configs.longlora.data.near_duplicates import shingles

# The most frequent English function words; other languages share few of them, code next to none.
ENGLISH = frozenset(
    "the of and to a in that it is was he for on with as his they be at she had not this have from or by but we you "
    "her which all an were their there been has when who will more no if out so what up said its about into than them "
    "can only other some could would my me him your do then i are one".split()
)
SCRIPTS = {
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "arabic": "\u0600-\u06ff\u0750-\u077f",
    "hebrew": "\u0590-\u05ff",
    "devanagari": "\u0900-\u097f",
    "han": "\u3400-\u4dbf\u4e00-\u9fff",
    "kana": "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
    "hangul": "\uac00-\ud7af\u1100-\u11ff",
    "thai": "\u0e00-\u0e7f",
}
LANGUAGES = ("en", "any", *SCRIPTS)
MARKUP = re.compile(r"<[!/]?[a-zA-Z][^<>]{0,500}>|&[a-z]{2,8};|[<>{}\[\]|\\=#*_`~^$@]+|-{3,}")
LETTERS = re.compile(r"[^\W\d_]")
WORD = re.compile(r"[^\W\d_]+")
OTHER_MARKS = "\u3002\uff01\uff1f\u0964\u061f"  # that end sentences in Chinese, Japanese, Hindi and Arabic
EXCERPT = 4000  # characters: the language is read off the beginning, the middle and the end


@dataclass(frozen=True)
class Checks:
    """Thresholds of the checks. A share of 0 (1 for `max_…`) switches one off, `language` "any" that of the language."""

    min_share: float = 1 / 64  # of the length: a document of 512 tokens teaches a 32k window nothing
    truncated: bool = True
    max_markup: float = 0.1  # prose has under 0.01, Markdown about 0.05, code and HTML 0.1 to 0.6
    language: str = "en"
    min_language: float = 0.0  # 0: 0.2 of the words for en (prose has 0.4 to 0.5), 0.5 of the letters for a script
    max_repeated: float = 0.2  # natural text of 32k tokens repeats 0.00 to 0.05 of its 8-token shingles
    near_duplicate: float = 0.8  # Jaccard similarity; 0: off

    @property
    def language_limit(self) -> float:
        """Return the least share of words or letters that must belong to the language."""
        return self.min_language or (0.2 if self.language == "en" else 0.5)


def ends_mid_sentence(text: str) -> bool:
    """Return True if `text` breaks off: it has no mark (. ? ! ...) at its end, with or without closing quotes."""
    end = text[-200:].rstrip()
    return not (TERMINAL.search(end) or end.rstrip("\u300d\u300f\u201d\u2019)")[-1:] in tuple(OTHER_MARKS))


def markup_share(text: str) -> float:
    """Return the share of the characters that stand in tags, or are braces, brackets, bars, rules and the like."""
    return 1 - len(MARKUP.sub("", text)) / len(text) if text else 0.0


def language_share(text: str, language: str) -> float:
    """Return the share of the words that are English function words; for a script, of the letters that belong to it."""
    if len(text) > 3 * EXCERPT:
        middle = len(text) // 2
        text = " ".join((text[:EXCERPT], text[middle : middle + EXCERPT], text[-EXCERPT:]))
    if language == "en":
        words = WORD.findall(text.lower())
        return sum(word in ENGLISH for word in words) / len(words) if words else 0.0
    letters = len(LETTERS.findall(text))
    return len(re.findall(f"[{SCRIPTS[language]}]", text)) / letters if letters else 0.0


def repeated_share(hashes: np.ndarray) -> float:
    """Return the share of the shingles (hashes of 8-token runs) that occurred before in the same sequence."""
    return 1 - len(np.unique(hashes)) / len(hashes)


def judge(text: str, ids: Sequence[int] | np.ndarray, checks: Checks, complete: bool = False) -> str:
    """Return the first reason to reject a text, or "" if there is none. With `complete`, its end is not looked at.

    Units that are too short or near-duplicates are found elsewhere: the one needs the length, the other the index.
    """
    if checks.truncated and not complete and ends_mid_sentence(text):
        return "truncated"
    if markup_share(text) > checks.max_markup:
        return "markup"
    if checks.language != "any" and language_share(text, checks.language) < checks.language_limit:
        return "language"
    if checks.max_repeated < 1 and repeated_share(shingles(np.asarray(ids))) > checks.max_repeated:
        return "repeated"
    return ""
