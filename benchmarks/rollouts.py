"""Groups a second, stalls of the event loop, memory and disk of `process` and `serve`, against atroposlib's own path.

    python -m benchmarks.rollouts [--lengths 4096,32768,131072] [--groups 200] [--memory-groups 1000] [--json out.json]

A model server that answers at once and a run-api that takes groups stand in a process of their own, so what is left is
the environment's own work. Every row is a process of its own too, warmed up before the clock starts.

- *ours*: `NeedleEnv`, which writes its samples while it runs; that is in its figures.
- *default*: an environment as Atropos' gsm8k_server.py has it, on atroposlib's BaseEnv, managed server and sending. Its
  prompts are built beforehand, and the HTML page at the end of `process` is left out: neither is held against it.

A stall is how late a timer came that was due on the loop. A thread that pings the loop would miss what matters: it has to
wait for the interpreter's lock itself while another thread's C call holds it, and the timer has not.
"""

import asyncio
import contextlib
import io
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import aiohttp
import jsonlines
import typer
from atroposlib.envs import base
from atroposlib.envs.base import APIServerConfig, BaseEnvConfig
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.reference_tokenizers import load
from benchmarks.rollouts_stubs import GROUP, PATIENCE, WARM, DefaultEnv, stubs
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tokens import load_tokenizer
from environments.needle_env import NeedleEnv
from longthread.files import JsonObject, write_json

WORKERS = 8  # items in flight, as many as atroposlib has a server; its own `process` takes one after another
SECONDS = 10  # the clock runs about so long a row
PROMPTS = 8  # different ones that the default environment is given
NEAR = 20  # samples of memory whose median counts
TICK = 0.002  # seconds between two looks at the loop
STALL = 0.05  # seconds: the longest that is allowed


# ---- the two sides that are compared ----


@dataclass(frozen=True)
class Row:
    """What one process measures. `protocol` is atroposlib's server type."""

    side: str
    command: str
    protocol: str
    length: int
    store: str = "compact"


def make_env(row: Row, url: str, tokenizer: str) -> Any:
    """The environment as the command line would make it."""
    settings = {
        "tokenizer_name": tokenizer,
        "group_size": GROUP,
        "use_wandb": False,
        "rollout_server_url": url,
        "ensure_scores_are_not_same": False,  # the stub knows no right answer
        "max_token_length": 128,
        "max_num_workers": WORKERS,
        "wandb_name": row.side,
        "steps_per_eval": 0,
    }
    server = {"base_url": f"{url}/v1", "model_name": "stub", "server_type": row.protocol, "health_check": False}
    if row.side == "ours":
        config, servers = NeedleEnv.config_init()
        more = {"lengths": str(row.length), "store": row.store}
        return NeedleEnv(config.model_copy(update=settings | more), [servers[0].model_copy(update=server)])
    haystacks = Haystacks(load_tokenizer(tokenizer), Options(pool_tokens=max(Options.pool_tokens, 2 * row.length)))
    samples = [haystacks.sample(number, "train", "single", row.length) for number in range(PROMPTS)]
    given = settings | {"include_messages": row.command == "process"}  # which atroposlib's `process` sets
    api = APIServerConfig(api_key="x", tokenizer_name=tokenizer, timeout=1800, **server)
    env = DefaultEnv(BaseEnvConfig(**given), [api])
    env.items = cycle([{"question": s.messages[0]["content"], "answer": s.answer.values[0]} for s in samples])
    return env


async def process(env: Any, groups: int, out: Path) -> None:
    """`process` of that many groups to that file."""
    env.n_groups_to_process, env.group_size_to_process = groups, GROUP
    env.config.data_path_to_save_groups = str(out)
    if isinstance(env, DefaultEnv):  # which opens its file when it is made
        env.jsonl_writer = jsonlines.open(out, "w")
    with patch.object(base, "generate_html"):
        await env.process_manager()


async def serve(env: Any, most: int, url: str) -> JsonObject:
    """Atropos' serve loop until that many groups have arrived, or those of `SECONDS`."""
    await _get(f"{url}/begin?groups={most}&seconds={SECONDS}")
    await env.env_manager()
    return await _get(f"{url}/end")


async def _get(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url, raise_for_status=True) as reply:
        return await reply.json()


# ---- measuring ----


