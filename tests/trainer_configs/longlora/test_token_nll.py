"""NLL by token against the slow reference, which asks the model for one token at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longthread.errors import DataError
from tests.environments.tiny_model import tiny_model
from trainer_configs.longlora import token_nll
from trainer_configs.longlora.token_nll import batch_size, nll_by_token, nll_of_last, sliding_nll, spans, windows


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_hidden_layers=1)


def one_at_a_time(model, row_L: Tensor, first: int, token: int) -> float:
    """The reference: the NLL of one token, given those from `first` on, from a forward pass of its own."""
    with torch.no_grad():
        logits = model(input_ids=row_L[None, first:token]).logits[0, -1]
    return -logits.double().log_softmax(-1)[row_L[token]].item()


def rows_of(model, count: int, length: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (count, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_every_token_given_all_of_its_row(model, monkeypatch, batch) -> None:
    monkeypatch.setattr(token_nll, "SCORED", 7)  # pieces that do not divide the row
    monkeypatch.setattr(token_nll, "batch_size", lambda *_: batch)
    rows_NL = rows_of(model, 3, 20)
    wanted = [[one_at_a_time(model, row, 0, token) for token in range(1, 20)] for row in rows_NL]
    assert torch.allclose(nll_by_token(model, rows_NL), torch.tensor(wanted), atol=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 3), (8, 7), (19, 5), (2, 1)])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_token_given_its_sliding_window(model, monkeypatch, window, stride, batch) -> None:
    monkeypatch.setattr(token_nll, "batch_size", lambda *_: batch)
    rows_NL = rows_of(model, 2, 20)
    # The reference's own rule: the first window that is the row's last, or that ends behind the token.
    starts = [min(k * stride, 20 - window) for k in range(20)]
    wanted = [
        [one_at_a_time(model, row, next(s for s in starts if token < s + window), token) for token in range(1, 20)]
        for row in rows_NL
    ]
    assert torch.allclose(sliding_nll(model, rows_NL, window, stride), torch.tensor(wanted), atol=1e-4)


def test_with_a_stride_of_one_the_short_context_is_the_last_tokens_exactly(model) -> None:
    row_L = rows_of(model, 1, 18)[0]
    wanted = [one_at_a_time(model, row_L, max(0, token - 5), token) for token in range(1, 18)]
    assert sliding_nll(model, row_L[None], 6, 1)[0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_model_that_computes_no_part_of_its_logits_gives_the_same(model) -> None:
    class Whole:
        config, device = model.config, model.device

        def __call__(self, input_ids, use_cache):
            return model(input_ids=input_ids, use_cache=use_cache)

    rows_NL = rows_of(model, 2, 20)
    assert torch.allclose(nll_of_last(Whole(), rows_NL, 4), nll_of_last(model, rows_NL, 4), atol=1e-5)
    assert torch.allclose(nll_of_last(model, rows_NL, 4), nll_by_token(model, rows_NL)[:, -4:], atol=1e-4)


@given(st.integers(2, 40), st.data())
def test_spans_score_each_token_once_with_enough_before_it(window, data) -> None:
    stride, length = data.draw(st.integers(1, window - 1)), window + data.draw(st.integers(0, 60))
    found = spans(length, window, stride)
    assert [token for span in found for token in range(span.first, span.end)] == list(range(1, length))
    assert all(span.end - span.start == window and span.end - span.first <= stride for span in found[1:])
    assert all(span.first - span.start >= window - stride for span in found[1:])
    # No window more than needed: without its last, the row would not be covered.
    assert len(found) == 1 + -(-(length - window) // stride)


def test_a_batch_holds_no_more_logits_than_fit() -> None:
    assert batch_size(32_767, 49_152, "cpu") == 1
    assert batch_size(32_767, 49_152, "cuda") == 1 and batch_size(1024, 49_152, "cuda") == token_nll.MAX_BATCH
    for scored in (512, 4096, 16_384):
        size = batch_size(scored, 150_000, "cuda")
        assert size == 1 or size * (scored + 1) * 150_000 <= token_nll.LOGITS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: batches of several rows in bf16")
def test_on_a_gpu_in_bf16_batches_agree_with_the_cpu(model) -> None:
    rows_NL = rows_of(model, 5, 64)
    there = tiny_model(num_hidden_layers=1).to("cuda", torch.bfloat16)
    for nll in (lambda m: nll_by_token(m, rows_NL), lambda m: sliding_nll(m, rows_NL, 16, 4)):
        assert nll(there).mean().item() == pytest.approx(nll(model).mean().item(), rel=0.02)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(2, 9), st.integers(1, 12))
def test_windows_are_stretches_of_one_document_and_never_overlap(sizes, length, rows) -> None:
    documents = [[1000 * d + i for i in range(size)] for d, size in enumerate(sizes)]
    if max(sizes) < length:
        with pytest.raises(DataError, match=f"length {length} is more than"):
            windows(documents, length, rows)
        return
    found = windows(documents, length, rows).tolist()
    assert len(found) == min(rows, sum(size // length for size in sizes))
    assert all(row == list(range(row[0], row[0] + length)) for row in found)
    assert len({token for row in found for token in row}) == length * len(found)
