"""The texts that rows are made of: endless fiction, and the texts of a folder, in pools of passages with counted tokens."""

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from random import Random

from environments.haystack.filler import prose
from environments.haystack.filler.corpora import folder_passages
from environments.haystack.filler.pool import Pool, PoolError
from environments.haystack.filler.sources import Passage
from environments.haystack.tokens import BREAK, Tokens
from longthread.errors import ConfigError

TEXT_CHARS = 100_000_000  # of a folder, at most, which are kept in memory
POOL_TOKENS = 131_072  # of a pool, or twice the longest row
STEP = 24  # passages of a folder between the beginnings of two pools


class Fillers:
    """Pools of fiction and of a folder's texts. `longest` counts the tokens of the longest row. Raises `ConfigError`."""

    def __init__(self, tokens: Tokens, texts: str, longest: int, seed: int):
        self.tokens, self.texts, self.seed = tokens, texts, seed
        self.sources = ("prose", "texts") if texts else ("prose",)
        self._needed = 2 * longest
        self._passages = list(_bounded(folder_passages(Path(texts), tokens.special))) if texts else []
        self._pool = lru_cache(maxsize=2 * len(self.sources))(self._make)
        self.pool(self.sources[-1], 0)

    def pool(self, source: str, number: int) -> Pool:
        """Return the pool of that number, of "prose" or of the "texts"; others begin at other passages."""
        return self._pool(source, number)

    def _make(self, source: str, number: int) -> Pool:
        wanted = max(POOL_TOKENS, self._needed)
        if source == "prose":
            return Pool(self.tokens, prose.passages((self.seed << 24) + number, "train"), wanted)
        first = number * STEP % len(self._passages)
        turned = [*self._passages[first:], *self._passages[:first]]
        for tokens in (wanted, self._needed):
            with suppress(PoolError):
                return Pool(self.tokens, turned, tokens, self.texts)
        raise ConfigError(
            f"{self.texts} holds fewer than {self._needed:,} tokens of text: give more text, or shorter rows",
            setting=("texts", "longest"),
        )


def _bounded(passages: Iterator[Passage]) -> Iterator[Passage]:
    """Yield the first passages, up to `TEXT_CHARS` characters."""
    total = 0
    for passage in passages:
        yield passage
        total += sum(len(sentence) for paragraph in passage for sentence in paragraph)
        if total >= TEXT_CHARS:
            return


def stretch(pool: Pool, tokens: int, rng: Random) -> str:
    """Return passages in their own order, from a random one on, of at least so many tokens together."""
    first, total, texts = rng.randrange(len(pool.passages)), 0, []
    for passage in chain(pool.passages[first:], pool.passages[:first]):
        texts.append(passage.text)
        total += passage.tokens
        if total > tokens:
            break
    return BREAK.join(texts)
