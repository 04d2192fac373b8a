"""`longthread longlora reader-rows` from nothing to rows that Axolotl trains on: whole, resumable, the same each time."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from axolotl.cli.config import load_cfg
from typer.testing import CliRunner, Result

from environments.datasets.reader_rows.encoding import IGNORED
from environments.datasets.reader_rows.plan import RowSettings, plan
from environments.haystack import facts
from tests.environments.loopback import ChatServer, said
from tests.environments.tiny_model import save_tiny, tiny_tokenizer
from tests.trainer_configs.longlora.test_plugin import SMOKE, finish, start, watched
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.data.reader_build import Build, build
from trainer_configs.longlora.data.reader_command import app
from trainer_configs.longlora.data.run_folder import shards
from trainer_configs.longlora.row_files import ROWS, restarts
from trainer_configs.longlora.rows import load

LENGTH, COUNT, CHATS = 3000, 20, 9  # tokens, which are bytes with the tiny tokenizer
OPTIONS = ["--count", str(COUNT), "--shortest", str(LENGTH), "--longest", str(LENGTH), "--ordinary", "0.3"]


@pytest.fixture(autouse=True, scope="module")
def _small_pools() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("environments.datasets.reader_rows.fillers.POOL_TOKENS", 16_384)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), max_position_embeddings=2 * LENGTH)


def run(out: Path, model: Path, *options: str) -> Result:
    return CliRunner().invoke(app, [str(out), "--tokenizer", str(model), *OPTIONS, *options])


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process, with conversations of a served model."""
    out = tmp_path_factory.mktemp("made") / "rows"
    with ChatServer(said("Certainly.")).running() as server:
        chat = ("--chat", server.url, "--chat-model", "m", "--chats", str(CHATS))
        result = run(out, model, "--num-proc", "1", *chat)
    assert result.exit_code == 0, result.output
    assert f"datasets: [{{path: {out}, type: {ROWS}}}]" in result.output
    assert "rows-chats.jsonl" in result.output
    return out


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shards(out)}


def chats_of(made: Path) -> tuple[str, str]:
    return "--chat-rows", str(made.with_name("rows-chats.jsonl"))


def test_rows_are_those_of_the_plan(made: Path) -> None:
    stats = json.loads((made / "stats.json").read_text())
    rows = [row for shard in shards(made) for row in pq.read_table(shard).to_pylist()]
    assert len(rows) == COUNT and not (made / ".state").exists()
    names = {"input_ids", "labels", "attention_mask", "position_ids"}
    counted: dict[str, list[int]] = {}
    for row, planned in zip(rows, plan(RowSettings(COUNT, LENGTH, LENGTH, ordinary=0.3)), strict=True):
        assert row.keys() == names | {"length"}
        assert {len(row[name]) for name in names} == {row["length"]}
        assert row["length"] <= LENGTH and set(row["attention_mask"]) == {1}
        positions = row["position_ids"]
        steps = list(zip(positions, positions[1:], strict=False))
        jumps = [i for i, (a, b) in enumerate(steps) if b > a + 1]
        restarts = [i for i, (a, b) in enumerate(steps) if b <= a]
        assert len(jumps) == (planned.kind == "parallel")
        assert any(i < j for i in restarts for j in jumps) == (planned.kind == "parallel")  # documents read apart
        assert any(i > max(jumps, default=0) for i in restarts)  # conversations
        of_kind = counted.setdefault(planned.kind, [0, 0, 0])
        learnt = sum(label != IGNORED for label in row["labels"])
        counted[planned.kind] = [a + b for a, b in zip(of_kind, (1, row["length"], learnt), strict=True)]
    assert stats["rows"] == {
        kind: dict(zip(("rows", "tokens", "learnt"), totals, strict=True)) for kind, totals in counted.items()
    }
    assert {kind: totals[0] for kind, totals in counted.items()} == {"document": 7, "parallel": 7, "text": 6}


