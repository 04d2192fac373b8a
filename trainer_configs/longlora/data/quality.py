"""What a text must be to be trained on: small checks, each a share against a threshold, and one linear-time index.

    reason = judge(text, ids, Checks())    # "" or the one reason it is turned away for
    index = NearDuplicates(0.8, 262_144); index.seen(minhash(shingles(ids)))

Near-duplicate means: Jaccard similarity of the sets of 8-token shingles of at least 0.8. It is estimated by MinHash with
128 permutations (Broder 1997) and looked up in 16 bands of 8 (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
3.4): a pair of similarity s meets in a band with probability 1-(1-s^8)^16, and is then compared on all 128 values. Time
is linear in the tokens; memory is bounded. `jaccard` is the slow definition that the tests hold it against.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from environments.haystack.filler.sentences import TERMINAL

CHECKED = ("too_short", "truncated", "markup", "language", "repeated", "near_duplicate")
SHINGLE = 8  # tokens: about six English words
PERMUTATIONS, BANDS = 128, 16
PER_BAND = 8  # units remembered for one value of one band; a bound, so that lookups never turn quadratic
_RNG = np.random.Generator(np.random.PCG64(20_231_123))  # fixed: signatures must be the same on every machine
_MIX, _A, _B = (_RNG.integers(0, 1 << 64, n, dtype=np.uint64) for n in (SHINGLE, PERMUTATIONS, PERMUTATIONS))
_MIX, _A = _MIX | np.uint64(1), _A | np.uint64(1)

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
EXCERPT = 4000  # characters: the language is read off the begin, the middle and the end


@dataclass(frozen=True)
class Checks:
    """The thresholds. A share of 0 (of 1 for `max_…`) switches a check off, `language` "any" that of the language."""

    min_share: float = 1 / 64  # of the length: a document of 512 tokens teaches a 32k window nothing
    truncated: bool = True
    max_markup: float = 0.1  # prose has under 0.01, Markdown about 0.05, code and HTML 0.1 to 0.6
    language: str = "en"
    min_language: float = 0.0  # 0: 0.2 of the words for en (prose has 0.4 to 0.5), 0.5 of the letters for a script
    max_repeated: float = 0.2  # natural text of 32k tokens repeats 0.00 to 0.05 of its 8-token shingles
    near_duplicate: float = 0.8  # Jaccard similarity; 0: off

    @property
    def language_limit(self) -> float:
        return self.min_language or (0.2 if self.language == "en" else 0.5)


def ends_mid_sentence(text: str) -> bool:
    """Whether `text` breaks off: no mark (. ? ! ...), with or without closing quotes, at its end."""
    end = text[-200:].rstrip()
    return not (TERMINAL.search(end) or end.rstrip("\u300d\u300f\u201d\u2019)")[-1:] in tuple(OTHER_MARKS))


def markup_share(text: str) -> float:
    """Share of the characters that stand in tags or are braces, brackets, bars, rules and the like."""
    return 1 - len(MARKUP.sub("", text)) / len(text) if text else 0.0


def language_share(text: str, language: str) -> float:
    """Share of the words that are English function words; for a script, share of the letters that belong to it."""
    if len(text) > 3 * EXCERPT:
        middle = len(text) // 2
        text = " ".join((text[:EXCERPT], text[middle : middle + EXCERPT], text[-EXCERPT:]))
    if language == "en":
        words = WORD.findall(text.lower())
        return sum(word in ENGLISH for word in words) / len(words) if words else 0.0
    letters = len(LETTERS.findall(text))
    return len(re.findall(f"[{SCRIPTS[language]}]", text)) / letters if letters else 0.0


def shingles(ids: np.ndarray) -> np.ndarray:
    """[max(1, T-7)] uint64: a hash of every run of 8 tokens; of all tokens when there are fewer."""
    ids_T = ids.astype(np.uint64) + np.uint64(1)
    if len(ids_T) < SHINGLE:
        ids_T = np.pad(ids_T, (0, SHINGLE - len(ids_T)))
    n = len(ids_T) - SHINGLE + 1
    hash_N = np.zeros(n, np.uint64)
    for j in range(SHINGLE):
        hash_N += ids_T[j : j + n] * _MIX[j]
        hash_N ^= hash_N >> np.uint64(29)
    return hash_N * np.uint64(0x9E3779B97F4A7C15)


def repeated_share(hashes: np.ndarray) -> float:
    """Share of the shingles that occurred before in the same sequence."""
    return 1 - len(np.unique(hashes)) / len(hashes)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """The definition of similarity: of the sets of shingles of two token sequences. Slow: for tests."""
    first, second = ({tuple(ids[i : i + SHINGLE]) for i in range(max(1, len(ids) - SHINGLE + 1))} for ids in (a, b))
    return len(first & second) / len(first | second)


def minhash(hashes: np.ndarray) -> np.ndarray:
    """[128] uint16: the low bits of the least value of each permutation of the shingles."""
    hashes = np.unique(hashes)
    least = [int((hashes * a + b).min()) & 0xFFFF for a, b in zip(_A, _B, strict=True)]
    return np.array(least, np.uint16)


def judge(text: str, ids: Sequence[int] | np.ndarray, checks: Checks, complete: bool = False) -> str:
    """The first reason why a unit is not kept, or "". `complete` spares it the look at its end.

    Whether it is too short or a near-duplicate is not decided here: the one needs the length, the other the index.
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


