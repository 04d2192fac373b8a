"""Texts of words alone, whose frequencies are asked for: RULER's common and frequent words (arXiv 2404.06654).

common_words     which ten words stand most often: each 30 times, all others 3 times at most
frequent_words   which three of some coded words do, whose frequencies follow Zipf's law; dots are to be left out
"""

from math import pi
from random import Random

import numpy as np

from environments.haystack.facts import WORDS, first_drawn, in_split
from environments.haystack.layout import LayoutError
from environments.haystack.listing import Items, Listing, random_state
from environments.haystack.options import refuse_lexical_gap
from environments.haystack.tasks.task import Answer, Draw, Quiz
from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError

COMMON, TIMES, UNCOMMON_TIMES = 10, 30, 3  # RULER's num_cw, freq_cw, freq_ucw
FREQUENT, ALPHA = 3, 2.0  # RULER's, with zeta(2) = pi^2 / 6
DOTS = "..."
CODES, CODE_LETTERS, CONSONANTS = 2048, 6, "bcdfghjklmnpqrstvwxz"  # no word of a language has six of them in a row
A_PARAGRAPH = 160  # words
MEASURED = 512  # words counted to find out how many a bank needs


def word_items(tokens: Tokens, split: str, number: int, at_least: int) -> Items:
    """Write a bank of pairs of words ("amber-fox"), so that a plain reply names nothing else that looks like them."""
    rng = Random(f"words {split} {number}")
    pairs: dict[str, None] = {}

    def draw(n: int) -> list[str]:
        while len(pairs) < n:
            pair = first_drawn(lambda: "-".join(rng.sample(WORDS, 2)), lambda p: in_split(p, split), "a pair of words")
            pairs.setdefault(pair)
        return list(pairs)

    mean = float(np.mean(tokens.mid(draw(MEASURED))))
    return Items(tokens, draw(MEASURED + int(at_least / UNCOMMON_TIMES / mean)), A_PARAGRAPH)


def code_items(tokens: Tokens, split: str, number: int, at_least: int) -> Items:
    """Write a bank of coded words of six consonants; the first item is the dots."""
    rng = Random(f"codes {split} {number}")
    codes: dict[str, None] = {DOTS: None}
    while len(codes) <= CODES:
        code = first_drawn(
            lambda: "".join(rng.choices(CONSONANTS, k=CODE_LETTERS)), lambda c: in_split(c, split), "a coded word"
        )
        codes.setdefault(code)
    return Items(tokens, list(codes), A_PARAGRAPH)


def common_words(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for the ten words that stand most often in a text of words.

    Where the text has no room for 30 times each, the ten take half of it. Raises `LayoutError` for less than twice.
    """
    question = "Which ten words stand most often in the text above? Every other word stands there less often."
    items, room = whole_text(draw, "common_words", question, several=True)
    order = random_state(draw.rng).permutation(len(items.texts))
    common, others = order[:COMMON], order[COMMON:]
    times = min(TIMES, int(room / 2 / items.mid[common].sum()))
    if times < 2:
        raise LayoutError(
            f"a text of {room} tokens has no room for {COMMON} common words; ask for a longer prompt", setting="lengths"
        )
    uncommon_times = max(1, times * UNCOMMON_TIMES // TIMES)
    answer = Answer("set", tuple(items.texts[i] for i in common), "pairs")
    listing = Listing(items, np.repeat(common, times), np.repeat(others, uncommon_times))
    return Quiz((), answer.values, question, answer, several=True, listing=listing)


def frequent_words(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for the three coded words that stand most often, whose frequencies follow Zipf's law."""
    question = "Which three coded words stand most often in the text above? Leave out the dots."
    items, room = whole_text(draw, "frequent_words", question, several=True)
    codes = 1 + random_state(draw.rng).permutation(CODES)
    ranks = np.arange(1, len(codes) + 2)
    shares = ranks**-ALPHA / (pi**2 / 6)
    words = items.for_facts(room) / (
        float(shares @ items.mid[np.append(0, codes)]) + items.ends
    )  # how many there is room for
    counts = (words * shares).astype(np.int64)
    if not counts[FREQUENT] > counts[FREQUENT + 1] + 1:
        raise LayoutError(
            f"a text of {room} tokens is too short for words of different frequency; ask for a longer prompt",
            setting="lengths",
        )
    used = int((counts[1:] > 1).sum())
    required = np.concatenate([np.zeros(counts[0], np.int64), np.repeat(codes[:used], counts[1 : used + 1])])
    # Dots close the text, and every eighth time a coded word that stands nowhere else: its cost is another.
    rare = codes[used:]
    free = np.insert(np.zeros(8 * len(rare), np.int64), np.arange(len(rare)) * 8, rare)
    answer = Answer("set", tuple(items.texts[i] for i in codes[:FREQUENT]), "codes")
    return Quiz((), answer.values, question, answer, several=True, listing=Listing(items, required, free))


def whole_text(draw: Draw, task: str, question: str, several: bool) -> tuple[Items, int]:
    """Return the bank of items and the tokens of the text. Raises `ConfigError` for options that no such task can have."""
    refuse_lexical_gap(draw.options, task, "what is asked about stands in the text as it is asked for")
    if draw.options.numbered:
        raise ConfigError(
            f"task {task} needs every passage of its text, so there is none to cite; set numbered to false",
            setting="numbered",
        )
    assert draw.items is not None and draw.room is not None, f"task {task} has no items"
    return draw.items, draw.room(question, several)
