"""One spelling for what typography varies: dashes, spaces, quotes, brackets, bullets, digits of other scripts.

`fold` keeps letter case and lines; `values.normalise` goes on from there. What looks like another letter (Cyrillic
letters, accents) stays another letter.
"""

import re
import unicodedata

LONG_DASH = "—"  # every dash that also stands between sentences; a hyphen never does
BULLET = "•"

# Characters that are not drawn (Unicode's Default_Ignorable_Code_Point).
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_ALIKE = {
    **dict.fromkeys("‒–—―⸺⸻〜〰−─━➖˗⁃", LONG_DASH),
    **dict.fromkeys("•‣◦∙·●○▪▫■□◆◇❖➤➢►▶▸☐☑☒✓✔✅", BULLET),
    **dict.fromkeys("‘’‚‛‹›ʼʹ′´", "'"),
    **dict.fromkeys("“”„‟«»″〝〞〟「」『』｢｣", '"'),
    **dict.fromkeys("\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\n"),
    **dict.fromkeys("\t\x1f\u2800", " "),
    **dict.fromkeys("、،", ","),
    "。": ".",
    "؛": ";",
}
_BY_CATEGORY = {"Pd": "-", "Zs": " ", "Ps": "(", "Pe": ")", "Pi": '"', "Pf": '"'}


class _Fold(dict[int, str]):
    """Maps a code point to its spelling, decided when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = spelling = self._spelling(chr(code))
        return spelling

    @staticmethod
    def _spelling(character: str) -> str:
        if _INVISIBLE.match(character):
            return ""
        if character in _ALIKE:
            return _ALIKE[character]
        if character.isascii():
            return character
        digit = unicodedata.decimal(character, None)
        return _BY_CATEGORY.get(unicodedata.category(character), character) if digit is None else str(digit)


_FOLD = _Fold()
_ODD_SPACE = re.compile("[\t\r\v\f\x1c-\x1f]")  # what `fold` changes in ASCII, beside runs of spaces
# Marks that NFKC would take apart into a space and an accent, or a number without its list.
_BEFORE_NFKC = str.maketrans({"´": "'", "¨": '"', "″": '"', "‴": '"'})
_CIRCLED = re.compile(r"(?m)^([^\S\n]*)([\u2460-\u2473])\s*(?=\S)")


def fold(text: str) -> str:
    """Return the text in one typography: NFKC, then ASCII for the characters that differ in look alone.

    Letter case and lines stay; other white space becomes single spaces. Hyphens become "-", other dashes `LONG_DASH`.
    """
    if text.isascii() and not _ODD_SPACE.search(text):
        return re.sub(" {2,}", " ", text)
    text = _INVISIBLE.sub("", text)
    text = _CIRCLED.sub(lambda match: f"{match[1]}{unicodedata.digit(match[2], 0) or _circled(match[2])}. ", text)
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC))
    text = text.replace("\r\n", "\n").translate(_FOLD)
    return re.sub(" {2,}", " ", text)


def _circled(character: str) -> int:
    return ord(character) - 0x2460 + 1


def pattern_of(text: str) -> str:
    """Return a regular expression that finds the text in any typography: white space, quotes and dashes may differ."""
    return r"\s+".join("".join(map(_any_typography, word)) for word in text.split())


def _any_typography(character: str) -> str:
    spelling = fold(character)
    if spelling in ("-", LONG_DASH):
        return rf"[-{''.join(_LIKE[LONG_DASH])}\u2010\u2011]"
    if spelling in ("'", '"'):
        return f"[{spelling}{''.join(_LIKE[spelling])}]"
    return re.escape(character)


_LIKE = {spelling: [c for c, folded in _ALIKE.items() if folded == spelling] for spelling in (LONG_DASH, "'", '"')}
