"""`longthread collect` with Atropos' own programs: four runs at a time on real sockets, and what is refused before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from environments.datasets import collect, progress
from environments.datasets.atropos_processes import (
    QUEUE_GROUPS,
    CollectionPlan,
    Kind,
    Limits,
    Processes,
    RunApi,
    last_words,
)
from environments.datasets.progress import Progress
from longthread.errors import exit_on_error
from longthread.secrets import KEY_VARIABLES
from tests.environments.loopback import ChatServer, rows_of, said, tokenizer_folder
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import tiny_tokenizer

ROOT = Path(__file__).parents[3]
KEY = "sk-do-not-show-me"
MARK = "LONGTHREAD_TEST_RUN"  # in the environment of every process that a test starts, and so found in /proc
RIGHT, WRONG = "<answer>none</answer>", "<answer>no</answer>"
SHORT = ("--env.tasks=absent", "--env.lengths=1300", "--env.max_num_workers=1")


def plan(**settings: Any) -> CollectionPlan:
    base = {
        "out": Path("o.jsonl"),
        "rows": 5,
        "env": "needle",
        "tokenizer": "t",
        "url": "u",
        "model": "m",
    }
    settings["kind"] = Kind(settings.get("kind", "sft"))
    return CollectionPlan(
        **base | {"server_type": "openai", "group_size": 4, "top": 1, "least": 0.5, "passed": SHORT} | settings
    )


def processes(mark: str) -> dict[int, str]:
    """The command lines of those that carry the mark, without this process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.name != str(os.getpid()) and f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


# ---- whole runs ----


async def rows_in(folder: Path, count: int, process: subprocess.Popen[str] | None = None) -> None:
    """Until the generator has written so many rows, or the process that would see to it has ended."""
    while not any(path.read_bytes().count(b"\n") >= count for path in folder.glob("*/rows.jsonl")):
        assert process is None or process.poll() is None, process.communicate()
        await asyncio.sleep(0.02)


def mixed(body: dict[str, Any], number: int) -> Any:
    """Every other group is right throughout."""
    return said(RIGHT, WRONG if number % 2 else RIGHT)(body, number)


def failing_after(rows: int, folder: Path) -> Callable[[dict[str, Any], int], Any]:
    async def reply(body: dict[str, Any], number: int) -> Any:
        if number <= rows:
            return mixed(body, number)
        await asyncio.wait_for(rows_in(folder, rows), PATIENCE)
        return []  # no choices: no group

    return reply


def silent_after(groups: int, server: ChatServer) -> Callable[[dict[str, Any], int], Any]:
    async def reply(body: dict[str, Any], number: int) -> Any:
        return said(RIGHT, WRONG)(body, number) if number <= groups else await server.loop.create_future()

    return reply


def command(kind: str, tokenizer: Path, url: str, out: Path, *more: str) -> list[str]:
    args = [kind, "--tokenizer", str(tokenizer), *SHORT, str(out), "--url", url, "--model", "m"]
    return [*args, "--group-size=4", *more]


def started(argv: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {MARK: "term", "PYTHONPATH": str(ROOT), "LONGTHREAD_API_KEY": KEY}
    line = [sys.executable, "-m", "environments.datasets.collect", *argv]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )


def interrupted(process: subprocess.Popen[str], folder: Path) -> SimpleNamespace:
    """SIGTERM when two rows are there; what the processes were then, and what is left of them."""
    asyncio.run(asyncio.wait_for(rows_in(folder, 2, process), PATIENCE))
    running = processes("term")
    environments = {pid: Path(f"/proc/{pid}/environ").read_text() for pid in running}
    folders = {os.readlink(f"/proc/{pid}/cwd") for pid in running}
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    left = processes("term")
    seen = {"running": running, "environments": environments, "folders": folders, "left": left}
    return SimpleNamespace(code=process.returncode, out=out, err=err, **seen)


