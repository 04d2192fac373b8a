"""How much of the evidence for an answer was retrieved."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from environments.retrieval.chunking import Chunk, Span


class EvidenceRecall(NamedTuple):
    """The share of needles that stand whole in the retrieved text, and the share of their characters that stand in it.

    A needle counts as whole also where neighbouring chunks hold it together. Both are 1 where there are no needles.
    """

    needles: float
    characters: float


def evidence_recall(needles: Sequence[Span], chunks: Iterable[Chunk]) -> EvidenceRecall:
    """Return how much of the needles, given as (start, end) characters of one document, the chunks cover."""
    covered = _merged((chunk.start, chunk.end) for chunk in chunks)
    shares = [sum(max(0, min(end, b) - max(start, a)) for a, b in covered) / (end - start) for start, end in needles]
    if not shares:
        return EvidenceRecall(1.0, 1.0)
    total = sum(end - start for start, end in needles)
    found = sum(share * (end - start) for share, (start, end) in zip(shares, needles, strict=True))
    return EvidenceRecall(sum(share == 1 for share in shares) / len(shares), found / total)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans without overlaps, in order; those that touch become one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
