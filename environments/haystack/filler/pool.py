"""A pool of filler text whose every piece is counted once, so that any haystack cut from it has a known token count.

    pool = Pool(tokens, prose.passages(seed=0, split="train"), at_least=262_144)

A passage is the unit that layouts shuffle: some paragraphs that hold together. Inside it, `cuts` are the places between
two sentences of one paragraph where a needle may stand. Sentences that close a text to the exact token are looked up by
their cost (`closing`).
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np

from environments.haystack.tokens import BREAK, LEFT, RIGHT, Tokens
from longthread.errors import ConfigError

CHECKED_PASSAGES = 24  # passages re-tokenised whole at load, to prove that counts add up
BATCH = 64  # passages tokenised at a time: bounds how far a pool overshoots the tokens asked for
CUTS_TRIED = 24  # sentence ends of the last passage tried, from the fullest down
SHUFFLES = 12  # orders of passages tried before giving up on an exact fit
CLOSINGS_TRIED = 16  # pairs of costs tried to close a passage
DRAWS_A_COST = 8  # sentences of one cost tried: those of passages in use do not count
WORD = re.compile(r"[\w'’-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Paragraphs joined by blank lines. A cut is a space between two sentences where a needle may stand.

    All counts are of tokens inside a haystack; `tokens` includes the blank line behind the passage.
    """

    text: str
    tokens: int
    cut_chars: np.ndarray  # int64 (cuts,): a needle may stand before the space at text[cut]
    cut_tokens: np.ndarray  # int64 (cuts,): tokens before that space
    relabel: int  # what the first sentence costs more when a "[12] " stands before it instead of a blank line


class Filling(NamedTuple):
    """The passages of a haystack in order, the last one cut and closed to fit, and each label's ("[1]") tokens, int64."""

    passages: list[Passage]
    labels: np.ndarray


