"""Attention matching against its slow reference, one head at a time, and what a memory made so is worth."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lift.memory import least_squares, selection
from lift.memory.compact import BOX, LEAST_AVERAGE, SHARE, Compaction, compact, slots
from lift.memory.compact_reference import ReferenceHead
from lift.memory.selection import Given, Reference, attend, select
from longthread.errors import LongthreadError

SIZES = {
    "groups": st.integers(1, 4),
    "rows": st.integers(20, 60),
    "tokens": st.integers(5, 30),
    "seed": st.integers(0, 999),
}


def drawn(groups: int, rows: int, tokens: int, seed: int, dim: int = 6) -> tuple[Reference, Tensor, Tensor]:
    """Queries of which a third should hear nothing, and a document of which some heads see more than others."""
    g = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(0.3, 2.0, groups)[:, None, None]
    q = torch.randn(groups, rows, dim, generator=g)
    k, v = (torch.randn(groups, tokens, dim, generator=g) for _ in range(2))
    window, lse = torch.randn(groups, rows, dim, generator=g), 2 * torch.randn(groups, rows, generator=g) + 2
    weight = torch.rand(groups, rows, generator=g) + 0.1
    return Reference(q, window, lse, weight, torch.rand(rows, generator=g) > 1 / 3), sharpness * k, v


@settings(max_examples=8, deadline=None)
@given(**SIZES, share=st.floats(0.1, 0.9))
@example(groups=4, rows=40, tokens=26, seed=300, share=0.625)  # 300 steps left a weight 14 % away
def test_it_is_its_reference_head_by_head(groups: int, rows: int, tokens: int, seed: int, share: float) -> None:
    reference, k, v = drawn(groups, rows, tokens, seed)
    how = Compaction(max(1, int(share * groups * tokens)), bias_ridge=1e-2, value_ridge=1e-2, quiet_weight=0.5)
    slots = compact(reference, k, v, how)
    assert sum(len(head.tokens_S) for head in slots) == how.slots
    right = [ReferenceHead(reference, h, k[h], v[h], how) for h in range(groups)]
    scores = torch.stack([head.scores() for head in right])
    torch.testing.assert_close(attend(reference, k, v).score_GT.double(), scores, atol=1e-5, rtol=1e-4)
    for h, head in enumerate(slots):
        kept = head.tokens_S
        assert torch.equal(kept, kept.sort().values) and torch.equal(head.k_SD, k[h, kept])
        if not len(kept):
            continue
        torch.testing.assert_close(head.b_S.exp().double(), right[h].weights(kept), atol=2e-2, rtol=2e-2)
        fitted = right[h].values(kept, head.b_S.exp())
        torch.testing.assert_close(head.v_SD.double(), fitted, atol=2e-3, rtol=2e-3)


SHAPE = {"heads": st.integers(1, 200), "tokens": st.integers(1, 40_000), "dim": st.sampled_from([16, 64, 128])}


@given(**SHAPE)
def test_a_short_text_keeps_slots_enough_and_a_long_one_a_share_of_the_bytes(heads: int, tokens: int, dim: int) -> None:
    kept = slots(None, heads, tokens, dim)
    least, every = heads * min(LEAST_AVERAGE, tokens), heads * tokens
    share = SHARE * every * 4 * dim  # of the bytes of keys and values in bf16
    assert least <= kept <= every
    assert kept == least or share - (4 * dim + 4) < kept * (4 * dim + 4) <= share
    assert slots(None, heads, tokens + 1, dim) >= kept


@given(**SHAPE, share=st.floats(1e-4, 1.0))
def test_a_share_that_is_asked_for_stays_as_it_is(heads: int, tokens: int, dim: int, share: float) -> None:
    kept, asked = slots(share, heads, tokens, dim), share * heads * tokens * 4 * dim
    assert kept == heads * tokens if share == 1 else asked - (4 * dim + 4) < kept * (4 * dim + 4)
    assert kept <= heads or share == 1 or kept * (4 * dim + 4) <= asked


@settings(max_examples=6, deadline=None)
@given(**SIZES)
def test_with_a_slot_for_every_key_it_is_the_document(groups: int, rows: int, tokens: int, seed: int) -> None:
    reference, k, v = drawn(groups, rows, tokens, seed)
    for h, head in enumerate(compact(reference, k, v, Compaction(groups * tokens))):
        assert torch.equal(head.k_SD, k[h]) and torch.equal(head.v_SD, v[h]) and not head.b_S.any()


@pytest.mark.parametrize("quiet", [True, False])
def test_what_the_document_gave_is_not_computed_again(quiet: bool) -> None:
    reference, k, v = drawn(3, 40, 20, 0)
    known = reference.heard_N if quiet else torch.ones(40, dtype=torch.bool)
    reference = reference._replace(heard_N=known)
    computed = attend(reference, k, v)
    for away, matters in ((~known, False), (known, True)):  # what is not known is overwritten, what is known is taken
        memory, lse = computed.memory_GND.clone(), computed.lse_GN.clone()
        memory[:, away], lse[:, away] = 7.0, 7.0
        found = attend(reference._replace(given=Given(memory, lse, known)), k, v)
        assert torch.allclose(found.memory_GND, computed.memory_GND) is not matters
        assert torch.allclose(found.score_GT, computed.score_GT) is not matters


@pytest.mark.parametrize("elements", [1, 50, 1000])
def test_pieces_change_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, k, v = drawn(3, 40, 20, 0)
    whole = compact(reference, k, v, Compaction(15))
    monkeypatch.setattr(selection, "ELEMENTS_ELSEWHERE", elements)
    for one, other in zip(whole, compact(reference, k, v, Compaction(15)), strict=True):
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-3)


def put_out(reference: Reference, k: Tensor, b: Tensor, v: Tensor, head: int) -> Tensor:
    """What a head puts out with a memory beside its window."""
    scores = reference.q_GND[head] @ k.T + b
    gate = torch.sigmoid(scores.logsumexp(-1) - reference.lse_window_GN[head])[:, None]
    window = reference.window_GND[head]
    return window + gate * (scores.softmax(-1) @ v - window)


def error(slots: list, reference: Reference, k: Tensor, v: Tensor, heard: bool) -> float:
    """The mean error of what the heads put out, for queries that should hear the document or nothing."""
    total = 0.0
    for h, head in enumerate(slots):
        right = put_out(reference, k[h], torch.zeros(k.shape[1]), v[h], h) if heard else reference.window_GND[h]
        gap = put_out(reference, head.k_SD, head.b_S, head.v_SD, h) - right
        total += gap[reference.heard_N == heard].square().mean().item()
    return total


def mass_error(slots: list, reference: Reference, k: Tensor) -> float:
    """The mean error of the heads' gates."""
    total = 0.0
    for h, head in enumerate(slots):
        found, right = (
            torch.sigmoid((reference.q_GND[h] @ keys.T + biases).logsumexp(-1) - reference.lse_window_GN[h])
            for keys, biases in ((head.k_SD, head.b_S), (k[h], torch.zeros(k.shape[1])))
        )
        total += (found - right).square().mean().item()
    return total


