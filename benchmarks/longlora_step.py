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
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import longlora_model as models
from benchmarks.gpu_timing import Machine, Row, clear, guarded, peak, seconds
from benchmarks.longlora_attention import attention_rows
from benchmarks.longlora_model import SHAPES, Kernels, Shape
from longthread.files import write_text
from trainer_configs.longlora.attention.transformers_hook import install

LENGTHS = [8192, 32768, 65536, 131072]
LONGEST = {"llama-8b": 65536}  # whole steps of it
FLOPS = 790e12  # bf16 products on an H200, measured
PATIENCE = 6.0  # seconds: a rival's first step of so many is its measurement
MEMORY = 0.82  # share of the device that *filled* may take
STEPS = ["ours, kept", "full", "plain S²", "ours", "ours, filled"]
TARGETS = [
    "Targets: attention 4.1 x full on the same backend at 131,072 tokens, 3.0 x at 32,768, at most 1 % more memory;",
    "a step of qwen2-1.5b at 131,072 tokens in 4.3 s, at 32,768 in 0.95 s; of llama-8b at 65,536 in 6.0 s.",
    "Measured before on this kind of machine (full / plain S²): 16.2 / 7.4 s, 1.76 / 1.31 s, 7B 13.1 / 8.3 s.",
]


# ---- whole steps: part b ----------------------------------------------------------------------------------------


class Subject(NamedTuple):
    """A model and the optimizer of its trainable weights."""

    model: Any
    optimizer: Any


def build(shape: Shape, length: int, machine: Machine) -> Subject:
    """A model of random weights, and fused AdamW."""
    model = models.build(shape, length, machine.device, machine.dtype)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return Subject(model, torch.optim.AdamW(weights, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True))


def train(subject: Subject, ids: Tensor, loss_of: Callable[..., tuple[Tensor, str]]) -> tuple[Tensor, str]:
    """One step; its loss, and the name of how that was computed."""
    loss, name = loss_of(subject.model, ids)
    loss.backward()
    subject.optimizer.step()
    subject.optimizer.zero_grad(set_to_none=True)
    return loss.detach(), name


