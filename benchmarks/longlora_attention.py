"""Part a of `benchmarks.longlora_step`: attention alone, ours against full attention and the published algorithm."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface, AttentionMaskInterface

from benchmarks import longlora_model as models
from benchmarks.gpu_timing import Backends, Machine, Row, guarded, peak, seconds
from benchmarks.longlora_model import Shape
from trainer_configs.longlora.attention.kernels import BACKENDS
from trainer_configs.longlora.attention.segments import Segments
from trainer_configs.longlora.attention.shifted_sparse import shifted_sparse_attention

ATTENTION = ["full", "full, cuDNN", "plain S²", "ours"]


def cudnn_first() -> AbstractContextManager[None]:
    """PyTorch's backends in our order."""
    return sdpa_kernel(BACKENDS, set_priority=True)


def plain_s2(q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, group: int, scale: float | None = None) -> Tensor:
    """LongLoRA (arXiv 2309.12307), algorithm 1, after its text: (B, H, L, D)."""
    rows, heads, length, _ = q_BHLD.shape
    k_BHLD, v_BHLD = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_BKLD, v_BKLD))

    def rolled(x: Tensor, by: int) -> Tensor:
        return torch.cat([x[:, : heads // 2], x[:, heads // 2 :].roll(by, dims=2)], dim=1)

    def grouped(x: Tensor) -> Tensor:
        return rolled(x, -group // 2).unflatten(2, (-1, group)).transpose(1, 2).flatten(0, 1)

    out = sdpa(grouped(q_BHLD), grouped(k_BHLD), grouped(v_BHLD), is_causal=True, scale=scale)
    return rolled(out.unflatten(0, (rows, length // group)).transpose(1, 2).flatten(2, 3), group // 2)


def _plain_interface(_: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> tuple[Tensor, None]:
    return plain_s2(q, k, v, q.shape[2] // 4, options.get("scaling")).transpose(1, 2).contiguous(), None


AttentionInterface.register("plain_s2", _plain_interface)
AttentionMaskInterface.register("plain_s2", lambda *_, **__: None)


def full_attention(q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor) -> Tensor:
    """Causal, by the backend that PyTorch picks."""
    return sdpa(q_BHLD, k_BKLD, v_BKLD, is_causal=True, enable_gqa=True)


def attend(side: str, q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor) -> Tensor:
    """(B, L, H, D), contiguous, as a model wants it."""
    group = q_BHLD.shape[2] // 4
    if side.startswith("full"):
        with cudnn_first() if "cuDNN" in side else nullcontext():
            out = full_attention(q_BHLD, k_BKLD, v_BKLD)
    elif side == "plain S²":
        out = plain_s2(q_BHLD, k_BKLD, v_BKLD, group)
    else:
        out = shifted_sparse_attention(q_BHLD, k_BKLD, v_BKLD, Segments(None, None), group)
    return out.transpose(1, 2).contiguous()


def attention_figures(shape: Shape, length: int, side: str, machine: Machine) -> Row:
    """Forward and backward: median of three after one."""
    sizes = (shape.heads, shape.kv_heads, shape.kv_heads)
    device, dtype = machine
    q, k, v = (
        torch.randn(1, length, n, shape.head_dim, device=device, dtype=dtype).transpose(1, 2).requires_grad_()
        for n in sizes
    )
    gradient = torch.randn(1, length, shape.heads, shape.head_dim, device=device, dtype=dtype)

    def run() -> None:
        torch.autograd.grad(attend(side, q, k, v), (q, k, v), gradient)

    with Backends() as backends, torch.no_grad():
        attend(side, q, k, v)
    run()
    times = [seconds(device, run) for _ in range(3)]
    return {"ms": 1000 * median(times), "GiB": peak(device), "backend": " ".join(sorted(backends.names))}


def attention_rows(names: list[str], lengths: list[int], machine: Machine) -> Iterator[Row]:
    """A row for each side, shape and length; ratios are of this row's to that of full attention."""
    for name in names:
        for length in lengths:
            rows: dict[str, Row] = {}
            for side in ATTENTION:
                row: Row = {"part": "a", "shape": name, "length": length, "side": side}
                row = guarded(row, machine.device, attention_figures, models.SHAPES[name], length, side, machine)
                rows[side] = row
                for key, other in (("x full", "full"), ("x full cuDNN", "full, cuDNN")):
                    if "ms" in row and "ms" in rows.get(other, {}):
                        row[key] = rows[other]["ms"] / row["ms"]
                if "ms" in row and (memory := rows["full"].get("GiB")):
                    row["memory / full"] = row["GiB"] / memory
                yield row