def here(one: CollectionPlan) -> int:
    """The exit code of a run in this process."""
    try:
        with exit_on_error(collect.flag):
            collect.collect(one)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def runs(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """All at a time, since each waits for five seconds in atroposlib and spends its others on imports. Two of them in
    this process, which has its imports behind it."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("sft", "dies", "term")}
    # "rows.jsonl", the name in the manual, is also that of the generator's own file: it could not be used.
    outs = {"sft": folders["sft"] / "rows.jsonl", "dies": folders["dies"] / "o.jsonl"}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool, pytest.MonkeyPatch.context() as patch:
        servers = {name: stack.enter_context(ChatServer(mixed).running()) for name in folders}
        servers["dies"].reply = failing_after(3, folders["dies"])
        servers["term"].reply = silent_after(2, servers["term"])
        more = ("--rows=50", "--env", "linked")
        relative = command("dpo", Path(tokenizer.name), servers["term"].url, folders["term"] / "o.jsonl", *more)
        process = started(relative, tokenizer.parent)
        stack.callback(process.kill)
        term = pool.submit(interrupted, process, folders["term"])
        patch.setenv(MARK, "here")
        for name in KEY_VARIABLES:
            patch.delenv(name, raising=False)
        out, err = (stack.enter_context(redirect(io.StringIO())) for redirect in (redirect_stdout, redirect_stderr))
        here_too = {}
        for name, rows, passed in (
            ("sft", 5, (*SHORT[1:], "--env.tasks=absent,single", "--env.absent_share=0.5")),
            ("dies", 50, (*SHORT, "--env.max_failures=0")),
        ):
            one = plan(out=outs[name], rows=rows, tokenizer=str(tokenizer), url=servers[name].url, passed=passed)
            here_too[name] = pool.submit(here, one)
        codes = {name: run.result() for name, run in here_too.items()}
        left = processes("here")
        yield SimpleNamespace(
            term=term.result(), codes=codes, left=left, out=out.getvalue(), err=err.getvalue(),
            keys=servers["term"].keys, folders=folders,
        )  # fmt: skip


def test_sft_from_end_to_end(runs: Any) -> None:
    """Facts 8 to 10, 14: rows hold whole chats of the exact length; a wrong answer that is paid for its form (0.02, which
    atropos-sft-gen would keep) is no row."""
    assert runs.codes["sft"] == 0 and runs.left == {}, runs.err
    rows = rows_of(runs.folders["sft"] / "rows.jsonl")
    assert len(rows) == 5 and {row["score"] for row in rows} == {1.0}
    assert {row["messages"][-1]["content"] for row in rows} == {RIGHT}
    encode = tiny_tokenizer().apply_chat_template
    lengths = {len(encode(row["messages"][:-1], add_generation_prompt=True, return_dict=False)) for row in rows}
    assert lengths == {1300}
    assert os.listdir(runs.folders["sft"]) == ["rows.jsonl"]
    assert "(5 rows of " in runs.out and "5/5" in runs.err


def test_a_child_that_dies_is_one_line_and_the_rows_are_kept(runs: Any) -> None:
    """A group that is right throughout is a row of SFT as well."""
    assert runs.codes["dies"] == 1 and runs.left == {} and "Traceback" not in runs.err
    (line,) = [line for line in runs.err.splitlines() if line.startswith("error: ")]
    assert "environment ended (exit code 1): stopped after 1 failed items in a row" in line
    out = runs.folders["dies"] / "o.jsonl"
    assert len(rows_of(out)) == 3 and f"3 of 50 rows are in {out}" in line
    logs = Path(line.rpartition("logs: ")[2])
    assert {path.name for path in logs.glob("*.log")} == {"run-api.log", "generator.log", "environment.log"}
    assert runs.err.count("environment: WARNING item 3 failed: the server gave 0 completions of 4") == 1


def test_dpo_sigterm_keeps_whole_pairs_and_leaves_no_process(runs: Any) -> None:
    """The pairs are Atropos' own, of one prompt each."""
    run, folder = runs.term, runs.folders["term"]
    assert run.code == 1 and run.left == {} and "Traceback" not in run.err
    assert f"error: interrupted; 2 of 50 rows are in {folder / 'o.jsonl'}" in run.err
    rows = rows_of(folder / "o.jsonl")
    assert len(rows) == 2 and os.listdir(folder) == ["o.jsonl"]
    for row in rows:
        assert row["score"] == 1.0 and row["pos"][:-1] == row["neg"][:-1]
        assert (row["pos"][-1]["content"], row["neg"][-1]["content"]) == (RIGHT, WRONG)
    modules = ("environments.datasets.collect", "cli.run_api", "cli.dpo", "environments.linked_needle_env")
    assert len(run.running) == 4 and all(sum(m in line for line in run.running.values()) == 1 for m in modules)
    (api,) = [line for line in run.running.values() if "cli.run_api" in line]
    assert "--host 127.0.0.1 --port " in api
    # The environment's checkpoints, which the generator asks for, go where the rows are made.
    mine, theirs = sorted(run.folders, key=len)
    assert mine == str(folder.parent) and Path(theirs).parent == folder
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(api.split("--port ")[1])))


