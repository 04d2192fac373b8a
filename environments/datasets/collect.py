"""`longthread collect`: SFT rows or DPO pairs through Atropos itself, in one command.

    longthread collect sft OUT.jsonl --env needle --tokenizer DIR --url http://127.0.0.1:9001/v1 --model NAME --rows 200
    longthread collect dpo OUT.jsonl --env linked --tokenizer DIR --url … --model NAME --rows 200 --env.hops 2-4

Starts `run-api`, `atropos-sft-gen` or `atropos-dpo-gen`, and the environment's `serve`, with settings that fit together;
what cannot work is said in one line before the first of them starts. They end with this process, however it ends. The
generator's rows are left as they are; those wanted appear under OUT at once, at the end, whole.
"""

import asyncio
import contextlib
import errno
import importlib
import os
import re
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from environments import config as env_config
from environments.cli import flag as env_flag
from environments.cli import join_values, ours, read_command
from environments.datasets.atropos_processes import ENDLESS, ENVIRONMENTS, Collection, Plan
from environments.inference.completions import check_server
from longthread.errors import ConfigError, LongthreadError, fail
from longthread.secrets import unmask_key

# Tokens of one batch. run-api needs 3.3 us a token to hand it on when it has a core, and the generator waits 300 s.
BATCH_TOKENS = 16_000_000
# Set here, and so refused among the settings that are passed on.
OURS = {
    "env.tokenizer_name": "--tokenizer",
    "env.group_size": "--group-size",
    "openai.base_url": "--url",
    "openai.model_name": "--model",
    "openai.server_type": "--server-type",
    "openai.api_key": "the variable LONGTHREAD_API_KEY, since other users of the machine can read arguments",
} | dict.fromkeys(
    (f"env.{name}" for name in ("rollout_server_url", "batch_size", "total_steps", "ensure_scores_are_not_same",
                                "include_messages", "max_batches_offpolicy", "min_batch_allocation")), ""
)  # fmt: skip


# ---- before anything starts ----


def check(plan: Plan) -> tuple[int, int]:
    """The longest sequence in tokens, and the environment's workers. Raises `ConfigError` and its kin, one line, for
    whatever would go wrong later."""
    if os.path.lexists(plan.out):
        raise ConfigError(f"{plan.out} exists; give another OUT, or remove it")
    if plan.env not in ENVIRONMENTS:
        raise ConfigError(f"--env {plan.env!r} is none of {', '.join(ENVIRONMENTS)}")
    pairs = plan.kind == "dpo"
    least = "--min-difference" if pairs else "--min-score"
    for flag, value, low, high in (
        ("--rows", plan.rows, 1, ENDLESS - 1),
        ("--group-size", plan.group_size, 1 + pairs, 4096),  # a pair takes two
        ("--top", plan.top, 1, plan.group_size),
        (least, plan.least, 0, 1),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{flag} {value} is outside {low} to {high}")
    for name in (arg[2:].partition("=")[0] for arg in plan.passed):
        if name in OURS:
            raise ConfigError(f"{name} is set by collect; " + (f"use {OURS[name]}" if OURS[name] else "leave it out"))
    module, name = ENVIRONMENTS[plan.env]
    cls = getattr(importlib.import_module(f"environments.{module}"), name)
    command = read_command(["serve", *plan.served("", 0)], cls.config_init()[0])
    config, (server,) = command.config, command.servers
    # Twice: a plain endpoint's text can take more tokens here than there.
    longest = max(env_config.check(config, [server]).lengths) + 2 * config.max_new_tokens
    _check_batch(plan, longest)
    asyncio.run(check_server(server.model_copy(update={"api_key": unmask_key(server.api_key or "")})))
    cls(config, [server])  # loads the tokenizer, and builds a sample of every task and length
    workers = config.max_num_workers if config.max_num_workers > 0 else config.max_num_workers_per_node
    return longest, workers


def _check_batch(plan: Plan, longest: int) -> None:
    if plan.batch * longest <= BATCH_TOKENS:
        return
    least = 2 if plan.kind == "dpo" else 1
    fitting = [n for n in range(least, plan.group_size)
               if replace(plan, group_size=n).batch * longest <= BATCH_TOKENS]  # fmt: skip
    fix = f"give --group-size {fitting[-1]}, or shorter --env.lengths" if fitting else "give shorter --env.lengths"
    raise ConfigError(
        f"--group-size {plan.group_size} makes batches of {plan.batch} sequences of up to {longest} tokens, and run-api "
        f"passes on {BATCH_TOKENS} tokens in time; {fix}"
    )


# ---- the run ----


@contextlib.contextmanager
def _signals(collection: Collection) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal stop the collection, which then keeps what it has."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = [signal.signal(number, lambda *_: setattr(collection, "stopped", True)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


def collect(plan: Plan) -> None:
    """One run, from the checks to the file. Raises SystemExit: 2 after a user's mistake, 1 if there are fewer rows."""
    try:
        longest, workers = check(plan)
    except (ValueError, OSError) as error:
        if not isinstance(error, LongthreadError | OSError) and not ours(error):
            raise
        line = error.line(env_flag) if isinstance(error, LongthreadError) else str(error)
        fail(_in_our_flags(line), 2)
    try:
        plan.out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{plan.out.name}.", dir=plan.out.parent.resolve()))
    except OSError as error:
        fail(f"cannot write {plan.out} ({error.strerror}); give another OUT", 2)
    collection = Collection(plan, folder)
    with _signals(collection):
        problem = collection.run(longest, workers)
    have = f"{collection.kept} of {plan.rows} rows"
    if collection.kept:
        try:
            _place(collection.kept_in, plan.out)
        except OSError as error:
            fail(f"cannot write {plan.out} ({error.strerror}); {have} are in {collection.kept_in}", 1)
    kept = f"{have} are in {plan.out}" if collection.kept else f"there is no {plan.out}, since no row had come"
    if problem and not collection.stopped:
        fail(f"{problem}; {kept}; logs: {folder}", 1)
    shutil.rmtree(folder)
    if problem:
        fail(f"{problem}; {kept}; go on into another file, with another --env.seed", 1)
    print(f"rows  {plan.out} ({collection.kept} rows of {collection.groups} groups)")


def _place(rows: Path, out: Path) -> None:
    """At once and whole, and never over a file that has come meanwhile."""
    try:
        os.link(rows, out)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP) or os.path.lexists(out):
            raise
        rows.rename(out)  # a file system without links


