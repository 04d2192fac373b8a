"""In which order retrieved chunks stand in a prompt.

Models find what stands first or last in a long prompt more often than what stands in its middle ("Lost in the Middle",
Liu et al., arXiv 2307.03172).
"""

from collections.abc import Callable, Sequence

from environments.retrieval.ranking import Hit
from longthread.errors import ConfigError


def by_rank(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits, given best first, as they are."""
    return list(hits)


def by_reverse_rank(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits, given best first, with the best last, next to a question that stands behind them."""
    return list(reversed(hits))


def best_at_both_ends(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits, given best first, with the best first, the second best last, and so on to the worst in the middle."""
    return [*hits[::2], *reversed(hits[1::2])]


def by_document(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits in the order of their text; documents one after the other, that of the best hit first."""
    documents = list(dict.fromkeys(hit.chunk.document for hit in hits))
    return sorted(hits, key=lambda hit: (documents.index(hit.chunk.document), hit.chunk.start, hit.chunk.end))


ORDERS: dict[str, Callable[[Sequence[Hit]], list[Hit]]] = {
    "rank": by_rank,
    "reverse_rank": by_reverse_rank,
    "both_ends": best_at_both_ends,
    "document": by_document,
}


def ordered(hits: Sequence[Hit], order: str) -> list[Hit]:
    """Return hits, given best first, in one of `ORDERS`. Raises `ConfigError` for another."""
    if order not in ORDERS:
        raise ConfigError(f"order must be one of {', '.join(ORDERS)} (got {order!r})", setting="order")
    return ORDERS[order](hits)
