"""Shifted sparse attention: the fast paths equal the specification, nothing sees the future."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longthread.errors import ConfigError
from trainer_configs.longlora.attention.figure import draw
from trainer_configs.longlora.attention.segments import segments
from trainer_configs.longlora.attention.shifted_sparse import (
    reference,
    shifted_sparse_attention,
    split_heads,
)

Output = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of queries, keys, values
HEADS = [(4, 4), (8, 2), (4, 1), (9, 3), (15, 5), (14, 2), (3, 1), (32, 8)]


def qkv(heads: int, kv: int, rows: int, length: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(rows, n, length, 16, generator=generator, dtype=dtype) for n in (heads, kv, kv)]


def assert_same(expected: Output, found: Output, tensors: Callable[[], list[torch.Tensor]], error: float) -> None:
    """Compare two attentions of the same queries, keys and values: their outputs, and the gradients of all three."""
    outs = []
    for attention in (expected, found):
        qkv = [x.requires_grad_() for x in tensors()]
        out = attention(*qkv)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        outs.append([out, *(x.grad for x in qkv)])
    for a, b in zip(*outs, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, atol=error, rtol=error)


def positions(rows: list[list[int]]) -> torch.Tensor:
    """Rows of documents, padded on the right, where positions go on."""
    length = max(map(sum, rows))
    made = []
    for row in rows:
        ids = torch.cat([torch.arange(n) for n in row])
        made.append(torch.cat([ids, torch.arange(length - len(ids)) + ids[-1] + 1]))
    return torch.stack(made)


@settings(max_examples=120, deadline=None)
@given(
    heads=st.sampled_from(HEADS),
    rows=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), min_size=1, max_size=3),
    half=st.integers(1, 12),
    sinks=st.integers(0, 3),
)
def test_fast_equals_the_specification(heads: tuple[int, int], rows: list[list[int]], half: int, sinks: int) -> None:
    """Single documents, packed rows, right padding, lengths that nothing divides; gradients too."""
    position_ids, size = positions(rows), 2 * half
    packed = any(len(row) > 1 for row in rows)
    sinks = 0 if packed else min(sinks, half)
    assert_same(
        lambda q, k, v: reference(q, k, v, position_ids, size, sinks),
        lambda q, k, v: shifted_sparse_attention(q, k, v, segments(position_ids, size), size, sinks),
        lambda: qkv(*heads, *position_ids.shape),
        1e-5,
    )


@pytest.mark.parametrize("heads", HEADS)
def test_in_bfloat16_the_error_is_that_of_sdpa(heads: tuple[int, int]) -> None:
    position_ids = torch.arange(96)[None]
    exact = reference(*qkv(*heads, 1, 96, torch.float64), position_ids, 32)
    low = [x.bfloat16() for x in qkv(*heads, 1, 96, torch.float64)]
    allowed = (reference(*low, position_ids, 32).double() - exact).abs().max()
    assert (shifted_sparse_attention(*low, segments(position_ids, 32), 32).double() - exact).abs().max() <= 2 * allowed


@pytest.mark.parametrize("documents", [[40], [13, 27]])
def test_no_gradient_flows_from_a_later_token_nor_from_another_document(documents: list[int]) -> None:
    """The Jacobian of every output with respect to every key and value.

    Values show who sees whom. The key of a token that sees only itself has no gradient: a softmax over one key is 1.
    """
    position_ids = positions([documents])
    q, k, v = qkv(4, 2, 1, 40)
    cuts = segments(position_ids, 8)

    def summed(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return shifted_sparse_attention(q, k, v, cuts, 8).sum((0, 1, 3))

    document = torch.cat([torch.full((n,), i) for i, n in enumerate(documents)])
    by_key, by_value = (j.abs().sum((1, 2, 4)) > 0 for j in torch.autograd.functional.jacobian(summed, (k, v)))
    for seen in (by_key, by_value):  # (L out, L in)
        assert not seen.triu(1).any()
        assert not (seen & (document[:, None] != document[None])).any()
    assert by_value.diagonal().all()
    assert by_key.diagonal()[by_value.sum(1) > 1].all()


def test_the_two_halves_carry_a_token_across_every_border() -> None:
    """What the shift is for: after two layers the second group knows of the first."""
    position_ids = torch.arange(32)[None]
    cuts = segments(position_ids, 8)
    v = torch.randn(1, 2, 32, 4, requires_grad=True)
    q = k = torch.randn(1, 2, 32, 4)
    once = shifted_sparse_attention(q, k, v, cuts, 8)
    mixed = once.mean(1, keepdim=True).expand(-1, 2, -1, -1)
    twice = shifted_sparse_attention(q, k, mixed, cuts, 8)
    (gradient,) = torch.autograd.grad(twice[:, :, 15].sum(), v)
    assert gradient[:, :, 4].abs().sum() > 0  # of the group before


@pytest.mark.parametrize(("heads", "kv"), HEADS)
def test_halves_end_at_a_key_value_group(heads: int, kv: int) -> None:
    straight, straight_kv = split_heads(heads, kv)
    assert 0 < straight < heads and 0 < straight_kv <= kv
    assert kv == 1 or straight * kv == straight_kv * heads
    assert abs(2 * straight - heads) <= heads // kv if kv > 1 else abs(2 * straight - heads) <= 1


def test_sink_tokens_in_packed_rows_are_refused() -> None:
    position_ids = positions([[5, 9]])
    with pytest.raises(ConfigError, match="sink_tokens need rows of one document each"):
        shifted_sparse_attention(*qkv(4, 2, 1, 14), segments(position_ids, 4), 4, sink_tokens=1)


def test_the_picture(tmp_path: Path) -> None:
    draw(str(tmp_path / "pattern.png"))
    import matplotlib.image

    assert matplotlib.image.imread(tmp_path / "pattern.png").std() > 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; its figures: trainer_configs/README.md")
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", [4096, 4001])
@pytest.mark.parametrize("packed", [False, True])
def test_on_a_gpu(heads: tuple[int, int], length: int, packed: bool) -> None:
    """cuDNN, flash and the variable-length kernel, with the strides that a model gives the gradient."""
    position_ids = positions([[1000, length - 1000]] if packed else [[length]]).cuda()
    given = [torch.randn(1, n, length, 64, device="cuda", dtype=torch.bfloat16) for n in (heads[0], heads[1], heads[1])]
    gradient = torch.randn(1, length, heads[0], 64, device="cuda").transpose(1, 2)
    found = []
    for dtype, fast in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        tensors = [x.to(dtype, copy=True).requires_grad_() for x in given]
        if fast:
            out = shifted_sparse_attention(*tensors, segments(position_ids, 1024), 1024)
        else:
            out = reference(*tensors, position_ids, 1024)
        out.backward(gradient.to(dtype))
        found.append([out, *(x.grad for x in tensors)])
    for exact, allowed, fast in zip(*found, strict=True):
        ours, plain = ((x.float() - exact).double() for x in (fast, allowed))
        # The largest of a million roundings is a matter of luck; their root mean square is not.
        assert ours.square().mean().sqrt() <= 1.5 * plain.square().mean().sqrt()
        assert ours.abs().max() <= 8 * plain.abs().max()
