"""Questions about the text itself, whatever it is: generated prose or the user's own documents. No fact is hidden in it.

    cloze        the one word that is left out of a sentence of the text
    entity       the name, or the number, in the sentence that begins with given words
    reconstruct  paragraphs were taken out: which of them belongs in which gap (after arXiv 2602.08237)

A passage of the filler is the needle: it stands whole at its depth, between paragraphs of other passages. What is asked for
stands once in all the filler, so it is unique in each haystack. `absent_cloze` and `absent_entity` ask for a sentence of a
passage that is left out. Train and eval ask for different sentences.
"""

from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from environments.haystack.facts import in_split
from environments.haystack.filler.counted_passage import Block, Passage, Span
from environments.haystack.filler.pool import Pool
from environments.haystack.filler.word_index import FEW, TOKEN, letters_of_a_word, words
from environments.haystack.tasks.task import Answer, Draw, Quiz
from environments.haystack.wording import NEVER_ASKED
from longthread.errors import ConfigError

BLANK = "____"
TELLING = 5  # letters of a word that says what a paragraph is about
PASSAGES_TRIED, AT_ONCE = 2000, 100  # passages drawn for paragraphs to take out; so many before all are drawn anew
TRIES = 400  # sentences or passages drawn, until one has a question with one answer
LEAST_CONTEXT = 24  # characters on the longer side of the word left out, by which the sentence is known
SENTENCE_CHARS = 600  # of a sentence that is asked about, at most
OPENING_WORDS = range(4, 9)  # of a sentence that is named by its beginning: as few as single it out
OPENING_CHARS = (12, 16, 24)  # where no blanks stand between words
LEAST_CHARS, MOST_CHARS = 80, 1500  # of a paragraph that is taken out


