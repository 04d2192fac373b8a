"""What a completion earns: `score(completion, answer)` -> `Score`. Pure; no model judges, nothing is matched by substring.

Rules, in the order in which they are applied:

1. Everything up to the last `</think>` is dropped; a `<think>` that never closes leaves nothing.
2. One answer region: `<answer>…</answer>`, exactly one, not nested. Any other number of tags earns 0. With the format
   "plain" (small models that know no tags) the region is the whole completion, and the values are the whole tokens in it
   that have the form of the kind that is asked for.
3. The region is split into values; each is normalised and compared whole.
   One value: exact match, and no second value. Set: the lower of F1 and precision, both over multisets, so that
   duplicates cost; by F1 alone, listing every candidate would beat choosing among them.
   List: values in their right place, over the longer of the two lists. Order: all values in this order or nothing; for
   partial order, the longest common subsequence over the longer of the two lists.
   Chains: a wrong answer still earns up to `STEPS_CAP` for the hops in `<steps>` that are right from the first on; the
   given head earns nothing, and a list longer than the chain earns nothing.
4. Abstaining ("none") earns 1 if the text does not hold the answer. If it does, abstaining earns `ABSTAIN`, which is
   more than a wrong answer and far less than a right one. A value where there is none earns 0.
5. If evidence was asked for: score = (answer + 0.1·F2 + 0.9·answer·F2) / 2, with F2 over the passage numbers in
   `<evidence>`, duplicates counted (LongRLVR, arXiv 2603.02146, scaled to 1). Evidence alone earns at most 0.05, and
   citing nothing is worth nothing beside a value that the text does not hold.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass

from environments.haystack.facts import VALUE_KINDS
from environments.haystack.tasks.task import NONE, Answer
from longthread.files import JsonObject

ABSTAIN = 0.02  # below what one guess in fifty would earn, so that guessing from the text pays more than silence
STEPS_CAP = 0.2  # what all hops but the answer earn: far below the answer, above silence
CUSTOM_REPLY = 400  # characters, beside twice the value's, of a plain reply to a custom needle
MAX_REGION = 100_000  # characters of the longest answer region that is read; a longer one is a dump

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty".split()
NUMBERS = {word: str(n) for n, word in enumerate(
    _SMALL + [f"{ten}-{one}" if one != "zero" else ten for ten in _TENS for one in _SMALL[:10]]
)}  # fmt: skip
# What whole values of the kinds look like that only linked tasks ask for.
_LINKED_KINDS = {
    "people": re.compile(r"(?<!\w)[A-Z][a-z]+ [A-Z][a-z]+(?!\w)"),
    "count": re.compile(rf"(?<![\w.-])(?:\d{{1,3}}|{'|'.join(NUMBERS)})(?![\w-])", re.IGNORECASE),
}
_THINK = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)
_OPEN_THINK = re.compile(r"<think>.*$", re.DOTALL | re.IGNORECASE)
_ABSTENTIONS = frozenset(
    ("none", "no answer", "not stated", "not mentioned", "unknown", "not in the text", "text does not say")
)
_EDGE = " \t\r\n.,;:!?\"'`*_()[]{}“”‘’"


@dataclass(frozen=True)
class Score:
    """The reward `score`, 0 to 1, and how it came about.

    `answer` is the reward without evidence; `predicted` counts the values named, `found` the right ones among them; `f2`
    is None unless evidence was asked for.
    """

    score: float
    answer: float
    correct: bool
    abstained: bool
    well_formed: bool
    predicted: int
    f2: float | None = None
    found: int = 0

    def to_json(self) -> JsonObject:
        """Return all fields as a dict, as rows keep them."""
        return asdict(self)


def score(
    completion: str, answer: Answer, answer_format: str = "tags", evidence: Collection[int] | None = None
) -> Score:
    """Return the score of one completion against the answer.

    `evidence`: the right passage numbers if the prompt asked to cite them, else None.
    """
    text = without_thinking(completion)
    reply = parse_reply(completion, answer, answer_format)
    if reply is None:
        return Score(0.0, 0.0, False, False, False, 0, None if evidence is None else 0.0)
    predicted, abstained = reply.values, reply.abstained
    if reply.denied:  # "the text does not say that … is 123": neither an answer nor silence
        return Score(0.0, 0.0, False, False, False, len(predicted), None if evidence is None else 0.0)
    earned, correct = _answer_score(predicted, abstained, answer)
    if answer.steps and not correct and not abstained:
        earned = max(earned, STEPS_CAP * _hops(text, answer.steps))
    f2 = total = None
    if evidence is not None:
        # Nothing to cite where the fact is absent: citing nothing is then perfect, but not beside a value.
        f2 = f_beta(_cited(text), evidence) if evidence or abstained else 0.0
        total = (earned + 0.1 * f2 + 0.9 * earned * f2) / 2
    found = (Counter(predicted) & Counter(map(normalise, answer.values))).total()
    return Score(earned if total is None else total, earned, correct, abstained, True, len(predicted), f2, found)


@dataclass(frozen=True)
class ParsedReply:
    """What a completion says: the values it names, normalised; whether it abstains; whether it denies beside a value."""

    values: list[str]
    abstained: bool
    denied: bool = False


def parse_reply(completion: str, answer: Answer, answer_format: str = "tags") -> ParsedReply | None:
    """Return the values that a completion names, and whether it abstains; None when it has no readable answer region."""
    text = without_thinking(completion)
    region = _region(text, "answer") if answer_format == "tags" else text
    if region is None or len(region) > MAX_REGION:
        return None
    if answer_format == "tags":
        # A custom value may hold commas itself, and there is only one.
        parts = [region] if answer.value_kind == "text" else _split(region)
        values = [value for value in map(normalise, parts) if value]
        denied = False
    else:
        values = [normalise(value) for value in find_values(region, answer)]
        denied = bool(values) and _denies(region)
    abstained = _abstains(region, values, answer_format)
    return ParsedReply([] if abstained else values, abstained, denied)


def without_thinking(completion: str) -> str:
    """Return what follows the completion's last `</think>`, without a `<think>` that never closes and all behind it."""
    return _OPEN_THINK.sub("", _THINK.sub("", completion or ""))


