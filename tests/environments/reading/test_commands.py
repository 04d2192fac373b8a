"""`process`, `evaluate` and `serve` of a sample whose text is looked up, against servers that play the scripted reader."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reading_policies import _in_plain, scripted, tool_calls
from environments.atropos.serve import ServeSession
from environments.atropos.shared_prefix_gzip import encode_group
from environments.datasets.export import ExportJob, Kind, export
from environments.datasets.select import SelectionRules
from environments.haystack.tokens import load_tokenizer
from environments.reports import figures
from environments.rollouts.rollout import NOT_TRAINED
from environments.rollouts.transcript import ReadingCounts
from longthread.errors import DataError
from tests.environments.loopback import (
    ChatServer,
    choice,
    command,
    generated,
    make_env,
    model_folder,
    rows_of,
    run_cli,
    said,
)
from tests.environments.reading.test_episode import messages_of

pytestmark = pytest.mark.usefixtures("clean")
READING = {"env_tasks": "single", "env_lengths": "4000", "env_absent_share": "0"}
COUNTS = set(ReadingCounts.__dataclass_fields__)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def plays(body: dict[str, Any], _: int) -> list[dict[str, Any]]:
    """The scripted reader: by tools where the request has them."""
    text = scripted([_in_plain(message) for message in body["messages"]])
    reply = choice(text)
    if "tools" in body and (calls := tool_calls(text)):
        reply = choice(None, "tool_calls")
        reply["message"]["tool_calls"] = calls
    return [reply] * body.get("n", 1)


@pytest.mark.parametrize("form", ["plain", "tools"])
def test_process_keeps_whole_conversations_and_what_was_read(
    server: ChatServer, tokenizer: Path, tmp_path: Path, form: str
) -> None:
    server.reply = plays
    out = tmp_path / "rows.jsonl"
    argv = command("process", tokenizer, server.url, **READING, env_reading=form, env_data_path_to_save_groups=out)
    assert run_cli(argv) == 0
    for row in rows_of(out):
        assert row["scores"] == [1.0, 1.0] and len(row["reading"]) == 2
        for counts, chat, reply in zip(row["reading"], row["messages"], row["completions"], strict=True):
            assert set(counts) == COUNTS and counts["ended"] == "answered" and 0 < counts["share_read"] < 0.2
            assert chat[0]["role"] == "user" and chat[-1] == {"role": "assistant", "content": reply}
            assert ("tool" in {message["role"] for message in chat}) == (form == "tools")
            assert row["needles"][0]["text"] not in chat[0]["content"]
        assert [len(t) for t in row["tokens"]] == [len(m) for m in row["masks"]]
    page = out.with_suffix(".html").read_text()
    assert "tokens_read" in page and "ended answered" in page


def test_evaluate_reports_what_was_read(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "CHARTS", figures.CHARTS[:1])  # drawing is most of what an evaluation costs
    server.reply = plays
    more = {"env_depths": "2", "env_repeats": "1", "env_data_dir_to_save_evals": tmp_path / "out"}
    assert run_cli(command("evaluate", tokenizer, server.url, **READING, env_reading="plain", **more)) == 0
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert all(set(record) >= COUNTS and record["score"] == 1.0 and record["length"] == 4000 for record in records)
    assert all(0 < record["prompt_tokens"] < 2000 for record in records)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]["all"]
    mean = sum(record["tokens_read"] for record in records) / len(records)
    assert metrics["eval/reading_tokens_read"] == pytest.approx(mean) and metrics["eval/reading_tool_errors"] == 0
    assert re.search(r"reading +2.0 turns, 1.0 searches, .* tokens read", capsys.readouterr().out)


async def test_serve_sends_sequences_whose_other_tokens_are_masked(server: ChatServer, tokenizer: Path) -> None:
    """Of a server of tokens: the replies' own tokens and log-probabilities reach the trainer, whatever lies between."""

    def exact(body: dict[str, Any], _: int) -> Any:
        looked_up = f"{scripted(messages_of(body['prompt']['prompt_token_ids']))}<|im_end|>"
        return generated(*[looked_up, "<answer>7</answer><|im_end|>"][: body["n"]], logprob=-0.25)

    server.reply = exact
    settings: dict[str, Any] = {"tasks": "single", "lengths": "4000", "absent_share": 0.0, "reading": "plain"}
    env = make_env(tokenizer, server.url, group_size=2, server={"server_type": "vllm"}, **settings)
    env.session, bodies = ServeSession(env), list[bytes]()

    async def send(group: dict[str, Any], prompt: list[int]) -> None:
        bodies.append(encode_group(group, prompt))

    env.session.sender.send = send
    scored, _ = await env.collect_trajectories(item := env.request(0))
    await env.handle_send_to_api(scored, item)
    group = json.loads(gzip.decompress(bodies[0]))
    assert sorted(group["scores"]) == [0.0, 1.0]
    eos = load_tokenizer(str(tokenizer)).eos_token_id
    for tokens, mask, logprobs, chat in zip(
        group["tokens"], group["masks"], group["inference_logprobs"], group["messages"], strict=True
    ):
        assert all(m in (NOT_TRAINED, t) for t, m in zip(tokens, mask, strict=True))
        assert [p == 1.0 for p in logprobs] == [m == NOT_TRAINED for m in mask]
        replies = [m["content"] for m in chat if m["role"] == "assistant"]
        assert mask.count(eos) == len(replies) and mask[-1] == eos
    assert {override["reading"]["turns"] for override in group["overrides"]} == {1, 2}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"env_reading": "agent"}, "reading must be one of off, tools, plain (got 'agent') (--env.reading)"),
        ({"env_reading": "plain", "env_reading_turns": 1}, "reading_turns must be from 2 to 1000 (got 1)"),
        ({"env_reading": "plain", "env_reading_tokens": 0}, "reading_tokens must be from 1 to 100000000 (got 0)"),
        ({"env_reading": "tools", "openai_server_type": "vllm"}, "one of type vllm is given tokens; use plain"),
        ({"env_reading": "tools", "env_store": "full"}, "store full keeps the tokens of prompts"),
    ],
)
def test_what_cannot_work_is_one_line(tokenizer: Path, capsys: Any, settings: dict[str, Any], line: str) -> None:
    assert run_cli(command("process", tokenizer, "http://127.0.0.1:9/v1", **READING | settings)) == 2
    assert line in error_line(capsys)


