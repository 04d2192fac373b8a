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
from typing import Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from environments.haystack.sample import NEEDED
from environments.haystack.tasks.independent import NONE, Answer
from environments.rollouts.scoring import normalise, said_by, without_thinking

DEPTH_BINS = 5  # of --balance
# Why a completion is in no row, in the order in which it is asked, and what to do about it if nothing is left.
REASONS = {
    "task": "name other --tasks",
    "length": "name other --lengths",
    "truncated": "raise --env.max_new_tokens of process: the replies were cut off",
    "no_finish_reason": "serve with a server that says finish_reason: nothing tells that these replies are whole",
    "empty": "ask a model that replies",
    "duplicate": "ask again at a higher --env.temperature: the replies are all alike",
    "low_score": "lower --min-score, or ask a better model or easier samples (--env.lengths, --env.tasks)",
    "margin": "lower --min-margin, or raise --env.group_size so that good and bad replies meet in one group",
    "same_answer": "lower --min-margin, or ask again at a higher --env.temperature",
    "partner_taken": "raise --env.group_size of process",
    "per_sample": "raise --per-sample",
    "balance": "leave --balance out",
    "limit": "raise --limit",
}


# ---- rows of process ----


class Recipe(BaseModel, extra="allow"):
    """All of it, also what a later release may add: the whole recipe rebuilds the sample."""

    version: int
    seed: int
    split: str
    task: str
    length: int
    depths: list[float] | None
    options: dict[str, Any]
    tokenizer: str
    filler: str


class Needle(BaseModel):
    """What the right reply cites, and where `balance` counts it."""

    role: str
    depth: float
    passage: int


class Row(BaseModel):
    """What export needs of a row of `process`."""

    store: Literal["compact", "full"]
    recipe: Recipe
    answer: Answer
    needles: list[Needle]
    completions: list[str] = Field(min_length=1)
    finish_reasons: list[str | None]
    scores: list[FiniteFloat]
    messages: list[list[dict[str, str]]]

    @model_validator(mode="after")
    def _aligned(self) -> "Row":
        if len({len(part) for part in (self.completions, self.finish_reasons, self.scores, self.messages)}) != 1:
            raise ValueError("completions, finish_reasons, scores and messages differ in number")
        return self

    @property
    def answer_format(self) -> str:
        return str(self.recipe.options.get("answer_format", "tags"))

    @property
    def depth(self) -> float | None:
        """Where the one needle stands that holds the answer, as in the heatmap."""
        depths = [needle.depth for needle in self.needles if needle.role == "answer"]
        return depths[0] if len(depths) == 1 else None


def right_reply(row: Row) -> str:
    """What earns the whole score, in the form that the prompt asks for."""
    answer = row.answer
    said = "; ".join(answer.values) or NONE
    if row.answer_format != "tags":
        return said
    parts = [f"<answer>{said}</answer>"]
    if row.recipe.options.get("numbered") and (cited := {n.passage for n in row.needles if n.role in NEEDED}):
        parts.insert(0, f"<evidence>{', '.join(map(str, sorted(cited)))}</evidence>")
    if answer.steps:
        parts.insert(0, f"<steps>{'; '.join(answer.steps)}</steps>")
    return " ".join(parts)


# ---- what selection looks at ----


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion. `place` is its row's (file, byte offset), `index` its number there."""

    place: tuple[int, int]
    index: int
    digest: str  # of the text
    answer: str  # digest of `answer_of`
    score: float
    fault: str  # the reason that bars it whatever the rules: truncated, no_finish_reason, empty; or ""
    size: int = 0  # bytes of the text


@dataclass(frozen=True, slots=True)
class Asked:
    """One sample with all completions of it that were read, from however many rows."""

    key: str  # digest of the recipe
    order: tuple[Any, ...]  # where its rows stand in the output
    task: str
    length: int
    depth: float | None
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def cell(self) -> tuple[Any, ...]:
        """What `balance` makes equal: task, length and fifth of the text; absent and many-needle tasks have no depth."""
        place = -1 if self.depth is None else min(int(self.depth * DEPTH_BINS), DEPTH_BINS - 1)
        return self.task, self.length, place


@dataclass(frozen=True, slots=True)
class Pick:
    """A row to write: one candidate, or the chosen and the rejected."""

    asked: Asked
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Rules:
    """What is kept. 0 or empty: no rule. `min_score` is inclusive, a pair's scores differ by more than `min_margin`."""

    tasks: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    per_sample: int = 0
    balance: bool = False
    limit: int = 0
    seed: int = 0
    min_score: float = 0.0
    min_margin: float = 0.0


