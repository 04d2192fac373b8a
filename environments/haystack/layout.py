"""Places needles at depths, at sentence boundaries, into exactly as many tokens as asked.

Nothing is tokenised here: positions are sums. `reference_layout` says what a layout is, piece by piece; `lay_out` does the
same at once for thousands of needles.

Three coordinate systems meet in this package:
- *filler*: tokens and characters of the passages alone, without any needle. `_Places` are given in it.
- *haystack*: filler with the needles in it, from its own beginning. `Layout` is given in it.
- *prompt*: tokens from the beginning of the rendered chat prompt, `Frame.head` more. `Sample` is given in it.
The needles that stand before a place make the difference between filler and haystack: one running sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import numpy as np

from environments.haystack.filler.counted_passage import Block, Passage
from environments.haystack.filler.paragraph_filling import REACH
from environments.haystack.filler.pool import Filling, Pool
from environments.haystack.tokens import BREAK
from longthread.errors import ConfigError

FILLER_ENOUGH = 256  # tokens beside the needles for which any corpus should have an ending


class LayoutError(ConfigError):
    """The needles do not fit into the prompt."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Sentences to hide, and the depth of each. `known`: tokens of the last sentences, where those were counted before.

    Such a count is that of a sentence between two spaces. `between`: they stand between paragraphs alone. `blocks`: the
    passage that each of them stands in, which is hidden with it. `without`: passages of the pool that must not stand beside.
    """

    texts: Sequence[str]
    depths: Sequence[float]
    known: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    between: bool = False
    blocks: Sequence[Block] = ()
    without: frozenset[int] = frozenset()

    @property
    def pieces(self) -> Sequence[str]:
        """What goes into the haystack in one piece: each sentence, or the passage that it stands in."""
        if not self.blocks:
            return self.texts
        return [f"{block.before}{text}{block.after}" for block, text in zip(self.blocks, self.texts, strict=True)]


@dataclass(frozen=True, slots=True)
class Layout:
    """A haystack and, for each needle in the order given, int64 arrays of shape (needles,)."""

    text: str
    starts: np.ndarray  # tokens of the haystack before the needle
    ends: np.ndarray  # tokens up to its end
    chars: np.ndarray  # characters before it
    passages: np.ndarray  # number of the passage that holds it, from 1


def lay_out(pool: Pool, hidden: Hidden, budget: int, rng: Random, numbered: bool = False) -> Layout:
    """Return a haystack of exactly `budget` tokens, the blank line behind it included, with needles at their depths.

    Needles stand between two sentences of a paragraph; at depth 0 and 1 they are paragraphs of their own, and everywhere
    in a corpus whose paragraphs cannot be cut to fit. `numbered` puts "[1]", "[2]", … before the passages. Raises
    `LayoutError` when the needles do not fit.
    """
    first, last = _edges(hidden.depths, numbered)
    texts = hidden.pieces
    filling, costs = _filling(pool, hidden, [*first, *last], budget, rng, numbered)
    places = _places(filling)
    # Needles at one place stand in random order: given in theirs, the answer would always be the first of its cluster.
    rng.shuffle(first)
    rng.shuffle(last)
    inside = np.delete(np.arange(len(costs)), [*first, *last])
    depths = np.array(hidden.depths, dtype=np.float64)[inside]
    nearest = 1 + _nearest(places.tokens[1:-1], depths * places.tokens[-1])
    ties = np.frombuffer(rng.randbytes(8 * len(inside)), dtype="<u8")
    by_place = np.lexsort((ties, depths, nearest))

    order = np.concatenate([first, inside[by_place], last]).astype(np.int64)  # of the needles, in the text
    counts = [len(first), len(inside), len(last)]
    end = len(places.tokens) - 1
    place = np.concatenate([np.zeros(counts[0], np.int64), nearest[by_place], np.full(counts[2], end)])
    pieces = [f"{texts[i]}{BREAK}" for i in first]
    glue = BREAK if filling.between else " "
    pieces += [f"{glue}{texts[i]}" for i in inside[by_place].tolist()]
    pieces += [f"{BREAK}{texts[i]}" for i in last]
    offsets = np.repeat([0, len(glue), len(BREAK)], counts)  # of the needle in its piece

    starts, chars, passages = (np.empty(len(order), dtype=np.int64) for _ in range(3))
    starts[order] = places.tokens[place] + _before(costs[order])
    chars[order] = places.chars[place] + _before(np.array(list(map(len, pieces)), dtype=np.int64)) + offsets
    passages[order] = places.passages[place]
    return Layout(_insert(places.text, places.chars[place].tolist(), pieces), starts, starts + costs, chars, passages)


def _edges(depths: Sequence[float], numbered: bool) -> tuple[list[int], list[int]]:
    """Return the indices of the needles that are paragraphs of their own at the beginning, and of those at the end."""
    first = [i for i, depth in enumerate(depths) if depth == 0 and not numbered]
    return first, [i for i, depth in enumerate(depths) if depth == 1]


def _costs(pool: Pool, hidden: Hidden, paragraphs: Sequence[int]) -> np.ndarray:
    """Return the tokens of each needle where it stands, int64: between spaces, or as one of the `paragraphs`."""
    if hidden.blocks:
        return np.array([block.tokens for block in hidden.blocks], dtype=np.int64)
    texts, edge = hidden.texts, sorted(paragraphs)
    if len(edge) == len(texts):
        return np.array(pool.tokens.alone(texts) if edge else [], dtype=np.int64)
    uncounted = texts[: len(texts) - len(hidden.known)]
    costs = np.concatenate([pool.tokens.mid(uncounted) if uncounted else [], hidden.known]).astype(np.int64)
    if edge:
        costs[edge] = pool.tokens.alone([texts[i] for i in edge])
    return costs


def _filling(
    pool: Pool, hidden: Hidden, paragraphs: Sequence[int], budget: int, rng: Random, numbered: bool
) -> tuple[Filling, np.ndarray]:
    """Return the filler between the needles, and the tokens of each needle in it. Raises `LayoutError`."""
    between = pool.between or hidden.between
    costs = _costs(pool, hidden, range(len(hidden.texts)) if between else paragraphs)
    if filling := pool.fill(budget - int(costs.sum()), rng, numbered, hidden.without, between):
        return filling, costs
    if pool.source or pool.between:
        alone = costs if between else np.array(pool.tokens.alone(hidden.texts), dtype=np.int64)
        if filling := pool.fill_paragraphs(budget - int(alone.sum()), rng, numbered, hidden.without):
            return filling, alone
    needles = int(costs.sum())
    if pool.source and budget - needles >= FILLER_ENOUGH:
        sizes = pool.closings.costs or [REACH]
        raise LayoutError(
            f"filler {pool.source} has no sentences that add up to the {budget - needles} tokens beside the needles: they "
            f"take {sizes[0]} to {sizes[-1]} tokens each; give text whose sentences differ in length, or another length",
            setting=("filler_path", "lengths"),
        )
    raise LayoutError(
        f"needles of {needles} tokens and filler do not fit into a haystack of {budget} tokens; "
        "ask for a longer prompt or for fewer facts",
        setting=("lengths", "distractors", "decoys", "values"),
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Filler as one text, and the places where a needle may stand, in rising order: int64 arrays of shape (places,).

    The first place is the beginning, the last the end; those between are spaces, or blank lines if filling is `between`.
    """

    text: str
    tokens: np.ndarray
    chars: np.ndarray
    passages: np.ndarray