def test_a_finished_run_is_left_as_it_is_and_another_is_refused(made: Path, model: Path) -> None:
    before = bytes_of(made), (made / "stats.json").stat().st_mtime_ns
    assert run(made, model, *chats_of(made)).exit_code == 0
    assert (bytes_of(made), (made / "stats.json").stat().st_mtime_ns) == before
    result = run(made, model, *chats_of(made), "--seed", "1")
    assert result.exit_code == 2 and "holds a run with another seed (0, not 1)" in result.output
    result = run(made, model)
    assert result.exit_code == 2 and "another chats" in result.output


def test_a_run_of_an_older_version_is_named_so_and_not_by_a_setting_that_it_did_not_know(
    made: Path, model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "old"
    shutil.copytree(made, copy)
    stats = json.loads((copy / "stats.json").read_text())
    del stats["config"]["lexical_gap"]
    stats["config"]["reader_rows"] -= 1
    (copy / "stats.json").write_text(json.dumps(stats))
    result = run(copy, model, *chats_of(made))
    assert result.exit_code == 2 and "holds a run with another reader_rows (" in result.output


def test_processes_and_a_cut_change_no_byte(made: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    assert run(out, model, *chats_of(made), "--num-proc", "2").exit_code == 0
    assert bytes_of(out) == bytes_of(made)
    first, *_, last = shards(out)
    kept = first.stat().st_mtime_ns
    config = json.loads((out / "stats.json").read_text())["config"]
    (out / ".state").mkdir()
    (out / ".state" / "config.json").write_text(json.dumps(config))
    (out / "stats.json").unlink()
    last.unlink()  # as a killed run leaves it
    assert run(out, model, *chats_of(made)).exit_code == 0
    assert bytes_of(out) == bytes_of(made) and first.stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-proc", "0"), "num_proc must be at least 1 (got 0) (--num-proc)"),
        (("--kinds", "riddle"), "kinds must be some of"),
        (("--chat-rows", "none.jsonl"), "none.jsonl is not a file"),
        (("--chat", "http://127.0.0.1:9/v1"), "chat needs the model's name on the server (--chat-model)"),
        (("--chat", "http://127.0.0.1:9/v1", "--chat-model", "m"), "cannot reach a server"),
        (("--chat", "http://127.0.0.1:9/v1", "--chat-model", "m", "--chats", "0"), "chats must be at least 1"),
        (("--texts", "nowhere"), "nowhere"),
        (("--tokenizer", "nowhere"), "cannot be loaded"),
    ],
    ids=["processes", "kinds", "file", "name", "server", "number", "texts", "tokenizer"],
)
def test_what_cannot_work_is_one_line_before_any_work(
    options: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    result = run(tmp_path / "rows", model, *options)
    assert result.exit_code == 2 and not (tmp_path / "rows").exists()
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def chat_file(path: Path, *words: int) -> str:
    """Write a conversation of so many words each; return the path."""
    chats = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So it is. " * n}] for n in words]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return str(path)


def test_conversations_stand_in_rows_of_their_own_beside_rows_that_skip(model: Path, tmp_path: Path) -> None:
    chats = chat_file(tmp_path / "chats.jsonl", 70, 3)
    short = ("--count", "0", "--pose", "3", "--pose-length", "700", "--parallel", "0", "--ordinary", "0")
    result = run(tmp_path / "rows", model, *short, "--conversations", "2", "--chat-rows", chats)
    rows = [row for shard in shards(tmp_path / "rows") for row in pq.read_table(shard).to_pylist()]
    kept, skipping = (
        sorted(r["length"] for r in rows if (r["position_ids"][-1] >= r["length"]) == skips) for skips in (0, 1)
    )
    assert len(kept) == 2 and 700 < kept[-1] <= 1024 and len(skipping) == 3 and skipping[-1] <= 700
    assert not any(restarts(row["position_ids"]) for row in rows)
    assert "sequence_len: 1024" in result.output and f"target_length: {LENGTH}}}" in result.output


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ((), (), "holds no conversations: a row is "),
        ((400,), ("--conversations", "1"), "no conversation has 1,024 tokens or fewer: give shorter ones (--chat-rows)"),
        ((400,), (), "no conversation has 512 tokens or fewer: give shorter ones (--chat-rows)"),
        ((30,), ("--shortest", "512"), "256 tokens or fewer: give shorter ones, or longer rows (--chat-rows, --shortest)"),
    ],
    ids=["none", "of their own", "in every row", "in short rows"],
)  # fmt: skip
def test_conversations_that_no_row_can_hold_are_refused_before_any_work(
    words: tuple[int, ...], options: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    result = run(tmp_path / "rows", model, "--chat-rows", chat_file(tmp_path / "chats.jsonl", *words), *options)
    assert result.exit_code == 2 and message in result.output and not (tmp_path / "rows").exists()
    result = run(tmp_path / "rows", model, "--conversations", "2")
    assert result.exit_code == 2 and "conversations 2 need --chat or --chat-rows (--conversations)" in result.output


def test_a_folder_of_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = run(tmp_path, model)
    assert result.exit_code == 2 and "exists and holds something else" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_conversations_the_command_says_what_is_missing(model: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "rows", model)
    assert result.exit_code == 0 and "no ordinary conversations" in result.output


def test_the_flagship_s_rows_ask_for_facts_in_the_environments_words(model: Path, tmp_path: Path) -> None:
    settings = RowSettings(4, LENGTH, LENGTH, 0, 0.25, 8, ("single",), ("tags",), "environments")
    stats = build(Build(settings, tmp_path / "rows", str(model), num_proc=1))
    assert stats["rows"].keys() == {"document", "text"}
    rows = pq.read_table(shards(tmp_path / "rows")[0])
    pairs = zip(rows.column("input_ids").to_pylist(), rows.column("labels").to_pylist(), strict=True)
    texts = [tiny_tokenizer().decode(ids) for ids, labels in pairs if IGNORED in labels]
    asked = [text.count("nothing else: <answer>...</answer>.<|im_end|>") for text in texts]
    assert len(texts) == 3 and min(asked) > 2
    for text, count in zip(texts, asked, strict=True):
        assert len(facts.parse(text)) == count == len(re.findall(r"<answer>(?!\.)", text))
        assert text.count("Question: ") == count and "none" not in text


def test_without_the_plugin_the_rows_are_refused(made: Path) -> None:
    with pytest.raises(LongLoRAError, match="train them with the plugin"):
        load(None, {"datasets": [{"path": str(made), "type": ROWS}]}, {"path": str(made)})
    reads = load(None, {"longlora": {"attention": "full"}, "datasets": [{"path": str(made)}]}, {"path": str(made)})
    assert not reads.masked  # they have a mask of their own


def trained() -> dict[str, Any]:
    recipe = yaml.safe_load(Path(SMOKE).read_text()) | {"base_model": "model", "sequence_len": LENGTH, "max_steps": 3}
    recipe |= {"datasets": [{"path": "rows", "type": ROWS}], "val_set_size": 0, "micro_batch_size": 1}
    recipe |= {"pad_to_sequence_len": False, "longlora": {"attention": "full", "parallel_documents": True}}
    del recipe["eval_steps"]
    Path("reader.yaml").write_text(yaml.safe_dump(recipe))
    seen = watched(load_cfg("reader.yaml"))
    rows = seen["trainer"].train_dataset
    losses = [line["loss"] for line in seen["trainer"].state.log_history if "loss" in line]
    return {"columns": sorted(rows.column_names), "rows": rows[:]["position_ids"], "losses": losses}


def test_axolotl_trains_on_the_rows_as_they_are(made: Path, model: Path, tmp_path: Path) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    (tmp_path / "rows").symlink_to(made)
    (tmp_path / "model").symlink_to(model)
    result = finish(start(tmp_path, trained), tmp_path)
    written = [row["position_ids"] for shard in shards(made) for row in pq.read_table(shard).to_pylist()]
    assert sorted(result["rows"]) == sorted(written)
    assert {"input_ids", "labels", "attention_mask", "position_ids"} <= set(result["columns"])
    assert len(result["losses"]) == 3 and all(0 < loss < 100 for loss in result["losses"])
