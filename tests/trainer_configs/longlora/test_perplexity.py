"""Perplexity by position: against a sum by hand, and against models whose answer is known."""

import gzip
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

from longthread.errors import DataError
from tests.environments.tiny_model import tiny_model
from trainer_configs.longlora.perplexity import (
    Bucket,
    by_position,
    is_flat,
    mean_nll,
    nll_by_token,
    read_text,
    windows,
)

VOCABULARY = 11


class Known:
    """Gives the right next token e^2 times the weight of any other up to position `until`; knows nothing beyond."""

    device = torch.device("cpu")

    def __init__(self, until):
        self.until = until

    def __call__(self, input_ids, use_cache):
        right = torch.nn.functional.one_hot(input_ids.roll(-1, 1), VOCABULARY) * 2.0
        right[:, self.until :] = 0
        return SimpleNamespace(logits=right)


def test_buckets_of_a_model_that_loses_the_thread_at_a_known_position():
    rows_NL = torch.randint(VOCABULARY, (3, 64))
    known, lost = math.log(VOCABULARY - 1 + math.e**2) - 2, math.log(VOCABULARY)
    buckets = by_position(Known(31), rows_NL, edges=(0, 16, 32, 48, 1000))
    assert [(b.start, b.end, b.tokens) for b in buckets] == [(0, 16, 45), (16, 32, 48), (32, 48, 48), (48, 64, 48)]
    # Token 31 is the last that position 30 predicts: the boundary is of the predicted token.
    assert [b.nll for b in buckets] == pytest.approx([known, known, lost, lost], abs=1e-6)
    assert not is_flat(buckets, 32) and is_flat(buckets, 48) is False
    assert is_flat(by_position(Known(64), rows_NL, edges=(0, 16, 32)), 32)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_every_token_is_scored_once_and_as_a_sum_by_hand_says(model, monkeypatch):
    monkeypatch.setattr("trainer_configs.longlora.perplexity.SCORED", 7)  # pieces that do not divide the row
    ids_L = torch.randint(model.config.vocab_size, (40,))
    with torch.no_grad():
        log_p = log_softmax(model(ids_L[None]).logits[0].double(), -1)
    wanted = [-log_p[i, ids_L[i + 1]].item() for i in range(39)]
    assert nll_by_token(model, ids_L).tolist() == pytest.approx(wanted, abs=1e-5)
    buckets = by_position(model, ids_L[None], edges=(0, 9, 30))
    assert sum(b.tokens for b in buckets) == 39
    assert sum(b.tokens * b.nll for b in buckets) == pytest.approx(sum(wanted), abs=1e-4)
    assert mean_nll(buckets, 9, 40) == pytest.approx(sum(wanted[8:]) / 31, abs=1e-5)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(2, 9), st.integers(1, 12))
def test_windows_are_stretches_of_one_document_and_never_overlap(sizes, length, rows):
    documents = [[1000 * d + i for i in range(size)] for d, size in enumerate(sizes)]
    if max(sizes) < length:
        with pytest.raises(DataError, match=f"length {length} is more than"):
            windows(documents, length, rows)
        return
    found = windows(documents, length, rows).tolist()
    assert len(found) == min(rows, sum(size // length for size in sizes))
    assert all(row == list(range(row[0], row[0] + length)) for row in found)
    assert len({token for row in found for token in row}) == length * len(found)


def test_flat_is_judged_against_the_worst_bucket_beyond_the_native_window():
    def curve(*nll):
        return [Bucket(10 * i, 10 * i + 10, 10, value) for i, value in enumerate(nll)]

    assert is_flat(curve(3.0, 3.0, 3.04), 20)
    assert not is_flat(curve(3.0, 3.0, 3.06, 2.0), 20)
    assert is_flat(curve(3.0, 2.0), 10) and not is_flat(curve(3.0, 3.0), 20)  # nothing beyond: not shown
    assert Bucket(0, 1, 1, 1e6).perplexity > 1e300


def test_texts_plain_and_compressed(tmp_path):
    (tmp_path / "a.txt").write_text("é")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("é".encode()))
    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "a.txt.gz") == "é"
    with pytest.raises(DataError, match="b.txt cannot be read"):
        read_text(tmp_path / "b.txt")