def _places(filling: Filling) -> _Places:
    passages, labels, between = filling
    numbered = bool(labels.any())
    names = [f"[{i}] " if numbered else "" for i in range(1, len(passages) + 1)]
    widths = np.array([len(name) for name in names])
    sizes = np.array([len(p.text) for p in passages]) + widths + len(BREAK)
    costs = np.array([p.tokens for p in passages]) + labels
    at_tokens, at_chars = zip(*(_places_of(p, between) for p in passages), strict=True)
    counts = np.array([len(places) for places in at_chars])
    tokens = np.concatenate(at_tokens) + np.repeat(_before(costs) + labels, counts)
    chars = np.concatenate(at_chars) + np.repeat(_before(sizes) + widths, counts)
    numbers = np.repeat(np.arange(1, len(passages) + 1), counts)
    if between:
        tokens, chars, numbers = tokens[:-1], chars[:-1], numbers[:-1]  # the end of the last passage is the end
    elif numbered:  # the space behind a label is a place too; the sentence behind it then costs `relabel` more
        tokens = np.concatenate([tokens, _before(costs) + labels - [p.relabel for p in passages]])
        chars = np.concatenate([chars, _before(sizes) + widths - 1])
        numbers = np.concatenate([numbers, np.arange(1, len(passages) + 1)])
        order = np.argsort(chars)
        tokens, chars, numbers = tokens[order], chars[order], numbers[order]
    text = BREAK.join([name + p.text for name, p in zip(names, passages, strict=True)])
    ends = (0, tokens, costs.sum()), (0, chars, len(text)), (1, numbers, len(passages))
    return _Places(text, *(np.concatenate([[low], values, [high]]).astype(np.int64) for low, values, high in ends))


