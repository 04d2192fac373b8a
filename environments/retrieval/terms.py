"""The terms of a text: what a ranking by words compares, in any script.

Where blanks stand between words a term is a word in lower case. Where none do, or where endings are written onto a word as
in Korean, every run of letters gives its overlapping n-grams, as search engines index Chinese, Japanese and Thai.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator

from environments.haystack.filler.scripts import SCRIPTS

HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7af"
# A character carries much meaning in the first, little in the others: a word has about two of the one, five of the others.
SHORT = "".join(SCRIPTS[name] for name in ("zh", "ja")) + HANGUL
LONG = "".join(SCRIPTS[name] for name in ("th", "lo", "km", "my", "bo"))
UNSPACED = re.compile(f"[{SHORT}{LONG}]")  # a letter of these scripts
SHORT_GRAMS, LONG_GRAMS = (1, 2), (2, 3)  # letters

# Vowel signs and accents are part of a word, though Python's \w leaves them out.
INDIC = "".join(SCRIPTS[name] for name in ("hi", "bn", "pa", "gu", "or", "ta", "te", "kn", "ml", "si"))
MARKS = "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u06d6-\u06ed"
_WORD = re.compile(
    rf"(?P<short>[{SHORT}]+)|(?P<long>[{LONG}]+)|[^\W{SHORT}{LONG}](?:[^\W{SHORT}{LONG}]|[{MARKS}{INDIC}])*"
)


def terms(text: str) -> list[str]:
    """Return the terms of a text in order, in lower case and Unicode's NFKC form."""
    return list(_terms(unicodedata.normalize("NFKC", text).lower()))


def _terms(text: str) -> Iterator[str]:
    for word in _WORD.finditer(text):
        if word["short"]:
            yield from _grams(word[0], SHORT_GRAMS)
        elif word["long"]:
            yield from _grams(word[0], LONG_GRAMS)
        else:
            yield word[0]


def first_place(text: str, wanted: Collection[str]) -> int:
    """Return the character at which the first of the wanted terms stands in a text; 0 where none does."""
    for word in _WORD.finditer(text.lower()):
        places = [word[0].find(term) for term in terms(word[0]) if term in wanted]
        if places:
            return word.start() + max(0, min(places))
    return 0


def _grams(run: str, sizes: tuple[int, ...]) -> Iterator[str]:
    """Yield the n-grams of a run of letters; a run that is shorter than the least of them is a term itself."""
    if len(run) < min(sizes):
        yield run
    for size in sizes:
        for at in range(len(run) - size + 1):
            yield run[at : at + size]


_TOKEN = re.compile(rf"{UNSPACED.pattern}|[^\s{SHORT}{LONG}]+")


def word_offsets(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) characters of each word, to size chunks by where no tokenizer is at hand.

    A word is what stands between blanks; in scripts without blanks it is a single letter.
    """
    return [match.span() for match in _TOKEN.finditer(text)]