Chooser = Callable[[Asked, list[Candidate], Rules, Counter[str]], list[Pick]]


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def answer_of(text: str, answer: Answer, answer_format: str) -> tuple[str, ...]:
    """The values that a reply names, as scoring compares them; two replies with equal ones say the same."""
    said = said_by(text, answer, answer_format)
    if said is None:
        return "no answer region:", normalise(without_thinking(text))
    if said.abstained:
        return (NONE,)
    if not said.values:
        return "no value:", normalise(without_thinking(text))
    return tuple(sorted(said.values) if answer.kind == "set" else said.values)


def asked_of(row: Row) -> Asked:
    """The row's sample, without its completions."""
    recipe = row.recipe
    key = digest(json.dumps(recipe.model_dump(), sort_keys=True))
    # Samples that share filler follow each other, so that it is written once.
    settings = digest(json.dumps(recipe.options, sort_keys=True))
    return Asked(key, (settings, recipe.seed, key), recipe.task, recipe.length, row.depth)


def candidates(row: Row, place: tuple[int, int]) -> list[Candidate]:
    """The row's completions, the bad ones with their fault."""
    made = []
    for i, (text, finish, score) in enumerate(zip(row.completions, row.finish_reasons, row.scores, strict=True)):
        text = text.strip()
        whole = "no_finish_reason" if finish is None else "truncated" if finish != "stop" else ""
        answer = digest(*answer_of(text, row.answer, row.answer_format))
        fault = whole or ("" if text else "empty")
        made.append(Candidate(place, i, digest(text), answer, score, fault, len(text.encode())))
    return made


def gold(row: Row, place: tuple[int, int]) -> Candidate:
    """The right reply in the place of the completions."""
    return Candidate(place, 0, "gold", "", 1.0, "", len(right_reply(row).encode()))


# ---- selection ----


def best(asked: Asked, candidates: list[Candidate], rules: Rules, dropped: Counter[str]) -> list[Pick]:
    """The best completions from `min_score` on, one a row."""
    good = [c for c in candidates if c.score >= rules.min_score]
    dropped["low_score"] += len(candidates) - len(good)
    return [Pick(asked, (c,)) for c in good]


def pairs(asked: Asked, candidates: list[Candidate], rules: Rules, dropped: Counter[str]) -> list[Pick]:
    """The best against the worst, the second best against the second worst, and so on; each completion once."""

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
    for left in free:
        far = [c for c in candidates if apart(left, c)]
        differing = any(c.answer != left.answer for c in far)
        dropped["partner_taken" if differing else "same_answer" if far else "margin"] += 1
    return picks


def select(samples: Iterable[Asked], rules: Rules, choose: Chooser) -> tuple[list[Pick], Counter[str]]:
    """The rows in their order, and how many completions each reason cost; with those kept they sum to those read."""
    picks: list[Pick] = []
    dropped: Counter[str] = Counter()
    read = 0
    for asked in samples:
        read += len(asked.candidates)
        found = choose(asked, _usable(asked, rules, dropped), rules, dropped)
        kept = rules.per_sample or len(found)
        dropped["per_sample"] += _completions(found[kept:])
        picks += found[:kept]
    for name, enough in (("balance", _balanced), ("limit", _limited)):
        thinned = enough(picks, rules)
        dropped[name] += _completions(picks) - _completions(thinned)
        picks = thinned
    assert _completions(picks) + dropped.total() == read, "a completion is neither kept nor counted"
    return sorted(picks, key=lambda pick: pick.asked.order), +dropped


def _usable(asked: Asked, rules: Rules, dropped: Counter[str]) -> list[Candidate]:
    """The completions that could be in a row, best first; equal scores in an order drawn by the seed."""
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


def _drawn(picks: Iterable[Pick], rules: Rules) -> list[Pick]:
    """In an order drawn by the seed."""
    return sorted(picks, key=lambda p: digest(rules.seed, p.asked.key, *(c.digest for c in p.candidates)))


def _balanced(picks: list[Pick], rules: Rules) -> list[Pick]:
    """As many rows of every cell as the poorest has."""
    if not rules.balance or not picks:
        return picks
    cells = _cells(_drawn(picks, rules))
    least = min(map(len, cells))
    return [pick for cell in cells for pick in cell[:least]]


def _limited(picks: list[Pick], rules: Rules) -> list[Pick]:
    """At most `limit` rows; under `balance`, no cell has two more than another."""
    if not rules.limit or len(picks) <= rules.limit:
        return picks
    drawn = _drawn(picks, rules)
    if rules.balance:
        turns = [(turn, pick) for cell in _cells(drawn) for turn, pick in enumerate(cell)]
        drawn = [pick for _, pick in sorted(turns, key=lambda one: one[0])]
    return drawn[: rules.limit]


def _cells(picks: Iterable[Pick]) -> list[list[Pick]]:
    cells: dict[tuple[Any, ...], list[Pick]] = defaultdict(list)
    for pick in picks:
        cells[pick.asked.cell].append(pick)
    return [cells[cell] for cell in sorted(cells)]