def _places_of(passage: Passage, between: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the characters before each place of a passage; its end is one where needles stand between."""
    if not between:
        return passage.cut_tokens, passage.cut_chars
    return passage.end_tokens, passage.end_chars


def _before(sizes: np.ndarray) -> np.ndarray:
    """Return for each size the sum of those before it."""
    return np.cumsum(sizes) - sizes


def _nearest(places: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each target the index of the nearest place; of two as near, the first. `places` rise."""
    right = np.searchsorted(places, targets).clip(0, len(places) - 1)
    left = (right - 1).clip(0)
    return np.where(targets - places[left] <= places[right] - targets, left, right)


def _insert(text: str, at: list[int], pieces: list[str]) -> str:
    """Return the text with a piece before each of the characters `at`, which rise."""
    parts = [""] * (2 * len(pieces) + 1)
    parts[::2] = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
    parts[1::2] = pieces
    return "".join(parts)


def in_blocks(layout: Layout, hidden: Hidden) -> Layout:
    """Return where the sentences stand, given the layout of the passages that they stand in (`Hidden.blocks`)."""
    if not hidden.blocks:
        return layout
    chars, starts, ends = np.array([(len(block.before), block.start, block.end) for block in hidden.blocks]).T
    return Layout(layout.text, layout.starts + starts, layout.starts + ends, layout.chars + chars, layout.passages)


# ---- the specification ----


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a haystack between two places, with the white space that belongs to it, or a needle."""

    text: str
    tokens: int
    passage: int
    needle: int = -1


def reference_layout(pool: Pool, hidden: Hidden, budget: int, rng: Random, numbered: bool = False) -> Layout:
    """Compute what `lay_out` does, slowly: needles go between pieces of filler one by one; one running sum places them."""
    first, last = _edges(hidden.depths, numbered)
    filling, costs = _filling(pool, hidden, [*first, *last], budget, rng, numbered)
    filler, glue = list(_pieces(filling)), ("", BREAK) if filling.between else (" ", "")
    rng.shuffle(first)
    rng.shuffle(last)
    inside = [i for i in range(len(costs)) if i not in first + last]
    ties = {i: int.from_bytes(rng.randbytes(8), "little") for i in inside}
    running = np.cumsum([0, *(piece.tokens for piece in filler)]).tolist()
    places = [k for k, piece in enumerate(filler) if k and (filling.between or piece.text.startswith(" "))]
    targets = {i: hidden.depths[i] * running[-1] for i in inside}
    at = {i: min(places, key=lambda k, target=targets[i]: abs(running[k] - target)) for i in inside}  # type: ignore[misc]

    pieces = [Piece(hidden.pieces[i] + BREAK, int(costs[i]), 1, i) for i in first]
    for k, piece in enumerate(filler):
        for i in sorted((i for i in inside if at[i] == k), key=lambda i: (hidden.depths[i], ties[i])):
            passage = filler[k - 1].passage if filling.between else piece.passage
            pieces.append(Piece(hidden.pieces[i].join(glue), int(costs[i]), passage, i))
        pieces.append(piece)
    pieces += [Piece(hidden.pieces[i] + BREAK, int(costs[i]), filler[-1].passage, i) for i in last]

    starts, ends, chars, passages = np.zeros((4, len(costs)), dtype=np.int64)
    tokens = characters = 0
    for piece in pieces:
        if piece.needle >= 0:
            starts[piece.needle], ends[piece.needle] = tokens, tokens + piece.tokens
            chars[piece.needle] = characters + piece.text.startswith(" ")
            passages[piece.needle] = piece.passage
        tokens, characters = tokens + piece.tokens, characters + len(piece.text)
    return Layout("".join(piece.text for piece in pieces).removesuffix(BREAK), starts, ends, chars, passages)


def _pieces(filling: Filling) -> Iterator[Piece]:
    """Yield the filler in pieces that end wherever a needle may stand."""
    numbered = bool(filling.labels.any())
    for number, (passage, label) in enumerate(zip(filling.passages, filling.labels, strict=True), 1):
        if filling.between:
            ends = np.insert(_places_of(passage, True)[0], 0, 0)
            for k, text in enumerate(passage.text.split(BREAK)):
                name, more = (f"[{number}] ", int(label)) if numbered and k == 0 else ("", 0)
                yield Piece(f"{name}{text}{BREAK}", int(ends[k + 1] - ends[k]) + more, number)
            continue
        relabel = passage.relabel if numbered else 0
        if numbered:
            yield Piece(f"[{number}]", int(label) - relabel, number)
        chars = [0, *passage.cut_chars, len(passage.text)]
        tokens = [-relabel, *passage.cut_tokens, passage.tokens]
        for k, (a, b) in enumerate(pairwise(chars)):
            text = (" " if numbered and k == 0 else "") + passage.text[a:b] + (BREAK if b == chars[-1] else "")
            yield Piece(text, int(tokens[k + 1] - tokens[k]), number)
