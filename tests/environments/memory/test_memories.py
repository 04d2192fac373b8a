"""The modes weights and hybrid: memories chosen by name, at a chat server that says it has them, and at `lift serve`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from environments.datasets.process_rows import parse_row
from environments.inference.embedded.server import running
from environments.memory_env import MemoryEnv
from lift.library.base_model import fingerprint
from lift.library.library import Library
from lift.serve import server as lift_server
from longthread.errors import DataError
from tests.environments.loopback import ChatServer, command, model_folder, rows_of, run_cli, said
from tests.lift.compact_shelf import compact_adapter
from tests.lift.shelf import entry_for

pytestmark = pytest.mark.usefixtures("clean")
SMALL = {
    "env_tasks": "single", "env_depths": "0.5", "env_repeats": 2, "env_absent_share": 0, "env_lengths": "3000",
    "env_chunk_tokens": 300, "env_overlap": 50, "env_passages": 2, "env_max_new_tokens": 4,
}  # fmt: skip
ALL = "context,retrieval,weights,hybrid"


def run(name: str, tokenizer: Path, url: str, **settings: Any) -> int:
    return run_cli(command(name, tokenizer, url, **SMALL | settings), MemoryEnv)


def written(tokenizer: Path, folder: Path) -> dict[str, str]:
    """The documents of the evaluation, by name, as the command writes them."""
    assert run("documents", tokenizer, "http://127.0.0.1:9/v1", env_modes=ALL, env_documents_path=folder) == 0
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def cards(documents: dict[str, str], **changes: Any) -> Any:
    listed = [
        {"id": name, "ask_frame": f"On {name}: {{question}} Reply.", "bytes": 1000, "seconds": 2.5,
         "digest": hashlib.sha256(text.encode()).hexdigest()} | changes
        for name, text in documents.items()
    ]  # fmt: skip
    return lambda _: web.json_response({"data": [{"id": "m"}, *listed]})


def test_each_question_names_its_memory_in_its_frame(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    documents = written(tokenizer, tmp_path / "documents")
    server.models, server.reply = cards(documents), said("none")
    assert run("evaluate", tokenizer, server.url, env_modes=ALL, env_data_dir_to_save_evals=tmp_path / "out") == 0
    assert len(documents) == 2 and len(server.requests) == 10
    asked = {name: [r for r in server.requests if r["model"] == name] for name in ("m", *documents)}
    assert len(asked["m"]) == 6 and all(len(asked[name]) == 2 for name in documents)
    for name in documents:
        alone, in_hybrid = (r["messages"][0]["content"] for r in asked[name])
        assert alone.startswith(f"On {name}: ") and alone.endswith(" Reply.") and len(alone) < 400
        assert in_hybrid == alone
    prompts = Counter(r["messages"][0]["content"] for r in asked["m"])
    assert sorted(prompts.values()) == [1, 1, 2, 2], "the model is asked alike in retrieval and in hybrid"
    records = {(r["document"], r["mode"]): r for r in rows_of(tmp_path / "out" / "samples.jsonl")}
    for name, text in documents.items():
        context, found, weights, hybrid = (records[name, mode]["cost"] for mode in ALL.split(","))
        assert context["stored_bytes"] == len(text.encode()) and context["prepare_seconds"] == 0
        assert (weights["stored_bytes"], weights["prepare_seconds"]) == (1000, 2.5)
        assert hybrid["stored_bytes"] == found["stored_bytes"] + 1000 and found["stored_bytes"] > len(text.encode())
        assert weights["tokens_read"] < hybrid["tokens_read"] < context["tokens_read"] == 3000
        assert hybrid["tokens_read"] == found["tokens_read"] + weights["tokens_read"]
        assert records[name, "weights"]["recall"] is None and records[name, "hybrid"]["recall"] is not None
        assert records[name, "weights"]["passages"] == []
    page = (tmp_path / "out" / "memory.html").read_text()
    assert "Hybrid against the best single mode" in page and "Break-even" not in page, "two questions of each mode"


def test_memories_of_another_server_get_no_key(tokenizer: Path, tmp_path: Path) -> None:
    documents = written(tokenizer, tmp_path / "documents")
    with (
        ChatServer(said("none")).running() as reader,
        ChatServer(said("none"), models=cards(documents)).running() as lift,
    ):
        more = {"env_modes": "retrieval,weights", "env_memory_url": lift.url, "openai_api_key": "secret"}
        assert run("evaluate", tokenizer, reader.url, env_data_dir_to_save_evals=tmp_path / "out", **more) == 0
        assert {r["model"] for r in lift.requests} == set(documents) and {r["model"] for r in reader.requests} == {"m"}
        assert lift.keys == {"Bearer x"}


@pytest.mark.parametrize("change", [{"ask_frame": "no place"}, {"bytes": None, "seconds": None, "digest": None}])
def test_a_server_that_states_less_is_asked_all_the_same(
    server: ChatServer, tokenizer: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    server.models, server.reply = cards(written(tokenizer, tmp_path / "documents"), **change), said("none")
    assert run("evaluate", tokenizer, server.url, env_modes="weights", env_data_dir_to_save_evals=tmp_path / "out") == 0
    if "ask_frame" in change:
        assert all(r["messages"][0]["content"].startswith("Question: ") for r in server.requests)
    else:
        assert {r["cost"]["stored_bytes"] for r in rows_of(tmp_path / "out" / "samples.jsonl")} == {None}


def test_a_document_without_a_memory_is_one_line(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = ("m", "book")
    assert run("evaluate", tokenizer, server.url, env_modes="weights") == 2
    line = capsys.readouterr().err.strip()
    assert "has no memory of document 'single-3000-" in line and "its models are 'm', 'book'" in line
    assert "and 1 more;" in line and not server.requests and "Traceback" not in line


def test_a_memory_server_that_is_not_there_is_named_by_its_own_setting(
    server: ChatServer, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:9/v1"
    assert run("evaluate", tokenizer, server.url, env_modes="weights", env_memory_url=nobody) == 2
    line = capsys.readouterr().err.strip()
    assert f"cannot reach a server at {nobody}" in line and line.endswith("(--env.memory_url)") and "\n" not in line


def test_rows_of_a_memory_are_not_trained_on_nor_served(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    names = [f"single-3000-{seed}" for seed in range(2)]
    server.models = ("m", *names)
    more = {"env_modes": "weights", "env_total_steps": 2, "env_data_path_to_save_groups": out}
    assert run("process", tokenizer, server.url, **more) == 0
    assert [row["memory"] for row in sorted(rows_of(out), key=lambda row: row["item"])] == names
    with pytest.raises(DataError, match="asked of the memory 'single-3000-0'"):
        parse_row(min(rows_of(out), key=lambda row: row["item"]), "here")
    assert run("serve", tokenizer, server.url, env_modes="context,hybrid") == 2
    assert "mode hybrid is for evaluate and process" in capsys.readouterr().err


def test_a_memory_of_another_text_stops_the_run(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = cards(written(tokenizer, tmp_path / "documents"), digest="0" * 64)
    assert run("evaluate", tokenizer, server.url, env_modes="weights") == 1
    assert "is of another text (000000000000, not " in capsys.readouterr().err and not server.requests


def test_all_four_modes_at_lift_serve(tmp_path: Path) -> None:
    """One server has the reader and the memories: the base model's name is the reader's."""
    model = model_folder(tmp_path / "tiny")
    library = Library(tmp_path / "books")
    for seed, (name, text) in enumerate(written(model, tmp_path / "documents").items()):
        entry = entry_for(fingerprint(model), name, recipe="compact", base_model=str(model), seconds=1.5)
        entry = entry.model_copy(update={"digest": hashlib.sha256(text.encode()).hexdigest()})
        library.add(compact_adapter(tmp_path / f"adapter {name}", seed), entry)
    more = {"env_modes": ALL, "openai_model_name": "tiny"}
    with running(lift_server(library)) as url:
        assert run("evaluate", model, url, env_data_dir_to_save_evals=tmp_path / "out", **more) == 0
        rows = tmp_path / "rows.jsonl"
        train = {"env_total_steps": 4, "env_group_size": 2, "env_data_path_to_save_groups": rows}
        assert run("process", model, url, **train, env_modes="context,retrieval", openai_model_name="tiny") == 0
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert sorted(r["mode"] for r in records) == sorted(2 * ALL.split(","))
    by_mode = {r["mode"]: r for r in records}
    assert by_mode["weights"]["cost"]["prepare_seconds"] == 1.5 and by_mode["weights"]["cost"]["stored_bytes"] > 0
    assert all(r["error"] is None for r in records) and len(rows_of(rows)) == 4


def test_a_memory_of_another_text_than_a_files_document_is_refused_before_any_request(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"harbour": "Ann Lee keeps 4711 in the safe. " * 9, "hill": "Bo Ray keeps 4712 in the safe. " * 9}
    rows = [
        {"name": name, "document": text, "question": "Which number?", "answer": "4711"} for name, text in texts.items()
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    server.models = cards(texts | {"hill": "Bo Ray keeps 4713."})
    assert run("evaluate", tokenizer, server.url, env_modes="weights", env_questions=questions) == 2
    said = capsys.readouterr().err
    assert (
        "the memory 'hill'" in said and "is of another text" in said and said.count("\n") == 1 and not server.requests
    )
