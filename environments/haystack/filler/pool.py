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
from functools import cached_property
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np

from environments.haystack.filler.counted_passage import Passage
from environments.haystack.filler.paragraph_filling import CLOSINGS_TRIED as PARAGRAPHS_TRIED
from environments.haystack.filler.paragraph_filling import ENDS_TRIED, Closing, Closings, End, ends
from environments.haystack.filler.word_index import WordIndex
from environments.haystack.tokens import BREAK, LEFT, RIGHT, Tokens
from longthread.errors import ConfigError

CHECKED_PASSAGES = 24  # passages re-tokenised whole at load, to prove that counts add up
BATCH = 64  # passages tokenised at a time: bounds how far a pool overshoots the tokens asked for
CUTS_TRIED = 24  # sentence ends of the last passage tried, from the fullest down
SHUFFLES = 12  # orders of passages tried before giving up on an exact fit
CLOSINGS_TRIED = 16  # pairs of costs tried to close a passage
DRAWS_A_COST = 8  # sentences of one cost tried: those of passages in use do not count
WORD = re.compile(r"[\w'’-]+")


class Filling(NamedTuple):
    """The passages of a haystack in order, the last one cut and closed to fit, and each label's ("[1]") tokens, int64."""

    passages: list[Passage]
    labels: np.ndarray
    between: bool = False  # needles are paragraphs of their own: few paragraphs have a cut, or none may be cut


class PoolError(ConfigError):
    """A corpus holds less text than the samples need."""