def step_figures(subject: Subject, ids: Tensor, side: str, fused: Kernels, wide_layers: int) -> Row:
    """Seconds of a step: median of one to three after one."""
    model, ours, device = subject.model, side.startswith("ours"), ids.device.type
    models.use(model, fused if ours else models.EAGER)
    models.checkpointing(model, attention=ours and side != "ours", wide_layers=wide_layers)
    model.set_attn_implementation("plain_s2" if side == "plain S²" else "sdpa")
    sparse = install(model, ids.shape[1] // 4) if ours else None
    loss_of = (fused if ours else models.EAGER).loss
    losses: list[tuple[Tensor, str]] = []

    def step() -> None:
        losses.append(train(subject, ids, loss_of))

    try:
        first = seconds(device, step)
        cold = not ours and first > PATIENCE
        times = [first] if cold else [seconds(device, step) for _ in range(3 if first < 2 else 1)]
        loss, name = float(losses[0][0]), losses[0][1]
        if not loss < 1e4 or (sparse and not sparse.calls):
            raise RuntimeError(f"loss {loss}, {sparse.calls if sparse else 'no'} calls of sparse attention")
    finally:
        subject.optimizer.zero_grad(set_to_none=True)
        if sparse:
            sparse.uninstall()
    figures: Row = {"s": median(times), "first_s": first, "timed": 0 if cold else len(times), "loss": name}
    return figures | {"loss_value": loss, "tokens/s": ids.shape[1] / figures["s"], "GiB": peak(device)}


def wide_layers_that_fit(shape: Shape, length: int, device: str, used: float | None) -> int:
    """Layers whose two widest products fit beside the memory of *kept* (`used`, GiB)."""
    if used is None:
        return 0
    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if device != "cpu" else 1.0
    layer = 4 * length * shape.intermediate / 2**30
    return max(0, min(shape.layers, int((MEMORY * total - used) / layer)))


def step_rows(names: list[str], lengths: list[int], fused: str, machine: Machine, deadline: float) -> Iterator[Row]:
    """A row for each shape, length and side; none begins after `deadline` (time.monotonic)."""
    device = machine.device
    kernels = models.kernels(fused, device, machine.dtype)
    for name in names:
        shape, began = models.SHAPES[name], time.monotonic()
        if began > deadline:
            yield {"part": "b", "shape": name, "error": "no time left"}
            continue
        clear(device)
        subject = build(shape, max(lengths), machine)
        print(f"{name}: built in {time.monotonic() - began:.1f} s, fused kernels: {kernels.name}", flush=True)
        for length in (length for length in lengths if length <= LONGEST.get(name, length)):
            ids = torch.randint(shape.vocabulary, (1, length), device=device)
            rows: dict[str, Row] = {}
            for side in STEPS:
                kept = rows.get("ours, kept", {}).get("GiB")
                wide = wide_layers_that_fit(shape, length, device, kept) if side == "ours, filled" else 0
                if side == "ours, filled" and not wide:
                    continue
                row: Row = {"part": "b", "shape": name, "length": length, "side": side}
                row |= {"fused": kernels.name, "wide": wide}
                if time.monotonic() > deadline:
                    yield row | {"error": "no time left"}
                    continue
                row = guarded(row, device, step_figures, subject, ids, side, kernels, wide)
                if "s" in row:
                    row["limit"] = shape.limit(length, not side.startswith("full"), FLOPS) / row["s"]
                rows[side] = row
                yield row
        del subject
        clear(device)


# ---- the command ------------------------------------------------------------------------------------------------


def table(rows: list[Row], part: str) -> Table:
    """The rows of one part."""
    formats = {"ms": ".2f", "s": ".3f", "GiB": ".2f", "x full": ".2f", "x full cuDNN": ".2f", "memory / full": ".3f"}
    formats |= {"tokens/s": ",.0f", "limit": ".0%", "wide": "d", "timed": "d"}
    keys = ["ms", "x full cuDNN", "x full", "GiB", "memory / full", "backend"]
    if part == "b":
        keys = ["s", "tokens/s", "limit", "GiB", "loss", "wide", "timed"]
    grid = Table(title="attention, forward + backward" if part == "a" else "training steps")
    for key in ["shape", "length", "side", *keys]:
        grid.add_column(key, justify="left" if key in ("shape", "side", "backend") else "right")
    for row in rows:
        cells = [format(row[key], formats.get(key, "")) if key in row else "" for key in keys]
        if "error" in row:
            cells[0] = row["error"]
        grid.add_row(row["shape"], str(row.get("length", "")), row.get("side", ""), *cells)
    return grid


def versions(device: str) -> Row:
    """What the figures depend on."""
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
    """Measure, and print the tables."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = Machine(device, torch.bfloat16 if device == "cuda" else torch.float32)
    names, sizes = shapes.split(","), [int(size) for size in lengths.split(",")][: 2 if quick else None]
    _check(part, fused, names, sizes)
    rows: list[Row] = []
    began = time.monotonic()
    parts = [attention_rows(names, sizes, machine)] if part != "b" else []
    parts += [step_rows(names, sizes, fused, machine, began + 60 * minutes)] if part != "a" else []
    gc.freeze()  # so that modules are not looked through again for every row
    try:
        for row in chain.from_iterable(parts):
            rows.append(row)
            shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
            print(f"{time.monotonic() - began:6.1f} s  {json.dumps(shown, ensure_ascii=False)}", flush=True)
            if json_file:
                write_text(json_file, json.dumps({"versions": versions(device), "rows": rows}, indent=1))
    finally:
        gc.unfreeze()
    console = Console(width=150)
    for letter in "ab":
        if of_part := [row for row in rows if row["part"] == letter]:
            console.print(table(of_part, letter))
    print("\n".join(TARGETS))
    if any(row.get("timed") == 0 for row in rows):
        print(f"timed 0: a first step of more than {PATIENCE:g} s is its own measurement")


def _check(part: str, fused: str, names: list[str], sizes: list[int]) -> None:
    if part not in ("a", "b", "all"):
        raise typer.BadParameter(f"--part must be one of a, b, all (got {part!r})")
    if fused not in ("auto", "liger", "compile", "off"):
        raise typer.BadParameter(f"--fused must be one of auto, liger, compile, off (got {fused!r})")
    if unknown := sorted(set(names) - models.SHAPES.keys()):
        raise typer.BadParameter(f"--shapes must be of {', '.join(models.SHAPES)} (got {', '.join(unknown)})")
    if any(size < 16 or size % 8 for size in sizes):
        raise typer.BadParameter(f"--lengths must be multiples of 8, at least 16 (got {sizes})")


if __name__ == "__main__":
    typer.run(main)
