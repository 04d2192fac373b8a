"""Which script a text is written in, and how many words it has, also where no blanks stand between words."""

import re

# Letters of a script, and a language that ends its sentences as all that are written in it do. Scripts that use the
# marks, blanks and capitals of English (Latin, Cyrillic, Hebrew, Hangul, ...) are not named.
SCRIPTS = {
    "zh": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    "ja": "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "ar": "\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f",
    "hi": "\u0900-\u0963\u0966-\u097f",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "or": "\u0b00-\u0b7f",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "si": "\u0d80-\u0dff",
    "th": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "lo": "\u0e81-\u0eff",
    "bo": "\u0f00-\u0f0c\u0f40-\u0fff",
    "my": "\u1000-\u1049\u1050-\u109f",
    "am": "\u1200-\u135a\u1380-\u139f",
    "km": "\u1780-\u17d3",
    "el": "\u0370-\u03ff\u1f00-\u1fff",
    "ka": "\u10d0-\u10ff",
    "hy": "\u0531-\u0587",
}
PHRASED = {"th", "lo", "bo"}  # no mark ends a sentence there: blanks, or marks of a clause, do
PATTERNS = {language: re.compile(f"[{letters}]") for language, letters in SCRIPTS.items()}
OTHER = re.compile(f"[{''.join(SCRIPTS.values())}]")
LETTER = re.compile(r"[^\W\d_]")
KANA_SHARE = 0.1  # of the letters: Japanese has more kana than that, Chinese that quotes it has less

# Words of scripts without blanks are counted by their characters: a Chinese or Japanese word has about two, one of
# Thai, Lao, Khmer, Burmese and Tibetan, vowels and tones included, about five.
SHORT_WORDS = re.compile(f"[{SCRIPTS['zh']}{SCRIPTS['ja']}]")
LONG_WORDS = re.compile(f"[{''.join(SCRIPTS[name] for name in ('th', 'lo', 'km', 'my', 'bo'))}]")
SHORT, LONG = 2, 5  # characters


def language_of(text: str) -> str:
    """Return a language that ends its sentences as the text's script does, "zh" for example; "" for English and its like."""
    first = OTHER.search(text)
    if first is None:
        return ""
    counts = {language: len(pattern.findall(text)) for language, pattern in PATTERNS.items()}
    total = max(len(LETTER.findall(text)), 1)
    ideographs = counts["zh"] + counts["ja"]
    counts["ja"], counts["zh"] = (ideographs, 0) if counts["ja"] > KANA_SHARE * total else (0, ideographs)
    language = max(counts, key=lambda name: counts[name])
    return language if 2 * sum(counts.values()) > total else ""


def count_words(text: str) -> int:
    """Return the number of words of a text: of blanks between them, or of letters where the script has no blanks.

    For a text without such a script that is the number of its parts between blanks.
    """
    short, long = len(SHORT_WORDS.findall(text)), len(LONG_WORDS.findall(text))
    if not short and not long:
        return len(text.split())
    rest = LONG_WORDS.sub(" ", SHORT_WORDS.sub(" ", text))
    return -(-short // SHORT) + -(-long // LONG) + sum(any(map(str.isalnum, word)) for word in rest.split())