def normalise(value: str) -> str:
    """Return a value as it is compared: in NFKC and lower case, single spaces, small numbers in digits.

    Quotes and punctuation around it, "the" before it and thousands separators are dropped.
    """
    text = " ".join(unicodedata.normalize("NFKC", value).casefold().split()).strip(_EDGE)
    text = NUMBERS.get(text, text.removeprefix("the "))
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        text = text.replace(",", "")
    return re.sub(r"(?<=\d), (?=\d\d:)", " ", text)  # "14 march 1874, 09:32:17"


def find_values(text: str, answer: Answer) -> list[str]:
    """Return every token of the text, from word boundary to word boundary, that has the form of the answer's kind of value.

    For a custom needle: the value itself, if it stands there between word boundaries.
    """
    if answer.value_kind in _LINKED_KINDS:
        return _LINKED_KINDS[answer.value_kind].findall(text)
    if answer.value_kind in VALUE_KINDS:
        return [match.group() for match in VALUE_KINDS[answer.value_kind].pattern.finditer(text)]
    values = []
    for value in answer.values:
        if len(text) > CUSTOM_REPLY + 2 * len(value):  # a copy of the text is not an answer
            continue
        if re.search(rf"(?<!\w){re.escape(normalise(value))}(?!\w)", normalise(text)):
            values.append(value)
    return values


def f_beta(predicted: Collection[int], right: Collection[int], beta: float = 2.0) -> float:
    """Return the F-beta score of the predicted numbers against the right ones; repeating a number costs precision.

    The score is 1 when both are empty.
    """
    if not right:
        return float(not predicted)
    hits = sum((Counter(predicted) & Counter(set(right))).values())
    if not hits:
        return 0.0
    precision, recall = hits / len(predicted), hits / len(set(right))
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _answer_score(predicted: list[str], abstained: bool, answer: Answer) -> tuple[float, bool]:
    gold = [normalise(value) for value in answer.values]
    if answer.kind == "absent":
        none = abstained or (answer.value_kind == "count" and predicted == ["0"])
        return float(none), none
    if abstained:
        return ABSTAIN, False
    if not predicted:
        return 0.0, False
    if answer.kind == "one":
        earned = float(predicted == gold)
    elif answer.kind == "set":
        hits = (Counter(predicted) & Counter(gold)).total()
        earned = min(2 * hits / (len(predicted) + len(gold)), hits / len(predicted))
    elif answer.kind == "order":
        earned = float(predicted == gold)
    elif answer.kind == "partial_order":
        earned = _common_subsequence(predicted, gold) / max(len(predicted), len(gold))
    else:
        earned = sum(p == g for p, g in zip(predicted, gold, strict=False)) / max(len(predicted), len(gold))
    return earned, earned == 1.0


def _hops(text: str, steps: Collection[str]) -> float:
    """Return the share of the chain's steps that `<steps>` names in order, up to the first wrong one."""
    region = _region(text, "steps")
    hops = [v for v in map(normalise, _split(region or "")) if v]
    if not hops or len(hops) > len(steps):
        return 0.0
    verified = 0
    for hop, right in zip(hops, map(normalise, steps), strict=False):
        if hop != right:
            break
        verified += 1
    return verified / len(steps)


def _common_subsequence(a: list[str], b: list[str]) -> int:
    """Return the length of the longest common subsequence: the textbook table, a row at a time."""
    row = [0] * (len(b) + 1)
    for x in a[: 4 * len(b)]:  # a dump cannot earn more, and must not cost more
        previous = 0
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], previous + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def _region(text: str, tag: str) -> str | None:
    """Return the text between the tags, if there is exactly one pair of them and nothing odd; else None."""
    # Possessive, and never beyond the next "<": a reply of a million blanks or open tags must not take minutes.
    tags = re.findall(rf"<\s*+(/?)\s*+{tag}\b[^<>]*+>", text, re.IGNORECASE)
    if tags != ["", "/"]:
        return None
    match = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return match.group(1) if match else None


def _split(region: str) -> list[str]:
    """Split a text into values at semicolons, line ends and commas; a comma inside a number or a date does not separate."""
    return re.split(r";|\n|,(?!\d{3}(?!\d))(?! \d\d:)", region)


def _abstains(region: str, predicted: list[str], answer_format: str) -> bool:
    if answer_format == "tags":
        return bool(predicted) and all(value in _ABSTENTIONS for value in predicted)
    return _denies(region) and not predicted


def _denies(text: str) -> bool:
    """True when a plain reply begins by saying that there is no answer."""
    reply = normalise(text)
    return reply in _ABSTENTIONS or reply.startswith((f"{NONE}.", f"{NONE} ", "text does not "))


def _cited(text: str) -> list[int]:
    region = _region(text, "evidence")
    return [] if region is None else [int(number) for number in re.findall(r"\d{1,7}", region[:MAX_REGION])]
