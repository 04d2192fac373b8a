"""MemoryEnv as a user starts it: the same questions in several modes, against a chat server whose replies a test decides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from environments.haystack.sample import rebuild
from environments.haystack.tokens import load_tokenizer
from environments.memory_env import MemoryEnv
from environments.reports.report import read_records
from longthread.errors import DataError
from longthread.files import JsonLines
from tests.environments.loopback import ChatServer, choice, command, make_env, rows_of, run_cli, said

pytestmark = pytest.mark.usefixtures("clean")
SMALL = {
    "env_tasks": "single", "env_depths": "0.1,0.9", "env_repeats": 1, "env_absent_share": 0, "env_lengths": "4000",
    "env_chunk_tokens": 400, "env_overlap": 100, "env_passages": 3, "env_value_kind": "numbers",
}  # fmt: skip


def run(name: str, tokenizer: Path, url: str, **settings: Any) -> int:
    return run_cli(command(name, tokenizer, url, **SMALL | settings), MemoryEnv)


def numbers_of(body: dict[str, Any], _: int) -> list[dict[str, Any]]:
    """The reply of a model that finds a number wherever one stands in its prompt, and says none where none does."""
    content = body["messages"][0]["content"]
    question = content.rpartition("Question: ")[2] or content
    names = re.findall(r"[A-Z]\w+ [A-Z]\w+", question)
    holding = [s for s in re.split(r"(?<=[.!?])\s", content) if re.search(r"\d{5,}", s) and any(n in s for n in names)]
    found = re.findall(r"\d{5,}", " ".join(holding))
    return [choice(found[0] if found else "none")] * body.get("n", 1)


def test_both_modes_of_a_plain_server_are_evaluated(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    server.reply = numbers_of
    assert run("evaluate", tokenizer, server.url, env_data_dir_to_save_evals=tmp_path / "out") == 0
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert [r["mode"] for r in records].count("context") == [r["mode"] for r in records].count("retrieval") == 2
    by_key: dict[str, dict[str, Any]] = {}
    for record in records:
        by_key.setdefault(record["question_key"], {})[record["mode"]] = record
    for modes in by_key.values():
        one, other = modes["context"], modes["retrieval"]
        assert one["question"] == other["question"] and one["document"] == other["document"]
        assert one["score"] == 1 and one["prompt_tokens"] == 4000 and one["recall"] is None
        assert other["recall"]["needles"] == 1 and other["score"] == 1
        assert other["cost"]["tokens_read"] == other["prompt_tokens"] < 4000 and len(other["passages"]) == 3
    for name in ("memory.html", "memory.json", "accuracy_cost.png", "context/report.html", "retrieval/metrics.json"):
        assert (tmp_path / "out" / name).is_file(), name
    numbers = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert {(c["mode"], c["score"]["mean"]) for c in numbers["cells"]} == {("context", 1.0), ("retrieval", 1.0)}
    assert "2 questions are too few" in numbers["advice"]
    with pytest.raises(DataError, match="several modes in one file"):
        read_records(JsonLines(tmp_path / "out" / "samples.jsonl"))


def test_process_asks_each_question_in_every_mode(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert run("process", tokenizer, server.url, env_total_steps=4, env_data_path_to_save_groups=out) == 0
    rows = sorted(rows_of(out), key=lambda row: row["item"])
    assert [row["mode"] for row in rows] == ["context", "retrieval"] * 2
    assert rows[0]["question"] == rows[1]["question"] != rows[2]["question"]
    assert [row["store"] for row in rows] == ["compact", "full"] * 2  # a recipe builds no prompt of passages
    page = (tmp_path / "rows.html").read_text()
    assert all(f'data-task="single ({mode})"' in page for mode in ("context", "retrieval"))
    sample = rebuild(rows[1]["recipe"], load_tokenizer(str(tokenizer)))
    text = sample.messages[0]["content"].partition("\n\n")[2]
    for start, end in rows[1]["passages"]:
        assert text[start:end].strip() in rows[1]["messages"][0][0]["content"]


async def test_a_trainer_gets_the_prompt_of_passages(server: ChatServer, tokenizer: Path) -> None:
    settings = {name.removeprefix("env_"): value for name, value in SMALL.items()}
    env = make_env(tokenizer, server.url, MemoryEnv, group_size=2, **settings)
    server.reply = said("none", "12345")
    group, _ = await env.collect_trajectories(env.request(1))
    [request] = server.requests
    prompt = env.tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, return_dict=False)
    assert all(tokens[: len(prompt)] == prompt and len(prompt) < 4000 for tokens in group["tokens"])
    assert request["messages"][0]["content"].count("\n\n* * *\n\n") == 2


def test_a_text_that_does_not_fit_is_cut_at_its_middle(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    more = {"env_modes": "context", "env_window": 2000, "env_max_new_tokens": 20, "env_depths": "0.1,0.5"}
    assert run("evaluate", tokenizer, server.url, env_data_dir_to_save_evals=tmp_path / "out", **more) == 0
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert all(1900 < record["prompt_tokens"] <= 1980 and record["cut_tokens"] > 1900 for record in records)
    prompts = [body["messages"][0]["content"] for body in server.requests]
    for record in records:
        [needle] = [n["text"] for n in record["needles"] if n["role"] == "answer"]
        [prompt] = [p for p in prompts if f"Question: {record['question']}" in p]
        assert record["recall"]["needles"] == (needle in prompt) and len(record["passages"]) == 2
    assert {record["recall"]["needles"] for record in records} == {0, 1}
    for body in server.requests:
        assert re.search(r"\n\n\[Here [\d,]+ tokens of the text are left out.\]\n\n", body["messages"][0]["content"])
    assert "(cut)" in (tmp_path / "out" / "memory.html").read_text()


def test_a_window_that_holds_no_question_is_refused_before_any_request(
    server: ChatServer, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", tokenizer, server.url, env_modes="context", env_window=100) == 2
    line = capsys.readouterr().err.strip()
    assert "more than the window of 100" in line and "\n" not in line and not server.requests


def test_a_window_beyond_the_server_s_is_refused_before_any_question(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aiohttp import web

    server.models = lambda _: web.json_response({"data": [{"id": "m", "max_model_len": 2500}]})
    where = {"env_data_dir_to_save_evals": tmp_path / "out"}
    assert run("evaluate", tokenizer, server.url, env_window=2501, **where) == 2
    line = capsys.readouterr().err.strip()
    assert "2,501" in line and "2,500" in line and "\n" not in line and not server.requests
    assert run("evaluate", tokenizer, server.url, env_window=2500, **where) == 0


def test_a_window_that_the_server_states_is_kept(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    from aiohttp import web

    server.models = lambda _: web.json_response({"data": [{"id": "m", "max_model_len": 2500}]})
    assert run("evaluate", tokenizer, server.url, env_data_dir_to_save_evals=tmp_path / "out") == 0
    assert max(record["prompt_tokens"] for record in rows_of(tmp_path / "out" / "samples.jsonl")) <= 2500 - 128