class Pool:
    """Passages of filler with exact token counts. `passages` are lists of paragraphs, each a list of sentences.

    `source` names the corpus in errors; without one, the text is written for this project and always fits. `between`:
    needles stand between its paragraphs alone.
    Raises `PoolError` when the passages hold fewer than `at_least` tokens; None takes all of them.
    """

    def __init__(
        self,
        tokens: Tokens,
        passages: Iterable[list[list[str]]],
        at_least: int | None,
        source: str = "",
        between: bool = False,
    ):
        self.tokens, self.source, self.between = tokens, source, between
        self.passages: list[Passage] = []
        self._mids: dict[int, list[tuple[int, str]]] = defaultdict(list)
        self._finals: dict[int, list[tuple[int, str]]] = defaultdict(list)
        total, waiting = 0, iter(passages)
        while (at_least is None or total < at_least) and (batch := list(islice(waiting, BATCH))):
            total += self._add(batch)
        if at_least is not None and total < at_least:
            raise PoolError(
                f"the filler has {total} tokens, fewer than the {at_least} needed (twice the longest haystack, so that "
                f"no two samples are alike); give more text{f' than {source}' if source else ''} or ask for shorter lengths",
                setting=("filler_path", "lengths"),
            )
        self.costs = np.array([p.tokens for p in self.passages])
        self.relabels = np.array([p.relabel for p in self.passages])
        self._words = frozenset(w for p in self.passages for w in WORD.findall(p.text))
        self._all_words = "\n".join(sorted(self._words))
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
        index, total, chars = len(self.passages), 0, 0
        cut_chars, cut_tokens, break_chars, break_tokens = [], [], [], []
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
            break_chars.append(chars)
            break_tokens.append(total)
            chars += len(BREAK)
        text = BREAK.join(" ".join(paragraph) for paragraph in passage)
        places = cut_chars, cut_tokens, break_chars[:-1], break_tokens[:-1]
        cuts, cut_at, breaks, break_at = (np.array(place, dtype=np.int64) for place in places)
        self.passages.append(Passage(text, total, cuts, cut_at, breaks, break_at, relabel))
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

    def fill(
        self, tokens: int, rng: Random, numbered: bool, without: frozenset[int] = frozenset(), between: bool = False
    ) -> Filling | None:
        """Return passages in random order that take exactly `tokens` tokens, with labels if `numbered`; None if none fit.

        The last passage is cut at a sentence and closed with sentences of just the tokens that are missing. No text of the
        passages in `without` is used. `between`: needles will stand between paragraphs alone.
        """
        n, between = len(self.passages), between or self.between
        if between and not self._finals:  # no paragraph can be cut
            return None
        for _ in range(SHUFFLES):
            order = rng.sample(range(n), min(n, int(2 * max(tokens, 0) / self.costs.mean()) + 8))
            order = [i for i in order if i not in without] if without else order
            labels = np.zeros(len(order), dtype=np.int64)
            if numbered:
                labels = self.label_costs(len(order)) + self.relabels[order]
            ends = np.cumsum(self.costs[order] + labels)
            whole = int(np.searchsorted(ends, tokens, side="right"))
            for k in (whole, whole - 1):  # the passage that would overflow may have to give way to the one before it
                if not 0 <= k < len(order):
                    continue
                room = tokens - (int(ends[k - 1]) if k else 0) - int(labels[k])
                if last := self._closed(self.passages[order[k]], room, without.union(order[: k + 1]), rng):
                    if between and not k and not len(last.break_chars):
                        continue  # no place for a needle
                    return Filling([*(self.passages[i] for i in order[:k]), last], labels[: k + 1], between)
        return None

    def fill_paragraphs(
        self, tokens: int, rng: Random, numbered: bool, without: frozenset[int] = frozenset()
    ) -> Filling | None:
        """Return passages that take exactly `tokens` tokens, as `fill` does, closed with paragraphs of one sentence each.

        For texts in whose paragraphs `fill` finds no ending. None if none fit, or the pool is prose.
        """
        if not (self.source or self.between) or tokens <= 0:
            return None
        n = len(self.passages)
        for _ in range(SHUFFLES):
            order = rng.sample(range(n), min(n, int(2 * tokens / self.costs.mean()) + 8))
            order = [i for i in order if i not in without] if without else order
            passages = [self.passages[i] for i in order]
            labels = self.label_costs(len(order)) + self.relabels[order] if numbered else np.zeros(len(order), np.int64)
            for end in islice(ends(passages, labels, tokens), ENDS_TRIED):
                used = without.union(order[: end.whole + 1])
                if end.whole or end.paragraphs:
                    last = self._ended(passages, end, used, rng)
                else:
                    last = self._closing_passage(end.rest, rng, numbered, without)
                if last:
                    kept = [*passages[: end.whole if end.paragraphs else max(end.whole - 1, 0)], last]
                    if len(kept) == 1 and not len(last.break_chars):
                        continue  # no place for a needle
                    if numbered and len(kept) == 1:  # perhaps of closing sentences alone
                        return Filling(kept, self.label_costs(1) + last.relabel, between=True)
                    return Filling(kept, labels[: len(kept)], between=True)
        return None

    def _ended(self, passages: list[Passage], end: End, used: frozenset[int], rng: Random) -> Passage | None:
        """Return the passage that stands last before that end, closed to take the tokens that are left."""
        closing = self.closings.find(end.rest, used, rng)
        if closing is None:
            return None
        last = passages[end.whole if end.paragraphs else end.whole - 1]
        if not end.paragraphs:
            return _extended(last, closing)
        chars, tokens = (int(at[end.paragraphs - 1]) for at in (last.break_chars, last.break_tokens))
        breaks, cuts = slice(end.paragraphs - 1), last.cut_chars < chars
        places = (last.cut_chars[cuts], last.cut_tokens[cuts], last.break_chars[breaks], last.break_tokens[breaks])
        return _extended(Passage(last.text[:chars], tokens, *places, last.relabel), closing)

    def _closing_passage(self, tokens: int, rng: Random, numbered: bool, without: frozenset[int]) -> Passage | None:
        """Return a passage of exactly `tokens` tokens that is made of closing sentences alone, its label included."""
        none = np.zeros(0, np.int64)
        for _ in range(PARAGRAPHS_TRIED):
            index, first = self.closings.draw(rng)
            if index in without:
                continue
            (cost,), relabel = self.tokens.alone([first]), 0
            if numbered:
                relabel = self.tokens.mid([first])[0] - self.tokens.initial([first])[0]
                tokens_left = tokens - int(self.label_costs(1)[0]) - relabel - cost
            else:
                tokens_left = tokens - cost
            if (closing := self.closings.find(tokens_left, without | {index}, rng)) and first not in closing.sentences:
                return _extended(Passage(first, cost, none, none, none, none, relabel), closing)
        return None

    @cached_property
    def index(self) -> WordIndex:
        """The words of the passages, counted when first asked for."""
        return WordIndex(self.passages)

    @cached_property
    def closings(self) -> Closings:
        """The sentences that may close a haystack as paragraphs of their own, counted when first asked for."""
        return Closings(self.tokens, self.passages)

    def _closed(self, passage: Passage, room: int, used: frozenset[int], rng: Random) -> Passage | None:
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
                inside = passage.break_chars < passage.cut_chars[j]
                breaks = (passage.break_chars[inside], passage.break_tokens[inside])
                return Passage(f"{text} {final}", room, cut_chars, cut_tokens, *breaks, passage.relabel)
        return None

    def closing(self, cost: int, used: frozenset[int], rng: Random) -> list[tuple[str, int]] | None:
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
        if any(part not in self._words and part not in self._all_words for part in parts):
            return False
        return any(text in p.text for p in self.passages)


def _extended(passage: Passage, closing: Closing) -> Passage:
    """Return the passage with the closing's sentences behind it, each as a paragraph."""
    if not closing.sentences:
        return passage
    lengths = [len(sentence) + len(BREAK) for sentence in closing.sentences[:-1]]
    chars = len(passage.text) + np.cumsum([0, *lengths])
    tokens = passage.tokens + np.cumsum([0, *closing.costs])
    return Passage(
        BREAK.join([passage.text, *closing.sentences]),
        int(tokens[-1]),
        passage.cut_chars,
        passage.cut_tokens,
        np.concatenate([passage.break_chars, chars]),
        np.concatenate([passage.break_tokens, tokens[:-1]]),
        passage.relabel,
    )
