"""The texts that haystacks are made of: pools of filler, and the decoys that belong to each, kept once they are made."""

from functools import lru_cache

from environments.haystack.decoys import Bank
from environments.haystack.filler.pool import Pool, PoolError
from environments.haystack.filler.sources import SOURCES, Text
from environments.haystack.listing import Items
from environments.haystack.options import Options
from environments.haystack.tasks.task import ItemMaker
from environments.haystack.tokens import Tokens
from longthread.errors import DataError

POOLS, BANKS = 8, 16  # the most that are kept: some 10 MB a pool of 262,144 tokens


class Pools:
    """Pools of filler and decoys for one tokenizer, shared by all samples whose options ask for the same filler."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self._pool = lru_cache(maxsize=POOLS)(self._make_pool)
        self._bank = lru_cache(maxsize=BANKS)(self._make_bank)
        self._items = lru_cache(maxsize=POOLS)(self._make_items)

    def pool(self, options: Options, split: str, seed: int, source: str = "") -> Pool:
        """Return the pool of filler for samples of that seed; `source` names a text in place of the option `filler`.

        Raises `ConfigError` where the filler does not suffice.
        """
        return self._pool(self._text(options, split, seed, source))

    def decoys(self, options: Options, split: str, seed: int) -> Bank:
        """Return the bank of decoys that belongs to that seed's pool of filler."""
        number = seed // options.seeds_per_pool
        return self._bank(self._text(options, split, seed), split, options.lexical_gap, number)

    def items(self, make: ItemMaker, options: Options, split: str, seed: int) -> Items:
        """Return the items that texts of that seed consist of, for tasks whose facts fill the whole text."""
        return self._items(make, split, seed // options.seeds_per_pool, options.pool_tokens)

    def _make_items(self, make: ItemMaker, split: str, number: int, at_least: int) -> Items:
        return make(self.tokens, split, number, at_least)

    @staticmethod
    def _text(options: Options, split: str, seed: int, source: str = "") -> Text:
        filler = source or options.filler
        which = (split, seed // options.seeds_per_pool) if SOURCES[filler].endless else ("", 0)
        how = options.filler_mode, options.filler_path, options.filler_column, options.filler_sentences
        return Text(filler, *how, options.pool_tokens, *which)

    def _make_pool(self, text: Text) -> Pool:
        source = SOURCES[text.filler]
        if source.endless:
            return Pool(self.tokens, source.passages(text, self.tokens.special), text.tokens, between=source.between)
        try:
            return self._corpus_pool(text)
        except PoolError as error:  # a corpus of another script, say, with some English in it
            if text.filler_sentences != "auto":
                raise
            try:
                return self._corpus_pool(text._replace(filler_sentences="script"))
            except DataError:
                raise error from None
            except PoolError as second:
                raise second from None

    def _corpus_pool(self, text: Text) -> Pool:
        passages = SOURCES[text.filler].passages(text, self.tokens.special)
        return Pool(self.tokens, passages, text.tokens, text.filler_path)

    def _make_bank(self, text: Text, split: str, lexical_gap: bool, number: int) -> Bank:
        return Bank(self._pool(text), split, lexical_gap, number)
