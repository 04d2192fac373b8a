"""Generation of the embedded engine beside transformers' `generate`: milliseconds a step, tokens/s, seconds of prefill.

    python -m benchmarks.generation out/generation --random              # random weights of SmolLM2-135M's shape, on a GPU
    python -m benchmarks.generation out/generation --random --toy        # a toy shape, on a CPU

The engine is called as the server calls it, without HTTP. Each row is written to `results.json` as it ends. Every request has
a prompt of its own, so that nothing is shared. A step appends one token to every request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import torch
import typer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_timing import Row, clear, guarded, peak
from environments.inference.embedded.batch import ATTENTION
from environments.inference.embedded.engine import Engine
from environments.inference.embedded.limits import Limits
from environments.inference.embedded.protocol import Sampling
from longthread.errors import ConfigError, exit_on_error, option

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True, "rope_theta": 100_000.0,
}  # fmt: skip
TOY = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": True,
}  # fmt: skip
SIZES = ((64, 4096), (8, 4096), (32, 4096), (128, 4096), (8, 32_768), (32, 32_768), (128, 32_768))  # requests, tokens
TOY_SIZES = ((4, 64), (8, 256))


def model_of(folder: Path | None, random: bool, toy: bool) -> PreTrainedModel:
    """Return the model to measure, in bfloat16 on a GPU. Raises `ConfigError`."""
    if (folder is None) != random:
        raise ConfigError("give either --model FOLDER or --random", setting="model")
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    if folder is not None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    else:
        config = LlamaConfig(**(TOY if toy else SMOLLM2), max_position_embeddings=65_536)
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    return model.eval().to("cuda" if cuda else "cpu")


def prompts(model: PreTrainedModel, requests: int, length: int) -> torch.Tensor:
    """Return random prompts, shape (requests, length)."""
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, model.config.vocab_size, (requests, length), generator=generator)


def engine_row(model: PreTrainedModel, requests: int, length: int, steps: int) -> Row:
    """Measure the engine: a first batch captures the graphs, a second one of other prompts is timed."""
    model.set_attn_implementation(ATTENTION)
    limits = Limits(requests, chunk=8192, columns=2**30, together=65_536)
    engine = Engine(model, set(), limits, slots=True)
    ids = [prompts(model, requests, length + i).tolist() for i in range(2)]
    times: list[float] = []

    def timed(_: object) -> bool:
        times.append(time.perf_counter())
        return False

    first = Sampling(max_tokens=4, seed=0)
    began = time.perf_counter()
    _finish(engine, [(prompt[:length], first) for prompt in ids[0]])
    captured = time.perf_counter() - began
    times.clear()
    began = time.perf_counter()
    watched = Sampling(max_tokens=steps + 1, seed=0, stopped=timed)
    _finish(engine, [(prompt[:length], watched) for prompt in ids[1]])
    engine.close()
    ends = times[requests - 1 :: requests]  # of the prefill, then of every step
    each = [end - start for start, end in pairwise(ends)]
    step = sorted(each)[len(each) // 2]
    return {
        "ms_a_step": step * 1000,
        "tokens_a_second": requests / step,
        "prefill_seconds": times[requests - 1] - began,
        "first_batch_seconds": captured,
        "graphs": getattr(engine.decoder, "capture", False),
        "peak_gib": peak(model.device.type),
    }


def _finish(engine: Engine, asked: list[tuple[list[int], Sampling]]) -> None:
    with engine.wake:  # the engine waits until all are in the queue
        futures = [engine.submit(*request) for request in asked]
    for future in futures:
        future.result()


def generate_row(model: PreTrainedModel, requests: int, length: int, steps: int) -> Row:
    """Measure transformers' `generate` with its defaults: a time for one token and a time for `steps` more."""
    model.set_attn_implementation("sdpa")
    ids = prompts(model, requests, length).to(model.device)

    def seconds(tokens: int) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            more = {"min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": 0, "do_sample": True}
            generate = cast("Callable[..., torch.Tensor]", model.generate)
            generate(ids, attention_mask=torch.ones_like(ids), **more)[0, -1].item()
        return time.perf_counter() - began

    seconds(1)
    prefill = seconds(1)
    step = (seconds(steps + 1) - prefill) / steps
    return {
        "ms_a_step": step * 1000,
        "tokens_a_second": requests / step,
        "prefill_seconds": prefill,
        "peak_gib": peak(model.device.type),
    }


def rows(model: PreTrainedModel, toy: bool, steps: int, until: float) -> Iterator[Row]:
    """Yield a row for each size and engine until the time is over."""
    device = model.device.type
    for requests, length in TOY_SIZES if toy else SIZES:
        for name, measure in (("longthread", engine_row), ("transformers generate", generate_row)):
            if time.monotonic() > until:
                return
            row: Row = {"engine": name, "requests": requests, "context": length}
            count = steps if measure is engine_row else min(steps, 16)
            yield guarded(row, device, measure, model, requests, length, count)
            clear(device)


def main(
    out: Annotated[Path, typer.Argument(help="Folder for results.json.")],
    model: Annotated[Path | None, typer.Option(help="Folder of a model.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Random weights of SmolLM2-135M's shape.")] = False,
    toy: Annotated[bool, typer.Option("--toy", help="Toy sizes, for a CPU.")] = False,
    steps: Annotated[int, typer.Option(min=2, help="Steps timed for each row.")] = 64,
    seconds: Annotated[float, typer.Option(help="Begin nothing after so many.")] = 400,
) -> None:
    """Measure generation, print a table and write it as JSON."""
    with exit_on_error(option):
        until = time.monotonic() + seconds
        loaded = model_of(model, random, toy)
        out.mkdir(parents=True, exist_ok=True)
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        what = {"device": where, "model": str(model) if model else "random weights", "dtype": str(loaded.dtype)}
        done: list[Row] = []
        for row in rows(loaded, toy, steps, until):
            done.append(row)
            (out / "results.json").write_text(json.dumps(what | {"torch": torch.__version__, "rows": done}, indent=1))
            figures = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
            print("  ".join(f"{key}={value}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    typer.run(main)
