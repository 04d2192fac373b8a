"""Which completions become training rows: pure selection, every completion kept or counted under one reason.

`select` works on light records (digests, scores, where a row stands in its file), so a million rollouts fit in memory
while no haystack does. What is drawn follows from the seed and the content alone: neither the order of the input's lines
nor how they are spread over files changes the choice or the order of the rows.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from environments.datasets.process_rows import ProcessRow, right_reply
from environments.haystack.tasks.task import NONE, Answer
from environments.inference.finish_reason import Ending, ending
from environments.rollouts.scoring import parse_reply
from environments.rollouts.thinking import without_thinking
from environments.rollouts.values import normalise

DEPTH_BINS = 5  # of `balance`
Cell = tuple[str, int, int]  # task, length, fifth of the text


class Advice(NamedTuple):
    """What to change when a reason has dropped everything, and the setting that changes it."""

    text: str
    setting: str | tuple[str, ...] = ()


# Why a completion is in no row, in the order in which it is asked.
REASONS = {
    "task": Advice("allow other tasks", "tasks"),
    "length": Advice("allow other lengths", "lengths"),
    "truncated": Advice("the replies were cut off: raise max_new_tokens of process"),
    "no_finish_reason": Advice("nothing tells that these replies are whole: use a server that gives finish_reason"),
    "unknown_finish_reason": Advice(
        "nothing tells that these replies are whole: their finish_reason is an unknown word"
    ),
    "broken_off": Advice("the server broke these replies off: ask again"),
    "filtered": Advice("the provider's content filter ended these replies: use another server"),
    "empty": Advice("the replies are empty: ask a model that replies"),
    "duplicate": Advice("the replies are all alike: raise the temperature of process"),
    "low_score": Advice("lower the least score, or ask a better model or easier samples", "min_score"),
    "margin": Advice("lower the margin, or raise group_size of process so that good meets bad", "min_margin"),
    "same_answer": Advice("lower the margin, or raise the temperature of process", "min_margin"),
    "partner_taken": Advice("raise group_size of process"),
    "per_sample": Advice("allow more rows of one sample", "per_sample"),
    "balance": Advice("leave balance out", "balance"),
    "limit": Advice("raise the limit", "limit"),
}

ENDINGS = {
    Ending.FINISHED: "",
    Ending.CUT: "truncated",
    Ending.BROKEN_OFF: "broken_off",
    Ending.FILTERED: "filtered",
    Ending.UNKNOWN: "unknown_finish_reason",
}


# ---- what selection looks at ----


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion that may become a training row, or one half of a pair."""

    place: tuple[int, int]  # of its row: file, byte offset
    index: int  # in its row
    digest: str  # of the text
    answer: str  # digest of `answer_of`
    score: float
    fault: str  # the reason that bars it whatever the rules: one of `ENDINGS`, no_finish_reason, empty; or ""
    size: int = 0  # bytes of the text
    whole: bool = False  # `size` is that of a whole conversation, which the sample's text is not part of


@dataclass(frozen=True, slots=True)
class AskedSample:
    """One sample, with all its completions that were read, from however many rows."""

    key: str  # digest of the recipe
    order: tuple[str | int, ...]  # where its rows stand in the output
    task: str
    length: int
    depth: float | None
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def cell(self) -> Cell:
        """The group that `balance` counts the sample in: task, length, and the fifth of the text that holds its needle.

        Absent and many-needle tasks have no depth; their fifth is -1.
        """
        place = -1 if self.depth is None else min(int(self.depth * DEPTH_BINS), DEPTH_BINS - 1)
        return self.task, self.length, place


@dataclass(frozen=True, slots=True)
class Pick:
    """A training row to write: one completion or, for DPO, the chosen and the rejected one."""

    asked: AskedSample
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class SelectionRules:
    """Which completions to keep; 0 or empty: no rule. `min_score` is inclusive; pairs differ by more than `min_margin`."""

    tasks: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    per_sample: int = 0
    balance: bool = False
    limit: int = 0
    seed: int = 0
    min_score: float = 0.0
    min_margin: float = 0.0


Chooser = Callable[[AskedSample, list[Candidate], SelectionRules, Counter[str]], list[Pick]]


def digest(*parts: object) -> str:
    """Return 32 hex digits of SHA-256 that name the values."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def answer_of(text: str, answer: Answer, answer_format: str) -> tuple[str, ...]:
    """Return the values that a reply names, in the form that scoring compares; two replies with equal ones say the same."""
    said = parse_reply(text, answer, answer_format)
    if said is None:
        return "no answer region:", normalise(without_thinking(text))
    if said.abstained:
        return (NONE,)
    if not said.values:
        return "no value:", normalise(without_thinking(text))
    return tuple(sorted(said.values) if answer.kind == "set" else said.values)


def asked_sample(row: ProcessRow) -> AskedSample:
    """Return the sample of a row, still without completions."""
    recipe = row.recipe
    key = digest(json.dumps(recipe.model_dump(), sort_keys=True))
    # Samples that share filler follow each other, so that it is written once.
    settings = digest(json.dumps(recipe.options, sort_keys=True))
    return AskedSample(key, (settings, recipe.seed, key), recipe.task, recipe.length, row.depth)


def completion_candidates(row: ProcessRow, place: tuple[int, int]) -> list[Candidate]:
    """Return the row's completions as candidates; `fault` says why one cannot be used."""
    candidates = []
    for i, (text, finish, score) in enumerate(zip(row.completions, row.finish_reasons, row.scores, strict=True)):
        text = text.strip()
        whole = "no_finish_reason" if finish is None else ENDINGS[ending(finish)]
        answer = digest(*answer_of(text, row.answer, row.answer_format))
        fault = whole or ("" if text else "empty")
        size = len(json.dumps(row.messages[i]).encode()) if row.reading else len(text.encode())
        candidates.append(Candidate(place, i, digest(text), answer, score, fault, size, bool(row.reading)))
    return candidates


