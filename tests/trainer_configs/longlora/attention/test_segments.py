"""Segments against the definition, written out a token at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_configs.longlora.attention.segments import (
    document_starts,
    positions_in_document,
    segment_starts,
    segments,
)

rows = st.lists(st.integers(1, 40), min_size=1, max_size=6)  # lengths of the documents of a row
sizes = st.integers(1, 12).map(lambda n: 2 * n)


def positions(documents: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(n) for n in documents])[None]


@given(rows, sizes, st.booleans())
def test_segments_are_cut_in_every_document_anew(documents: list[int], size: int, shifted: bool) -> None:
    expected = []
    for n in documents:
        for i in range(n):
            expected.append(i == 0 or (i - (size // 2 if shifted else 0)) % size == 0)
    assert segment_starts(positions(documents), size, shifted)[0].tolist() == expected


@given(rows, sizes)
def test_cumulative_lengths_cover_all_tokens_in_segments_of_at_most_the_group(documents: list[int], size: int) -> None:
    batch = positions(documents).expand(2, -1)
    for cuts in segments(batch, size):
        if len(documents) == 1:
            assert cuts is None
            continue
        steps = cuts.diff()
        assert cuts[0] == 0 and cuts[-1] == batch.numel() and steps.min() > 0 and steps.max() <= size
        ends = {sum(documents[: i + 1]) + row * sum(documents) for row in range(2) for i in range(len(documents))}
        assert ends <= set(cuts.tolist())


@given(rows, st.integers(0, 5000))
def test_documents_need_not_begin_at_position_zero(documents: list[int], first: int) -> None:
    """A row may be the continuation of another: what counts is where positions do not go on."""
    batch = positions(documents)
    batch[0, : documents[0]] += first
    assert document_starts(batch)[0].sum() >= 1
    assert positions_in_document(batch)[0, : documents[0]].tolist() == list(range(documents[0]))