# ---- the index --------------------------------------------------------------------------------------------------


class _Generation:
    """Signatures of up to `units` units, and an open-addressed table from each band's value to those that have it."""

    def __init__(self, units: int) -> None:
        slots = 1 << (2 * BANDS * units - 1).bit_length()  # at most half full
        self.mask = slots - 1
        self.owner, self.tag = np.zeros(slots, np.uint32), np.zeros(slots, np.uint32)  # owner 0: empty
        self.signatures = np.zeros((units, PERMUTATIONS), np.uint16)
        self.count = 0

    def candidates(self, keys: list[int]) -> tuple[set[int], list[int]]:
        """Units that share a band, and per band the free slot behind them, or -1 when `PER_BAND` stand there."""
        found, free = set(), []
        for key in keys:
            slot, tag, same = key & self.mask, key >> 32, 0
            while (owner := int(self.owner[slot])) and same < PER_BAND:
                if self.tag[slot] == tag:
                    found.add(owner - 1)
                    same += 1
                slot = (slot + 1) & self.mask
            free.append(-1 if same == PER_BAND else slot)
        return found, free

    def add(self, signature: np.ndarray, keys: list[int]) -> None:
        self.signatures[self.count] = signature
        self.count += 1
        for key in keys:
            (slot,) = self.candidates([key])[1]  # anew: the band before may have taken the slot
            if slot >= 0:
                self.owner[slot], self.tag[slot] = self.count, key >> 32


class NearDuplicates:
    """Remembers the last `remember` units at most, and half of them at least, in 512 bytes each.

    256 bytes hold the signature and as many the table, which is half full when the unit count is a power of two and
    less otherwise. When one half is full the older one is forgotten.
    """

    def __init__(self, threshold: float, remember: int) -> None:
        self.threshold = threshold
        self.units = max(1, remember // 2)
        self.generations = [_Generation(self.units)]

    def seen(self, signature: np.ndarray) -> bool:
        """Whether a unit this similar is remembered; if not, this one is from now on."""
        keys = self._keys(signature)
        for generation in self.generations:
            found = list(generation.candidates(keys)[0])
            if found and (generation.signatures[found] == signature).mean(1).max() >= self.threshold:
                return True
        self.add(signature, keys)
        return False

    def add(self, signature: np.ndarray, keys: list[int] | None = None) -> None:
        if self.generations[-1].count == self.units:
            self.generations = [self.generations[-1], _Generation(self.units)]
        self.generations[-1].add(signature, self._keys(signature) if keys is None else keys)

    @staticmethod
    def _keys(signature: np.ndarray) -> list[int]:
        """One 64-bit value for each band; bands differ in their constants, so they never meet one another."""
        values = signature.astype(np.uint64).reshape(BANDS, -1) + np.uint64(1)
        keys = np.arange(1, BANDS + 1, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        for j in range(values.shape[1]):
            keys = (keys ^ values[:, j]) * _MIX[j]
            keys ^= keys >> np.uint64(32)
        return [int(key) for key in keys]
