"""Texts without filler, of which every item matters: drawn from a bank whose items are counted once, exact to the token.

`Items` is the bank: words or lines, and what each costs in every place of a paragraph. A `Listing` says which of them a
text holds. `Listing.lay_out` brings them into random order and closes the text with items that change no answer.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from random import Random

import numpy as np

from environments.haystack.layout import Layout, LayoutError
from environments.haystack.tokens import BREAK, LEFT, RIGHT, Tokens

CHECKED_PARAGRAPHS = 24  # of the bank, re-tokenised whole to find out whether counts add up
SPARE = 6  # of the longest items: what closing a text takes, so that some sum is sure to fit
STEP = 64  # tokens: budgets within one step have the same body, so that a correction moves the closing alone
TRIES = 12  # bodies, each shorter than the last, until one can be closed
CANDIDATES = 1024  # items looked at to close a text
DRAWN = 2  # of the items that close it, drawn whatever they cost
UNKNOWN = -(10**6)  # tokens: not counted yet
REACH = 512  # tokens beside those that a closing may have to fill
UNSURE = 8  # a share of the tokens, left free where counts do not add up


class Items:
    """Words or lines for one tokenizer, with the tokens that each costs in its place in a paragraph.

    `mid`, int64 of shape (items,), counts all between two others. How much more an item costs at the beginning or the end
    of a paragraph is counted when it first stands there; `ends` is its mean, spread over all items of a paragraph, which
    has `per_paragraph` of them, two at least.
    """

    def __init__(self, tokens: Tokens, texts: Sequence[str], per_paragraph: int):
        self.tokens, self.texts, self.per_paragraph = tokens, list(texts), per_paragraph
        self.mid = np.array(tokens.mid(self.texts), dtype=np.int64)
        # Where counts add up at spaces, only the first or the last word of an item can cost more at an end.
        words = [text.split(" ") for text in self.texts]
        self._words = {"initial": _numbers([w[0] for w in words]), "final": _numbers([w[-1] for w in words])}
        self._more = {end: np.full(int(words.max()) + 1, UNKNOWN) for end, words in self._words.items()}
        self.digest = hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]
        n = min(CHECKED_PARAGRAPHS * per_paragraph, len(self.texts))
        checked = np.array(Random(self.digest).sample(range(len(self.texts)), n))
        self.ends = float(sum(self._edges(end, checked).mean() for end in self._more)) / per_paragraph
        whole = BREAK.join([LEFT, *(" ".join(p) for p in self.paragraphs(checked)), RIGHT])
        self.additive = len(tokens.encode(whole)) == len(tokens.encode(LEFT + BREAK + RIGHT)) + self.cost(checked)

    def _edges(self, end: str, items: np.ndarray) -> np.ndarray:
        """Return how much more these items cost at the "initial" or "final" place of a paragraph than inside it."""
        more, words = self._more[end], self._words[end][items]
        if (unknown := more[words] == UNKNOWN).any():
            new, first = np.unique(words[unknown], return_index=True)
            asked = items[unknown][first]
            count = self.tokens.initial if end == "initial" else self.tokens.final
            more[new] = np.array(count([self.texts[i] for i in asked.tolist()])) - self.mid[asked]
        return more[words]

    def _starts(self, n: int) -> np.ndarray:
        """Return where the paragraphs of `n` items begin; the last takes what would be fewer than two."""
        starts = np.arange(0, n, self.per_paragraph)
        return starts[:-1] if len(starts) > 1 and n - starts[-1] < 2 else starts

    def cost(self, order: np.ndarray) -> int:
        """Return the tokens of these items in paragraphs, the blank line behind the last included."""
        starts = self._starts(len(order))
        edges = order[starts], order[np.append(starts[1:], len(order)) - 1]
        more = sum(int(self._edges(end, items).sum()) for end, items in zip(self._more, edges, strict=True))
        return int(self.mid[order].sum()) + more

    def paragraphs(self, order: np.ndarray) -> list[Sequence[str]]:
        """Return the items' texts in paragraphs."""
        texts = itemgetter(*order.tolist())(self.texts)
        return [texts[a:b] for a, b in pairwise([*self._starts(len(texts)).tolist(), len(texts)])]

    def fitting(self, order: np.ndarray, tokens: int) -> int:
        """Return how many of these items, from the first on, take at most so many tokens, by the mean of what ends cost."""
        return int(np.searchsorted(np.cumsum(self.mid[order] + self.ends), tokens, side="right"))

    @property
    def closing(self) -> int:
        """Tokens that it takes to close a text, whatever is missing."""
        return SPARE * int(self.mid.max())

    def for_facts(self, room: int) -> int:
        """Return how many of a text's tokens to take for items that matter, so that it can be closed."""
        return room - self.closing - STEP - (0 if self.additive else room // UNSURE)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a text consists of: numbers of items, int64.

    All of `required` stand in it, each as often as here, and as many of `free`, in that order, as there is room for.
    """

    items: Items
    required: np.ndarray
    free: np.ndarray

    def lay_out(self, budget: int, rng: Random, places: Random) -> Layout:
        """Return a text of exactly `budget` tokens, the blank line behind it included. Raises `LayoutError`.

        `rng` draws the order of the items, `places` where those that close the text stand.
        """
        items = self.items
        all_items, least = np.concatenate([self.required, self.free]), len(self.required)
        for attempt in range(TRIES):
            room = budget // STEP * STEP - (1 + attempt) * items.closing
            n = max(items.fitting(all_items, room) - least, 0)
            body = all_items[: least + n][random_state(rng).permutation(least + n)]
            closing = self._closing(budget - items.cost(body), self.free[n : n + CANDIDATES], places)
            if closing is not None:
                return _layout(items.paragraphs(body), [items.texts[i] for i in closing], places)
        raise LayoutError(
            f"{least} words or lines of {int(items.mid[self.required].sum())} tokens, and what closes them, do not fit into "
            f"a text of {budget} tokens; ask for a longer prompt",
            setting="lengths",
        )

    def _closing(self, tokens: int, candidates: np.ndarray, rng: Random) -> list[int] | None:
        """Return some of the candidates that take exactly `tokens` tokens between others; None if none do.

        A few are drawn, the rest follows: where counts do not add up, the same few would always be wrong by as much.
        """
        if not 0 <= tokens <= TRIES * self.items.closing + REACH:
            return None
        by_cost: dict[int, list[int]] = defaultdict(list)
        for number, cost in zip(candidates.tolist(), self.items.mid[candidates].tolist(), strict=True):
            by_cost[cost].append(number)
        enough = sorted(cost for cost, numbers in by_cost.items() if cost * len(numbers) >= tokens)
        drawn = rng.choices(enough, k=DRAWN) if enough else []
        for n in range(DRAWN, -1, -1):
            terms = _terms(tokens - sum(drawn[:n]), enough)
            if terms is not None:
                costs = [*drawn[:n], *terms]
                return [by_cost[cost].pop(rng.randrange(len(by_cost[cost]))) for cost in costs]
        return None


def _numbers(words: Sequence[str]) -> np.ndarray:
    """Return for each word its number among the different ones, int64."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(word, len(numbers)) for word in words])


def random_state(rng: Random) -> np.random.RandomState:
    """Return numpy's frozen generator, whose numbers are the same in all its releases, seeded by `rng`."""
    return np.random.RandomState([rng.getrandbits(32) for _ in range(4)])


def _terms(total: int, costs: Sequence[int]) -> list[int] | None:
    """Return the fewest of the costs, each as often as need be, that add up to the total; None where none do."""
    if total < 0:
        return None
    last: list[int] = [0] * (total + 1)  # of the fewest that add up to each sum
    counts = [0] + [total + 1] * total
    for at in range(1, total + 1):
        for cost in costs:
            if cost <= at and counts[at - cost] + 1 < counts[at]:
                counts[at], last[at] = counts[at - cost] + 1, cost
    terms = []
    while total:
        if not last[total]:
            return None
        terms.append(last[total])
        total -= terms[-1]
    return terms


def _layout(paragraphs: list[Sequence[str]], closing: list[str], rng: Random) -> Layout:
    """Return the paragraphs as a haystack without needles; each closing item stands inside a random paragraph."""
    for text in closing:
        number = rng.randrange(len(paragraphs))
        paragraph = list(paragraphs[number])
        paragraph.insert(rng.randint(1, len(paragraph) - 1), text)
        paragraphs[number] = paragraph
    none = np.zeros(0, dtype=np.int64)
    return Layout(BREAK.join(map(" ".join, paragraphs)), none, none, none, none)
