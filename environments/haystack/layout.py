"""Places needles at depths, at sentence boundaries, into exactly as many tokens as asked.

Passages are drawn from the pool in random order; the last one is cut at a sentence and closed with sentences of just the
tokens that are missing. Nothing is tokenised here: positions are sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from random import Random
from typing import NamedTuple

import numpy as np

from environments.haystack.filler.pool import Passage, Pool
from environments.haystack.tokens import BREAK

CUTS_TRIED = 24  # sentence ends of the last passage tried, from the fullest down
SHUFFLES = 12  # orders of passages tried before giving up on an exact fit
WINDOW = 160  # characters of haystack kept on each side of a needle, for the viewers


class LayoutError(ValueError):
    """The needles do not fit: one line that names the value, the limit and the fix."""


@dataclass(frozen=True, slots=True)
class Needle:
    """One needle in its place.

    `token_start` and `token_end` count from the start of the rendered prompt; the tokens between decode to `text` (with
    the white space that the tokenizer glues to it). `depth` is the share of the haystack's other tokens that stand
    before it: 0 is its very beginning, 1 its very end. `passage` is the number of the passage that holds it, from 1.
    `before` and `after` are the text around it, for viewers.
    """

    text: str
    role: str  # answer | link | superseded | distractor
    token_start: int
    token_end: int
    depth: float
    passage: int
    before: str
    after: str


class Decoys(NamedTuple):
    """Sentences about other people, in columns, because there may be four thousand: texts, first tokens, ends."""

    texts: list[str]
    token_starts: list[int]
    token_ends: list[int]


@dataclass(frozen=True, slots=True)
class Layout:
    """A haystack and its needles, in the order given: tokens and characters before each, the number of its passage
    (from 1), its own tokens."""

    text: str
    starts: np.ndarray
    chars: np.ndarray
    passages: np.ndarray
    costs: np.ndarray


def draw_depths(rule: str, n: int, rng: Random) -> list[float]:
    """`n` depths by a rule: "uniform"; "sigmoid" (dense at both ends); or drawn from the list or grid that it names."""
    if rule == "uniform":
        return [rng.random() for _ in range(n)]
    if rule == "sigmoid":
        # The logistic curve over (-6, 6), scaled to 0…1: most needles near the ends, where models look first.
        low, high = 1 / (1 + exp(6)), 1 / (1 + exp(-6))
        return [(1 / (1 + exp(-12 * (rng.random() - 0.5))) - low) / (high - low) for _ in range(n)]
    depths = parse_depths(rule)
    return [rng.choice(depths) for _ in range(n)]


def stretch(depths: list[float], span: float, rng: Random) -> list[float]:
    """The depths, moved apart if the first and the last are closer than `span`; their order stays."""
    low, high = min(depths, default=0.0), max(depths, default=0.0)
    if len(depths) < 2 or high - low >= span:
        return depths
    wide = span + rng.random() * (1 - span)
    start = rng.random() * (1 - wide)
    # All in one place: spread them evenly, in random order.
    share = (
        [(d - low) / (high - low) for d in depths]
        if high > low
        else [i / (len(depths) - 1) for i in range(len(depths))]
    )
    return [start + wide * s for s in share]


def parse_depths(spec: str) -> list[float]:
    """A grid or a list: "11" is eleven depths from 0 to 1, "0.1,0.5" is those two. Raises `LayoutError` outside 0…1."""
    parts = [part.strip() for part in str(spec).split(",") if part.strip()]
    if len(parts) == 1 and parts[0].isdigit() and int(parts[0]) > 1:
        return [round(i / (int(parts[0]) - 1), 6) for i in range(int(parts[0]))]
    try:
        depths = [float(part) for part in parts]
    except ValueError:
        depths = []
    if not depths or not all(0 <= d <= 1 for d in depths):
        raise LayoutError(
            f"depths {spec!r} must be numbers from 0 to 1 separated by commas (0.1,0.5), the size of a grid (11), "
            "uniform or sigmoid"
        )
    return depths


def lay_out(
    pool: Pool,
    needles: Sequence[str],
    depths: Sequence[float],
    budget: int,
    rng: Random,
    numbered: bool = False,
    known: Sequence[int] | np.ndarray = (),
) -> Layout:
    """A haystack of exactly `budget` tokens, the blank line behind it included, with the needles at their depths.

    `known` are the tokens of the last needles, where they have been counted before (after and before a space).

    Needles stand between two sentences of a paragraph; at depth 0 and 1 they are paragraphs of their own. `numbered`
    puts "[1]", "[2]", … before the passages. Raises `LayoutError` when the needles do not fit.
    """
    first = [i for i, depth in enumerate(depths) if depth == 0 and not numbered]
    last = [i for i, depth in enumerate(depths) if depth == 1]
    edge = sorted(first + last)
    new = needles[: len(needles) - len(known)]
    costs = np.concatenate([pool.tokens.mid(new) if new else [], known]).astype(np.int64)
    if edge:
        costs[edge] = pool.tokens.alone([needles[i] for i in edge])
    passages, labels = _fill(pool, budget - int(costs.sum()), int(costs.sum()), budget, rng, numbered)
    cuts = _cuts(passages, labels)

    # Needles at one place stand in random order: given in theirs, the answer would always be the first of its cluster.
    for needles_there in (first, last):
        rng.shuffle(needles_there)
    inside = np.delete(np.arange(len(needles)), edge)
    wanted = np.array(depths, dtype=np.float64)[inside]
    at = _nearest(cuts.tokens, wanted * cuts.total)
    ties = np.frombuffer(rng.randbytes(8 * len(inside)), dtype="<u8")
    order = np.lexsort((ties, wanted, at))
    inside, at = inside[order], at[order]
    starts, chars, numbers = (np.zeros(len(needles), dtype=np.int64) for _ in range(3))
    within = [needles[i] for i in inside.tolist()]
    sizes = np.array(list(map(len, within)), dtype=np.int64) + 1  # with the space before it
    starts[inside] = cuts.tokens[at] + _before(costs[inside])
    chars[inside] = cuts.chars[at] + _before(sizes) + 1
    numbers[inside] = cuts.passages[at]
    body = _insert(cuts.text, cuts.chars[at].tolist(), within)

    # What stands before the body moves everything in it; what stands behind it starts at its end.
    starts[inside] += costs[first].sum()
    chars[inside] += sum(len(needles[i]) + len(BREAK) for i in first)
    tokens = length = 0
    for i in first + last:
        if i in last and i == last[0]:
            tokens, length = budget - int(costs[last].sum()), length + len(body) + len(BREAK)
        starts[i], chars[i], numbers[i] = tokens, length, 1 if i in first else len(passages)
        tokens, length = tokens + int(costs[i]), length + len(needles[i]) + len(BREAK)
    text = BREAK.join([*(needles[i] for i in first), body, *(needles[i] for i in last)])
    return Layout(text, starts, chars, numbers, costs)


def _fill(
    pool: Pool, filler: int, needles: int, budget: int, rng: Random, numbered: bool
) -> tuple[list[Passage], np.ndarray]:
    """Passages, the last one made to measure, and what each one's label costs: together exactly `filler` tokens."""
    n = len(pool.passages)
    for _ in range(SHUFFLES):
        order = rng.sample(range(n), min(n, int(2 * max(filler, 0) / pool.costs.mean()) + 8))
        labels = np.zeros(len(order), dtype=np.int64)
        if numbered:
            labels = pool.label_costs(len(order)) + pool.relabels[order]
        ends = np.cumsum(pool.costs[order] + labels)
        whole = int(np.searchsorted(ends, filler, side="right"))
        for k in (whole, whole - 1):  # the passage that would overflow may have to give way to the one before it
            if not 0 <= k < len(order):
                continue
            room = filler - (int(ends[k - 1]) if k else 0) - int(labels[k])
            closed = _close(pool, pool.passages[order[k]], room, set(order[: k + 1]), rng)
            if closed:
                return [*(pool.passages[i] for i in order[:k]), closed], labels[: k + 1]
    raise LayoutError(
        f"needles of {needles} tokens and filler do not fit into a haystack of {budget} tokens; "
        "ask for a longer prompt (--env.lengths) or for fewer facts (--env.distractors, --env.decoys, --env.values, …)"
    )