class Pool:
    """Passages of filler with exact token counts. `passages` are lists of paragraphs, each a list of sentences.

    Raises `ConfigError` when they hold fewer than `at_least` tokens.
    """

    def __init__(self, tokens: Tokens, passages: Iterable[list[list[str]]], at_least: int):
        self.tokens = tokens
        self.passages: list[Passage] = []
        self._mids: dict[int, list[tuple[int, str]]] = defaultdict(list)
        self._finals: dict[int, list[tuple[int, str]]] = defaultdict(list)
        total, source = 0, iter(passages)
        while total < at_least and (batch := list(islice(source, BATCH))):
            total += self._add(batch)
        if total < at_least:
            raise ConfigError(
                f"the filler has {total} tokens, fewer than the {at_least} needed (twice the longest haystack, so that "
                "no two samples are alike); give more text or ask for shorter lengths",
                setting=("filler_path", "lengths"),
            )
        self.costs = np.array([p.tokens for p in self.passages])
        self.relabels = np.array([p.relabel for p in self.passages])
        self._words = "\n".join(sorted({w for p in self.passages for w in WORD.findall(p.text)}))
        self.digest = hashlib.sha256(BREAK.join(p.text for p in self.passages).encode()).hexdigest()[:16]
        self.additive = self._adds_up()
        self._labels: list[int] = []

    def _add(self, batch: list[list[list[str]]]) -> int:
        initial, mid, final, alone = [], [], [], []
        for paragraph in (p for passage in batch for p in passage):
            if len(paragraph) == 1:
                alone.append(paragraph[0])
            else:
                initial.append(paragraph[0])
                mid += paragraph[1:-1]
                final.append(paragraph[-1])
        firsts = [passage[0][0] for passage in batch]
        t = self.tokens
        counts = {
            "initial": iter(t.initial(initial)),
            "mid": iter(t.mid(mid)),
            "final": iter(t.final(final)),
            "alone": iter(t.alone(alone)),
        }
        # A first sentence behind a label costs "mid" instead of "initial"; the blank line behind it, if any, is the same.
        relabels = [m - i for m, i in zip(t.mid(firsts), t.initial(firsts), strict=True)]
        added = 0
        for passage, relabel in zip(batch, relabels, strict=True):
            added += self._count(passage, counts, relabel)
        return added

    def _count(self, passage: list[list[str]], counts: dict, relabel: int) -> int:
        index, total, cut_chars, cut_tokens, chars = len(self.passages), 0, [], [], 0
        for paragraph in passage:
            last = len(paragraph) - 1
            for i, sentence in enumerate(paragraph):
                place = "alone" if last == 0 else "initial" if i == 0 else "final" if i == last else "mid"
                cost = next(counts[place])
                total += cost
                chars += len(sentence)
                if place == "mid":
                    self._mids[cost].append((index, sentence))
                elif place == "final":
                    self._finals[cost].append((index, sentence))
                if i < last:
                    cut_chars.append(chars)
                    cut_tokens.append(total)
                    chars += 1  # the space
            chars += len(BREAK)
        text = BREAK.join(" ".join(paragraph) for paragraph in passage)
        self.passages.append(
            Passage(text, total, np.array(cut_chars, dtype=np.int64), np.array(cut_tokens, dtype=np.int64), relabel)
        )
        return total

    def _adds_up(self) -> bool:
        """Return whether the counts of the pieces sum to the tokens of the whole, on passages spread over the pool."""
        step = max(1, len(self.passages) // CHECKED_PASSAGES)
        sample = self.passages[::step]
        whole = BREAK.join([LEFT, *(p.text for p in sample), RIGHT])
        frame = len(self.tokens.encode(LEFT + BREAK + RIGHT))
        return len(self.tokens.encode(whole)) == frame + sum(p.tokens for p in sample)

    def label_costs(self, n: int) -> np.ndarray:
        """Return the tokens of the labels "[1]" … "[n]", each at the start of a passage, int64."""
        if n > len(self._labels):
            self._labels = self.tokens.initial([f"[{i}]" for i in range(1, 2 * n + 1)])
        return np.array(self._labels[:n])

    def fill(self, tokens: int, rng: Random, numbered: bool) -> Filling | None:
        """Return passages in random order that take exactly `tokens` tokens, with labels if `numbered`; None if none fit.

        The last passage is cut at a sentence and closed with sentences of just the tokens that are missing.
        """
        n = len(self.passages)
        for _ in range(SHUFFLES):
            order = rng.sample(range(n), min(n, int(2 * max(tokens, 0) / self.costs.mean()) + 8))
            labels = np.zeros(len(order), dtype=np.int64)
            if numbered:
                labels = self.label_costs(len(order)) + self.relabels[order]
            ends = np.cumsum(self.costs[order] + labels)
            whole = int(np.searchsorted(ends, tokens, side="right"))
            for k in (whole, whole - 1):  # the passage that would overflow may have to give way to the one before it
                if not 0 <= k < len(order):
                    continue
                room = tokens - (int(ends[k - 1]) if k else 0) - int(labels[k])
                if last := self._closed(self.passages[order[k]], room, set(order[: k + 1]), rng):
                    return Filling([*(self.passages[i] for i in order[:k]), last], labels[: k + 1])
        return None

    def _closed(self, passage: Passage, room: int, used: set[int], rng: Random) -> Passage | None:
        """Return the passage, cut behind a sentence and closed with others, so that it takes exactly `room` tokens."""
        fitting = int(np.searchsorted(passage.cut_tokens, room))
        for j in range(fitting - 1, max(fitting - 1 - CUTS_TRIED, -1), -1):
            tokens = int(passage.cut_tokens[j])
            if closing := self.closing(room - tokens, used, rng):
                *mids, (final, _) = closing
                text = " ".join([passage.text[: passage.cut_chars[j]], *(sentence for sentence, _ in mids)])
                cut_chars, cut_tokens = passage.cut_chars[: j + 1], passage.cut_tokens[: j + 1]
                if mids:  # one at most: a needle may stand behind it too
                    cut_chars = np.append(cut_chars, len(text))
                    cut_tokens = np.append(cut_tokens, tokens + mids[0][1])
                return Passage(f"{text} {final}", room, cut_chars, cut_tokens, passage.relabel)
        return None

    def closing(self, cost: int, used: set[int], rng: Random) -> list[tuple[str, int]] | None:
        """Return one or two sentences, each with its cost, that end a paragraph and take exactly `cost` tokens.

        They come from passages that are not in `used`, so no sentence stands twice. None if there are none.
        """
        choices: list[tuple[int, ...]] = [(a,) for a in self._mids if cost - a in self._finals]
        if cost in self._finals:
            choices.append(())
        rng.shuffle(choices)
        for choice in choices[:CLOSINGS_TRIED]:
            picked: list[tuple[str, int]] = []
            for table, count in [*((self._mids, a) for a in choice), (self._finals, cost - sum(choice))]:
                candidates = table[count]
                for index, sentence in (rng.choice(candidates) for _ in range(DRAWS_A_COST)):
                    if index not in used and (sentence, count) not in picked:
                        picked.append((sentence, count))
                        break
            if len(picked) == len(choice) + 1:
                return picked
        return None

    def contains(self, text: str) -> bool:
        """Tell if the filler may contain `text`. Exact where it says no; a text of common words is searched in full."""
        parts = WORD.findall(text)
        if any(part not in self._words for part in parts):
            return False
        return any(text in p.text for p in self.passages)