def test_each_part_of_it_brings_the_output_nearer() -> None:
    reference, k, v = drawn(4, 400, 40, 1)
    heard = reference._replace(heard_N=torch.ones(400, dtype=torch.bool))
    found = [compact(heard, k, v, Compaction(40, biases=biases, values=values))
             for biases, values in ((False, False), (True, False), (True, True))]  # fmt: skip
    errors = [error(slots, heard, k, v, heard=True) for slots in found]
    assert errors[2] < 0.7 * errors[0] and errors[2] < 0.7 * errors[1], errors
    masses = [mass_error(slots, heard, k) for slots in found]
    assert masses[1] == masses[2] < 0.5 * masses[0], masses
    quiet = [
        error(compact(reference, k, v, Compaction(40, quiet_weight=weight)), reference, k, v, heard=False)
        for weight in (0.0, 1.0, 10.0)
    ]
    assert quiet[0] > quiet[1] > quiet[2], quiet


def test_heads_that_see_more_of_the_document_keep_more() -> None:
    scores = torch.tensor([[9.0, 8, 7, 6], [1, 0.5, 0.2, 0.1], [5, 0, 0, 0]])
    assert select(scores, 6, 1).sum(1).tolist() == [4, 1, 1]
    assert select(scores, 99, 1).all()
    assert select(scores, 2, 1).sum().item() == 2


