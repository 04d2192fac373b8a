"""The split of attention over document and window, and the memory that stands for the document, against slow references."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lift.memory import log_sum_exp as module
from lift.memory.gated_memory import GatedMemory, Recalled, gates, mix, of_rows, recall, reference_mix
from lift.memory.log_sum_exp import NOTHING, attention_and_log_sum_exp, document_attention, log_sum_exp


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def opened(heads: int, dim: int, gate: str = "lse", seed: int = 0) -> GatedMemory:
    torch.manual_seed(seed)
    memory = GatedMemory(heads, dim, gate)  # type: ignore[arg-type]
    memory.share.data.fill_(1.0)
    return memory


@settings(max_examples=40, deadline=None)
@given(
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    window=st.integers(1, 9),
    documents=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_attention_splits_exactly_into_window_and_documents(
    heads: tuple[int, int], window: int, documents: list[int], seed: int
) -> None:
    """Memories that recall exactly what the documents' attention is give the attention over everything."""
    (h, kv), dim, length = heads, 8, 5
    q = normal(2, h, length, dim, seed=seed)
    parts = [(normal(2, kv, n, dim, seed=seed + i), normal(2, kv, n, dim, seed=seed + 7 * i)) for i, n in
             enumerate([window, *documents], 1)]  # fmt: skip

    def attend(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (x.repeat_interleave(h // kv, dim=1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) / dim**0.5
        return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1).transpose(1, 2)

    whole, _ = attend(*(torch.cat(x, dim=2) for x in zip(*parts, strict=True)))
    (o, lse), *found = [attend(*part) for part in parts]
    recalled = [Recalled(m.float(), s.float(), torch.ones(h)) for m, s in found]
    torch.testing.assert_close(mix(o.float(), recalled, "lse", lse.float()), whole.float(), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    opened_to=st.lists(st.lists(st.integers(0, 4), unique=True, max_size=5), min_size=5, max_size=5),
    closed=st.lists(st.integers(0, 4), max_size=2),
    seed=st.integers(0, 99),
)
def test_rows_with_memories_of_their_own_are_mixed_as_each_by_itself(
    opened_to: list[list[int]], closed: list[int], seed: int
) -> None:
    """`opened_to`: of each memory, the rows that have it open."""
    o, lse = normal(5, 3, 4, 8, seed=seed).float(), 3 * normal(5, 3, 4, seed=seed + 1).float()
    recalled = [
        (rows, Recalled(normal(len(rows), 3, 4, 8, seed=i).float(), 3 * normal(len(rows), 3, 4, seed=i + 9).float(),
                        torch.full((4,), float(i not in closed))))
        for i, rows in enumerate(opened_to)
        if rows
    ]  # fmt: skip
    held: list[int] = [0] * 5  # memories that each row has so far
    placed = []
    for rows, each in recalled:
        placed.append((torch.tensor(rows), torch.tensor([held[row] for row in rows]), each))
        held = [count + (row in rows) for row, count in enumerate(held)]
    together = of_rows(placed, max(1, *held), o)
    mixed = mix(o, together, "lse", lse)
    for row in range(5):
        own = [
            Recalled(r.memory_BLHD[[rows.index(row)]], r.score_BLH[[rows.index(row)]], r.share_H)
            for rows, r in recalled
            if row in rows
        ]
        if any(each.share_H.any() for each in own):
            torch.testing.assert_close(mixed[[row]], mix(o[[row]], own, "lse", lse[[row]]), atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(mixed[row], o[row]), "a row without a memory is the base model's, bit for bit"


def test_a_closed_memory_leaves_every_bit_where_it_was() -> None:
    memory, q = GatedMemory(3, 8), normal(2, 5, 3, 8, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        o = (100 * normal(2, 5, 3, 8, seed=1)).to(dtype)
        for lse in (normal(2, 5, 3, dtype=torch.float32), torch.full((2, 5, 3), -60.0)):
            assert torch.equal(mix(o, [memory(q), memory(q)], "lse", lse), o)
        assert torch.equal(mix(o, [GatedMemory(3, 8, "query")(q)], "query", None), o)


def test_a_closed_memory_can_be_opened_by_its_gradient() -> None:
    memory, q = GatedMemory(3, 8), normal(2, 5, 3, 8, dtype=torch.float32)
    mix(torch.zeros(2, 5, 3, 8), [memory(q)], "lse", torch.zeros(2, 5, 3)).square().add(1).log().sum().backward()
    mix(torch.ones(2, 5, 3, 8), [memory(q)], "lse", torch.zeros(2, 5, 3)).sum().backward()
    assert memory.share.grad is not None and memory.share.grad.abs().min() > 0


@pytest.mark.parametrize("gate", ["lse", "query"])
def test_a_memory_pushed_below_nothing_is_closed_and_can_open_again(gate: str) -> None:
    memory, q, o = opened(3, 8, gate), normal(2, 5, 3, 8, dtype=torch.float32), normal(2, 5, 3, 8, dtype=torch.float32)
    memory.share.data.fill_(-0.1)
    out = mix(o, [memory(q)], gate, torch.zeros(2, 5, 3))  # type: ignore[arg-type]
    assert torch.equal(out, o)
    out.square().sum().backward()
    assert isinstance(memory.share, torch.nn.Parameter)
    assert memory.share.grad is not None and memory.share.grad.abs().min() > 0


def test_every_head_recalls_by_its_own_weights() -> None:
    memory, q = opened(3, 8), normal(2, 5, 3, 8, dtype=torch.float32)
    said = memory(q)
    for row in range(2):
        for token in range(5):
            for head in range(3):
                x = q[row, token, head]
                m = F.silu(x @ memory.w_in[head]) @ memory.w_out[head]
                s = F.silu(x @ memory.gate_in[head]) @ memory.gate_out[head, :, 0]
                torch.testing.assert_close(said.memory_BLHD[row, token, head], m)
                torch.testing.assert_close(
                    said.score_BLH[row, token, head], s + x @ memory.slope[head] + memory.level[head]
                )


@pytest.mark.parametrize("documents", [1, 3])
def test_documents_mix_as_the_slow_reference_says(documents: int) -> None:
    """Every head by its own weights, however far each document is opened."""
    memories = [opened(3, 8, seed=seed) for seed in range(documents)]
    for memory in memories:
        for weight in (memory.slope, memory.level):
            torch.nn.init.normal_(weight)
        memory.share.data.uniform_(0.1, 2.0)
    q, o = (normal(2, 5, 3, 8, seed=seed, dtype=torch.float32) for seed in (0, 1))
    lse = normal(2, 5, 3, seed=2, dtype=torch.float32)
    found = mix(o, [memory(q) for memory in memories], "lse", lse)
    torch.testing.assert_close(found, reference_mix(o, q, memories, lse))
    assert not torch.allclose(found, o, atol=0.1)


def test_the_published_gate_and_its_initial_weights() -> None:
    """sigmoid(3 (x - 1)), 0.047 before training; uniform within 1/sqrt(in · out), as torch counts a 3-D tensor."""
    torch.manual_seed(0)
    memory = GatedMemory(4, 64, "query", published=True)
    for weight in (memory.w_in, memory.w_out, memory.gate_in, memory.gate_out):
        bound = (weight.shape[1] * weight.shape[2]) ** -0.5
        assert bound * 0.9 < weight.abs().max() <= bound
    assert not memory.share.requires_grad and memory.share.eq(1).all()
    (g,) = gates([memory(normal(2, 50, 4, 64, dtype=torch.float32))], "query", None)
    assert g.mean().item() == pytest.approx(0.0474, abs=0.002)
    trained = sum(p.numel() for p in memory.parameters() if p.requires_grad)
    assert trained == 4 * (4 * 64**2 + 64 * 8 + 8)  # H (4 D² + D ⌊√D⌋ + ⌊√D⌋)


def test_the_gate_falls_as_the_window_fills_and_two_documents_share() -> None:
    memory, other, q = opened(3, 8), opened(3, 8, seed=1), normal(1, 5, 3, 8, dtype=torch.float32)
    recalled = [memory(q), other(q)]
    empty, full = (torch.stack(gates(recalled, "lse", torch.full((1, 5, 3), lse))).sum(0) for lse in (-9.0, 9.0))
    assert (empty > 0.9).all() and (full < 0.1).all()
    lse = normal(1, 5, 3, seed=3, dtype=torch.float32)
    weights = torch.stack([lse, *(each.score_BLH for each in recalled)]).softmax(0)
    torch.testing.assert_close(torch.stack(gates(recalled, "lse", lse)), weights[1:])


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("scores", [1, 60, 1 << 26])
@pytest.mark.parametrize("masked", ["boolean", "additive", "causal", "no"])
def test_log_sum_exp_is_that_of_the_scores(
    heads: tuple[int, int], scores: int, masked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES", scores)
    h, kv = heads
    q, k = normal(2, h, 4, 8).requires_grad_(), normal(2, kv, 7, 8, seed=1).requires_grad_()  # 3 tokens came before
    seen = torch.arange(7) <= torch.arange(4)[:, None] + 3
    mask = {"boolean": seen[None, None], "additive": torch.where(seen, 0.0, -1e9)[None, None]}.get(masked)
    found = log_sum_exp(q, k, mask, 0.3, causal=masked == "causal")
    table = 0.3 * q @ k.repeat_interleave(h // kv, dim=1).transpose(-1, -2)
    right = (table if masked == "no" else table.masked_fill(~seen, -math.inf)).logsumexp(-1).transpose(1, 2)
    torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), (q, k)), torch.autograd.grad(right.sum(), (q, k)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_s_log_sum_exp_and_its_gradient_are_those_of_the_scores(
    heads: tuple[int, int], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash, runs = module._flash_attention, []
    monkeypatch.setattr(module, "_flash_attention", lambda *given: runs.append(given) or flash(*given))
    h, kv = heads
    q, k = normal(2, h, 9, 8).requires_grad_(), normal(2, kv, 9, 8, seed=1).requires_grad_()
    found = log_sum_exp(q, k, None, 0.3, causal)
    assert len(runs) == 1  # not a pass over the keys
    seen = torch.ones(9, 9).tril().bool() if causal else torch.ones(9, 9).bool()
    table = 0.3 * q @ k.repeat_interleave(h // kv, dim=1).transpose(-1, -2)
    right = table.masked_fill(~seen, -math.inf).logsumexp(-1).transpose(1, 2)
    torch.testing.assert_close(found.double(), right, atol=1e-6, rtol=1e-6)
    weight = normal(*right.shape, seed=2)
    for mine, theirs in zip(
        torch.autograd.grad((weight * found).sum(), (q, k)), torch.autograd.grad((weight * right).sum(), (q, k)), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("masked", ["boolean", "additive", "causal", "no"])
def test_attention_with_its_log_sum_exp_is_the_two_apart(heads: tuple[int, int], masked: str) -> None:
    (h, kv), length = heads, 7 if masked == "causal" else 4  # else 3 tokens came before
    q, k, v = (normal(2, n, m, 8, seed=n, dtype=torch.float32) for n, m in ((h, length), (kv, 7), (kv, 7)))
    seen = (torch.arange(7) <= torch.arange(length)[:, None] + 7 - length).expand(2, 1, -1, -1).clone()
    if masked == "boolean":
        seen[1, :, 0] = False  # as padding sees nothing
    mask = {"boolean": seen, "additive": torch.where(seen, 0.0, -1e9)}.get(masked)
    assert attention_and_log_sum_exp(q, k, v, mask, 0.3, masked == "causal") is None  # there may be a gradient
    with torch.no_grad():
        found = attention_and_log_sum_exp(q, k, v, mask, 0.3, masked == "causal")
        every = torch.ones_like(seen) if masked == "no" else seen
        k, v = (x.repeat_interleave(h // kv, dim=1) for x in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=every, scale=0.3).transpose(1, 2)
        lse = (0.3 * q @ k.transpose(-1, -2)).masked_fill(~every, -math.inf).logsumexp(-1).clamp(min=NOTHING)
    assert found is not None
    torch.testing.assert_close(found[0], out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], lse.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: flash attention's log-sum-exp")
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_too(causal: bool) -> None:
    q, k = (normal(2, heads, 130, 64).cuda().bfloat16().requires_grad_() for heads in (9, 3))
    everything = torch.ones(130, 130, dtype=torch.bool, device="cuda")
    mask = (everything.tril() if causal else everything)[None, None]
    found, right = log_sum_exp(q, k, None, 0.125, causal), log_sum_exp(q, k, mask, 0.125, False)
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    weight = normal(*right.shape, seed=2).cuda()
    for mine, theirs in zip(
        torch.autograd.grad((weight * found).sum(), (q, k)), torch.autograd.grad((weight * right).sum(), (q, k)), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs, atol=0.02 * theirs.abs().max().item(), rtol=0.05)


def test_a_query_that_sees_nothing_makes_no_nan() -> None:
    nothing = torch.zeros(1, 1, 2, 3, dtype=torch.bool)
    q = normal(1, 2, 2, 4, dtype=torch.float32).requires_grad_()
    lse = log_sum_exp(q, normal(1, 2, 3, 4, dtype=torch.float32), nothing, 1.0, causal=False)
    out = mix(torch.zeros(1, 2, 2, 4), [opened(2, 4)(q.transpose(1, 2))], "lse", lse)
    out.sum().backward()
    assert out.isfinite().all() and q.grad is not None and q.grad.isfinite().all()


@pytest.mark.parametrize("flash", [True, False])
def test_attention_over_a_document_is_that_of_its_keys(flash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_flash_takes", lambda q: flash)
    q, k, v = normal(2, 4, 3, 8), normal(2, 9, 8, seed=1), normal(2, 9, 8, seed=2)
    q.requires_grad_()
    out, lse = document_attention(q, k, v, 0.4)
    scores = 0.4 * q @ k.repeat_interleave(2, dim=0).transpose(-1, -2)
    torch.testing.assert_close(
        out, (scores.softmax(-1) @ v.repeat_interleave(2, dim=0)).transpose(1, 2).float(), atol=1e-5, rtol=1e-4
    )
    slow = scores.logsumexp(-1).transpose(1, 2)
    torch.testing.assert_close(lse, slow.float(), atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(x.float().sin().sum(), q, retain_graph=True)[0] for x in (lse, slow)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: flash attention's log-sum-exp")
def test_the_kernels_log_sum_exp_is_that_of_the_second_pass() -> None:
    q, k, v = (normal(*shape).cuda().bfloat16() for shape in ((2, 9, 40, 64), (3, 500, 64), (3, 500, 64)))
    _, lse = document_attention(q, k, v, 0.125)
    exact = log_sum_exp(q, k.expand(2, -1, -1, -1), None, 0.125, causal=False)
    torch.testing.assert_close(lse, exact, atol=1e-4, rtol=1e-4)


def test_all_layers_heads_are_regressed_at_once() -> None:
    """`recall` on the heads of two layers together is each layer's own."""
    first, second = opened(3, 8), opened(3, 8, seed=1)
    q = normal(6, 5, 8, dtype=torch.float32)
    names = [name for name, _ in first.named_parameters()]
    joined = {name: torch.cat([dict(m.named_parameters())[name] for m in (first, second)]) for name in names}
    memory, score = recall(q, joined, "lse")
    for i, each in enumerate((first, second)):
        said = each(q[3 * i : 3 * i + 3].transpose(0, 1)[None])
        torch.testing.assert_close(memory[3 * i : 3 * i + 3].transpose(0, 1)[None], said.memory_BLHD)
        torch.testing.assert_close(score[3 * i : 3 * i + 3].transpose(0, 1)[None], said.score_BLH)
