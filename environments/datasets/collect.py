"""`longthread collect`: SFT rows or DPO pairs through Atropos itself, in one command.

    longthread collect sft OUT.jsonl --env needle --tokenizer DIR --url http://127.0.0.1:9001/v1 --model NAME --rows 200
    longthread collect dpo OUT.jsonl --env linked --tokenizer DIR --url … --model NAME --rows 200 --env.hops 2-4

Starts `run-api`, `atropos-sft-gen` or `atropos-dpo-gen`, and the environment's `serve`, with settings that fit together;
what cannot work is one line before the first of them starts. They end with this process, however it ends. The generator's
rows are left as they are; those wanted appear under OUT at once, at the end, whole.
"""

import asyncio
import contextlib
import errno
import importlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import click
import typer
from tqdm import tqdm
from typer.core import TyperCommand

from environments import config_checks
from environments.cli import flag as env_flag
from environments.cli import join_values, read_command
from environments.datasets.atropos_processes import (
    ENDLESS,
    ENVIRONMENTS,
    CollectionPlan,
    Kind,
    Limits,
    Processes,
    RunApi,
)
from environments.datasets.progress import Progress
from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import ConfigError, RunError, exit_on_error, option
from longthread.secrets import unmask_key

# Tokens of one batch. run-api needs 3.3 us a token to hand it on when it has a core, and the generator waits 300 s.
BATCH_TOKENS = 16_000_000
LEAST = 0.5  # score of a row, difference of a pair
LOOK_SECONDS, ASK_SECONDS = 0.2, 1.0  # between looks at files and processes; between questions to run-api
# Settings of the environment that are options of this command.
OPTIONS = {
    "tokenizer_name": "--tokenizer",
    "group_size": "--group-size",
    "openai.base_url": "--url",
    "openai.model_name": "--model",
    "openai.server_type": "--server-type",
}
OWN = ("out", "env", "rows", "top", "min_score", "min_difference")
# Settings that fit the three processes together, and so cannot be passed on.
FIXED = (
    *("rollout_server_url", "batch_size", "total_steps", "ensure_scores_are_not_same"),
    *("include_messages", "max_batches_offpolicy", "min_batch_allocation", "no_context"),
)


# ---- before anything starts ----


def check(plan: CollectionPlan) -> Limits:
    """Check all settings, and return what follows from them: the longest sequence and the number of workers.

    Raises `ConfigError` for whatever would go wrong later.
    """
    if os.path.lexists(plan.out):
        raise ConfigError(f"{plan.out} exists; give another OUT, or remove it")
    if plan.env not in ENVIRONMENTS:
        raise ConfigError(f"env must be one of {', '.join(ENVIRONMENTS)} (got {plan.env!r})", setting="env")
    pairs = plan.kind == Kind.DPO
    for name, value, low, high in (
        ("rows", plan.rows, 1, ENDLESS - 1),
        ("group_size", plan.group_size, 1 + pairs, 4096),  # a pair takes two
        ("top", plan.top, 1, plan.group_size),
        ("min_difference" if pairs else "min_score", plan.least, 0, 1),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} must be from {low} to {high} (got {value})", setting=name)
    for arg in plan.passed:
        _check_passed(arg.removeprefix("--").partition("=")[0])
    return _check_environment(plan)


def _check_passed(name: str) -> None:
    setting = name.removeprefix("env.")
    if setting == "openai.api_key":
        raise ConfigError(
            "openai.api_key cannot be an argument, which other users of the machine can read; "
            "set the variable LONGTHREAD_API_KEY"
        )
    if setting in OPTIONS:
        raise ConfigError(f"{name} has an option of its own here", setting=setting)
    if setting in FIXED:
        raise ConfigError(f"{name} is set by collect; leave it out")


def _check_environment(plan: CollectionPlan) -> Limits:
    """Set up the environment as it will be served: this tries its settings, its server, its tokenizer and its samples."""
    from environments.inference.preflight import check_server

    module, name = ENVIRONMENTS[plan.env]
    environment = getattr(importlib.import_module(f"environments.{module}"), name)
    command = read_command(["serve", *plan.environment_args("", 0)], environment.config_init()[0])
    config, (server,) = command.config, command.servers
    # Twice: a plain endpoint's text can take more tokens here than there.
    sequence_tokens = max(config_checks.check(config, [server]).lengths) + 2 * config.max_new_tokens
    _check_batch(plan, sequence_tokens)
    asyncio.run(check_server(server.model_copy(update={"api_key": unmask_key(server.api_key or "")})))
    environment(config, [server])  # loads the tokenizer, and builds samples of every task, the shortest and the longest
    workers = config.max_num_workers if config.max_num_workers > 0 else config.max_num_workers_per_node
    return Limits(sequence_tokens, workers)