def test_the_api_key_is_in_no_argument_and_only_where_it_is_needed(runs: Any) -> None:
    run = runs.term
    assert runs.keys == {f"Bearer {KEY}"}
    assert not any(KEY in line for line in run.running.values()) and KEY not in run.out + run.err
    holders = [line for pid, line in run.running.items() if KEY in run.environments[pid]]
    assert len(holders) == 2 and not any("atroposlib" in line for line in holders)


def test_a_process_ends_when_its_starter_is_gone() -> None:
    """As after kill -9, which no handler sees: its standard input closes."""
    line = [
        sys.executable,
        "-m",
        "environments.datasets.child_process",
        "atroposlib.cli.run_api",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and any("running on" in said for said in process.stderr)
    process.communicate(timeout=PATIENCE)  # closes our end
    assert process.returncode == 1


# ---- what is refused ----


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer().running() as running:
        yield running


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("sft", ["old.jsonl"], "old.jsonl exists; give another OUT"),
        ("sft", ["dangling"], "dangling exists"),
        ("sft", ["/proc/none/o.jsonl"], "cannot write /proc/none/o.jsonl"),
        ("sft", ["--env", "memory"], "env must be one of needle, linked (got 'memory') (--env)"),
        ("sft", ["--rows=0"], "rows must be from 1 to "),
        ("sft", ["--top", "0"], "top must be from 1 to 4 (got 0) (--top)"),
        ("dpo", ["--group-size", "1"], "group_size must be from 2 to "),
        ("dpo", ["--min-difference", "1.5"], "min_difference must be from 0 to 1 (got 1.5) (--min-difference)"),
        ("sft", ["--min-score=-1"], "min_score must be from 0 to 1 (got -1.0) (--min-score)"),
        ("sft", ["--min-difference", "0.1"], "min_difference is for dpo, not for sft (--min-difference)"),
        ("sft", ["--tokenizer", "/nowhere/at/all"], "'/nowhere/at/all' cannot be loaded"),
        ("sft", ["--url", "http://127.0.0.1:9/v1"], "start the server, or give another address (--url)"),
        ("sft", ["--model", "other"], "does not serve the model 'other': it must be one of m (--model)"),
        ("sft", ["--server-type", "tgi"], "tgi"),
        ("sft", ["--env.lengths", "40"], "length 40 is too short"),
        ("sft", ["--env.lengths", "many"], "(got 'many') (--env.lengths)"),
        ("sft", ["--env.lenghts", "9"], "unknown flag --env.lenghts; did you mean --env.lengths?"),
        ("sft", ["--env.max_new_tokens", "few"], "--env.max_new_tokens 'few'"),
        ("sft", ["--env.group_size", "4"], "env.group_size has an option of its own here (--group-size)"),
        ("sft", ["--env.batch_size=-1"], "env.batch_size is set by collect; leave it out"),
        ("sft", ["--openai.api_key", KEY], "set the variable LONGTHREAD_API_KEY"),
        (
            "dpo",
            ["--group-size", "9", "--env.max_new_tokens", "200000"],
            "group_size 8 fits, or shorter prompts (--group-size, --env.lengths)",
        ),
        ("sft", ["--group-size", "20", "--env.max_new_tokens", "999999"], "group_size 7 fits, or shorter"),
        ("sft", ["--config", "c.yaml"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    kind: str, changes: list[str], message: str, server: ChatServer, tokenizer: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    Path("old.jsonl").touch()
    Path("dangling").symlink_to("nothing")
    argv = command(kind, tokenizer, server.url, Path("new.jsonl"))
    if changes[0].startswith("-"):
        argv += changes  # the last one counts
    else:
        argv[argv.index("new.jsonl")] = changes[0]
    result = CliRunner().invoke(collect.app, argv)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and KEY not in result.output
    assert [line for line in result.stderr.splitlines() if line.lower().startswith("error: ")] == [
        result.stderr.splitlines()[-1]
    ]
    assert not server.requests and sorted(os.listdir()) == ["dangling", "old.jsonl"]


# ---- the parts ----


@given(st.sampled_from(("sft", "dpo")), st.integers(2, 64), st.integers(1, 32))
def test_the_generator_and_the_environment_agree(kind: str, group_size: int, workers: int) -> None:
    """Fact 11 and section 2.4: full batches, of as few groups as can be; work is never dropped for a full queue."""
    one = plan(kind=kind, group_size=group_size)
    argv = one.generator_args("http://x", Path("rows"), 1000)
    flags = dict(zip(argv, argv[1:], strict=False))
    # As atroposlib's cli/sft.py and cli/dpo.py register it.
    registered = int(flags["--group-size"]) * (int(flags["--tasks-per-step"]) if kind == "sft" else 8)
    assert registered == one.batch and one.batch % group_size == 0
    assert one.batch // group_size == (1 if kind == "sft" else 8 // math.gcd(8, group_size))
    served = dict(flag[2:].split("=") for flag in one.environment_args("http://x", workers))
    room = int(served["env.max_batches_offpolicy"]) * one.batch // group_size
    assert room >= workers + QUEUE_GROUPS
    assert flags["--max-token-len"] == "1001" and "--save-messages" in argv
    assert served["env.ensure_scores_are_not_same"] == str(kind == "dpo")


class Bar:
    """What a progress bar is told."""

    def __init__(self) -> None:
        self.count, self.said = 0, []

    def update(self) -> None:
        self.count += 1

    def write(self, text: str, file: Any) -> None:
        self.said.append(text)

    def set_postfix(self, **_: Any) -> None: ...


def look(one: CollectionPlan, folder: Path, rows: list[Any], log: str, groups: int = 0) -> tuple[Progress, list[str]]:
    """The progress after one look at these rows and this log of the environment."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn": ')
    (folder / "environment.log").write_text(log)
    seen, bar = Progress(one, folder), Bar()
    seen.groups = groups
    with (folder / "kept").open("wb") as kept:
        seen.look(kept, bar)  # type: ignore[arg-type]
    assert bar.count == seen.rows
    return seen, bar.said


def test_rows_beyond_those_wanted_and_below_the_score_are_left_out(tmp_path: Path) -> None:
    rows = [{"score": score, "messages": [{"content": "\x0b\u2028é"}]} for score in (0.02, 1.0, 0.5, 0.2, 0.9, 1.0)]
    seen, said = look(plan(rows=3), tmp_path, rows, "")
    assert seen.rows == 3 and said == []
    assert [row["score"] for row in map(json.loads, (tmp_path / "kept").read_bytes().splitlines())] == [1.0, 0.5, 0.9]


def test_the_environments_warnings_are_told_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTHREAD_API_KEY", KEY)
    log = "WARNING Waiting to register the env due to status wait\nINFO fine\n"
    log += "".join(f"WARNING item {i} failed: HTTP 400 {KEY}\n" for i in range(30)) + "ERROR other\n"
    assert look(plan(), tmp_path, [], log)[1] == [
        "environment: WARNING item 0 failed: HTTP 400 ***",
        "environment: ERROR other",
    ]


@pytest.mark.parametrize(
    ("kind", "log", "groups", "reason"),
    [
        (
            "dpo",
            "WARNING 10 groups in a row are not sent, since all\n",
            0,
            "10 groups in a row had completions that all",
        ),
        ("sft", "", 0, "0 of the 1 groups of a batch have come"),
        ("dpo", "", 1, "1 of the 2 groups of a batch have come"),
        ("sft", "", 4, "4 groups came, none with a completion that scores --min-score 0.5"),
        ("dpo", "", 4, "4 groups came, none with a pair that differs by more than --min-difference 0.5"),
    ],
)
def test_the_reason_is_told_when_nothing_comes(
    kind: str, log: str, groups: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    said = look(plan(kind=kind), tmp_path, [], log, groups)[1]
    assert len(said) == 1 + bool(log) and said[-1].startswith("no row for ") and reason in said[-1]


@pytest.mark.parametrize(
    ("log", "last"),
    [
        ("", "it said nothing"),
        ("one\ntwo\n\n", "two"),
        ("INFO: up\nERROR: [Errno 98] in use\nINFO: down\n", "ERROR: [Errno 98] in use"),
        ("Traceback\n  x\nKeyError: 'a'\n", "KeyError: 'a'"),
        ("error: no such thing\n", "no such thing"),
        ("x" * 70_000 + "\nerror: late\n", "late"),
    ],
)
def test_last_words(log: str, last: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == last


@pytest.mark.parametrize("name", ["rows.jsonl", "environment.log", "generator.log", "run-api.log", "rows"])
def test_no_name_of_the_users_is_one_of_ours(tmp_path: Path, name: str) -> None:
    progress, processes = Progress(plan(out=Path(name)), tmp_path), Processes(tmp_path)
    ours = {progress.generated, progress.log, *(processes.log(of) for of in ("environment", "generator", "run-api"))}
    assert progress.path.name == name and progress.path not in ours and not ours & set(progress.path.parents)


def test_a_file_that_came_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.jsonl"

    def run(progress: Progress, *_: Any) -> None:
        progress.path.write_text("{}\n")
        progress.rows = 1
        out.write_text("other\n")

    monkeypatch.setattr(collect, "check", lambda _: Limits(1, 1))
    monkeypatch.setattr(collect, "run", run)
    assert here(plan(out=out, rows=1)) == 1
    assert out.read_text() == "other\n"
    kept = Path(capsys.readouterr().err.strip().rpartition(" are in ")[2])
    assert kept.read_text() == "{}\n"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_links(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "no links")

    monkeypatch.setattr(os, "link", refuse)
    rows, out = tmp_path / "rows", tmp_path / "o.jsonl"
    rows.write_text("{}\n")
    collect._place(rows, out)
    assert out.read_text() == "{}\n"
    rows.write_text("[]\n")
    with pytest.raises(OSError, match="no links"):
        collect._place(rows, out)
    assert out.read_text() == "{}\n"


def test_a_full_disk_is_one_line_and_the_rows_before_it_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(self: Progress, file: Any, _: Any) -> None:
        file.write(b'{"score": 1}\n{"scor')
        self.rows, self.size = 1, 13
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Processes, "start", lambda *_: None)
    monkeypatch.setattr(RunApi, "groups", lambda _: 0)
    monkeypatch.setattr(Progress, "look", look)
    seen = Progress(plan(), tmp_path)
    problem = collect.run(seen, Processes(tmp_path), Limits(1, 1), threading.Event())
    assert problem == "[Errno 28] No space left on device"
    assert seen.path.read_text() == '{"score": 1}\n'


def test_paths_are_those_of_the_callers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes work in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    given: list[CollectionPlan] = []
    monkeypatch.setattr(collect, "collect", given.append)
    argv = command("sft", Path("org/model"), "u", Path("o.jsonl"), "--env.filler_path", "books")
    argv += ["--env.data_path_to_save_groups=kept.jsonl", "--env.needle", "books"]
    assert CliRunner().invoke(collect.app, argv).exit_code == 0
    assert given[0].tokenizer == "org/model"
    assert given[0].passed == (
        *SHORT,
        f"--env.filler_path={tmp_path}/books",
        f"--env.data_path_to_save_groups={tmp_path}/kept.jsonl",
        "--env.needle=books",
    )