def cloze(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about the word left out of a sentence; absent: of a passage that is not in the text."""
    pool = _pool(draw, "cloze")
    places = pool.index.rare
    for place in (draw.rng.choice(places) for _ in range(TRIES if places else 0)):
        passage = pool.passages[place.passage]
        start, end = _sentence_at(passage, place.start)
        word, left, right = (
            passage.text[a:b] for a, b in ((place.start, place.end), (start, place.start), (place.end, end))
        )
        if (
            end - start <= SENTENCE_CHARS
            and in_split(passage.text[start:end], draw.split)
            and word.casefold() not in NEVER_ASKED
            and len(known := max(left, right, key=len)) >= LEAST_CONTEXT
            and pool.index.stands_once(word)
            and pool.index.stands_once(known)
        ):
            question = f'Which word is left out, at {BLANK}, of this sentence of the text? "{left}{BLANK}{right}"'
            return _quiz(passage, place.passage, (start, end), question, word, absent)
    raise _too_little(pool, "no sentence with a word that stands once in it", "cloze")


def entity(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about the one name or number behind the beginning of a sentence; absent: of one that is not there."""
    pool = _pool(draw, "entity")
    named = pool.index.entities  # a name that stands everywhere is asked for no more often than another
    for place in (draw.rng.choice(draw.rng.choice(named)) for _ in range(TRIES if named else 0)):
        passage = pool.passages[place.passage]
        start, end = _sentence_at(passage, place.start)
        sentence, value = passage.text[start:end], passage.text[place.start : place.end]
        if len(sentence) > SENTENCE_CHARS or not in_split(sentence, draw.split) or value.casefold() in NEVER_ASKED:
            continue
        opening = _opening(pool, sentence, place.start - start)
        if opening and _is_alone(value, sentence[len(opening) :]):
            what = "number" if value.isdecimal() else "name"
            question = (
                f'A sentence of the text begins with "{opening}". Which {what} stands in the rest of that sentence?'
            )
            return _quiz(passage, place.passage, (start, end), question, value, absent)
    raise _too_little(pool, "no sentence that is known by its beginning and holds one name or number", "entity")


def reconstruct(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about paragraphs taken out of passages, one of each: which belongs in which gap.

    Each shares a word with the paragraph before or behind its gap which stands in no other passage of the text, and more long
    words than with those beside any other gap.
    """
    pool, n = _pool(draw, "reconstruct"), draw.number("gaps")
    gaps: list[_Gap] = []
    for tried in range(PASSAGES_TRIED):
        if tried % AT_ONCE == 0:  # the first may be told apart from no other
            gaps.clear()
        found = _gap(pool, draw.rng.randrange(len(pool.passages)), draw)
        if found and all(_told_apart(found, other) for other in gaps):
            gaps.append(found)
        if len(gaps) == n:
            break
    else:
        raise _too_little(pool, f"fewer than {n} passages with a paragraph that can be put back", "reconstruct")
    listed = draw.rng.sample(range(n), n)  # the gaps from which the paragraphs were taken, in the order of the list
    answer = tuple(str(listed.index(i) + 1) for i in range(n))
    paragraphs = "\n".join(f"{number}. {gaps[i].paragraph}" for number, i in enumerate(listed, 1))
    question = (
        f"{n} paragraphs were taken out of the text, and the marks [gap 1] to [gap {n}] stand in their places. These are "
        f"the paragraphs:\n{paragraphs}\nGive the number of the paragraph that belongs in [gap 1], "
        f"then of the one in [gap 2], and so on."
    )
    kind = "partial_order" if draw.options.partial_order else "list"
    return Quiz(
        tuple((f"[gap {i}]", "answer") for i in range(1, n + 1)),
        (),
        question,
        Answer(kind, answer, "count"),
        several=True,
        blocks=tuple(_block(pool, gap, i) for i, gap in enumerate(gaps, 1)),
        without=frozenset(index for gap in gaps for index in gap.without),
    )


# ---- what they share ----


def _pool(draw: Draw, task: str) -> Pool:
    if draw.gap:
        raise ConfigError(
            f"task {task} repeats words of the text, so it has no lexical gap", setting=("tasks", "lexical_gap")
        )
    if draw.pool is None:
        raise ConfigError(f"task {task} asks about the text, so it needs one")
    return draw.pool


def _too_little(pool: Pool, missing: str, task: str) -> ConfigError:
    return ConfigError(
        f"task {task}: filler {pool.source or 'prose'} has {missing}, as far as was looked for among "
        f"{len(pool.passages)} passages; give other text, or more of it",
        setting=("tasks", "filler_path"),
    )


def _sentence_at(passage: Passage, char: int) -> tuple[int, int]:
    spans = passage.sentences()
    return spans[bisect_right([start for start, _ in spans], char) - 1]


def _quiz(passage: Passage, index: int, span: tuple[int, int], question: str, value: str, absent: bool) -> Quiz:  # noqa: PLR0913
    """Return the quiz whose needle is a sentence of the passage, which stands whole in the text; absent: not at all."""
    if absent:
        return Quiz((), (), question, Answer("absent", (), "word"), without=frozenset([index]))
    start, end = span
    return Quiz(
        ((passage.text[start:end], "answer"),),
        (),
        question,
        Answer("one", (value,), "word"),
        blocks=(Block(passage.text[:start], passage.text[end:], passage.tokens, *map(passage.tokens_at, span)),),
        without=frozenset([index]),
    )


# ---- entity ----


def _opening(pool: Pool, sentence: str, before: int) -> str:
    """Return the fewest first words of a sentence, of its first `before` characters, that stand once in the filler."""
    ends = [match.end() for match in TOKEN.finditer(sentence[:before])]
    lengths = [ends[n - 1] for n in OPENING_WORDS if n <= len(ends)] or [n for n in OPENING_CHARS if n <= before]
    return next((sentence[:n] for n in lengths if pool.index.stands_once(sentence[:n])), "")


def _is_alone(value: str, rest: str) -> bool:
    """Return whether the value is the only number, or else the only word with a capital letter, in the rest of a sentence."""
    if value.isdecimal():
        return sum(map(str.isdigit, rest)) == len(value)
    return sum(c.isupper() and not rest[i - 1 : i].isalpha() for i, c in enumerate(rest)) == 1


# ---- reconstruct ----


class _Gap(NamedTuple):
    """A paragraph taken out of a passage, and the passages that must not stand in the text beside it."""

    passage: int
    span: Span  # of the paragraph, in characters of the passage
    paragraph: str
    words: frozenset[str]  # of the paragraph
    beside: frozenset[str]  # words of the paragraphs before and behind the gap
    without: frozenset[int]


def _gap(pool: Pool, index: int, draw: Draw) -> _Gap | None:
    """Return a passage without one of its inner paragraphs; None if none shares a rare word with those beside it."""
    text, spans = pool.passages[index].text, pool.passages[index].paragraphs()
    for i in draw.rng.sample(range(1, len(spans) - 1), max(len(spans) - 2, 0)):
        (start, end), (before, _), (_, after) = spans[i], spans[i - 1], spans[i + 1]
        paragraph = text[start:end]
        own, beside = _words_of(paragraph), _words_of(text[before:start]) | _words_of(text[end:after])
        shared = [word for word in sorted(own & beside) if len(pool.index.passages_of[word]) <= FEW]
        if not shared or not LEAST_CHARS <= len(paragraph) <= MOST_CHARS or not in_split(paragraph, draw.split):
            continue
        if "\n" in paragraph or not pool.index.stands_once(paragraph):
            continue
        elsewhere = min((pool.index.passages_of[word] for word in shared), key=len)
        return _Gap(index, (start, end), paragraph, own, beside, frozenset([index, *elsewhere]))
    return None


def _block(pool: Pool, gap: _Gap, number: int) -> Block:
    """Return the passage with the mark of its gap in place of the paragraph."""
    passage, (start, end) = pool.passages[gap.passage], gap.span
    before, behind = passage.tokens_at(start), passage.tokens_at(end)
    (mark,) = pool.tokens.alone([f"[gap {number}]"])
    return Block(
        passage.text[:start], passage.text[end:], passage.tokens - behind + before + mark, before, before + mark
    )


@lru_cache(maxsize=8192)  # the paragraphs of a pool
def _words_of(text: str) -> frozenset[str]:
    """Return the words that tell what a paragraph is about: long ones, and all where no blanks stand between words."""
    found = (text[start:end].casefold() for start, end in words(text))
    return frozenset(word for word in found if len(word) >= TELLING or letters_of_a_word(word))


def _told_apart(a: _Gap, b: _Gap) -> bool:
    """Return whether each paragraph shares more words with what stands beside its own gap than beside the other's."""
    apart = all(len(x.words & x.beside) > len(x.words & y.beside) for x, y in ((a, b), (b, a)))
    return apart and a.passage not in b.without and b.passage not in a.without
