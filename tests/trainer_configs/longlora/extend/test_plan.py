"""What a run of extend comes to, and what is refused before any work."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from environments.datasets.reader_rows.plan import CONVERSATION
from environments.datasets.reader_rows.plan import plan as planned_rows
from longthread.errors import ConfigError
from tests.environments.tiny_model import save_tiny
from trainer_configs.longlora.config import section
from trainer_configs.longlora.extend.axolotl_run import StageConfig, drop_cut_checkpoints, pairs_of, rows_of
from trainer_configs.longlora.extend.command import app
from trainer_configs.longlora.extend.plan import (
    DPO_RECIPE,
    RECIPE,
    REPLY_TOKENS,
    ExtendSettings,
    make_plan,
    read_recipe,
)

NATIVE, TO = 2048, 16_384


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), max_position_embeddings=NATIVE)


@pytest.fixture
def settings(model: Path) -> ExtendSettings:
    return ExtendSettings(str(model), TO, tokens=8 * TO)


def test_gradual_stages_double_the_window_and_share_the_tokens_of_one_jump(settings: ExtendSettings) -> None:
    jump, gradual = make_plan(settings), make_plan(replace(settings, gradual=True))
    assert [stage.length for stage in jump.stages] == [TO]
    assert [stage.length for stage in gradual.stages] == [4096, 8192, TO]
    for plan in (jump, gradual):
        trained = sum(stage.rows * stage.length for stage in plan.stages)
        assert settings.tokens - sum(stage.length for stage in plan.stages) < trained <= settings.tokens
        assert [stage.rate for stage in plan.stages] == [1 / math.sqrt(s.length / NATIVE) for s in plan.stages]
    assert gradual.stages[1].name == "2-extend-8192"


def test_short_texts_and_conversations_have_their_share_beside_the_rows_of_each_stage(
    settings: ExtendSettings, tmp_path: Path
) -> None:
    plan = make_plan(replace(settings, gradual=True, tokens=64 * TO, sft=5))
    for stage in plan.stages[:-1]:
        rows = planned_rows(plan.row_settings(stage))
        tokens = stage.rows * stage.length
        assert abs(sum(row.length for row in rows if row.kind != "chat") / tokens - 17 / 16) < 0.02
        assert abs(sum(row.length for row in rows if row.kind == "chat") / tokens - 1 / 32) < CONVERSATION / tokens
        assert all(row.kind in ("text", "chat") for row in rows if row.length < stage.length)
    assert plan.row_settings(plan.stages[-1]).short_texts == plan.row_settings(plan.stages[-1]).conversations == 0
    alone = make_plan(replace(settings, chats=0))
    assert alone.row_settings(alone.stages[0]).conversations == 0
    file = tmp_path / "chats.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}\n')
    given = make_plan(replace(settings, tokens=64 * TO, chats=0, chat_rows=file))
    assert given.row_settings(given.stages[0]).conversations == round(2 * TO / CONVERSATION)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_short_rows_whose_positions_skip_have_their_share_of_the_tokens(settings: ExtendSettings, share: float) -> None:
    plan = make_plan(replace(settings, tokens=64 * TO, pose=share))
    rows = planned_rows(plan.row_settings(plan.stages[0]))
    skipping = [row for row in rows if row.reach]
    assert {(row.length, row.reach) for row in skipping} <= {(NATIVE, TO)}
    assert sum(row.length for row in skipping) == share * 64 * TO
    assert sum(row.length == TO for row in rows) == 64 * (1 - share)
    short = f", {len(skipping)} rows of 2,048 tokens whose positions skip ahead" * bool(share)
    assert plan.said(plan.stages[0]) == f"{64 * (1 - share):.0f} rows{short}"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.49, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_few_rows_are_as_many_tokens_as_asked_whatever_share_of_them_skips(
    settings: ExtendSettings, rows: int, share: float
) -> None:
    plan = make_plan(replace(settings, tokens=rows * TO, pose=share))
    made = plan.row_settings(plan.stages[0])
    assert 0 <= made.count * TO + made.pose * NATIVE - rows * TO <= NATIVE and made.pose
    assert abs(made.pose * NATIVE - share * rows * TO) <= TO / 2 + NATIVE


def test_windows_that_are_no_power_of_two_times_the_own_one_begin_above_it(settings: ExtendSettings) -> None:
    plan = make_plan(replace(settings, to=10_000, gradual=True))
    assert [stage.length for stage in plan.stages] == [2500, 5000, 10_000]


def test_further_stages_come_behind(settings: ExtendSettings) -> None:
    plan = make_plan(replace(settings, sft=5, dpo=7))
    assert [(stage.kind, stage.rows, stage.length) for stage in plan.stages[1:]] == [("sft", 5, TO), ("dpo", 7, TO)]
    rows = plan.row_settings(plan.stages[1])
    assert rows.count == 5 and rows.longest == TO and rows.shortest < TO and "count" in rows.kinds
    assert plan.row_settings(plan.stages[0]).shortest == TO


def test_evaluations_go_up_to_the_window_less_a_reply(settings: ExtendSettings) -> None:
    plan = make_plan(replace(settings, gradual=True))
    assert plan.lengths == tuple(window - REPLY_TOKENS for window in (2048, 4096, 8192, TO))
    for window in (plan.native, *(stage.length for stage in plan.stages)):
        assert window - REPLY_TOKENS in plan.lengths  # the longest that it can be asked: a heatmap's last column
    assert make_plan(replace(settings, lengths=(1500, 3000))).lengths == (1500, 3000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to": NATIVE}, "to 2048 must be more than the model's window of 2048"),
        ({"method": "stretch"}, "method must be one of linear, ntk, "),
        ({"method": "longrope"}, "longrope needs long_factor"),
        ({"method": "dynamic"}, "method dynamic has no fixed window"),
        ({"method": "yarn", "temperature": 0.1}, "method yarn has no option 'temperature'"),
        ({"gradual": True, "temperature": 0.1}, "method ntk would replace the model's own yarn scaling"),
        ({"tokens": 100}, "tokens 100 are less than a row of 16384"),
        ({"attention": "wide"}, "attention must be one of shifted, tail_global, full"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"pose": 1.5}, "pose must be from 0 to 1 (got 1.5)"),
        ({"texts": "nowhere"}, "nowhere is not a folder with .txt files"),
        ({"chat_rows": Path("nowhere")}, "nowhere is not a file: give one of conversations, a row is"),
        ({"held_out": "nowhere"}, "nowhere is not a folder with .txt files"),
        ({"recipe": Path("nowhere.yaml")}, "nowhere.yaml is not a readable YAML file"),
        ({"model": "no/such-model-here"}, "model no/such-model-here is no folder, and cannot be fetched"),
        ({"lengths": (TO,)}, f"lengths must be from 256 to {TO - REPLY_TOKENS}"),
        ({"lengths": (300,)}, "a question over one link at 300 tokens"),
        ({"questions": 0}, "questions must be from 1 to 256"),
        ({"depths": 0}, "depths must be at least 1"),
        ({"dpo": 1, "dpo_recipe": Path("nowhere.yaml")}, "nowhere.yaml is not a readable YAML file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_refused(
    settings: ExtendSettings, change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError) as refusal:
        make_plan(replace(settings, **change))  # type: ignore[arg-type]
    assert message in refusal.value.message and "\n" not in refusal.value.line()


def test_a_model_of_a_tiny_window_is_extended_but_not_by_short_rows(settings: ExtendSettings, tmp_path: Path) -> None:
    small = replace(settings, model=str(save_tiny(tmp_path / "tiny", max_position_embeddings=256)))
    assert make_plan(small).native == 256
    with pytest.raises(ConfigError, match=r"pose needs a model's window of at least 512 \(got 256\): leave it out"):
        make_plan(replace(small, pose=0.5))


def test_a_held_out_text_is_as_long_as_the_window(settings: ExtendSettings, tmp_path: Path) -> None:
    """Perplexity is measured behind the first evaluations, which take minutes: too short a text is refused before."""
    (tmp_path / "short.txt").write_text("a" * (TO - 100))
    with pytest.raises(ConfigError, match="which is less than the window of 16384: give a longer one") as refusal:
        make_plan(replace(settings, held_out=str(tmp_path)))
    assert "(held_out)" in refusal.value.line()
    (tmp_path / "long.txt").write_text("a" * TO)
    assert make_plan(replace(settings, held_out=str(tmp_path))).settings.held_out == str(tmp_path)


def test_the_command_says_it_in_one_line_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    arguments = ["extend", str(tmp_path / "out"), "--model", str(model), "--to"]
    for change, message in ((["100"], "--to"), ([str(TO), "--lengths", "a"], "whole numbers with commas")):
        result = CliRunner().invoke(app, [*arguments, *change])
        assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["extend", "sft", "dpo"])
def test_a_stage_is_its_recipe_with_model_rows_and_rates_changed(tmp_path: Path, kind: str) -> None:
    recipe = read_recipe(DPO_RECIPE if kind == "dpo" else RECIPE, "recipe")
    datasets = pairs_of(tmp_path / "pairs.jsonl") if kind == "dpo" else rows_of(tmp_path / "rows")
    extension = {"method": "ntk", "target_length": TO} if kind == "extend" else None
    changed = {"context_extension": extension} | ({} if kind == "extend" else {"attention": "full"})
    config = StageConfig(tmp_path / "base", tmp_path, datasets, TO, 40, 0.5, None, 3, changed)
    made = yaml.safe_load(config.write(recipe).read_text())
    assert made["learning_rate"] == recipe["learning_rate"] / 2
    assert made["longlora"]["norm_lr"] == recipe["longlora"]["norm_lr"] / 2
    assert made["longlora"].get("context_extension") == extension and "group_size" not in made["longlora"]
    assert made["max_steps"] == (5 if kind == "dpo" else 40) and "num_epochs" not in made
    assert made["auto_resume_from_checkpoints"] and made["save_steps"] == max(1, made["max_steps"] // 4)
    assert made["sequence_len"] == TO and made["seed"] == 3
    kept = {"plugins", "adapter", "lora_r", "lora_target_modules", "optimizer", "attn_implementation", "rl"}
    assert {name: made.get(name) for name in kept} == {name: recipe.get(name) for name in kept}
    assert section(made).attention == ("shifted" if kind == "extend" else "full")
    assert json.dumps(made["datasets"]) == json.dumps(datasets)


def test_a_stage_goes_on_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    """One that a kill cut off would be taken for the last, and the same command could never go on."""
    states = {"checkpoint-50": '{"global_step": 50}', "checkpoint-100": '{"global_', "checkpoint-150": None}
    for name, state in states.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"half")
        if state:
            (tmp_path / name / "trainer_state.json").write_text(state)
    assert drop_cut_checkpoints(tmp_path) == ["checkpoint-100", "checkpoint-150"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-50"]
    assert drop_cut_checkpoints(tmp_path) == drop_cut_checkpoints(tmp_path / "none") == []