def _in_our_flags(message: str) -> str:
    """What the environment says of its flags, in those of this command."""
    message = message.replace(" or --openai.api_key", "")
    for theirs, here in OURS.items():
        if here.startswith("--"):
            message = re.sub(rf"--{re.escape(theirs)}(?![\w.])", here, message)
    return message


# ---- the command line ----


class Passing(TyperCommand):
    """Takes `--env.X` and `--openai.X` out, wherever they stand, for the environment."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        joined = join_values(args)
        ctx.meta["passed"] = tuple(arg for arg in joined if arg.startswith(("--env.", "--openai.")))
        return super().parse_args(ctx, [arg for arg in joined if arg not in ctx.meta["passed"]])


app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Training rows through Atropos: run-api, its generator and an environment, started together.",
)  # fmt: skip
Out = Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to make; never overwritten.")]
Env = Annotated[str, typer.Option("--env", help="needle or linked.")]
Tokenizer = Annotated[str, typer.Option(help="The model's own: a local folder or a hub name.")]
Url = Annotated[str, typer.Option(help="The model server, with /v1. Its API key comes from LONGTHREAD_API_KEY.")]
Model = Annotated[str, typer.Option(help="The model's name at that server.")]
Rows = Annotated[int, typer.Option(help="Rows wanted.")]
GroupSize = Annotated[int, typer.Option(help="Completions of each prompt.")]
ServerType = Annotated[str, typer.Option(help="openai, vllm or sglang.")]
SFT_HELP = "Rows of messages for SFT: the best completions of each prompt. Also takes every --env.X and --openai.X."
DPO_HELP = "Pairs for DPO: a good and a bad completion of the same prompt. Also takes every --env.X and --openai.X."


def _run(context: typer.Context, kind: str, **settings: Any) -> None:
    warnings.filterwarnings("ignore", message=".*local Base URL.*")
    passed = (arg.partition("=") for arg in context.meta["passed"])
    absolute = tuple(f"{flag}={_absolute(value, flag)}" for flag, _, value in passed)
    collect(Plan(kind=kind, passed=absolute, **settings | {"tokenizer": _absolute(settings["tokenizer"])}))


def _absolute(value: str, flag: str = "--tokenizer") -> str:
    """Paths as they are from another folder. What is no path yet may be a name at the hub, or one to be written."""
    written = flag in ("--env.data_path_to_save_groups", "--env.data_dir_to_save_evals")
    read = flag in ("--tokenizer", "--env.filler_path") and os.path.exists(value)
    return os.path.abspath(value) if written or read else value


@app.command(cls=Passing, help=SFT_HELP)
def sft(
    context: typer.Context,
    out: Out,
    tokenizer: Tokenizer,
    url: Url,
    model: Model,
    env: Env = "needle",
    rows: Rows = 200,
    group_size: GroupSize = 8,
    server_type: ServerType = "openai",
    top: Annotated[int, typer.Option(help="Completions of a prompt that may become rows, best first.")] = 1,
    min_score: Annotated[float, typer.Option(help="Least score of a row, 0 to 1.")] = 0.5,
) -> None:
    _run(context, "sft", out=out, env=env, tokenizer=tokenizer, url=url, model=model, rows=rows,
         group_size=group_size, server_type=server_type, top=top, least=min_score)  # fmt: skip


@app.command(cls=Passing, help=DPO_HELP)
def dpo(
    context: typer.Context,
    out: Out,
    tokenizer: Tokenizer,
    url: Url,
    model: Model,
    env: Env = "needle",
    rows: Rows = 200,
    group_size: GroupSize = 8,
    server_type: ServerType = "openai",
    top: Annotated[int, typer.Option(help="Pairs of a prompt, best first.")] = 1,
    min_difference: Annotated[float, typer.Option(help="What the scores of a pair differ by more than, 0 to 1.")] = 0.5,
) -> None:
    _run(context, "dpo", out=out, env=env, tokenizer=tokenizer, url=url, model=model, rows=rows,
         group_size=group_size, server_type=server_type, top=top, least=min_difference)  # fmt: skip


if __name__ == "__main__":
    app()
