"""Fills a haystack by whole paragraphs, for corpora that offer too few places to cut in a paragraph.

One sentence a row or paragraph, short dialogue, verse and code are of this shape. The last passage ends at a paragraph,
and sentences of other passages, each a paragraph of its own, take just the tokens that are missing: which sums of
sentences can be had is counted once for each pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np

from environments.haystack.filler.counted_passage import Passage
from environments.haystack.tokens import BREAK, Tokens

CLOSERS = 8192  # sentences that may close a haystack, drawn from all over the pool
REACH = 8192  # tokens that a closing may take
ENDS_TRIED = 64  # ends of paragraphs tried, from the fullest down
CLOSINGS_TRIED = 8  # sums of sentences tried for each


class Closing(NamedTuple):
    """Sentences that are paragraphs of their own, and the tokens of each."""

    sentences: list[str]
    costs: list[int]


class Closings:
    """Finds sentences of other passages that take exactly so many tokens, each as a paragraph of its own."""

    def __init__(self, tokens: Tokens, passages: Sequence[Passage]):
        step = max(1, sum(len(p.cut_chars) + len(p.break_chars) + 1 for p in passages) // CLOSERS)
        drawn = self._drawn = list(islice(_sentences(passages), 0, None, step))
        self._by_cost: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for (index, sentence), cost in zip(drawn, tokens.alone([sentence for _, sentence in drawn]), strict=True):
            self._by_cost[cost].append((index, sentence))
        self.costs = sorted(cost for cost in self._by_cost if 0 < cost <= REACH)
        self._reached, coins = np.zeros(REACH + 1, dtype=bool), np.array(self.costs, dtype=np.int64)
        self._reached[0] = True
        for total in range(1, REACH + 1):
            self._reached[total] = self._reached[total - coins[coins <= total]].any()

    def draw(self, rng: Random) -> tuple[int, str]:
        """Return one of the sentences, and the index of its passage."""
        return rng.choice(self._drawn)

    def find(self, tokens: int, used: frozenset[int], rng: Random) -> Closing | None:
        """Return sentences of passages that are not in `used` which take exactly `tokens` tokens; None if there are none.

        No sentence comes twice.
        """
        if not 0 <= tokens <= REACH or not self._reached[tokens]:
            return None
        for _ in range(CLOSINGS_TRIED):
            closing, rest = Closing([], []), tokens
            while rest:
                cost = rng.choice([c for c in self.costs if c <= rest and self._reached[rest - c]])
                candidates = (rng.choice(self._by_cost[cost]) for _ in range(CLOSINGS_TRIED))
                sentence = next((s for i, s in candidates if i not in used and s not in closing.sentences), None)
                if sentence is None:
                    break
                closing.sentences.append(sentence)
                closing.costs.append(cost)
                rest -= cost
            if not rest:
                return closing
        return None


def _sentences(passages: Sequence[Passage]) -> Iterator[tuple[int, str]]:
    """Yield every sentence with the index of its passage."""
    for index, passage in enumerate(passages):
        gaps = sorted([*((c, 1) for c in passage.cut_chars), *((c, len(BREAK)) for c in passage.break_chars)])
        start = 0
        for end, width in [*gaps, (len(passage.text), 0)]:
            yield index, passage.text[start:end]
            start = int(end) + width


class End(NamedTuple):
    """Where the passages of an order end: the `whole` first ones, then `paragraphs` of the next; `rest` tokens are left."""

    whole: int
    paragraphs: int
    rest: int


def ends(passages: Sequence[Passage], labels: np.ndarray, tokens: int) -> Iterator[End]:
    """Yield the ends of paragraphs before which `passages`, in that order, fit into `tokens` tokens; the fullest first."""
    before = np.concatenate([[0], np.cumsum([p.tokens for p in passages] + labels)])
    whole = int(np.searchsorted(before, tokens, side="right")) - 1
    for k in range(min(whole, len(passages)), -1, -1):
        if k < len(passages):
            room = tokens - int(before[k]) - int(labels[k])
            for j in range(int(np.searchsorted(passages[k].break_tokens, room, side="right")), 0, -1):
                yield End(k, j, room - int(passages[k].break_tokens[j - 1]))
        yield End(k, 0, tokens - int(before[k]))
