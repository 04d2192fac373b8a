"""The control without a text: the same questions, asked and scored alike, and never taken for real rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from environments.datasets.process_rows import parse_row
from environments.haystack.sample import rebuild
from environments.reports.metrics import effective_length, summary
from environments.reports.report import read_records
from longthread.errors import ConfigError, DataError
from longthread.files import JsonLines
from tests.conftest import build_tokenizer, make_haystacks
from tests.environments.loopback import ChatServer, command, rows_of, run_cli

TASKS = ("single", "multi_query", "absent", "chain", "order", "cloze", "reconstruct", "code_chain")


@pytest.mark.parametrize("task", TASKS)
def test_the_same_question_without_its_text(task: str) -> None:
    with_text = make_haystacks("gpt2").sample(3, "eval", task, 6000)
    sample = make_haystacks("gpt2", no_context=True).sample(3, "eval", task, 6000)
    assert (sample.question, sample.answer) == (with_text.question, with_text.answer)
    content = sample.messages[0]["content"]
    hidden = [needle.text for needle in with_text.needles if not needle.text.startswith("[gap ")]
    assert not sample.needles and not any(text in content for text in hidden)
    ask = with_text.messages[0]["content"].rsplit("\n\nQuestion: ", 1)[1]
    assert content.endswith(f"\n\nQuestion: {ask}") and content.startswith(
        "The text that the question below is about is not"
    )
    tokens = make_haystacks("gpt2").tokens
    assert sample.length == len(tokens.encode_prompt(tokens.render(sample.messages), sample.length)) < 2500
    assert sample.no_context and sample.recipe["options"]["no_context"] and sample.recipe["length"] == 6000
    assert rebuild(sample.recipe, build_tokenizer("gpt2")) == sample
    assert "no_context" not in with_text.recipe["options"]  # recipes of before keep their bytes


def test_no_passages_to_number() -> None:
    with pytest.raises(ConfigError, match="no passages to number"):
        make_haystacks("gpt2", no_context=True, numbered=True)


@pytest.mark.usefixtures("clean")
def test_evaluate_says_so(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"env_lengths": "1024,2048", "env_depths": "2", "env_repeats": 1, "env_tasks": "single,cloze"}
    assert run_cli(command("evaluate", tokenizer, server.url, env_no_context="true", **settings)) == 0
    assert "asked without its text: this is what guessing earns" in capsys.readouterr().out
    (path,) = (tmp_path / "data").rglob("samples.jsonl")
    records = rows_of(path)
    assert all(record["no_context"] and record["prompt_tokens"] < 1000 for record in records)
    assert {record["length"] for record in records} == {1024, 2048}  # of the text that the question is about
    assert effective_length(records) is None and "what guessing earns" in summary(records)
    assert "asked without the text" in path.with_name("report.html").read_text()
    real = {key: value for key, value in records[0].items() if key != "no_context"}
    path.write_text("\n".join(json.dumps(record) for record in [*records, real]) + "\n")
    with pytest.raises(DataError, match="take them apart"):
        read_records(JsonLines(path, ""))


@pytest.mark.usefixtures("clean")
def test_rows_of_process_are_no_rows_to_train_on(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    assert run_cli(command("process", tokenizer, server.url, env_no_context="true", env_total_steps=2)) == 0
    (path,) = (tmp_path / "data").glob("*.jsonl")
    row = rows_of(path)[0]
    assert row["no_context"] and "without its text" in path.with_suffix(".html").read_text()
    with pytest.raises(DataError, match="no_context"):
        parse_row(row, "here:1")


@pytest.mark.usefixtures("clean")
def test_serve_refuses(server: ChatServer, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(command("serve", tokenizer, server.url, env_no_context="true")) == 2
    assert "serve would train on guesses" in capsys.readouterr().err
