"""What whole runs make of servers' answers: replies without content, cut ones, windows, fields of the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from environments.haystack.sample import rebuild
from environments.haystack.tokens import Tokens, load_tokenizer
from environments.inference.contracts import Completion
from tests.environments.loopback import ChatServer, choice, command, make_env, rows_of, run_cli, said

pytestmark = pytest.mark.usefixtures("clean")


def with_template(tokenizer: Path, tmp_path: Path, end: str) -> Path:
    """A copy of the tokenizer whose chat template ends with `end`."""
    folder = tmp_path / "thinker"
    folder.mkdir()
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    template = load_tokenizer(str(tokenizer)).chat_template + end
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return folder


def thinking(body: dict[str, Any], _: int) -> list[dict[str, Any]]:
    """All tokens went into the thinking."""
    cut = choice(None, "length")
    cut["message"]["reasoning_content"] = "Let me read"
    return [cut] * body.get("n", 1)


def test_replies_without_content_are_no_wrong_answers(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ai-twinkle/Eval PR 23, vllm-project/vllm 30139: a heatmap of zeros, and nothing said."""
    answered = said("<answer>wrong</answer>")
    server.reply = lambda body, number: thinking(body, number) if number % 2 else answered(body, number)
    out = tmp_path / "evaluation"
    settings = {"env_data_dir_to_save_evals": out, "env_repeats": 2, "env_depths": 2, "env_absent_share": 0}
    assert run_cli(command("evaluate", tokenizer, server.url, env_max_eval_workers=1, **settings)) == 0
    records = rows_of(out / "samples.jsonl")
    assert [record.get("missing") for record in records] == ["budget_spent_thinking", None] * 2
    written = json.loads((out / "metrics.json").read_text())
    assert written["results"]["all"]["eval/budget_spent_thinking"] == 0.5
    assert "temperature 0.0, top_p 1.0" in written["config_general"]["sampling"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "of 2 samples whose fact is in the text" in printed
    assert "2 of 4 records, excluded from means: 2× budget_spent_thinking: raise max_new_tokens" in printed
    assert "budget_spent_thinking" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (
            thinking,
            "2 of the first 2 replies had no content, their 40 tokens went into thinking: raise --env.max_new_tokens",
        ),
        (said(None), "2 of the first 2 replies had no content (finish_reason stop)"),
        (lambda body, _: [choice("so", "length")] * body.get("n", 1), "2 of the first 2 replies were cut at 40 tokens"),
    ],
)
def test_the_first_group_says_what_makes_a_run_worthless(
    server: ChatServer, tokenizer: Path, caplog: pytest.LogCaptureFixture, reply: Any, line: str
) -> None:
    """greyhaven-ai/autocontext PR 1067: every completion clipped at the cap, reward 0."""
    server.reply = reply
    assert run_cli(command("process", tokenizer, server.url, env_max_new_tokens=40)) == 0
    assert sum(line in record.getMessage() for record in caplog.records) == 1