def _check_batch(plan: CollectionPlan, sequence_tokens: int) -> None:
    def fits(group_size: int) -> bool:
        return replace(plan, group_size=group_size).batch * sequence_tokens <= BATCH_TOKENS

    if fits(plan.group_size):
        return
    least = 2 if plan.kind == Kind.DPO else 1
    fitting = [group_size for group_size in range(least, plan.group_size) if fits(group_size)]
    fix = f"group_size {fitting[-1]} fits, or shorter prompts" if fitting else "ask for shorter prompts"
    raise ConfigError(
        f"group_size {plan.group_size} makes batches of {plan.batch} sequences of up to {sequence_tokens} tokens, and "
        f"run-api passes on {BATCH_TOKENS} tokens in time; {fix}",
        setting=("group_size", "lengths") if fitting else "lengths",
    )


# ---- the run ----


def collect(plan: CollectionPlan) -> None:
    """Run one collection, from the checks to the file of rows.

    Raises `ConfigError` before it starts, `RunError` if rows are missing.
    """
    limits = check(plan)
    try:
        plan.out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{plan.out.name}.", dir=plan.out.parent.resolve()))
    except OSError as error:
        raise ConfigError(f"cannot write {plan.out} ({error.strerror}); give another OUT") from None
    progress, stopped = Progress(plan, folder), threading.Event()
    with _on_signals(stopped.set):
        problem = run(progress, Processes(folder), limits, stopped)
    rows = f"{progress.rows} of {plan.rows} rows"
    if progress.rows:
        try:
            _place(progress.path, plan.out)
        except OSError as error:
            raise RunError(f"cannot write {plan.out} ({error.strerror}); {rows} are in {progress.path}") from None
    outcome = f"{rows} are in {plan.out}" if progress.rows else f"no row had come, so there is no {plan.out}"
    if problem and not stopped.is_set():
        raise RunError(f"{problem}; {outcome}; logs: {folder}")
    shutil.rmtree(folder)
    if problem:
        raise RunError(f"{problem}; {outcome}; go on into another file, with another --env.seed")
    print(f"rows  {plan.out} ({counted(progress.rows, 'row')} of {counted(progress.groups, 'group')})")


def run(progress: Progress, processes: Processes, limits: Limits, stopped: threading.Event) -> str | None:
    """Run the processes until there are enough rows, `stopped` is set or a process ends; then end them all.

    Returns None, or in one line why rows are missing.
    """
    plan = progress.plan
    try:
        with progress.path.open("wb") as file, tqdm(total=plan.rows, unit="row", desc=plan.kind) as bar:
            try:
                problem = _until_enough(
                    progress,
                    processes,
                    limits,
                    look=lambda: progress.look(file, bar),
                    problem=lambda: "interrupted" if stopped.is_set() else processes.ended(),
                )
            finally:
                processes.end()
            progress.look(file, bar)  # what came last
            os.fsync(file.fileno())
    except OSError as error:
        problem = str(error)
        os.truncate(progress.path, progress.size)  # a full disk may have cut the last row
    return None if progress.enough else problem


def _until_enough(
    progress: Progress,
    processes: Processes,
    limits: Limits,
    look: Callable[[], None],
    problem: Callable[[], str | None],
) -> str | None:
    plan, api, asked = progress.plan, RunApi(progress.plan), 0.0
    processes.start("run-api", "atroposlib.cli.run_api", ["--host", "127.0.0.1", "--port", str(api.port)])
    while api.groups() is None:
        if reason := problem():
            return reason
        time.sleep(LOOK_SECONDS)
    # Both at once: run-api itself lets the environment in when the generator has registered.
    generator_args = plan.generator_args(api.url, progress.generated, limits.sequence_tokens)
    processes.start("generator", f"atroposlib.cli.{plan.kind}", generator_args)
    module, _ = ENVIRONMENTS[plan.env]
    environment_args = plan.environment_args(api.url, limits.workers)
    processes.start("environment", f"environments.{module}", ["serve", *environment_args])
    while not progress.enough:
        if reason := problem():
            return reason
        time.sleep(LOOK_SECONDS)
        if time.monotonic() - asked > ASK_SECONDS:
            progress.groups, asked = api.groups() or progress.groups, time.monotonic()
        look()
    return None


