"""`process` and `evaluate` against a server that goes wrong in the middle of a run: every row once, every time.

One run of six groups each, whose third request meets the fault. What is tried again is `test_asking.py`'s; here it is
about what stands on the disk, what is said, and that the same command makes up for what is missing.
"""

from __future__ import annotations

import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from environments.inference import completions, endpoint
from environments.rollouts import row_log
from longthread.errors import RunError
from tests.environments.loopback import ChatServer, choice, cut_off, make_env, reset, rows_of, said
from tests.environments.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("clean")
GROUPS = 6


def status(code: int, **headers: str) -> Any:
    async def fault(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "out of order"}}, status=code, headers=headers)

    return fault


async def no_json(_: web.Request) -> web.Response:
    return web.Response(text="<html>proxy error</html>")


def meets(fault: Any, times: int) -> Any:
    """The third request and those after it meet the fault; then all is well."""

    def reply(body: dict[str, Any], number: int) -> Any:
        return fault if 3 <= number < 3 + times else said("x")(body, number)

    return reply


def whole(path: str = "data/needle.jsonl", groups: int = GROUPS) -> bool:
    """Every row once, none torn, each with its full group."""
    found = rows_of(Path(path))
    return sorted(row["item"] for row in found) == [*range(groups)] and {len(row["scores"]) for row in found} == {3}


def run_of(chat: ChatServer, tokenizer: Path, **settings: Any) -> Any:
    return make_env(tokenizer, chat.url, **{"total_steps": GROUPS, "max_num_workers": 1} | settings)


PASSING = {
    "connection reset": (reset, 4),
    "429 with Retry-After": (status(429, **{"Retry-After": "0"}), 5),
    "503 while it loads": (status(503), 9),
    "a burst of 500": (status(500), completions.TRIES - 1),
    "a reply cut off": (cut_off, 1),
    "no JSON": (no_json, 1),
    "fewer completions than asked": ([choice("x")] * 2, 1),
    "no completions": ([], 1),
}


