"""Text as tokens, with the characters of each, and with the places where sentences end."""

import hashlib
import json
import re
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from environments.haystack.filler.sentences import split_sentences
from environments.haystack.tokens import load_tokenizer
from longthread.errors import ConfigError
from trainer_configs.longlora.data.quality import OTHER_MARKS

BLOCK, CONTEXT = 20_000, 100  # characters tokenised at a time, and those around them that are tokenised along
OTHER_BORDER = re.compile(f"[{OTHER_MARKS}][\u300d\u300f\u201d\u2019)]*")


class EncodedText(NamedTuple):
    """A text and its tokens, without special tokens."""

    text: str
    ids: np.ndarray  # [T] int32
    chars: np.ndarray  # [T, 2] int64: where each token starts and ends
    cuts: np.ndarray  # [C] int32: tokens before each border of sentences


def sentence_borders(text: str) -> np.ndarray:
    """Return the borders between sentences as characters [N, 2]: where one ends, and where the next one starts.

    Neither end of the text is a border.
    """
    borders, position = [], 0
    for sentence in split_sentences(text):
        start = text.index(sentence, position)
        if position:
            borders.append((position, start))
        position = start + len(sentence)
    for match in OTHER_BORDER.finditer(text):
        behind = text[match.end() : match.end() + 100]
        start = match.end() + len(behind) - len(behind.lstrip())
        if start < len(text):
            borders.append((match.end(), start))
    return np.array(sorted(set(borders)), np.int64).reshape(-1, 2)


def token_cuts(chars: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return how many tokens lie before each sentence border, [C] int32; without borders that fall inside a token."""
    if not len(chars) or not len(borders):
        return np.zeros(0, np.int32)
    count = np.searchsorted(chars[:, 1], borders[:, 1], "right")  # blanks belong to the sentence before them
    inside = (count > 0) & (count < len(chars))
    count, ends = count[inside], borders[inside, 0]
    return np.unique(count[chars[count, 0] >= ends]).astype(np.int32)


class Encoder:
    """A tokenizer that says where each token stands and adds no special tokens of its own.

    `eos` separates documents; `bos`, a list of none or one, begins them. Raises `ConfigError` for a tokenizer that is not
    fast or has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(f"tokenizer {name!r} is not a fast tokenizer: save it with a tokenizer.json")
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                f"tokenizer {name!r} has no eos token, which separates documents: set tokenizer.eos_token"
            )
        self.tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.eos = int(tokenizer.eos_token_id)
        first = self._backend.encode("a").ids[:1]  # with what the tokenizer itself puts before a text
        bos = tokenizer.bos_token_id
        self.bos = [bos] if bos is not None and (first == [bos] or getattr(tokenizer, "add_bos_token", False)) else []

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits of SHA-256 over the tokenizer's file and the two special tokens."""
        state = json.loads(self._backend.to_str()) | {"truncation": None, "padding": None}
        blob = json.dumps([state, self.eos, self.bos], sort_keys=True)
        return hashlib.sha256(blob.encode()).hexdigest()[:16]

    def document(self, text: str) -> EncodedText:
        """Encode a text of any length, and find the tokens at which its sentences end."""
        text = text.encode("utf-8", "replace").decode()  # no tokenizer takes lone surrogates
        borders = sentence_borders(text)
        ids, chars = self.encode_long(text, borders)
        return EncodedText(text, ids, chars, token_cuts(chars, borders))

    def encode(self, text: str, special: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids [T] of a text, and the character span of each token [T, 2].

        With `special`, control tokens spelled out in the text are recognised.
        """
        self._backend.encode_special_tokens = not special
        encoding = self._backend.encode(text, add_special_tokens=False)
        self._backend.encode_special_tokens = False  # others use this tokenizer too
        return np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def encode_long(self, text: str, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `encode`, computed block by block.

        A tokenizer takes 1 KB a token and more time for a long text than for its parts. Each block starts at a sentence
        and is tokenised with some characters around it. Where two blocks do not meet at the same border of tokens, the
        text is tokenised whole.
        """
        edges = [0]
        for start in borders[:, 1]:
            if start - edges[-1] >= BLOCK and len(text) - start >= BLOCK:
                edges.append(int(start))
        ids, chars, met = [], [], 0
        for start, end in pairwise([*edges, len(text)]):
            low = max(0, start - CONTEXT)
            block, spans = self.encode(text[low : end + CONTEXT])
            spans = spans + low
            first = int(np.searchsorted(spans[:, 1], start, "right")) if start else 0
            last = int(np.searchsorted(spans[:, 1], end, "right")) if end < len(text) else len(block)
            if start and (first == last or spans[first, 0] < met or text[met : spans[first, 0]].strip()):
                return self.encode(text)
            ids.append(block[first:last])
            chars.append(spans[first:last])
            met = int(spans[last - 1, 1]) if last else 0
        return np.concatenate(ids), np.concatenate(chars)


@lru_cache(maxsize=4)
def load_encoder(name: str) -> Encoder:
    """Load the encoder of a tokenizer's folder or name; forked workers inherit it. Raises `ConfigError`."""
    try:
        return Encoder(load_tokenizer(name))
    except ConfigError as error:
        raise ConfigError(error.message, setting="tokenizer") from None
