"""What a completion earns: `score(completion, answer)` -> `Score`. Pure; no model judges, nothing is matched by substring.

Rules, in the order in which they are applied:

1. Thinking is dropped (`thinking.py`): what stands before its last closing marker, and what follows an opening one that
   never closes, also where the prompt opened it.
2. One answer region: `<answer>…</answer>`, exactly one, not nested. Any other number of tags earns 0. With the format
   "plain" (small models that know no tags) the region is the whole completion, and the values are the whole tokens in it
   that have the form of the kind that is asked for.
3. The region is split into values; each is normalised (`values.py`, one typography for both formats) and compared whole.
   One value: exact match, and no second value. Words to be copied are one value, all of them or nothing: pieces of one
   kind share words, so any measure of overlap would pay for a copy of the wrong one.
   Set: the lower of F1 and precision, both over multisets, so that duplicates cost; by F1 alone, listing every candidate
   would beat choosing among them.
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
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass

from environments.haystack.tasks.task import Answer
from environments.rollouts.thinking import without_thinking
from environments.rollouts.typography import fold
from environments.rollouts.values import (
    NUMBERS,
    WHOLE,
    abstains,
    denies,
    denies_outright,
    find_values,
    normalise,
    split_values,
)  # fmt: skip
from longthread.files import JsonObject

# Reading has files of its own; its names stay here too.
__all__ = ["ABSTAIN", "NUMBERS", "STEPS_CAP", "Score", "find_values", "normalise", "score", "without_thinking"]

ABSTAIN = 0.02  # below what one guess in fifty would earn, so that guessing from the text pays more than silence
STEPS_CAP = 0.2  # what all hops but the answer earn: far below the answer, above silence
MAX_REGION = 100_000  # characters of the longest answer region that is read; a longer one is a dump


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
    completion: str,
    answer: Answer,
    answer_format: str = "tags",
    evidence: Collection[int] | None = None,
    opened: str = "",
) -> Score:
    """Return the score of one completion against the answer.

    `evidence`: the right passage numbers if the prompt asked to cite them, else None. `opened`: the marker with which the
    prompt's end opened thinking (`thinking.opened_thinking`).
    """
    text = without_thinking(completion, opened)
    reply = _parse(text, answer, answer_format)
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


def parse_reply(completion: str, answer: Answer, answer_format: str = "tags", opened: str = "") -> ParsedReply | None:
    """Return the values that a completion names, and whether it abstains; None when it has no readable answer region.

    `opened`: as of `score`.
    """
    return _parse(without_thinking(completion, opened), answer, answer_format)


def _parse(text: str, answer: Answer, answer_format: str) -> ParsedReply | None:
    region = _region(text, "answer") if answer_format == "tags" else text
    if region is None or len(region) > MAX_REGION or len(region := fold(region)) > MAX_REGION:
        return None
    if answer_format == "tags":
        values = split_values(region, answer.value_kind)
        abstained, denied = abstains(region, values, answer), False
    else:
        values = [normalise(value) for value in find_values(region, answer)]
        # What follows a denial cannot be told from a value that has no form.
        denial = denies_outright(region) if answer.value_kind in WHOLE else denies(region)
        abstained, denied = denial and not values, bool(values) and denies_outright(region)
    return ParsedReply([] if abstained else values, abstained, denied)


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
        none = abstained or (answer.value_kind in ("count", "amount") and predicted == ["0"])
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
    hops = split_values(region, "people") if region and len(region) <= MAX_REGION else []
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


def _cited(text: str) -> list[int]:
    region = _region(text, "evidence")
    return [] if region is None else [int(number) for number in re.findall(r"\d{1,7}", region[:MAX_REGION])]
