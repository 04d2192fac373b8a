"""Means by position, gains and key tokens: against sums by hand, and against models whose answer is known."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_configs.longlora.by_position import Bucket, TokenNLL, by_position, compare, is_flat, key_tokens, mean_nll

VOCABULARY = 11


class Known:
    """Gives the right next token e^2 times the weight of any other up to position `until`; knows nothing beyond."""

    device = torch.device("cpu")
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=VOCABULARY))

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


def test_flat_is_judged_against_the_worst_bucket_beyond_the_native_window():
    def curve(*nll):
        return [Bucket(10 * i, 10 * i + 10, 10, value) for i, value in enumerate(nll)]

    assert is_flat(curve(3.0, 3.0, 3.04), 20)
    assert not is_flat(curve(3.0, 3.0, 3.06, 2.0), 20)
    assert is_flat(curve(3.0, 2.0), 10) and not is_flat(curve(3.0, 3.0), 20)  # nothing beyond: not shown
    assert Bucket(0, 1, 1, 1e6).perplexity > 1e300


@given(st.integers(1, 3), st.integers(6, 40), st.data())
def test_gains_and_key_tokens_are_those_of_a_loop_over_tokens(rows, length, data):
    window = data.draw(st.integers(2, length - 1))
    edges = (0, *sorted(data.draw(st.sets(st.integers(1, length + 5), max_size=4))))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    full, slid = (6 * torch.rand(rows, length - 1, generator=generator) for _ in range(2))
    slid[:, : window - 1] = full[:, : window - 1]  # one context: one NLL
    result = compare(TokenNLL(full, slid), window, edges=edges)
    for stretch in (*result.stretches, result.whole):
        here = [(r, t) for r in range(rows) for t in range(max(1, stretch.start), stretch.end)]
        far = [(r, t) for r, t in here if t >= window]
        gains = [(slid[r, t - 1] - full[r, t - 1]).item() for r, t in far]
        keys = [full[r, t - 1].item() for (r, t), gain in zip(far, gains, strict=True) if gain > 2 > full[r, t - 1]]
        assert (stretch.tokens, stretch.compared, stretch.key_tokens) == (len(here), len(far), len(keys))
        assert stretch.nll == pytest.approx(sum(full[r, t - 1].item() for r, t in here) / len(here))
        assert stretch.sliding_nll == pytest.approx(sum(slid[r, t - 1].item() for r, t in here) / len(here))
        assert stretch.gain == (pytest.approx(sum(gains) / len(gains), abs=1e-6) if gains else None)
        assert stretch.key_nll == (pytest.approx(sum(keys) / len(keys)) if keys else None)
    assert sum(stretch.tokens for stretch in result.stretches) == result.whole.tokens == rows * (length - 1)
    assert mean_nll([Bucket(s.start, s.end, s.tokens, s.nll) for s in result.stretches], 0, length) == pytest.approx(
        result.whole.nll
    )


def test_the_evaluator_tells_which_tokens_are_key_and_the_model_what_they_cost():
    judged = TokenNLL(torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 3.5, 1.0, 3.5]]))
    assert key_tokens(judged).tolist() == [[False, True, False, True]]
    own = TokenNLL(torch.tensor([[9.0, 5.0, 9.0, 7.0]]), torch.tensor([[9.0, 5.0, 9.0, 7.0]]))
    whole = compare(own, 2, judged).whole
    assert (whole.key_tokens, whole.key_nll, whole.compared, whole.gain) == (2, 6.0, 3, 0.0)
    assert compare(own, 2).whole.key_nll is None


def test_rows_that_were_not_read_whole_have_the_sliding_figures_alone():
    result = compare(TokenNLL(None, torch.full((2, 99), 3.0)), 10)
    assert result.whole.sliding_nll == 3 and (result.whole.nll, result.whole.gain, result.whole.compared) == (
        None,
        None,
        0,
    )
    assert [(s.start, s.end) for s in result.stretches][-1] == (91, 100) and len(result.stretches) == 8