class Stalls:
    """While it is entered: how late, in seconds, a timer came that was due every `TICK`, and when that was."""

    def __enter__(self) -> "Stalls":
        self.late: list[tuple[float, float]] = []
        self._loop = asyncio.get_running_loop()
        self._next()
        return self

    def _next(self) -> None:
        self._timer = self._loop.call_at(due := self._loop.time() + TICK, self._look, due)

    def _look(self, due: float) -> None:
        self.late.append((now := self._loop.time(), now - due))
        self._next()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def figures(self, start: float = 0.0, end: float = math.inf) -> dict[str, float]:
        """Of what ended between two points of the loop's time."""
        late = [late for at, late in self.late if start < at <= end]
        return {"longest_stall_ms": 1000 * max(late, default=0.0), "stalls": sum(one > STALL for one in late)}


async def speed(row: Row, url: str, tokenizer: str, most: int, folder: Path) -> JsonObject:
    """Groups a second, stalls and bytes of one row."""
    measure_command = process_speed if row.command == "process" else serve_speed
    return await measure_command(make_env(row, url, tokenizer), url, most, folder)


async def process_speed(env: Any, url: str, most: int, folder: Path) -> JsonObject:
    """Groups a second of `process`."""

    async def run(groups: int, out: Path) -> float:
        start = time.perf_counter()
        await process(env, groups, out)
        return time.perf_counter() - start

    warm = min(WARM, most)
    groups = min(most, max(2 * WORKERS, int(SECONDS * warm / await run(warm, folder / "warm.jsonl"))))
    with Stalls() as stalls:
        cpu = time.process_time()
        seconds = await run(groups, out := folder / "rows.jsonl")
        cpu = time.process_time() - cpu
    figures = {"groups": groups, "groups_per_s": groups / seconds, "cpu_ms_per_group": 1000 * cpu / groups}
    return figures | {"bytes_per_group": out.stat().st_size / groups} | stalls.figures()


async def serve_speed(env: Any, url: str, most: int, folder: Path) -> JsonObject:
    """Groups a second of `serve`, from the first that arrived after warming up."""
    cpu = time.process_time()
    with Stalls() as stalls:
        arrivals = await serve(env, most, url)
    cpu = time.process_time() - cpu
    if (groups := len(arrivals["arrived"]) - WARM) < 1:  # atroposlib only logs what went wrong
        raise RuntimeError(f"{len(arrivals['arrived'])} groups arrived in {PATIENCE} s")
    first, *_, last = arrivals["arrived"][WARM - 1 :]
    figures = {"groups": groups, "groups_per_s": groups / (last - first), "tokens": arrivals["tokens"]}
    figures["cpu_ms_per_group"] = 1000 * cpu / len(arrivals["arrived"])
    # The loop's time is the one that the stubs have, time.monotonic().
    return figures | {"bytes_per_group": arrivals["bytes"] / len(arrivals["arrived"])} | stalls.figures(first, last)


