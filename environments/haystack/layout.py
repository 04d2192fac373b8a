"""Places needles at depths, at sentence boundaries, into exactly as many tokens as asked.

Passages are drawn from the pool in random order; the last one is cut at a sentence and closed with sentences of just the
tokens that are missing. Nothing is tokenised here: positions are sums.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from random import Random

import numpy as np

from environments.haystack.filler import Passage, Pool
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
    """

    text: str
    role: str  # answer | link | superseded | decoy | distractor
    token_start: int
    token_end: int
    depth: float
    passage: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Layout:
    text: str
    starts: list[int]  # tokens of the haystack before each needle
    chars: list[int]  # characters of the haystack before each needle
    passages: list[int]  # number of the passage that holds each needle, from 1
    costs: list[int]  # tokens of each needle


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
    pool: Pool, needles: Sequence[str], depths: Sequence[float], budget: int, rng: Random, numbered: bool = False
) -> Layout:
    """A haystack of exactly `budget` tokens, the blank line behind it included, with the needles at their depths.

    `numbered` puts "[1]", "[2]", … before the passages. Raises `LayoutError` when the needles do not fit.
    """
    inline = pool.tokens.mid(needles) if needles else []
    edges = {i for i, d in enumerate(depths) if d == 1 or (d == 0 and not numbered)}
    costs = list(inline)
    for i, cost in zip(
        sorted(edges), pool.tokens.alone([needles[i] for i in sorted(edges)]) if edges else [], strict=True
    ):
        costs[i] = cost
    passages, prices = _fill(pool, budget - sum(costs), sum(costs), budget, rng, numbered)
    ends = np.cumsum(prices).tolist()
    slots = [_slot(passages, prices, ends, depth * ends[-1], i in edges) for i, depth in enumerate(depths)]
    return _assemble(passages, prices, needles, costs, slots, edges, numbered)


def _fill(
    pool: Pool, filler: int, needles: int, budget: int, rng: Random, numbered: bool
) -> tuple[list[Passage], list[int]]:
    """Passages, the last one made to measure, of exactly `filler` tokens in all; and the price of each."""
    n = len(pool.passages)
    for _ in range(SHUFFLES):
        order = rng.sample(range(n), min(n, int(2 * filler / pool.costs.mean()) + 8))
        prices = pool.costs[order]
        if numbered:
            prices = prices + pool.relabels[order] + pool.label_costs(len(order))
        ends = np.cumsum(prices)
        whole = int(np.searchsorted(ends, filler, side="right"))
        for k in (whole, whole - 1):  # the passage that would overflow may have to give way to the one before it
            if not 0 <= k < len(order):
                continue
            before = int(ends[k - 1]) if k else 0
            label = int(prices[k]) - pool.passages[order[k]].tokens
            last = _close(pool, pool.passages[order[k]], filler - before - label, set(order[: k + 1]), rng)
            if last:
                return [*(pool.passages[i] for i in order[:k]), last], [*prices[:k].tolist(), last.tokens + label]
    raise LayoutError(
        f"needles of {needles} tokens and filler do not fit into a haystack of {budget} tokens; "
        "ask for a longer prompt (--env.lengths) or for fewer needles"
    )


def _close(pool: Pool, passage: Passage, room: int, used: set[int], rng: Random) -> Passage | None:
    """The passage cut at a sentence and closed with others, to cost exactly `room` tokens."""
    fits = bisect_left(passage.cut_tokens, room)
    for j in range(fits - 1, max(fits - 1 - CUTS_TRIED, -1), -1):
        chars, count = passage.cut_chars[j], passage.cut_tokens[j]
        closing = pool.closing(room - count, used, rng)
        if closing:
            cut_chars, cut_tokens = list(passage.cut_chars[: j + 1]), list(passage.cut_tokens[: j + 1])
            text = passage.text[:chars]
            for sentence, cost in closing[:-1]:
                text += " " + sentence
                cut_chars.append(len(text))
                cut_tokens.append(cut_tokens[-1] + cost)
            return Passage(f"{text} {closing[-1][0]}", room, tuple(cut_chars), tuple(cut_tokens), passage.relabel)
    return None


def _slot(passages: list[Passage], prices: list[int], ends: list[int], target: float, edge: bool) -> tuple[int, int]:
    """(passage, cut) nearest to `target` tokens of filler. Cut -1 is before the passage's first sentence; the slot
    behind the last passage is (len(passages), -1)."""
    if edge:
        return (0, -1) if target == 0 else (len(passages), -1)
    if target == 0:
        return 0, -1
    at = min(bisect_left(ends, target), len(passages) - 1)
    for distance in range(len(passages)):  # a passage of one sentence has no cut: take the nearest that has one
        for index in {at - distance, at + distance}:
            if 0 <= index < len(passages) and passages[index].cut_tokens:
                cuts = passages[index].cut_tokens
                inside = target - (ends[index] - prices[index]) - (prices[index] - passages[index].tokens)
                j = bisect_left(cuts, inside)
                if j == len(cuts) or (j and inside - cuts[j - 1] <= cuts[j] - inside):
                    j -= 1
                return index, j
    return len(passages), -1


def _assemble(
    passages: list[Passage],
    prices: list[int],
    needles: Sequence[str],
    costs: list[int],
    slots: list[tuple[int, int]],
    edges: set[int],
    numbered: bool,
) -> Layout:
    starts, chars, numbers = [0] * len(needles), [0] * len(needles), [0] * len(needles)
    order = sorted(range(len(needles)), key=lambda i: slots[i])
    parts: list[str] = []  # paragraphs or passages, later joined by blank lines
    tokens = length = at = 0
    for index in range(len(passages) + 1):
        while at < len(order) and order[at] in edges and slots[order[at]][0] == index:
            needle = order[at]
            starts[needle], chars[needle], numbers[needle] = tokens, length, min(index + 1, len(passages))
            parts.append(needles[needle])
            tokens += costs[needle]
            length += len(needles[needle]) + len(BREAK)
            at += 1
        if index == len(passages):
            break
        passage = passages[index]
        label = f"[{index + 1}] " if numbered else ""
        if at == len(order) or slots[order[at]][0] != index:  # nearly every passage: nothing to insert
            parts.append(label + passage.text)
        else:
            label_cost = prices[index] - passage.tokens
            pieces, done, inserted = [label], 0, 0
            while at < len(order) and slots[order[at]][0] == index:
                needle = order[at]
                cut = slots[needle][1]
                here, cost_here = (passage.cut_chars[cut], passage.cut_tokens[cut]) if cut >= 0 else (0, 0)
                pieces.append(passage.text[done:here])
                if cut >= 0:
                    pieces.append(f" {needles[needle]}")
                    starts_at = sum(map(len, pieces)) - len(needles[needle])
                else:
                    pieces.append(f"{needles[needle]} ")
                    starts_at = sum(map(len, pieces)) - len(needles[needle]) - 1
                # Behind a label the first sentence costs `relabel` more, and a needle at cut -1 stands before it.
                starts[needle] = tokens + label_cost + cost_here + inserted - (passage.relabel if cut < 0 else 0)
                chars[needle], numbers[needle] = length + starts_at, index + 1
                inserted += costs[needle]
                done = here
                at += 1
            pieces.append(passage.text[done:])
            parts.append("".join(pieces))
            tokens += inserted
        tokens += prices[index]
        length += len(parts[-1]) + len(BREAK)
    return Layout(BREAK.join(parts), starts, chars, numbers, costs)