@pytest.mark.parametrize("width", [1, 7, 8, 33])
def test_half_of_a_gram_matrix_and_its_mirror_are_the_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "WIDE", 8)
    rows = torch.randn(3, 20, width, generator=torch.Generator().manual_seed(0))
    a = torch.zeros(4, width, width)
    for part in rows.split(6, dim=1):
        least_squares.add_gram(a[1:], part)
    torch.testing.assert_close(least_squares.mirror(a)[1:], rows.transpose(1, 2) @ rows, atol=1e-4, rtol=1e-4)
    assert not a[0].any()


@pytest.mark.parametrize("sets", [least_squares.SETS, 0, 1], ids=["active set", "gradient", "both"])
def test_bounded_least_squares_stay_in_their_box_and_padding_stays_nothing(
    sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares, "SETS", sets)
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 50, 8, generator=g)
    live = torch.tensor([[True] * 8, [True] * 5 + [False] * 3, [True] + [False] * 7])
    rows = rows * live[:, None]
    target = 4 * torch.randn(3, 50, generator=g)
    a, b = rows.transpose(1, 2) @ rows, (rows.transpose(1, 2) @ target[..., None])[..., 0]
    w = least_squares.bounded(a, b, torch.ones(3, 8), live, (0.1, 1.5), 0.0)
    assert w[live].min() >= 0.1 - 1e-6 and w[live].max() <= 1.5 + 1e-6 and not w[~live].any()
    gradient = (a @ w[..., None])[..., 0] - b
    inside = live & (w > 0.1 + 1e-4) & (w < 1.5 - 1e-4)
    assert gradient[inside].abs().max() < 1e-2 * b.abs().max()
    assert (gradient[live & (w < 0.1 + 1e-4)] > -1e-2).all() and (gradient[live & (w > 1.5 - 1e-4)] < 1e-2).all()
    assert BOX[0] > 0


def test_values_that_cannot_be_solved_for_are_one_line_and_singular_ones_stay_near_their_own() -> None:
    live = torch.ones(1, 3, dtype=torch.bool)
    a, b = torch.ones(1, 3, 3), torch.ones(1, 3, 2)  # three equal columns
    v = least_squares.ridge(a, b, torch.zeros(1, 3, 2), live, 1e-3)
    torch.testing.assert_close(v, torch.full((1, 3, 2), 1 / 3), atol=1e-3, rtol=0)
    negative = torch.diag_embed(torch.tensor([[1.0, 1.0, -1e-3]]))  # as rounding leaves it
    assert least_squares.ridge(negative, b, b, live, 1e-4).isfinite().all()
    huge = torch.full(
        (1, 3, 2), 2e37
    )  # finite divided by what the ridge makes of a column of zeros, but not by a tenth of it
    assert (
        least_squares.ridge(torch.diag_embed(torch.tensor([[1.0, 1.0, 0.0]])), huge, 0 * b, live, 2e-2).isfinite().all()
    )
    for bad in (a * torch.nan, torch.diag_embed(torch.tensor([[1.0, 1.0, -1e9]]))):
        with pytest.raises(LongthreadError, match="values of the compact memory cannot be solved for") as caught:
            least_squares.ridge(bad, b, b, live, 1e-3)
        assert "\n" not in str(caught.value)
