"""Rows of joined documents and windows: exact, nothing lost or doubled, cut at sentences."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_configs.longlora.data.packing import Document, Packer, fit, plan_windows

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=12)  # of sentences, in tokens


def document(number, sentences):
    cuts = np.cumsum(sentences).astype(np.int32)
    total = int(cuts[-1])
    return Document((np.arange(total) + number * 100_000).astype(np.int32), cuts, number, total)


def pack(documents, length):
    packer, rows = Packer(length), []
    for one in documents:
        packer.push(one)
        rows += packer.rows()
    rows += packer.rows(final=True)
    return rows, [*packer.reserve, *packer.queue]


@given(st.lists(lengths, max_size=60), st.sampled_from([16, 64, 150]))
@settings(deadline=None, max_examples=150)
def test_every_token_once_in_rows_of_exact_length(sentences, length):
    documents = [document(n, s) for n, s in enumerate(sentences)]
    rows, left = pack(documents, length)
    written = [token for row in rows for token in row.ids.tolist()]
    waiting = [token for part in left for token in part.ids.tolist()]
    assert sorted(written + waiting) == sorted(token for d in documents for token in d.ids.tolist())
    assert all(len(row.ids) == length for row in rows)
    assert len(waiting) < length
    ends = {int(d.ids[cut - 1]) for d in documents for cut in d.cuts}
    for row in rows:
        positions = row.position_ids
        assert positions.dtype == np.int64 and np.flatnonzero(positions == 0).tolist() == row.starts.tolist()
        pieces = np.split(row.ids, row.starts[1:])
        for number, piece in enumerate(pieces):
            assert (np.diff(piece) == 1).all()  # a run of one document, as it stands
            assert int(piece[-1]) in ends or (row.cut and number == len(pieces) - 1)
    again, _ = pack(documents, length)
    assert [row.ids.tolist() for row in again] == [row.ids.tolist() for row in rows]


def test_sentences_are_whole_where_there_are_enough():
    rng = np.random.default_rng(0)
    documents = [document(n, rng.integers(5, 45, rng.integers(5, 200))) for n in range(200)]
    for length, share in ((512, 0.005), (4096, 0.0)):
        rows, _ = pack(documents, length)
        assert len(rows) > 50 and sum(row.cut for row in rows) <= share * len(rows)


def test_one_long_document_is_not_cut_either():
    rng = np.random.default_rng(1)
    rows, left = pack([document(0, rng.integers(5, 45, 4000))], 4096)
    assert len(rows) > 20 and not any(row.cut for row in rows) and sum(map(len, left)) < 4096


def test_text_without_sentences_is_cut_and_says_so():
    rows, _ = pack([document(0, [1000])], 64)
    assert [row.cut for row in rows] == [True] * 15


@given(lengths, st.lists(lengths, max_size=3), st.integers(1, 120))
@settings(deadline=None)
def test_fit_finds_the_longest_first_part_of_all_sums(first, others, room):
    cuts = [np.cumsum(one) for one in (first, *others)]
    sums = [
        parts for parts in product(*([0, *c.tolist()] for c in cuts)) if sum(parts) == room
    ]  # the slow way: all of them
    found = fit(cuts[0], cuts[1:], room)
    if not sums:
        assert found is None
    else:
        assert found is not None and tuple(found) in sums and found[0] == max(parts[0] for parts in sums)


@given(lengths, st.integers(4, 60), st.integers(0, 40), st.booleans())
@settings(deadline=None, max_examples=300)
def test_windows_keep_what_they_promise(sentences, room, overlap, whole):
    cuts = np.cumsum(sentences)
    overlap = min(overlap, room - 1)
    slack = (room - overlap) // 2
    windows = plan_windows(cuts, room, overlap, slack, whole)
    total, starts = int(cuts[-1]), {0, *cuts[:-1].tolist()}
    good = [s for s in sorted(starts) if s + room in cuts]
    previous = None
    for window in windows:
        assert window.start >= 0 and window.start + room <= total
        assert window.whole == (window.start in good) or not window.whole
        shared = None if previous is None else previous + room - window.start
        low, high = (
            (0, 0)
            if previous is None
            else (max(previous + room - overlap - slack, previous + 1), previous + room - overlap)
        )
        within = [s for s in good if low <= s <= high]
        if within:
            assert window.start == within[-1]  # as little overlap as can be
        elif whole:
            assert window.whole and window.start == min(s for s in good if s > high)
        if shared is not None and (within or not whole):
            assert overlap <= shared <= overlap + slack
        previous = window.start
    if whole:
        assert all(window.whole for window in windows)