def right_candidate(row: ProcessRow, place: tuple[int, int]) -> Candidate:
    """Return the row's right reply as a candidate, which `pretrain` writes in place of a completion."""
    return Candidate(place, 0, "gold", "", 1.0, "", len(right_reply(row).encode()))


# ---- selection ----


def best_completions(
    asked: AskedSample, candidates: list[Candidate], rules: SelectionRules, dropped: Counter[str]
) -> list[Pick]:
    """Return a row for each candidate that scores at least `min_score`, and count the others as dropped."""
    good = [c for c in candidates if c.score >= rules.min_score]
    dropped["low_score"] += len(candidates) - len(good)
    return [Pick(asked, (c,)) for c in good]


def preference_pairs(
    asked: AskedSample, candidates: list[Candidate], rules: SelectionRules, dropped: Counter[str]
) -> list[Pick]:
    """Pair each completion, best first, with the worst one left that answers otherwise and scores over `min_margin` less.

    Each completion is in one pair at most; those in none are counted as dropped.
    """

    def apart(a: Candidate, b: Candidate) -> bool:
        return abs(a.score - b.score) > rules.min_margin

    free, picks = list(candidates), []
    for chosen in candidates:
        if chosen not in free:
            continue
        worst = (c for c in reversed(free) if chosen.score - c.score > rules.min_margin and c.answer != chosen.answer)
        if rejected := next(worst, None):
            picks.append(Pick(asked, (chosen, rejected)))
            free = [c for c in free if c not in (chosen, rejected)]
    for unpaired in free:
        far = [c for c in candidates if apart(unpaired, c)]
        differing = any(c.answer != unpaired.answer for c in far)
        dropped["partner_taken" if differing else "same_answer" if far else "margin"] += 1
    return picks


def select(samples: Iterable[AskedSample], rules: SelectionRules, choose: Chooser) -> tuple[list[Pick], Counter[str]]:
    """Return the rows in output order, and how many completions each reason dropped; kept and dropped sum to those read."""
    picks: list[Pick] = []
    dropped: Counter[str] = Counter()
    read = 0
    for asked in samples:
        read += len(asked.candidates)
        chosen = choose(asked, _usable(asked, rules, dropped), rules, dropped)
        most = rules.per_sample or len(chosen)
        dropped["per_sample"] += _completions(chosen[most:])
        picks += chosen[:most]
    for name, enough in (("balance", _balanced), ("limit", _limited)):
        thinned = enough(picks, rules)
        dropped[name] += _completions(picks) - _completions(thinned)
        picks = thinned
    assert _completions(picks) + dropped.total() == read, "a completion is neither kept nor counted"
    return sorted(picks, key=lambda pick: pick.asked.order), +dropped


def _usable(asked: AskedSample, rules: SelectionRules, dropped: Counter[str]) -> list[Candidate]:
    """Return the completions that could be in a row, best first; equal scores stand in an order drawn by the seed."""
    for name, allowed, value in (("task", rules.tasks, asked.task), ("length", rules.lengths, asked.length)):
        if allowed and value not in allowed:
            dropped[name] += len(asked.candidates)
            return []
    usable: dict[str, Candidate] = {}
    for candidate in sorted(asked.candidates, key=lambda c: (-c.score, digest(rules.seed, asked.key, c.digest))):
        if reason := candidate.fault or ("duplicate" if candidate.digest in usable else ""):
            dropped[reason] += 1
        else:
            usable[candidate.digest] = candidate
    return list(usable.values())


def _completions(picks: Iterable[Pick]) -> int:
    return sum(len(pick.candidates) for pick in picks)


def _drawn(picks: Iterable[Pick], rules: SelectionRules) -> list[Pick]:
    """Return the picks in an order drawn by the seed."""
    return sorted(picks, key=lambda p: digest(rules.seed, p.asked.key, *(c.digest for c in p.candidates)))


def _balanced(picks: list[Pick], rules: SelectionRules) -> list[Pick]:
    """Under `balance`, keep of every cell as many rows as the smallest cell has."""
    if not rules.balance or not picks:
        return picks
    cells = _cells(_drawn(picks, rules))
    least = min(map(len, cells))
    return [pick for cell in cells for pick in cell[:least]]


def _limited(picks: list[Pick], rules: SelectionRules) -> list[Pick]:
    """Keep at most `limit` rows; under `balance`, no cell has two more than another."""
    if not rules.limit or len(picks) <= rules.limit:
        return picks
    drawn = _drawn(picks, rules)
    if rules.balance:
        turns = [(turn, pick) for cell in _cells(drawn) for turn, pick in enumerate(cell)]
        drawn = [pick for _, pick in sorted(turns, key=itemgetter(0))]
    return drawn[: rules.limit]


def _cells(picks: Iterable[Pick]) -> list[list[Pick]]:
    cells: dict[Cell, list[Pick]] = defaultdict(list)
    for pick in picks:
        cells[pick.asked.cell].append(pick)
    return [cells[cell] for cell in sorted(cells)]
