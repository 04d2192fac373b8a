"""The texts that haystacks are made of: pools of filler, and the decoys that belong to each, kept once they are made."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from environments.haystack.decoys import Bank
from environments.haystack.filler import corpora, prose
from environments.haystack.filler.pool import Pool, PoolError
from environments.haystack.options import Options
from environments.haystack.tokens import Tokens
from longthread.errors import DataError

POOLS, BANKS = 8, 16  # the most that are kept: some 10 MB a pool of 262,144 tokens


class _Source(NamedTuple):
    """The settings that a pool depends on. Only prose is endless; a corpus has one pool, the same for both splits."""

    filler: str
    filler_mode: str
    filler_path: str
    filler_column: str
    filler_sentences: str
    tokens: int
    split: str
    number: int


class Pools:
    """Pools of filler and decoys for one tokenizer, shared by all samples whose options ask for the same filler."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self._pool = lru_cache(maxsize=POOLS)(self._make_pool)
        self._bank = lru_cache(maxsize=BANKS)(self._make_bank)

    def pool(self, options: Options, split: str, seed: int) -> Pool:
        """Return the pool of filler for samples of that seed. Raises `ConfigError` where the filler does not suffice."""
        return self._pool(self._source(options, split, seed))

    def decoys(self, options: Options, split: str, seed: int) -> Bank:
        """Return the bank of decoys that belongs to that seed's pool of filler."""
        number = seed // options.seeds_per_pool
        return self._bank(self._source(options, split, seed), split, options.lexical_gap, number)

    @staticmethod
    def _source(options: Options, split: str, seed: int) -> _Source:
        which = (split, seed // options.seeds_per_pool) if options.filler == "prose" else ("", 0)
        texts = (
            options.filler,
            options.filler_mode,
            options.filler_path,
            options.filler_column,
            options.filler_sentences,
        )
        return _Source(*texts, options.pool_tokens, *which)

    def _make_pool(self, source: _Source) -> Pool:
        if source.filler == "prose":
            return Pool(self.tokens, self._passages(source), source.tokens)
        try:
            return self._corpus_pool(source)
        except PoolError as error:  # a corpus of another script, say, with some English in it
            if source.filler_sentences != "auto":
                raise
            try:
                return self._corpus_pool(source._replace(filler_sentences="script"))
            except DataError:
                raise error from None
            except PoolError as second:
                raise second from None

    def _corpus_pool(self, source: _Source) -> Pool:
        return Pool(self.tokens, self._passages(source), source.tokens, source.filler_path)

    def _make_bank(self, source: _Source, split: str, lexical_gap: bool, number: int) -> Bank:
        return Bank(self._pool(source), split, lexical_gap, number)

    def _passages(self, source: _Source) -> Iterator[list[list[str]]]:
        if source.filler == "prose":
            return prose.passages(source.number, source.split, source.filler_mode)
        path, column, how = source.filler_path, source.filler_column, source.filler_sentences
        if source.filler == "folder":
            passages = corpora.folder_passages(Path(path), self.tokens.special, how, column)
        else:
            passages = corpora.dataset_passages(path, column, forbidden=self.tokens.special, sentences=how)
        return prose.shuffled(passages, source.number) if source.filler_mode == "shuffled" else passages
