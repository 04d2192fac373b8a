"""NLL by position in a row, and what the long context adds there: the gain and the key tokens of LongPPL (arXiv 2410.23771).

The gain of a token is its NLL given the last tokens alone, by sliding windows, minus its NLL given all of the row before it.
A key token is one that the long context makes likely.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trainer_configs.longlora.token_nll import nll_by_token

if TYPE_CHECKING:  # torch is imported where it is used: a command's `--help` does not need it
    from torch import Tensor

    from longthread.language_model import CausalLM

EDGES = (0, 2048, 4096, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131072)
PARTS = 8  # of a row that is too short for more than two of these
FLAT = 0.05  # how much more perplexity beyond the native window still counts as flat
# alpha and -beta of arXiv 2410.23771, in nats: a key token gains more than this, and its NLL is then less than this.
KEY_GAIN, KEY_NLL = 2.0, 2.0


def perplexity_of(nll: float) -> float:
    """Return exp(NLL); of a broken model a huge number, without overflow."""
    return math.exp(min(nll, 700.0))


class TokenNLL(NamedTuple):
    """The NLL in nats of tokens 1 to L-1 of N rows, (N, L-1), read in two ways."""

    full: "Tensor | None"  # given all of the row before; None where rows were not read whole
    sliding: "Tensor"  # given what stands before in the sliding window


@dataclass(frozen=True)
class Bucket:
    """A stretch of positions (of the predicted token), how many tokens were scored there, and their mean NLL in nats."""

    start: int
    end: int
    tokens: int
    nll: float

    @property
    def perplexity(self) -> float:
        """Return exp(NLL)."""
        return perplexity_of(self.nll)


@dataclass(frozen=True)
class Stretch:
    """A stretch of positions: mean NLLs in nats, and what the long context adds. None where there is no such figure.

    `compared` tokens stand beyond the first sliding window, so that the whole row tells the model more than the window; the
    gain is their mean, and key tokens are among them.
    """

    start: int
    end: int
    tokens: int
    nll: float | None  # given all of the row before
    sliding_nll: float
    compared: int = 0
    gain: float | None = None
    key_tokens: int = 0
    key_nll: float | None = None  # of key tokens, given all of the row before: exp(key_nll) is LongPPL


@dataclass(frozen=True)
class Comparison:
    """The figures of each stretch of positions, and of all positions together."""

    stretches: list[Stretch]
    whole: Stretch


def by_position(model: "CausalLM", rows_NL: "Tensor", edges: Sequence[int] = EDGES) -> list[Bucket]:
    """Return the mean NLL over all rows between consecutive `edges` of positions; the last bucket ends with the row."""
    nll_NL = nll_by_token(model, rows_NL).double()
    buckets = []
    for start, end in _between(edges, rows_NL.shape[1]):
        nlls = nll_NL[:, max(start, 1) - 1 : end - 1]
        buckets.append(Bucket(start, end, nlls.numel(), nlls.mean().item()))
    return buckets


def key_tokens(nll: TokenNLL) -> "Tensor | None":
    """Return which tokens are key tokens (arXiv 2410.23771, section 3): (N, L-1); None where rows were not read whole."""
    return None if nll.full is None else (nll.sliding - nll.full > KEY_GAIN) & (nll.full < KEY_NLL)


def compare(nll: TokenNLL, window: int, judged: TokenNLL | None = None, edges: Sequence[int] = ()) -> Comparison:
    """Return the figures between consecutive `edges`; `window`: tokens of a sliding window.

    `judged`: the NLLs of another model, the evaluator, which then tells the key tokens. Without `edges`, `EDGES`, or for a
    short row eighths.
    """
    length = nll.sliding.shape[1] + 1
    edges = edges or (EDGES if length > EDGES[2] else range(0, length, -(-length // PARTS)))
    keys_NL = key_tokens(judged or nll)
    sliding_NL = nll.sliding.double()
    nll_NL = None if nll.full is None else nll.full.double()

    def stretch(start: int, end: int) -> Stretch:
        here, far = slice(max(start, 1) - 1, end - 1), slice(max(start, window) - 1, max(end, window) - 1)
        slid = sliding_NL[:, here]
        if nll_NL is None or keys_NL is None:
            return Stretch(start, end, slid.numel(), None, slid.mean().item())
        full, gains = nll_NL[:, here], sliding_NL[:, far] - nll_NL[:, far]
        keys = nll_NL[:, far][keys_NL[:, far]]
        return Stretch(
            start=start,
            end=end,
            tokens=slid.numel(),
            nll=full.mean().item(),
            sliding_nll=slid.mean().item(),
            compared=gains.numel(),
            gain=gains.mean().item() if gains.numel() else None,
            key_tokens=keys.numel(),
            key_nll=keys.mean().item() if keys.numel() else None,
        )

    return Comparison([stretch(*ends) for ends in _between(edges, length)], stretch(0, length))


def _between(edges: Sequence[int], length: int) -> list[tuple[int, int]]:
    """Return the stretches of positions between consecutive edges; none holds position 0 alone, which is not predicted."""
    cuts = [edge for edge in edges if edge < length] + [length]
    return [(start, end) for start, end in zip(cuts[:-1], cuts[1:], strict=True) if end > 1]


def mean_nll(buckets: Sequence[Bucket], start: int, end: int) -> float:
    """Return the mean NLL of the buckets that lie within the positions `start` and `end`; NaN where none does."""
    inside = [bucket for bucket in buckets if bucket.start >= start and bucket.end <= end]
    tokens = sum(bucket.tokens for bucket in inside)
    return sum(bucket.nll * bucket.tokens for bucket in inside) / tokens if tokens else math.nan


def is_flat(buckets: Sequence[Bucket], native: int, tolerance: float = FLAT) -> bool:
    """Return whether no bucket beyond the native window has a perplexity more than `tolerance` above that within it."""
    within = mean_nll(buckets, 0, native)
    beyond = [bucket.nll for bucket in buckets if bucket.start >= native]
    return bool(beyond) and max(beyond) <= within + math.log1p(tolerance)