def test_a_window_that_is_too_short_is_said_before_any_work(
    server: ChatServer, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """marin-community/marin 2064: one HTTP 400 for each item."""
    server.models = lambda _: web.json_response({"data": [{"id": "m", "max_model_len": 1300}]})
    assert run_cli(command("process", tokenizer, server.url)) == 2 and not server.requests
    error = capsys.readouterr().err
    assert "window of 1,300 tokens" in error and "has 1,428" in error and "--env.max_new_tokens" in error


def test_template_variables_reach_the_server_and_our_own_template(
    server: ChatServer, tokenizer: Path, tmp_path: Path
) -> None:
    """jundot/omlx 358: thinking could not be turned off, and lengths would not be exact."""
    folder, out = (
        with_template(tokenizer, tmp_path, "{% if not enable_thinking %}<think></think>{% endif %}"),
        tmp_path / "o",
    )
    request = json.dumps({"chat_template_kwargs": {"enable_thinking": False}, "seed": 3})
    settings = {"env_request": request, "env_data_path_to_save_groups": out}
    assert run_cli(command("process", folder, server.url, **settings)) == 0
    assert {(b["seed"], b["chat_template_kwargs"]["enable_thinking"]) for b in server.requests} == {(3, False)}
    row, own = rows_of(out)[0], load_tokenizer(str(folder))
    sample = rebuild(row["recipe"], own)
    tokens = Tokens(own, {"enable_thinking": False})
    assert tokens.render(sample.messages).endswith("<think></think>")
    assert len(tokens.encode(tokens.render(sample.messages))) == sample.length == row["length"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("{", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('{"stream": true}', "must not hold stream"),
        ('{"max_tokens": 9}', "set --env.max_new_tokens"),
        ('{"temperature": 0}', "set --env.temperature"),
        ('{"chat_template_kwargs": 1}', "must be an object"),
        ('{"chat_template_kwargs": {"tokenize": true}}', "must not name tokenize"),
    ],
)
def test_fields_that_cannot_be_the_users_are_refused(
    server: ChatServer, tokenizer: Path, capsys: pytest.CaptureFixture[str], request_: str, words: str
) -> None:
    assert run_cli(command("process", tokenizer, server.url, env_request=request_)) == 2
    error = capsys.readouterr().err
    assert words in error and "--env.request" in error and "Traceback" not in error and not server.requests


def test_a_resumed_run_tells_the_mean_of_its_file(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 completions the last line told the mean of the 24 that the resumed run had made."""
    out = tmp_path / "rows.jsonl"
    argv = command("process", tokenizer, server.url, env_data_path_to_save_groups=out, env_total_steps=3)
    assert run_cli(argv) == 0
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:1]))
    capsys.readouterr()
    assert run_cli(argv) == 0
    assert "3 of 3 groups; mean score 0.02 of 6 completions, 0 failed" in capsys.readouterr().out


DRAFT = "I could say <answer>none</answer>, but first I check"


@pytest.mark.parametrize(
    ("text", "finish_reason", "fields", "expected"),
    [
        (DRAFT, "length", {}, 0.0),
        (DRAFT, "MAX_TOKENS", {}, 0.0),
        (DRAFT, None, {}, 0.0),
        (f"{DRAFT}</think><answer>none</answer>", "stop", {}, 1.0),
        (f"{DRAFT}</think>so", "stop", {}, 0.0),
        ("<answer>none</answer>", "stop", {}, 1.0),  # a server that takes the thinking out silently
        ("<answer>none</answer>", "length", {"reasoning_content": "I checked"}, 1.0),
    ],
)
def test_a_draft_in_thinking_that_the_template_opened_is_not_paid(
    server: ChatServer, tokenizer: Path, tmp_path: Path, text: str, finish_reason: str, fields: Any, expected: float
) -> None:
    """PrimeIntellect-ai/verifiers 207, 0xBakeer/inference-atlas PR 32: RL learns from it to draft early."""
    reply = choice(text, finish_reason)
    reply["message"] |= fields
    server.reply = lambda body, _: [reply] * body.get("n", 1)
    out, folder = tmp_path / "rows.jsonl", with_template(tokenizer, tmp_path, "<think>\n")
    argv = command(
        "process", folder, server.url, env_tasks="absent", env_total_steps=1, env_data_path_to_save_groups=out
    )
    assert run_cli(argv) == 0 and rows_of(out)[0]["scores"] == [expected] * 2


async def test_tokens_show_whether_thinking_ended(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    """There nothing is taken out of the text, so a finished reply that never closes its thinking is thinking."""
    env = make_env(with_template(tokenizer, tmp_path, "<think>\n"), server.url, server_type="vllm")
    assert env.scorer.opened == "<think>"
    finished = Completion("<answer>none</answer>", [1], [-0.5], "stop")
    opened_for = env.scorer.opened_for
    assert opened_for(finished) == "<think>" and opened_for(replace(finished, logprobs=None)) == ""
