"""What shifted sparse attention is worth on a GPU: attention alone, and whole LoRA + embedding + norm training steps.

    python -m benchmarks.longlora_step [--part a|b|all] [--shapes …] [--lengths …] [--quick] [--json out.json]

Random weights and tokens of the right shape, bf16, batch 1, group = length / 4. Against each other:
- *full*: transformers' own sdpa attention, on the backend that PyTorch picks;
- *full, cuDNN*: the same, with the cuDNN backend asked for first (attention alone: torch 2.11 picks it by itself);
- *plain S²*: the published algorithm: keys and values repeated to all heads, half of the heads rolled by half a group
  (which wraps, and lets the first half group see the end), attention in groups on PyTorch's backend, rolled back;
- *ours*: trainer_configs.longlora, and in whole steps also Liger's norms, rotary, MLP and cross entropy without logits
  (torch.compile for the first three where it is not installed); *kept* keeps attention outputs instead of recomputing
  them, *filled* spends the memory that is then left on the MLP's widest products. All exact.

The rivals have transformers' checkpointing and eager layers, and its own loss, in chunks where its logits would not fit
(column loss). A step is forward, backward and fused AdamW. Rows are written to --json as they come; one that runs out of
memory says so and the next goes on; none begins after --minutes.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface

from benchmarks import longlora_model as models
from benchmarks.longlora_model import SHAPES, Kernels, Shape
from trainer_configs.longlora.attention.kernels import BACKENDS
from trainer_configs.longlora.attention.segments import Segments
from trainer_configs.longlora.attention.shifted_sparse import shifted_sparse_attention
from trainer_configs.longlora.attention.transformers_hook import install

LENGTHS = [8192, 32768, 65536, 131072]
LONGEST = {"llama-8b": 65536}  # whole steps of it
FLOPS = 790e12  # bf16 products on an H200, measured
PATIENCE = 6.0  # seconds: a rival's first step of so many is its measurement
MEMORY = 0.82  # share of the device that *filled* may take
ATTENTION = ["full", "full, cuDNN", "plain S²", "ours"]
STEPS = ["ours, kept", "full", "plain S²", "ours", "ours, filled"]
TARGETS = [
    "Targets: attention 4.1 x full on the same backend at 131,072 tokens, 3.0 x at 32,768, at most 1 % more memory;",
    "a step of qwen2-1.5b at 131,072 tokens in 4.3 s, at 32,768 in 0.95 s; of llama-8b at 65,536 in 6.0 s.",
    "Measured before on this kind of machine (full / plain S²): 16.2 / 7.4 s, 1.76 / 1.31 s, 7B 13.1 / 8.3 s.",
]
Row = dict[str, Any]


# ---- the rivals' attention ----


def cudnn_first() -> AbstractContextManager[None]:
    return sdpa_kernel(BACKENDS, set_priority=True)


def plain_s2(q: Tensor, k: Tensor, v: Tensor, group: int, scale: float | None = None) -> Tensor:
    """LongLoRA (arXiv 2309.12307), algorithm 1, after its text: (B, H, L, D) of (B, H, L, D) and (B, K, L, D)."""
    rows, heads, length, _ = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))

    def rolled(x: Tensor, by: int) -> Tensor:
        return torch.cat([x[:, : heads // 2], x[:, heads // 2 :].roll(by, dims=2)], dim=1)

    def grouped(x: Tensor) -> Tensor:
        return rolled(x, -group // 2).unflatten(2, (-1, group)).transpose(1, 2).flatten(0, 1)

    out = sdpa(grouped(q), grouped(k), grouped(v), is_causal=True, scale=scale)
    return rolled(out.unflatten(0, (rows, length // group)).transpose(1, 2).flatten(2, 3), group // 2)


def _plain_interface(_: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> tuple[Tensor, None]:
    return plain_s2(q, k, v, q.shape[2] // 4, options.get("scaling")).transpose(1, 2).contiguous(), None


AttentionInterface.register("plain_s2", _plain_interface)
AttentionMaskInterface.register("plain_s2", lambda *_, **__: None)


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q, k, v, is_causal=True, enable_gqa=True)


def attend(side: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, L, H, D), contiguous, as a model wants it."""
    if side.startswith("full"):
        with cudnn_first() if "cuDNN" in side else nullcontext():
            out = full_attention(q, k, v)
    elif side == "plain S²":
        out = plain_s2(q, k, v, q.shape[2] // 4)
    else:
        out = shifted_sparse_attention(q, k, v, Segments(None, None), q.shape[2] // 4)
    return out.transpose(1, 2).contiguous()


# ---- measuring ----


class Backends(TorchDispatchMode):
    """Which attention kernels a forward pass called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_scaled_dot_product" in (name := str(op)):
            self.names.add(name.split("_scaled_dot_product_")[1].split(".")[0].removesuffix("_attention"))
        return op(*args, **(kwargs or {}))


def seconds(device: str, run: Callable[[], Any]) -> float:
    if device == "cpu":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def peak(device: str) -> float:
    """GiB, since the last `clear`."""
    return torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else 0.0


def clear(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def guarded(row: Row, device: str, measure: Callable[..., Row], *args: Any) -> Row:
    """The row with its figures, or with what went wrong."""
    clear(device)
    try:
        return row | measure(*args)
    except torch.OutOfMemoryError:
        row = row | {"error": "out of memory"}
    except Exception as error:  # one row must not cost the others: the machine is lent for minutes
        row = row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}
    clear(device)
    return row


# ---- part a: attention alone ----


def attention_figures(shape: Shape, length: int, side: str, device: str, dtype: torch.dtype) -> Row:
    """Forward and backward: median of three after one."""
    sizes = (shape.heads, shape.kv_heads, shape.kv_heads)
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


def attention_rows(names: list[str], lengths: list[int], device: str, dtype: torch.dtype) -> Iterator[Row]:
    """A row for each side, shape and length; ratios are of this row's to that of full attention."""
    for name in names:
        for length in lengths:
            fulls: dict[str, Row] = {}
            for side in ATTENTION:
                row: Row = {"part": "a", "shape": name, "length": length, "side": side}
                row = guarded(row, device, attention_figures, SHAPES[name], length, side, device, dtype)
                fulls[side] = row
                for key, other in (("x full", "full"), ("x full cuDNN", "full, cuDNN")):
                    if "ms" in row and "ms" in fulls.get(other, {}):
                        row[key] = fulls[other]["ms"] / row["ms"]
                if "ms" in row and (memory := fulls["full"].get("GiB")):
                    row["memory / full"] = row["GiB"] / memory
                yield row


# ---- part b: whole steps ----


def trained(model: Any, ids: Tensor, loss_of: Callable[..., tuple[Tensor, str]], optimizer: Any) -> tuple[Tensor, str]:
    loss, name = loss_of(model, ids)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach(), name


def step_figures(model: Any, ids: Tensor, side: str, fused: Kernels, optimizer: Any, wide_layers: int) -> Row:
    """Seconds of a step: median of one to three after one."""
    ours, device = side.startswith("ours"), ids.device.type
    models.use(model, fused if ours else models.EAGER)
    models.checkpointing(model, attention=ours and side != "ours", wide_layers=wide_layers)
    model.set_attn_implementation("plain_s2" if side == "plain S²" else "sdpa")
    sparse = install(model, ids.shape[1] // 4) if ours else None
    loss_of, done = (fused if ours else models.EAGER).loss, []
    try:
        first = seconds(device, lambda: done.append(trained(model, ids, loss_of, optimizer)))
        cold = not ours and first > PATIENCE
        steps = 3 if first < 2 else 1
        step = lambda: done.append(trained(model, ids, loss_of, optimizer))  # noqa: E731
        times = [first] if cold else [seconds(device, step) for _ in range(steps)]
        loss = float(done[0][0])
        if not loss < 1e4 or (sparse and not sparse.calls):
            raise RuntimeError(f"loss {loss}, {sparse.calls if sparse else 'no'} calls of sparse attention")
    finally:
        optimizer.zero_grad(set_to_none=True)
        if sparse:
            sparse.uninstall()
    figures: Row = {"s": median(times), "first_s": first, "timed": 0 if cold else len(times), "loss": done[0][1]}
    return figures | {"loss_value": loss, "tokens/s": ids.shape[1] / figures["s"], "GiB": peak(device)}


def wide_layers_that_fit(shape: Shape, length: int, device: str, used: float | None) -> int:
    """Layers whose two widest products fit beside what *kept* took (GiB)."""
    if used is None:
        return 0
    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if device != "cpu" else 1.0
    layer = 4 * length * shape.intermediate / 2**30
    return max(0, min(shape.layers, int((MEMORY * total - used) / layer)))


def step_rows(
    names: list[str], lengths: list[int], fused: str, device: str, dtype: torch.dtype, deadline: float
) -> Iterator[Row]:
    kernels = models.kernels(fused, device, dtype)
    for name in names:
        shape, built = SHAPES[name], time.monotonic()
        if built > deadline:
            yield {"part": "b", "shape": name, "error": "no time left"}
            continue
        clear(device)
        model = models.build(shape, max(lengths), device, dtype)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        print(f"{name}: built in {time.monotonic() - built:.1f} s, fused kernels: {kernels.name}", flush=True)
        for length in (each for each in lengths if each <= LONGEST.get(name, each)):
            ids = torch.randint(shape.vocabulary, (1, length), device=device)
            rows: dict[str, Row] = {}
            for side in STEPS:
                kept = rows.get("ours, kept", {}).get("GiB")
                wide = wide_layers_that_fit(shape, length, device, kept) if side == "ours, filled" else 0
                if side == "ours, filled" and not wide:
                    continue
                row: Row = {
                    "part": "b",
                    "shape": name,
                    "length": length,
                    "side": side,
                    "fused": kernels.name,
                    "wide": wide,
                }
                if time.monotonic() > deadline:
                    yield row | {"error": "no time left"}
                    continue
                row = guarded(row, device, step_figures, model, ids, side, kernels, optimizer, wide)
                if "s" in row:
                    sparse = not side.startswith("full")
                    row["limit"] = shape.limit(length, sparse, FLOPS) / row["s"]
                rows[side] = row
                yield row
        del model, optimizer, weights
        clear(device)


# ---- what it says ----


def table(rows: list[Row], part: str) -> Table:
    formats = {"ms": ".2f", "s": ".3f", "GiB": ".2f", "x full": ".2f", "x full cuDNN": ".2f", "memory / full": ".3f"}
    formats |= {"tokens/s": ",.0f", "limit": ".0%", "wide": "d", "timed": "d"}
    keys = ["ms", "x full cuDNN", "x full", "GiB", "memory / full", "backend"]
    if part == "b":
        keys = ["s", "tokens/s", "limit", "GiB", "loss", "wide", "timed"]
    made = Table(title="attention, forward + backward" if part == "a" else "training steps")
    for key in ["shape", "length", "side", *keys]:
        made.add_column(key, justify="left" if key in ("shape", "side", "backend") else "right")
    for row in rows:
        cells = [format(row[key], formats.get(key, "")) if key in row else "" for key in keys]
        if "error" in row:
            cells[0] = row["error"]
        made.add_row(row["shape"], str(row.get("length", "")), row.get("side", ""), *cells)
    return made


def versions(device: str) -> Row:
    card = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    return {"device": card, "torch": torch.__version__, "transformers": transformers.__version__}


def main(
    part: Annotated[str, typer.Option(help="a (attention alone), b (whole steps) or all")] = "all",
    shapes: Annotated[str, typer.Option(help="comma-separated")] = ",".join(SHAPES),
    lengths: Annotated[str, typer.Option(help="tokens, comma-separated, multiples of 8")] = ",".join(map(str, LENGTHS)),
    fused: Annotated[str, typer.Option(help="auto, liger, compile or off: norms, rotary and MLP of ours")] = "auto",
    minutes: Annotated[float, typer.Option(help="no row begins after so many")] = 7.5,
    quick: Annotated[bool, typer.Option(help="8,192 and 32,768 tokens only")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="rows, rewritten after each")] = None,
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    names, sizes = shapes.split(","), [int(each) for each in lengths.split(",")][: 2 if quick else None]
    if part not in ("a", "b", "all") or fused not in ("auto", "liger", "compile", "off"):
        raise typer.BadParameter("--part is a, b or all; --fused is auto, liger, compile or off")
    if unknown := set(names) - SHAPES.keys():
        raise typer.BadParameter(f"shapes {sorted(unknown)} are none of {', '.join(SHAPES)}")
    if any(size < 16 or size % 8 for size in sizes):
        raise typer.BadParameter(f"lengths {sizes} must be multiples of 8, at least 16")
    rows: list[Row] = []
    gc.freeze()  # what is imported is not looked through again for every row
    deadline, began = time.monotonic() + 60 * minutes, time.monotonic()
    parts = [attention_rows(names, sizes, device, dtype)] if part != "b" else []
    parts += [step_rows(names, sizes, fused, device, dtype, deadline)] if part != "a" else []
    for source in parts:
        for row in source:
            rows.append(row)
            shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
            print(f"{time.monotonic() - began:6.1f} s  {json.dumps(shown, ensure_ascii=False)}", flush=True)
            if json_file:
                json_file.write_text(json.dumps({"versions": versions(device), "rows": rows}, indent=1))
    console = Console(width=150)
    for each in "ab":
        if found := [row for row in rows if row["part"] == each]:
            console.print(table(found, each))
    print("\n".join(TARGETS))
    if any(row.get("timed") == 0 for row in rows):
        print(f"timed 0: a first step of more than {PATIENCE:g} s is its own measurement")


if __name__ == "__main__":
    typer.run(main)