def test_serve_with_tools_is_one_line(server: ChatServer, tokenizer: Path, capsys: Any) -> None:
    assert run_cli(command("serve", tokenizer, server.url, **READING, env_reading="tools")) == 2
    assert "with tools only the server knows them: use reading plain, or process (--env.reading)" in error_line(capsys)


def test_a_server_that_refuses_tools_ends_the_run_in_one_line(server: ChatServer, tokenizer: Path, capsys: Any) -> None:
    from aiohttp import web

    server.reply = lambda body, _: web.json_response({"error": {"message": "m does not support tools"}}, status=400)
    assert run_cli(command("process", tokenizer, server.url, **READING, env_reading="tools")) == 1
    assert "does not support tools" in (line := error_line(capsys)) and "use plain" in line and "--env.reading" in line


def test_custom_needles_are_looked_up_too(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    looks = ["<search>lantern keeper</search>", "<answer>Zanzibar</answer>"]
    server.reply = lambda body, _: [choice(looks[len(body["messages"]) > 1])] * body.get("n", 1)
    out = tmp_path / "rows.jsonl"
    custom = {"env_tasks": "custom", "env_needle": "The lantern keeper is Zanzibar.", "env_expected": "Zanzibar"}
    custom |= {"env_question": "Who keeps the lantern?", "env_reading": "plain", "env_data_path_to_save_groups": out}
    assert run_cli(command("process", tokenizer, server.url, **READING | custom, env_total_steps="1")) == 0
    (row,) = rows_of(out)
    assert row["scores"] == [1.0, 1.0] and "keeper is Zanzibar." in row["messages"][0][2]["content"]


def test_exported_conversations_are_those_that_were_said(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    server.reply = plays
    out = tmp_path / "rows.jsonl"
    argv = command("process", tokenizer, server.url, **READING, env_reading="tools", env_data_path_to_save_groups=out)
    assert run_cli(argv) == 0
    loaded, rows = load_tokenizer(str(tokenizer)), rows_of(out)
    outcome = export(ExportJob(Kind.SFT, (out,), tmp_path / "sft.jsonl", SelectionRules(min_score=1.0), loaded))
    written = rows_of(tmp_path / "sft.jsonl")
    assert outcome.written == len(written) > 0
    assert all(any(row["messages"] == chat for r in rows for chat in r["messages"]) for row in written)
    longest = max(len(json.dumps(row["messages"])) for row in written)
    assert longest <= outcome.sequence_len < longest + 100
    with pytest.raises(DataError, match="no pairs can be made of it; use sft"):
        export(ExportJob(Kind.DPO, (out,), tmp_path / "dpo.jsonl", SelectionRules(), loaded))


def test_off_sends_what_it_always_sent(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    server.reply = said("<answer>none</answer>")
    for name, more in (("a", {}), ("b", {"env_reading": "off", "env_reading_turns": 8, "env_reading_tokens": 4096})):
        argv = command(
            "process", tokenizer, server.url, env_data_path_to_save_groups=tmp_path / f"{name}.jsonl", **more
        )
        assert run_cli(argv) == 0
    a, b = (sorted((tmp_path / f"{name}.jsonl").read_bytes().splitlines()) for name in "ab")
    assert a == b
    assert "reading" not in (tmp_path / "a.jsonl").read_text() and "tools" not in server.requests[0]


def test_a_real_model_reads_through_the_embedded_server(tmp_path: Path) -> None:
    """Random weights: what it writes is noise, and every sequence is still exact."""
    from environments.inference.embedded.server import background

    folder, out = model_folder(tmp_path / "model"), tmp_path / "rows.jsonl"
    with background(folder, threads=1) as url:
        argv = command(
            "process", folder, url, **READING, env_reading="plain", env_total_steps="1", env_max_new_tokens="8",
            env_data_path_to_save_groups=out, env_store="full", openai_server_type="vllm", openai_model_name=folder.name,
        )  # fmt: skip
        assert run_cli(argv) == 0
    (row,) = rows_of(out)
    for tokens, mask, logprobs in zip(row["tokens"], row["masks"], row["inference_logprobs"], strict=True):
        written = [t for t, m in zip(tokens, mask, strict=True) if m != NOT_TRAINED]
        assert 0 < len(written) <= 8 and [p == 1.0 for p in logprobs] == [m == NOT_TRAINED for m in mask]