async def memory(row: Row, url: str, tokenizer: str, groups: int, folder: Path) -> JsonObject:
    """Memory over `process` of many groups: at a tenth of them and at the end."""
    env, out = make_env(row, url, tokenizer), folder / "rows.jsonl"
    samples: list[tuple[int, float]] = []  # groups done, MiB

    async def sample() -> None:
        done, read = 0, 0
        while True:
            if out.exists():
                with out.open("rb") as file:
                    file.seek(read)
                    new = file.read()
                done, read = done + new.count(b"\n"), read + len(new)
            samples.append((done, rss()))
            await asyncio.sleep(0.05)

    sampler = asyncio.create_task(sample())
    await process(env, groups, out)
    sampler.cancel()
    start, end = (
        median(mib for _, mib in sorted(samples, key=lambda s: abs(s[0] - at))[:NEAR]) for at in (groups / 10, groups)
    )
    figures = {"groups": groups, "start_mib": start, "end_mib": end, "peak_mib": max(mib for _, mib in samples)}
    curve = samples[:: max(1, len(samples) // 50)]
    return figures | {"bytes_per_group": out.stat().st_size / groups, "curve": curve}


def rss() -> float:
    """MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


Measure = Callable[[Row, str, str, int, Path], Coroutine[Any, Any, JsonObject]]


def measure(what: Measure, row: Row, url: str, tokenizer: str, groups: int) -> JsonObject:
    """One row in this process, quietly; a failure comes with what was printed."""
    output = io.StringIO()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            figures = asyncio.run(what(row, url, tokenizer, groups, Path(folder)))
    except SystemExit:
        raise RuntimeError(output.getvalue()) from None
    return asdict(row) | figures


# ---- the tables ----


def rows_of(lengths: list[int]) -> list[Row]:
    """What is compared: each command and length, ours beside the default."""
    kinds = [("default", "process", "vllm"), ("ours", "process", "vllm"), ("ours", "process", "openai")]
    kinds += [("default", "serve", "vllm"), ("ours", "serve", "vllm")]
    return [Row(*kind, length) for length in lengths for kind in kinds]


def against(results: list[JsonObject], row: JsonObject) -> float:
    """Groups a second of a row over those of the default."""
    same = [r for r in results if (r["side"], r["command"], r["length"]) == ("default", row["command"], row["length"])]
    return row["groups_per_s"] / same[0]["groups_per_s"]


def speed_table(results: list[JsonObject]) -> Table:
    """What every row took."""
    names = "command,tokens,side,server,groups,groups/s,× default,CPU,longest stall,stalls,kB".split(",")
    table = Table(*names, title=f"CPU and kB (written or sent) are those of a group; stalls over {1000 * STALL:.0f} ms")
    for row in sorted(results, key=lambda r: (r["command"], r["length"])):
        cells = [row["command"], f"{row['length']:,}", row["side"], row["protocol"], str(row["groups"])]
        cells += [f"{row['groups_per_s']:.2f}", f"{against(results, row):.1f}", f"{row['cpu_ms_per_group']:,.0f} ms"]
        cells += [f"{row['longest_stall_ms']:,.0f} ms", str(row["stalls"]), f"{row['bytes_per_group'] / 1000:,.0f}"]
        table.add_row(*cells)
    return table


def target_table(results: list[JsonObject], compact: JsonObject, full: JsonObject) -> Table:
    """Each claim, its target, and what was measured."""
    ours = [row for row in results if row["side"] == "ours"]
    table = Table("claim", "target", "measured", "met")
    lengths = sorted({row["length"] for row in ours})
    length = 32768 if 32768 in lengths else lengths[-1]
    for row in ours:
        if row["length"] == length:
            times, name = against(results, row), f"groups/s, {row['command']} ({row['protocol']}), {length:,} tokens"
            table.add_row(name, "10 × default", f"{times:.1f} ×", _met(times >= 10))
    worst = max(row["longest_stall_ms"] for row in ours)
    table.add_row(
        "longest stall of the loop", f"{1000 * STALL:.0f} ms", f"{worst:,.0f} ms", _met(worst <= 1000 * STALL)
    )
    grown = compact["end_mib"] - compact["start_mib"]
    name = f"memory, groups {compact['groups'] // 10:,} to {compact['groups']:,} of {compact['length']:,} tokens"
    measured = f"{compact['start_mib']:,.0f} to {compact['end_mib']:,.0f} MiB, peak {compact['peak_mib']:,.0f}"
    table.add_row(name, "flat (5 %)", measured, _met(grown <= 0.05 * compact["start_mib"]))
    ratio = full["bytes_per_group"] / compact["bytes_per_group"]
    measured = (
        f"{ratio:.0f} × ({full['bytes_per_group'] / 1000:,.0f} to {compact['bytes_per_group'] / 1000:,.1f} kB a group)"
    )
    table.add_row("disk, full rows over compact ones", "50 ×", measured, _met(ratio >= 50))
    return table


def _met(met: bool) -> str:
    return "yes" if met else "no"


async def _idle() -> float:
    with Stalls() as stalls:
        await asyncio.sleep(1)
    return stalls.figures()["longest_stall_ms"]


def main(
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "4096,32768,131072",
    groups: Annotated[int, typer.Option(min=2, help=f"Most groups a row; {SECONDS} s if that is less.")] = 400,
    memory_groups: Annotated[int, typer.Option(min=20, help="Groups over which memory is watched.")] = 1000,
    memory_length: Annotated[int, typer.Option(min=1024, help="Their prompts' length.")] = 32768,
    tokenizer: Annotated[str, typer.Option(help="One of reference_tokenizers.")] = "smollm2",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print the tables of speed and of targets."""
    real = load(tokenizer)
    with tempfile.TemporaryDirectory() as folder, stubs(real) as url:
        real.save_pretrained(folder)
        print(f"a loop with nothing to do stalls for {asyncio.run(_idle()):.1f} ms on this machine")
        compact, full = (Row("ours", "process", "vllm", memory_length, store) for store in ("compact", "full"))
        work: list[tuple[Measure, Row, int]] = [
            (speed, row, groups) for row in rows_of([*map(int, lengths.split(","))])
        ]
        work += [(memory, compact, memory_groups), (memory, full, 20)]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
            results = [
                pool.submit(measure, what, row, url, folder, most).result()
                for what, row, most in tqdm(work, unit="row")
            ]
    *speeds, compact_memory, full_memory = results
    console = Console(width=120)
    console.print(speed_table(speeds))
    console.print(target_table(speeds, compact_memory, full_memory))
    if json_out:
        write_json(json_out, {"speed": speeds, "compact": compact_memory, "full": full_memory})


if __name__ == "__main__":
    typer.run(main)