@pytest.mark.parametrize("fault", PASSING)
async def test_what_passes_costs_no_row(
    server: ChatServer, tokenizer: Path, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server.reply = meets(*PASSING[fault])
    await run_of(server, tokenizer).process_manager()
    assert whole() and "failed=0" in capfd.readouterr().err


LASTING = {
    "400": (status(400), "HTTP 400: .*out of order", 1),
    "500": (status(500), "HTTP 500: .*out of order", completions.TRIES),
    "a hang": (
        lambda server: server.loop.create_future(),
        "no answer from .* within 0.3 s .openai.timeout.",
        completions.TRIES,
    ),
    "no completions": ([], "gave 0 completions of 3 in 3 requests", completions.ROUNDS),
    "NaN log-probability": (None, "a log-probability that is not finite", completions.TRIES),
}  # fmt: skip


@pytest.mark.parametrize("fault", LASTING)
async def test_an_item_that_cannot_be_had_is_one_line_and_made_up_for_later(
    server: ChatServer,
    tokenizer: Path,
    fault: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    what, line, tries = LASTING[fault]
    token_exact = fault.startswith("NaN")

    def reply(body: dict[str, Any], number: int) -> Any:
        if 3 <= number < 3 + tries:
            if token_exact:
                return exact(body, float("nan"))
            return what(server) if fault == "a hang" else what
        return exact(body, -0.5) if token_exact else said("x")(body, number)

    server.reply = reply
    settings = {"server": {"server_type": "vllm" if token_exact else "openai"}}
    if fault == "a hang":
        settings["server"]["timeout"] = 0.3  # type: ignore[assignment]
        meant = endpoint.aiohttp.ClientTimeout

        def timeout(total: float | None) -> Any:
            """The time set for requests that meet the fault; all others are answered, however busy the machine is."""
            return meant(total=total if 2 <= len(server.requests) < 2 + tries else PATIENCE)

        monkeypatch.setattr(endpoint.aiohttp, "ClientTimeout", timeout)
    with pytest.raises(SystemExit) as stop:
        await run_of(server, tokenizer, **settings).process_manager()
    out, err = capfd.readouterr()
    lines = [part for part in err.replace("\r", "\n").splitlines() if "failed: " in part]
    assert stop.value.code == 1 and "5 of 6 done, 1 failed; the same command continues" in out
    assert len(lines) == 1 and re.search(f"item 2 failed: .*{line}", lines[0]), lines
    assert [row["item"] for row in rows_of(Path("data/needle.jsonl"))] == [0, 1, 3, 4, 5]
    assert "</html>" in Path("data/needle.html").read_text()
    await run_of(server, tokenizer, **settings).process_manager()
    assert whole()


def exact(body: dict[str, Any], logprob: float) -> web.Response:
    return web.json_response({"logprobs": [[[{"120": logprob}]]] * body["n"], "finish_reasons": ["stop"] * body["n"]})


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_a_server_that_refuses_stops_the_run_at_once(server: ChatServer, tokenizer: Path, code: int) -> None:
    """A key that expires at night: no twenty failures, and the morning's command goes on."""
    server.reply = meets(status(code), 99)
    with pytest.raises(RunError, match=f"HTTP {code}.*; the same command continues where this one stopped"):
        await run_of(server, tokenizer).process_manager()
    assert len(server.requests) == 3 and [row["item"] for row in rows_of(Path("data/needle.jsonl"))] == [0, 1]
    assert "</html>" in Path("data/needle.html").read_text()
    server.reply = said("x")
    await run_of(server, tokenizer).process_manager()
    assert whole()


async def test_a_server_that_is_restarted_in_the_middle(
    server: ChatServer, tokenizer: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens for a while; whoever waits is told once, and nothing is counted as failed."""

    def pause(state: Any) -> float:
        if state.attempt_number == 3:
            server.come_back()
        return 0.0

    monkeypatch.setattr(completions, "PAUSE", pause)

    def reply(body: dict[str, Any], number: int) -> Any:
        if number == 3:
            server.loop.create_task(server.site.stop())
            return reset
        return said("x")(body, number)

    server.reply = reply
    await run_of(server, tokenizer).process_manager()
    err = capfd.readouterr().err
    assert whole() and "failed=0" in err


async def test_empty_completions_and_a_megabyte_are_rows_like_others(server: ChatServer, tokenizer: Path) -> None:
    server.reply = said("", "y" * 2**20, None)
    await run_of(server, tokenizer, total_steps=2).process_manager()
    found = rows_of(Path("data/needle.jsonl"))
    assert whole(groups=2) and [len(text) for text in found[0]["completions"]] == [0, 2**20, 0]


async def test_a_second_run_on_the_same_output_takes_another_file(server: ChatServer, tokenizer: Path) -> None:
    """The first run still writes to it."""
    first = run_of(server, tokenizer)
    with row_log.RowLog(Path("data/needle.jsonl"), first.run_digest(), [*range(GROUPS)]) as store:
        store.add(0, {"scores": [0.0] * 3})
        await run_of(server, tokenizer).process_manager()
        assert len(rows_of(Path("data/needle.jsonl"))) == 1 and whole("data/needle_1.jsonl")


async def test_a_disk_that_fills_up_in_the_middle(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real write that fails half way: a limit on the file's size stands for the full disk."""
    await run_of(server, tokenizer, total_steps=1, data_path_to_save_groups="one.jsonl").process_manager()
    limit = int(Path("one.jsonl").stat().st_size * 2.5)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(row_log.RowLost, match="cannot write to .*File too large.; make room, and the same command"):
            await run_of(server, tokenizer).process_manager()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [row["item"] for row in rows_of(Path("data/needle.jsonl"))] == [0, 1]  # whole lines alone
    await run_of(server, tokenizer).process_manager()
    assert whole()


async def test_evaluate_survives_as_process_does(server: ChatServer, tokenizer: Path) -> None:
    server.reply = meets(status(500), completions.TRIES)
    settings = {"depths": "3", "repeats": 2, "max_eval_workers": 1, "data_dir_to_save_evals": "out"}
    env = run_of(server, tokenizer, **settings)
    wanted = sorted(item.key for item in env.evaluation_requests())
    with pytest.raises(SystemExit):
        await env.evaluate()
    kept = rows_of(Path("out/samples.jsonl"))
    assert len(kept) == len(wanted) - 1 and Path("out/report.html").exists()
    await run_of(server, tokenizer, **settings).evaluate()
    assert sorted(row["item"] for row in rows_of(Path("out/samples.jsonl"))) == wanted


async def test_content_that_is_no_text_is_a_bad_reply(server: ChatServer, tokenizer: Path) -> None:
    """Some servers send parts: the whole run ended in a traceback."""
    server.reply = meets([choice("x") | {"message": {"content": [{"type": "text", "text": "x"}]}}] * 3, 1)
    await run_of(server, tokenizer).process_manager()
    assert whole()


async def test_a_page_that_cannot_be_written_hides_nothing(
    server: ChatServer, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk neither rows nor page fit: it is the rows' error that is told."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("environments.reports.report.write_rollouts_html", full)
    server.reply = meets(status(401), 99)
    with pytest.raises(RunError, match="HTTP 401"):
        await run_of(server, tokenizer).process_manager()
    assert "cannot write data/needle.html (No space left on device)" in caplog.text


async def test_an_evaluation_that_is_refused_shows_what_it_has(server: ChatServer, tokenizer: Path) -> None:
    server.reply = meets(status(401), 99)
    settings = {"depths": "3", "repeats": 2, "max_eval_workers": 1, "data_dir_to_save_evals": "out"}
    with pytest.raises(RunError, match="HTTP 401"):
        await run_of(server, tokenizer, **settings).evaluate()
    assert len(rows_of(Path("out/samples.jsonl"))) == 2 and Path("out/report.html").exists()
