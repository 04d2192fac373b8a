"""What users have on disk still loads: files made at e48f100, before files moved (data/made_before_the_move/README.md)."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"  # before Axolotl is imported: no test may reach the network

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from axolotl.utils.dict import DictDefault
from datasets import load_dataset
from transformers import AutoTokenizer
from typer.testing import CliRunner

import lift.cli
import longthread_cli
from environments.haystack.sample import rebuild
from environments.linked_needle_env import LinkedNeedleEnv
from environments.needle_env import NeedleEnv
from lift.inference.generate import chat
from lift.library import base_model
from lift.library.attach import Attached
from lift.library.library import Library
from tests.environments.loopback import ChatServer, make_env, no_waiting, rows_of, run_cli, said

FILES = Path(__file__).parent / "data" / "made_before_the_move"
ROLLOUTS = ("needle", "needle_full", "linked_needle")
LIFT = json.loads((FILES / "lift" / "answers.json").read_text())


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works on a copy of the files, in the folder where their user started the commands."""
    torch.set_num_threads(1)
    no_waiting(monkeypatch)
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(models=("tiny",)).running() as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FILES / "model")


def console(app: Any, *argv: str) -> str:
    result = CliRunner().invoke(app, argv, env={"COLUMNS": "160"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def cut(path: Path) -> list[dict[str, Any]]:
    """The rows of the file, whose last line then ends as a crash leaves it."""
    rows = rows_of(path)
    path.write_bytes(path.read_bytes()[:-9])
    return rows


# ---- rollouts and evaluations -----------------------------------------------------------------------------------


def test_process_continues_a_run(server: ChatServer) -> None:
    path = Path("rollouts/needle.jsonl")
    rows = cut(path)
    server.reply = said(*(messages[-1]["content"] for messages in rows[-1]["messages"]))
    argv = ["process", "--config", "yaml/needle.yaml", "--openai.base_url", server.url]
    assert run_cli([*argv, "--env.data_path_to_save_groups", str(path)], NeedleEnv) == 0
    assert len(server.requests) == 1 and rows_of(path) == rows
    assert list(path.parent.glob("needle_[0-9]*")) == []


def test_evaluate_continues_a_run_to_the_same_metrics(server: ChatServer) -> None:
    folder = Path("evaluations/linked_needle")
    rows = cut(folder / "samples.jsonl")
    metrics = (folder / "metrics.json").read_text()
    (folder / "metrics.json").unlink()
    server.reply = said(rows[-1]["completion"])
    argv = ["evaluate", "--config", "yaml/linked_needle.yaml", "--openai.base_url", server.url]
    assert run_cli([*argv, "--env.data_dir_to_save_evals", str(folder)], LinkedNeedleEnv) == 0
    assert len(server.requests) == 1 and rows_of(folder / "samples.jsonl") == rows
    now = json.loads((folder / "metrics.json").read_text())
    assert "temperature 0.0" in now["config_general"].pop("sampling")  # said since 0.2
    assert now == json.loads(metrics)


def test_recipes_of_rollouts_rebuild_their_samples(tokenizer: Any) -> None:
    for name in ROLLOUTS:
        for row in rows_of(Path(f"rollouts/{name}.jsonl")):
            sample = rebuild(row["recipe"], tokenizer)
            assert sample.length == row["recipe"]["length"]
            question = row["messages"][0][0]["content"].rpartition("[…]\n")[2]
            assert sample.messages[0]["content"].endswith(question)
            if row["store"] == "full":
                assert sample.messages == row["messages"][0][:-1]


def test_recipes_of_an_evaluation_rebuild_their_samples(tokenizer: Any) -> None:
    for name in ("needle", "linked_needle"):
        for record in rows_of(Path(f"evaluations/{name}/samples.jsonl")):
            sample = rebuild(record["recipe"], tokenizer)
            assert sample.question == record["question"]
            assert [needle.text for needle in sample.needles] == [needle["text"] for needle in record["needles"]]
            assert list(sample.answer.values) == record["answer"]["values"]


def test_report_is_made_of_an_evaluation_and_of_rollouts() -> None:
    console(longthread_cli.app, "report", "evaluations/needle/samples.jsonl", "--out", "report")
    assert Path("report/grid.csv").read_text() == Path("evaluations/needle/grid.csv").read_text()
    console(longthread_cli.app, "report", "rollouts/linked_needle.jsonl", "--out", "pages")
    assert "</html>" in next(Path("pages").glob("*.html")).read_text()


def test_a_checkpoint_restores_the_next_item_and_the_curriculum(server: ChatServer) -> None:
    env = make_env(
        Path("model"), server.url, tasks="absent,single", curriculum=True, lexical_gap=True, absent_share=0.9,
        group_size=2,
    )  # fmt: skip
    env.checkpoint_dir, env.curr_step, env.wandb_prepend = "checkpoints", 5, "needle_0"
    stored = json.loads(next(Path("checkpoints").rglob("*.json")).read_text())
    assert env.curriculum.state() != stored["curriculum_state"]
    env.load_checkpoint()
    assert env.next_index == stored["next_index"] == 40
    assert env.curriculum.state() == stored["curriculum_state"]
    assert env.curriculum.level("single") > 0


# ---- rows to train on, and YAMLs --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sft", "dpo", "pretrain"])
def test_export_makes_the_same_rows(kind: str) -> None:
    console(longthread_cli.app, "export", kind, "rollouts/needle.jsonl", "again.jsonl", "--tokenizer", "model")
    assert Path("again.jsonl").read_bytes() == Path(f"rows/{kind}.jsonl").read_bytes()


def test_prepared_rows_are_taken_for_those_of_the_same_command() -> None:
    argv = ["prose", "rows/prose", "--tokenizer", "model", "--length", "2048", "--limit", "2", "--num-proc", "1"]
    said = console(longthread_cli.app, "longlora", "data", *argv)
    assert "already there" in said and "rows of an earlier version, with a mask" in said
    rows = pq.read_table(next(Path("rows/prose/data").glob("*.parquet"))).to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert {len(row[name]) for name in ("input_ids", "attention_mask", "labels", "position_ids")} == {2048}


def test_a_recipe_for_axolotl_finds_the_plugin_and_the_rollouts(tokenizer: Any) -> None:
    """The dotted names are looked up as Axolotl does it."""
    config = DictDefault(yaml.safe_load(Path("yaml/axolotl.yaml").read_text()))
    module, _, name = config["plugins"][0].rpartition(".")
    plugin = getattr(importlib.import_module(module), name)()
    plugin.register(config)
    assert config["lora_modules_to_save"][0] == "embed_tokens"
    assert config["overrides_of_model_config"]["max_position_embeddings"] == 16384
    module, _, name = plugin.get_input_args().rpartition(".")
    getattr(importlib.import_module(module), name).model_validate({"longlora": config["longlora"]})
    for entry in config["datasets"]:
        lines = load_dataset(entry["ds_type"], data_files=entry["path"], split="train", cache_dir="cache")
        strategy = importlib.import_module(entry["type"]).load(tokenizer, config, entry)
        sequences = strategy.wrap_dataset(lines).to_list()
        groups = rows_of(Path(entry["path"]))
        completions = [
            tokens for row in groups for tokens, score in zip(row["tokens"], row["scores"], strict=True) if score >= 0.5
        ]
        assert completions and len(sequences) == len(completions)
        for sequence, tokens in zip(sequences, completions, strict=True):
            assert sequence["input_ids"][-len(tokens) :] == tokens and len(sequence["input_ids"]) > 1300


# ---- documents in weights ---------------------------------------------------------------------------------------


def test_a_library_is_listed_and_whole() -> None:
    out = console(lift.cli.app, "list", "--library", "lift/library", "--verify")
    assert all(name in out for name in LIFT["documents"])


@pytest.mark.parametrize("name", LIFT["documents"])
def test_a_document_answers_as_it_did(name: str, tokenizer: Any) -> None:
    library, expected = Library("lift/library"), LIFT["documents"][name]
    model = Attached(library, base_model.load(Path("model"), torch.device("cpu")), [name]).model
    prompt = torch.tensor([chat(tokenizer, name, LIFT["question"])])
    with torch.inference_mode():
        logits = model(input_ids=prompt).logits[0, -1]
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), atol=1e-3, rtol=1e-3)
    argv = ["--library", "lift/library", "--document", name, "--model", "model", "--device", "cpu"]
    assert console(lift.cli.app, "ask", LIFT["question"], *argv) == expected["shown"]