@contextlib.contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on Ctrl-C, SIGTERM and a closed terminal while the block runs: the run stops and keeps what it has."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = [signal.signal(number, lambda *_: act()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


def _place(rows: Path, out: Path) -> None:
    """Put the complete file `rows` at `out` in one step, never over a file that has appeared there meanwhile."""
    try:
        os.link(rows, out)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP) or os.path.lexists(out):
            raise
        rows.rename(out)  # a file system without links


# ---- the command line ----


def flag(setting: str) -> str:
    """Return the option that sets a setting: this command's own or, failing that, the environment's, which is passed on."""
    return OPTIONS.get(setting) or (option(setting) if setting in OWN else env_flag(setting))


class Passing(TyperCommand):
    """A command that takes `--env.X` and `--openai.X` out of its arguments, wherever they stand, for the environment."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the other arguments; `ctx.meta["passed"]` holds those taken out."""
        joined = join_values(args)
        ctx.meta["passed"] = [arg for arg in joined if arg.startswith(("--env.", "--openai."))]
        return super().parse_args(ctx, [arg for arg in joined if arg not in ctx.meta["passed"]])


app = App(rich_markup_mode=None)


@app.command(cls=Passing, no_args_is_help=True)
def main(  # noqa: PLR0913 - a parameter is an option of the command
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="What the rows are for.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to make; never overwritten.")],
    tokenizer: Annotated[str, typer.Option(help="The model's own: a local folder or a hub name.")],
    url: Annotated[str, typer.Option(help="The model server, with /v1. Its API key comes from LONGTHREAD_API_KEY.")],
    model: Annotated[str, typer.Option(help="The model's name at that server.")],
    env: Annotated[str, typer.Option(help="needle or linked.")] = "needle",
    rows: Annotated[int, typer.Option(help="Rows wanted.")] = 200,
    group_size: Annotated[int, typer.Option(help="Completions of each prompt.")] = 8,
    server_type: Annotated[str, typer.Option(help="openai, vllm or sglang.")] = "openai",
    top: Annotated[int, typer.Option(help="Completions, or pairs, of a prompt that may become rows, best first.")] = 1,
    min_score: Annotated[
        float | None, typer.Option(help="For sft: the least score of a row, 0 to 1; 0.5 when left out.")
    ] = None,
    min_difference: Annotated[
        float | None, typer.Option(help="For dpo: what a pair's scores differ by more than, 0 to 1; 0.5 when left out.")
    ] = None,
) -> None:
    """Training rows through Atropos: run-api, its generator and an environment, started together.

    sft: messages, the best completions of each prompt. dpo: pairs of a good and a bad completion of the same prompt. Also
    takes every --env.X and --openai.X of the environment.
    """
    with exit_on_error(flag):
        for name, value, only in (("min_score", min_score, Kind.SFT), ("min_difference", min_difference, Kind.DPO)):
            if value is not None and kind != only:
                raise ConfigError(f"{name} is for {only}, not for {kind}", setting=name)
        least = min_score if kind == Kind.SFT else min_difference
        plan = CollectionPlan(
            kind=kind,
            out=out,
            rows=rows,
            env=env,
            tokenizer=_absolute(tokenizer),
            url=url,
            model=model,
            server_type=server_type,
            group_size=group_size,
            top=top,
            least=LEAST if least is None else least,
            passed=tuple(_absolute_in(arg) for arg in context.meta["passed"]),
        )
        collect(plan)


def _absolute(value: str) -> str:
    """Return a path that exists as an absolute one; anything else may be a name at the hub and stays as it is."""
    return os.path.abspath(value) if os.path.exists(value) else value


def _absolute_in(arg: str) -> str:
    """Make the path in an argument for the environment absolute; a path to be written need not exist yet."""
    name, _, value = arg.partition("=")
    if name in ("--env.data_path_to_save_groups", "--env.data_dir_to_save_evals"):
        return f"{name}={os.path.abspath(value)}"
    return f"{name}={_absolute(value)}" if name == "--env.filler_path" else arg


if __name__ == "__main__":
    app()
