"""How the values of a reply are read: one normalisation for replies in tags, plain replies, export and LIFT.

Reading never looks at the right answer, so that nothing is gained by wording: a value in any typography is that value, and
a list of candidates is a list. Only the value of a custom needle, which has no form of its own, is looked for by itself.
`docs/scoring.md` has the table of what is read and what stays strict.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import dropwhile

from environments.haystack.facts import VALUE_KINDS
from environments.haystack.tasks.aggregation import GOODS
from environments.haystack.tasks.task import NONE, Answer
from environments.haystack.tasks.variables import LETTERS
from environments.haystack.tasks.words import CODE_LETTERS, CONSONANTS
from environments.haystack.wording import BESIDE_AN_ANSWER
from environments.rollouts.dates import MOMENT, canonical_moment
from environments.rollouts.typography import BULLET, LONG_DASH, fold

WHOLE = ("text", "verbatim")  # kinds without a form of their own: the whole region is one value
CUSTOM_REPLY = 400  # characters, beside twice the value's, of a plain reply to a custom needle

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty".split()
NUMBERS = {word: str(n) for n, word in enumerate(
    _SMALL + [f"{ten}-{one}" if one != "zero" else ten for ten in _TENS for one in _SMALL[:10]]
)}  # fmt: skip

# ---- one value ----

_EDGE = " \t\r\n.,;:!?\"'`*_()[]{}\\" + BULLET
_BEFORE = re.compile(rf"(?:\[[ xX]\] |[-+{LONG_DASH}] |the |[{re.escape(_EDGE)}])*+", re.IGNORECASE)
_BEFORE_MATHS = re.compile(rf"(?:\[[ xX]\] |[-+{LONG_DASH}] |the |[{re.escape(_EDGE)}$])*+", re.IGNORECASE)
_LATEX = re.compile(r"(?:\\(?:boxed|fbox|text[a-z]{0,9}|math[a-z]{0,9}|emph)\s*+)+(?=\{)")
_LATEX_MARK = re.compile(r"(?<=\d)(?:\{,\}|\\[,;: !])(?=\d)")
# Digits in groups of three, always with the same mark between; a single full stop may be a decimal point.
_GROUPED = re.compile(
    r"(?<![\w,.'-])(?<!\d )\d{1,3}(?:([ ,'_])\d{3}(?:\1\d{3})*+|\.\d{3}(?:\.\d{3})++)(?![\w-])(?![ ,'.]?\d)"
)
SHORT = 1000  # characters: longer ones are no values, and would be kept in memory
ROUNDS = 5  # at most, until a value is in its final form; two do for all that is not made to need more


def normalise(value: str) -> str:
    """Return a value as it is compared: `fold`ed, in lower case, single spaces, small numbers in digits.

    Marks around it, a bullet and "the" before it, LaTeX boxes and thousands marks are dropped; a whole moment is worded
    as facts word it. Normalising twice changes nothing.
    """
    return _remembered(value) if len(value) <= SHORT else _normalise(value)


def _normalise(value: str) -> str:
    for _ in range(ROUNDS):
        before, value = value, _normalise_once(value)
        if value == before:
            break
    return value


# The right values of a group are compared with those of each of its completions.
_remembered = lru_cache(maxsize=4096)(_normalise)


def _normalise_once(value: str) -> str:
    text = unicodedata.normalize("NFKC", _without_latex(fold(value)).casefold())
    text = _without_edges(" ".join(text.split())).replace(LONG_DASH, "-")
    text = NUMBERS.get(text) or NUMBERS.get(text.replace(" ", "-"), text)
    if grouped := _GROUPED.fullmatch(text):
        text = _joined(grouped)
    text = re.sub(r"(?<=\d), (?=\d\d:)", " ", text)  # "14 march 1874, 09:32:17", also where it is a part
    return canonical_moment(text) or text


def _without_latex(text: str) -> str:
    if "\\" not in text and "{,}" not in text:
        return text
    return _LATEX_MARK.sub(lambda mark: "," if mark.group() == "{,}" else " ", _LATEX.sub("", text))


def _without_edges(text: str) -> str:
    """Return the text without what stands around it; dollar signs go in pairs, as those of a formula."""
    before, after = _BEFORE_MATHS.match(text), text[len(text.rstrip(f"{_EDGE}$")) :]
    if before and before.group().count("$") == after.count("$"):
        return text[before.end() : len(text) - len(after)]
    before = _BEFORE.match(text)
    return text[before.end() if before else 0 :].rstrip(_EDGE)


def _joined(grouped: re.Match[str]) -> str:
    return re.sub(r"\D", "", grouped.group())


# ---- the values of an answer region ----

_FENCE = re.compile(r"(?m)^ *```\w* *$")
_NUMBERING = re.compile(
    rf"[ *_]*+(?:[-+{BULLET}{LONG_DASH}] )?[ *_]*+\(?(?:\d{{1,3}}|[A-Za-z]|[ivxIVX]{{2,5}})[.)]\)?[*_]*+ +(?=\S)"
)
_BETWEEN = re.compile(r";|\n|,(?!\d{3}(?!\d))(?! \d\d:)|(?:(?<=\s)|^)(?:and|&)(?=\s)", re.IGNORECASE)


def split_values(region: str, kind: str) -> list[str]:
    """Return the values of an answer region, normalised: split at semicolons, commas, line ends and "and".

    A comma inside a number or a date does not separate. Bullets and numbering are dropped. A custom needle and
    words to be copied are one value (`WHOLE`), which may hold all of these itself.
    """
    if kind in WHOLE:
        parts = [_FENCE.sub("", fold(region))]
    else:
        text = _GROUPED.sub(_joined, _without_latex(_FENCE.sub("", fold(region))))
        text = MOMENT.sub(lambda match: canonical_moment(match.group()) or match.group(), text)
        parts = [_NUMBERING.sub("", part, count=1) if _NUMBERING.match(part) else part for part in _BETWEEN.split(text)]
    return [value for value in map(normalise, parts) if value]


# ---- the values of a running text ----

_COUNT = "|".join(sorted((*NUMBERS, *(word.replace("-", " ") for word in NUMBERS)), key=len, reverse=True))
_RUNNING = {kind: value_kind.pattern for kind, value_kind in VALUE_KINDS.items()} | {
    "dates": MOMENT,
    "variables": re.compile(rf"(?<![\w-])[A-Z]{{{LETTERS}}}(?![\w-])"),
    "pairs": re.compile(r"(?<![\w-])[a-z]+-[a-z]+(?![\w-])", re.IGNORECASE),
    "codes": re.compile(rf"(?<![\w-])[{CONSONANTS}]{{{CODE_LETTERS}}}(?![\w-])", re.IGNORECASE),
    "goods": re.compile(rf"(?<![\w-])(?:{'|'.join(GOODS)})(?![\w-])", re.IGNORECASE),
    "amount": re.compile(r"(?<![\w.-])\d{1,9}(?![\w-])(?![.,]\d)"),
    "people": re.compile(r"(?<!\w)[A-Z][a-z]+ [A-Z][a-z]+(?!\w)"),
    "count": re.compile(rf"(?<![\w.-])(?:\d{{1,3}}|{_COUNT})(?![\w-])(?![.,]\d)", re.IGNORECASE),
}
_CAPITALS = {
    "names": re.compile(r"(?<!\w)(?<![A-Z] )[A-Z]{2,}(?: [A-Z]{2,}){2}(?! ?[A-Z]{2})(?!\w)"),
    "people": re.compile(r"(?<!\w)(?<![A-Z] )[A-Z]{2,} [A-Z]{2,}(?! ?[A-Z]{2})(?!\w)"),
}
_DASHED = re.compile(rf"[\w{LONG_DASH}-]+")
_EMPHASIS = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")


def find_values(text: str, answer: Answer) -> list[str]:
    """Return every value in the text that has the form of the answer's kind, `fold`ed, from word boundary to word boundary.

    Names and people have the form of capitalised words or, where none stand in the text, of whole phrases in one case.
    A word of the text itself has none, so phrases of one word are read. For a custom needle: the value itself, if it stands
    there between word boundaries. For words to be copied: the whole text, since what stands beside the copy may be other
    candidates.
    """
    kind = answer.value_kind
    if kind == "verbatim":
        return [text] if text.strip() and not denies_outright(text) else []
    if kind == "word":
        return [] if denies(text) else list(_single_words(fold(text)))
    if kind not in _RUNNING:
        return [value for value in answer.values if _stands_in(text, value)]
    text = _readable(text, kind)
    found = [match.group() for match in _RUNNING[kind].finditer(text)]
    if kind == "dates":
        return [moment for moment in found if canonical_moment(moment)]
    if kind in _CAPITALS and not found:
        if not text.isupper():
            found = [match.group() for match in _CAPITALS[kind].finditer(text)]
        if not found and not denies(text):
            found = list(_phrases(text, 3 if kind == "names" else 2))
    return found


def _readable(text: str, kind: str) -> str:
    """Return the text in one typography, without emphasis, and with what values of the kind vary in written in one way."""
    text = _without_latex(fold(text))
    if "_" in text:
        text = _EMPHASIS.sub(" ", text)
    if kind in ("numbers", "amount"):
        text = _GROUPED.sub(_joined, text)
    elif kind == "dates":
        text = text.replace(LONG_DASH, "-")
    if LONG_DASH in text:
        text = _DASHED.sub(lambda token: _with_hyphens(token.group(), _RUNNING[kind]), text)
    return text


def _with_hyphens(token: str, form: re.Pattern[str]) -> str:
    """Return a token with hyphens for its dashes if it is then one whole value; between values a dash is a dash."""
    hyphened = token.replace(LONG_DASH, "-")
    return hyphened if form.fullmatch(hyphened) else token


def _stands_in(text: str, value: str) -> bool:
    if len(text) > CUSTOM_REPLY + 2 * len(value):  # a copy of the text is not an answer
        return False
    spellings = {normalise(value), " ".join(fold(value).replace(LONG_DASH, "-").casefold().split())} - {""}
    return any(re.search(rf"(?<!\w){re.escape(spelling)}(?!\w)", normalise(text)) for spelling in spellings)


_PHRASE_END = re.compile(
    r"[^\w' -]+|\b(?:and|or|but|nor|then|also|not|who|which|that|because|since|as)\b", re.IGNORECASE
)
_COPULA = re.compile(r"\b(?:is|are|was|were|be|named|names|called|to)\b", re.IGNORECASE)


def _phrases(text: str, words: int) -> Iterator[str]:
    """Yield the phrases of so many words that may be a name: whole ones, or what follows "is"."""
    for phrase in _PHRASE_END.split(text):
        said = [word for word in _COPULA.split(phrase)[-1].split() if word != "-"]
        said = list(dropwhile(lambda word: word.casefold() in BESIDE_AN_ANSWER, said))
        if len(said) == words and all(word.isalpha() and word.casefold() not in BESIDE_AN_ANSWER for word in said):
            yield " ".join(said)


def _single_words(text: str) -> Iterator[str]:
    """Yield the phrases of one word, in any script: whole ones, or what follows "is"."""
    text = _GROUPED.sub(_joined, text)
    bare = "".join(c if c in "' -" or unicodedata.category(c)[0] in "LMN" else ";" for c in text)
    for phrase in re.split(f";|{_PHRASE_END.pattern.partition('|')[2]}", bare, flags=re.IGNORECASE):
        said = list(dropwhile(lambda word: word.casefold() in BESIDE_AN_ANSWER, _COPULA.split(phrase)[-1].split()))
        if len(said) == 1 and said[0] != "-":
            yield said[0]


# ---- denials ----

_ABSTENTIONS = frozenset(
    ("none", "no answer", "not stated", "not mentioned", "unknown", "not in the text", "text does not say", "n/a", "na",
     "nothing", "nobody", "no one", "no-one", "no such person", "no value", "no information", "null", "nil", "unspecified",
     "not applicable", "none found", "none given", "no match", "no matches")
)  # fmt: skip
_TEXT = r"(?:(?:given|provided|above) )?(?:text|passages?|document|story|context|excerpt|article|source)"
_NOT = r"(?:does not|doesn't|doesnt|do not|don't|dont|did not|didn't|never|nowhere)"
_MISSING = (
    r"(?:explicitly |directly |actually |anywhere )?"
    r"(?:stated|mentioned|given|specified|provided|available|found|present|said|listed|named|disclosed|recorded|included"
    r"|known|in (?:the )?" + _TEXT + ")"
)
# Such a reply says that there is no answer, even if it goes on to name a value.
_TEXT_DENIES = re.compile(rf"{_TEXT} {_NOT}\b")
_DENIAL = re.compile(
    rf"(?:not {_MISSING}|(?:(?:it|this|that|there)(?: is|'s)|[^.;:\n]{{0,200}}? (?:is|are|was|were)) not {_MISSING}"
    rf"|(?:nobody|no one|nothing)(?: (?:is|was) {_MISSING}| in the {_TEXT})"
    rf"|(?:it|this|that|which) {_NOT} (?:say|mention|state|appear)"
    r"|(?:there is |there's |there are )?no (?:answer|mention|information|record|value|such|data|indication)"
    r")(?!\w)"
)


def denies(text: str) -> bool:
    """Return whether a text begins by saying that there is no answer."""
    reply = normalise(text[:1000])
    return _denies_outright(reply) or _DENIAL.match(reply) is not None


def denies_outright(text: str) -> bool:
    """Return whether a text begins with "none", or by saying of the text that it does not say; or is a usual denial."""
    return _denies_outright(normalise(text[:1000]))


def _denies_outright(reply: str) -> bool:
    return reply in _ABSTENTIONS or reply.startswith((f"{NONE}.", f"{NONE} ")) or _TEXT_DENIES.match(reply) is not None


def abstains(region: str, values: list[str], answer: Answer) -> bool:
    """Return whether an answer region, split into `values`, says that there is no answer and names none."""
    if values and all(value in _ABSTENTIONS for value in values):
        return not set(values) <= set(map(normalise, answer.values))  # a custom needle may well say "nothing"
    if answer.value_kind in WHOLE or not values:
        return False
    return denies(region) and not find_values(region, answer)