def _close(pool: Pool, passage: Passage, room: int, used: set[int], rng: Random) -> Passage | None:
    """The passage cut at a sentence and closed with others, to cost exactly `room` tokens."""
    fits = int(np.searchsorted(passage.cut_tokens, room))
    for j in range(fits - 1, max(fits - 1 - CUTS_TRIED, -1), -1):
        count = int(passage.cut_tokens[j])
        closing = pool.closing(room - count, used, rng)
        if closing:
            *mids, (final, _) = closing
            text = " ".join([passage.text[: passage.cut_chars[j]], *(sentence for sentence, _ in mids)])
            cut_chars = passage.cut_chars[: j + 1]
            cut_tokens = passage.cut_tokens[: j + 1]
            if mids:  # one at most: a needle may stand behind it too
                cut_chars = np.append(cut_chars, len(text))
                cut_tokens = np.append(cut_tokens, count + mids[0][1])
            return Passage(f"{text} {final}", room, cut_chars, cut_tokens, passage.relabel)
    return None


@dataclass(frozen=True, slots=True)
class _Cuts:
    """Filler as one text, and the places where a needle may replace a space: characters and tokens before it."""

    text: str
    total: int
    chars: np.ndarray
    tokens: np.ndarray
    passages: np.ndarray


def _cuts(passages: list[Passage], labels: np.ndarray) -> _Cuts:
    numbered = bool(labels.any())
    names = [f"[{i}] " if numbered else "" for i in range(1, len(passages) + 1)]
    widths = np.array([len(name) for name in names])
    sizes = np.array([len(p.text) for p in passages]) + widths + len(BREAK)
    costs = np.array([p.tokens for p in passages]) + labels
    counts = np.array([len(p.cut_chars) for p in passages])
    chars = np.concatenate([p.cut_chars for p in passages]) + np.repeat(_before(sizes) + widths, counts)
    tokens = np.concatenate([p.cut_tokens for p in passages]) + np.repeat(_before(costs) + labels, counts)
    where = np.repeat(np.arange(1, len(passages) + 1), counts)
    if numbered:  # the space behind a label is a cut too; the sentence behind it then costs `relabel` more
        chars = np.concatenate([chars, _before(sizes) + widths - 1])
        tokens = np.concatenate([tokens, _before(costs) + labels - [p.relabel for p in passages]])
        where = np.concatenate([where, np.arange(1, len(passages) + 1)])
        order = np.argsort(chars)
        chars, tokens, where = chars[order], tokens[order], where[order]
    text = BREAK.join([name + p.text for name, p in zip(names, passages, strict=True)])
    return _Cuts(text, int(costs.sum()), chars.astype(np.int64), tokens.astype(np.int64), where)


def _before(sizes: np.ndarray) -> np.ndarray:
    """Sum of all sizes before each."""
    return np.cumsum(sizes) - sizes


def _nearest(places: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each target the index of the nearest place. `places` rise."""
    right = np.searchsorted(places, targets).clip(0, len(places) - 1)
    left = (right - 1).clip(0)
    return np.where(targets - places[left] <= places[right] - targets, left, right)


def _insert(text: str, cuts: list[int], needles: list[str]) -> str:
    """The text with " needle" before each cut, cuts rising."""
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    joined = [""] * (2 * len(pieces) - 1)
    joined[::2] = pieces
    joined[1::2] = [f" {needle}" for needle in needles]
    return "".join(joined)
