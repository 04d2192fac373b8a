"""A whole run at toy size, through Axolotl: data, training, merge, evaluation before and after, report; and its card."""

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from environments.datasets import general_knowledge
from environments.datasets.reader_rows.chats import prompts
from environments.haystack.filler import prose
from environments.haystack.options import Options
from environments.haystack.tokens import load_tokenizer
from environments.inference.embedded import server as served
from longthread.errors import ConfigError
from longthread.files import JsonObject, read_jsonl
from tests.environments.loopback import ChatServer, choice
from tests.environments.tiny_model import save_tiny
from trainer_configs.longlora import publish as publishing
from trainer_configs.longlora.data.run_folder import shards
from trainer_configs.longlora.extend import evaluation
from trainer_configs.longlora.extend import run as running
from trainer_configs.longlora.extend.plan import RECIPES, ExtendSettings, Plan, make_plan
from trainer_configs.longlora.extend.report import table
from trainer_configs.longlora.extend.run import ExtendRun
from trainer_configs.longlora.publish import check_hub, publish
from trainer_configs.longlora.row_files import restarts

NATIVE, TO, LENGTHS = 2048, 4096, (1600, 3900)
STAGE, SFT = "1-extend-4096", "2-sft-4096"
CHATS = 4


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("extend")
    save_tiny(folder / "model", max_position_embeddings=NATIVE)
    recipe = yaml.safe_load((RECIPES / "smoke-cpu.yaml").read_text()) | {"val_set_size": 0, "micro_batch_size": 1}
    del recipe["eval_steps"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "held-out").mkdir()
    passages = prose.passages(5, "eval")
    (folder / "held-out" / "a.txt").write_text("\n\n".join(prose.join(next(passages)) for _ in range(20)))
    return make_plan(
        ExtendSettings(
            str(folder / "model"), TO, method="yarn", tokens=2 * TO, attention="tail_global", recipe=folder / "recipe.yaml",
            questions=2, held_out=str(folder / "held-out"), lengths=LENGTHS, depths=1, repeats=1, sft=1, pose=0.5,
            lexical_gap=0.5, chats=CHATS, dpo=1, dpo_recipe=folder / "recipe.yaml",
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("run") / "out"
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluation, "REPLY_TOKENS", 8)
    patch.setattr(evaluation, "PERPLEXITY_ROWS", 2)
    few = general_knowledge.questions()[::50]
    patch.setattr(general_knowledge, "questions", lambda: few)
    patch.setattr(running, "PAIR_TOKENS", 1600)
    patch.setattr(Options, "pool_tokens", 2**15)  # a pool of the usual size takes seconds to write
    run = ExtendRun(plan, folder)
    run._begin()
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": "Yes."}] for p in prompts(CHATS, 0)]
    # As if asked already: a model of random weights ends no reply.
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    assert run.run() == folder / SFT / "merged"
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> JsonObject:
    found: JsonObject = json.loads((out / "results.json").read_text())
    return found


def test_the_stage_was_trained_by_its_recipe(out: Path, results: JsonObject) -> None:
    log = (out / STAGE / "train.log").read_text()
    assert "tail-global in training" in log and "rope_type yarn, factor 2" in log
    [stage, sft, skipped] = results["stages"]
    for trained, name, steps in ((stage, STAGE, 4), (sft, SFT, 1)):
        assert trained["name"] == name and trained["steps"] == steps
        assert trained["learning_rate"] == pytest.approx(0.01 / 2**0.5)
    # A model of random weights finds nothing to prefer, and most of its replies do not end.
    assert skipped["skipped"].startswith("no two replies to a prompt made a pair: of 8 replies ")
    assert "truncated" in skipped["skipped"] and skipped["skipped"].endswith(" were dropped")
    rows = [row for shard in shards(out / STAGE / "rows") for row in pq.read_table(shard).to_pylist()]
    reach = sorted((row["length"] > NATIVE, row["position_ids"][-1] - row["length"] >= 0) for row in rows)
    # Conversations, two rows that skip, a long one.
    assert reach == [(False, False), (False, True), (False, True), (True, False)] and stage["rows"] == 3
    merged = AutoModelForCausalLM.from_pretrained(out / STAGE / "merged")
    assert merged.config.max_position_embeddings == TO and merged.config.rope_parameters["factor"] == 2.0


def test_each_model_was_asked_what_its_window_holds(plan: Plan, out: Path, results: JsonObject) -> None:
    asked = {kind: {name: sorted(by) for name, by in found.items()} for kind, found in results["evaluation"].items()}
    every = {"before": ["1600"], **dict.fromkeys(("untrained", STAGE, SFT), ["1600", "3900"])}
    assert asked == dict.fromkeys(("needles", "keys", "links", "lexical_gap"), every)
    for name, answer_format in (("before", "plain"), (STAGE, "tags")):
        records = list(read_jsonl(evaluation.samples_of(out, "links", name)))
        assert {record["task"] for record in records} == {"chain"}
        assert json.loads((out / "evaluation" / "links" / name / "done.json").read_text()) == {
            "lengths": [length for length in LENGTHS if name != "before" or length < NATIVE],
            "answer_format": answer_format,
        }
    assert list(results["general"]) == ["before", "untrained", STAGE, SFT]
    for name, found in results["general"].items():
        rows = list(read_jsonl(evaluation.general_path(out, name)))
        assert found["n"] == len(rows) == 7 and found["right"] == sum(row["right"] for row in rows)
    ends = {name: buckets[-1]["end"] for name, buckets in results["perplexity"].items()}
    assert ends == {"before": NATIVE, "untrained": TO, SFT: TO}


def test_the_untrained_model_has_the_weights_of_the_base_and_the_rope_of_the_trained_one(plan: Plan, out: Path) -> None:
    base, untrained, trained = (
        AutoModelForCausalLM.from_pretrained(folder)
        for folder in (plan.model, out / "untrained", out / STAGE / "merged")
    )
    for ours, theirs in zip(untrained.parameters(), base.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert untrained.config.rope_parameters == trained.config.rope_parameters != base.config.rope_parameters
    assert (out / "untrained" / "model.safetensors").is_symlink()


def test_the_report_shows_the_models_side_by_side(out: Path, results: JsonObject) -> None:
    page = (out / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 5 and "4,096 tokens by yarn" in page
    for shown in ("before", "untrained", STAGE, SFT, "3-dpo-4096: left out, no two replies", "of 7 general questions"):
        assert shown in page
    lines = table(results | {"absent": {"before": {"mean": 0.25, "n": 12}, STAGE: None}}).splitlines()
    assert [line.split() for line in lines if "absent" in line] == [
        "before 75 % of 12 absent needles told to be absent".split()
    ]
    assert {path.name for path in (out / "report").iterdir()} == {
        "report.html", "grid.csv", "needles.png", "keys.png", "links.png", "lexical_gap.png", "perplexity.png",
    }  # fmt: skip


def test_the_same_command_makes_nothing_anew(plan: Plan, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Training", "merge", "export"):
        monkeypatch.setattr(running, name, lambda *args, **named: pytest.fail("it was there"))
    before = (out / "results.json").read_text()
    few = general_knowledge.questions()[::50]
    monkeypatch.setattr(general_knowledge, "questions", lambda: few)
    assert ExtendRun(plan, out).run() == out / SFT / "merged"
    assert (out / "results.json").read_text() == before
    fewer = replace(plan, settings=replace(plan.settings, untrained=False, num_proc=1))
    assert ExtendRun(fewer, out).run() == out / SFT / "merged"
    other = replace(plan, settings=replace(plan.settings, seed=1))
    with pytest.raises(ConfigError, match="holds a run with another seed"):
        ExtendRun(other, out).run()
    with pytest.raises(ConfigError, match="exists and holds something else"):
        ExtendRun(plan, plan.model).run()


@pytest.fixture
def fine_tuning(plan: Plan) -> Plan:
    return make_plan(replace(plan.settings, dpo=0, chats=8))


def test_rows_hold_the_models_own_replies_to_general_questions(
    fine_tuning: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Options, "pool_tokens", 2**15)
    reply = lambda body, _: [choice(f"I say {len(body['messages'][0]['content'])}.")]  # noqa: E731
    with ChatServer(reply, models=("before",)).running() as server:
        # The same server for whatever is served: a model of random weights ends no reply.
        monkeypatch.setattr(served, "background", lambda *_, **__: contextlib.nullcontext(server.url))
        run = ExtendRun(fine_tuning, tmp_path)
        for stage in fine_tuning.stages:
            run._make_rows(stage)
            run._make_rows(stage)  # which asks nothing anew
        assert len(server.requests) == 8
    decode = load_tokenizer(str(fine_tuning.model)).decode
    extension, sft = (
        [(decode(row["input_ids"]), restarts(row["position_ids"])) for row in pq.read_table(shard).to_pylist()]
        for shard in (next((tmp_path / stage.name).rglob("*.parquet")) for stage in fine_tuning.stages)
    )
    assert [("I say " in text, packed) for text, packed in sft] == [(True, True)]
    assert sum("I say " in text for text, _ in extension) == 1 and not any(packed for _, packed in extension)


def test_conversations_that_a_later_stage_cannot_hold_are_refused_before_anything_is_made(
    fine_tuning: Plan, tmp_path: Path
) -> None:
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody. " * 90}]
    (tmp_path / "given.jsonl").write_text(
        json.dumps({"messages": chat}) + "\n"
    )  # a row has room for it, SFT's rows not
    plan = make_plan(replace(fine_tuning.settings, chat_rows=tmp_path / "given.jsonl"))
    with pytest.raises(ConfigError, match=r"no conversation has 512 tokens or fewer: give shorter ones"):
        ExtendRun(plan, tmp_path / "out").run()
    assert not (tmp_path / "out").exists()


def test_where_conversations_are_given_the_number_of_replies_makes_no_other_run(
    fine_tuning: Plan, tmp_path: Path
) -> None:
    (tmp_path / "given.jsonl").write_text("")
    plans = [
        make_plan(replace(fine_tuning.settings, chat_rows=tmp_path / "given.jsonl", chats=number)) for number in (0, 8)
    ]
    assert plans[0] == plans[1] and all(plan.settings.has_chats for plan in plans)
    assert all(plan.row_settings(plan.stages[0]).conversations for plan in plans)


def test_conversations_that_are_given_stand_in_the_place_of_replies(fine_tuning: Plan, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I say nobody."}]
    (tmp_path / "given.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    settings, stage = fine_tuning.settings, fine_tuning.stages[-1]
    ExtendRun(make_plan(replace(settings, chat_rows=tmp_path / "given.jsonl")), tmp_path / "out")._make_rows(stage)
    decode = load_tokenizer(str(fine_tuning.model)).decode
    [shard] = shards(tmp_path / "out" / stage.name / "rows")
    assert all("I say nobody." in decode(row["input_ids"]) for row in pq.read_table(shard).to_pylist())


def test_a_model_that_ends_no_reply_is_not_asked_for_conversations(fine_tuning: Plan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ends hardly any reply to a general question: .* or --chats 0"):
        ExtendRun(fine_tuning, tmp_path)._make_rows(fine_tuning.stages[-1])


# ---- the card ----


def test_what_is_published_is_the_model_with_a_card_made_from_the_run(plan: Plan, out: Path, tmp_path: Path) -> None:
    folder = publish(out, tmp_path / "published", "me/toy-4k", base_model="you/toy", license_name="apache-2.0")
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "you/toy" and card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers" and "longlora" in card.data.tags
    assert "vllm serve me/toy-4k --max-model-len 4096" in card.text
    for said in (
        '"rope_type": "yarn"',
        "from 2,048 to 4,096 tokens",
        "![needles.png](needles.png)",
        "--attention tail_global --ordinary 0.25 --registers 0.125 --lexical-gap 0.5",
        "--pose 0.5 --questions 2 --sft 1 --chats 4 --dpo 1",
        "3 rows, 8,192 tokens at most",
        "50 % of the tokens stand in short rows whose positions skip ahead (PoSE).",
        "50 % of the questions about facts and links describe their person in other words than the text does (lexical gap).",
        STAGE,
    ):
        assert said in card.text, said
    for part in (str(plan.model.parent), str(out), "/tmp"):
        assert part not in (folder / "README.md").read_text() + (folder / "results.json").read_text(), part
    ours, theirs = (AutoModelForCausalLM.from_pretrained(f) for f in (folder, out / SFT / "merged"))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {"needles.png", "keys.png", "links.png", "lexical_gap.png", "perplexity.png", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }


def test_what_cannot_be_published_is_refused_in_one_line(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(publishing.app, ["publish", *arguments])
        assert result.exit_code == 2 and result.output.count("\n") == 1
        return result.output

    assert "is not the folder of a run of longlora extend" in said(str(tmp_path))
    assert "exists: give a new folder" in said(str(out), "--out", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "must be OWNER/NAME" in said(str(out), "--push-to-hub", "name")
    assert "log in with hf auth login" in said(str(out), "--push-to-hub", "me/toy")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        check_hub("me/toy")
    assert not (out / "publish").exists()
    (out / "4-sft-4096").mkdir()
    assert "is not finished" in said(str(out))
    (out / "4-sft-4096").rmdir()
