"""RULER by its own names: what each of them builds, what a user's settings change, and that runs and reports use them."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import yaml

from environments import presets
from environments.config import HaystackEnvConfig
from environments.config_checks import check
from environments.haystack.sample import Options
from environments.haystack.tasks import TASKS
from environments.needle_env import NeedleEnv
from environments.rollouts.requests import evaluation_requests
from environments.rollouts.scoring import score
from environments.tasksets.core import TasksetConfig
from longthread.errors import ConfigError
from tests.conftest import make_haystacks
from tests.environments.loopback import command, make_env, rows_of, run_cli, said

RULER = list(presets.RULER.variants)


def test_names_are_rulers_and_none_is_ours() -> None:
    assert len(RULER) == 11 and not set(RULER) & set(TASKS)
    assert all(presets.task_of(name) is TASKS[variant.task] for name, variant in presets.VARIANTS.items())
    assert all(set(variant.options) <= set(asdict(Options())) for variant in presets.VARIANTS.values())


@pytest.mark.parametrize("name", RULER)
def test_every_name_builds_what_it_says(name: str) -> None:
    base = make_haystacks("gpt2", may_abstain=False)
    sample = presets.haystacks_of(base, name, ()).sample(3, "train", presets.task_of(name).name, 4096)
    wanted = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}
    assert sample.length == 4096 and len(sample.answer.values) == wanted.get(name, 1)
    kinds = {"vt": "variables", "cwe": "pairs", "fwe": "codes", "niah_single_3": "uuids", "niah_multikey_3": "uuids"}
    assert sample.answer.value_kind == kinds.get(name, "numbers")
    assert sample.profile["distractors"] == (3 if name == "niah_multikey_1" else 0)
    text = sample.messages[0]["content"]
    filler = presets.RULER.variants[name].filler
    assert (text.count("It is quiet.") > 20) == (filler == "noise")
    if filler == "facts":  # the fact asked for is one among many that are worded as it is
        assert text.count("combination") + text.count("registration") > 30


def test_settings_that_are_given_win() -> None:
    base = make_haystacks("gpt2")

    def options_of(name: str, **given: Any) -> Options:
        return presets.haystacks_of(base.variant(replace(base.options, **given)), name, given).options

    options = options_of("niah_multivalue", values=7)
    assert (options.values, options.value_kind, options.distractors) == (7, "numbers", 0)
    assert options_of("niah_multikey_2", filler="prose").filler == "facts"
    assert options_of("niah_single_2", filler="noise").filler == "noise"


def test_a_preset_sets_what_is_not_given() -> None:
    config = HaystackEnvConfig(preset="ruler", tokenizer_name="x")
    grid = check(config, [])
    assert grid.tasks == RULER and grid.lengths == [4096 * 2**i for i in range(6)] and config.absent_share == 0
    given = HaystackEnvConfig(preset="ruler", tasks="vt", lengths="512", absent_share=0.2, tokenizer_name="x")
    assert (given.tasks, given.lengths, given.absent_share) == ("vt", "512", 0.2)


@pytest.mark.parametrize(("name", "prompts"), [("passkey", 340), ("niah", 88)])
def test_a_preset_of_one_task_asks_for_its_lengths_and_depths(name: str, prompts: int) -> None:
    config = HaystackEnvConfig(preset=name, tokenizer_name="x")
    requests = evaluation_requests(config, check(config, []))
    task = {"passkey": "passkey", "niah": "single"}[name]
    assert len(requests) == prompts and {r.task for r in requests} == {task} and config.absent_share == 0
    assert {r.depth for r in requests} >= {0, 1} and min(r.length for r in requests) == 1024
    given = HaystackEnvConfig(preset=name, depths="0.5,", lengths="512", tokenizer_name="x")
    assert len(evaluation_requests(given, check(given, []))) == 1
    assert TasksetConfig(preset=name, tokenizer="x").tasks == task  # which has no depths: it takes the rest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [1024, 5000])
def test_a_pass_key_stands_once_in_noise_exact_to_the_token_and_is_scored_whole(length: int, seed: int) -> None:
    haystacks = make_haystacks("gpt2", may_abstain=False, filler="prose")
    sample = haystacks.sample(seed, "eval", "passkey", length, depths=[0.5])
    rendered = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
    (needle,), (key,), text = sample.needles, sample.answer.values, sample.messages[0]["content"]
    assert len(rendered) == length and text.count(key) == 2 and needle.text.count(key) == 2
    assert haystacks.tokens.tokenizer.decode(rendered[needle.token_start : needle.token_end]).strip() == needle.text
    assert needle.depth == pytest.approx(0.5, abs=40 / length) and text.count("It is quiet.") > 3
    assert score(f"<answer>{key}</answer>", sample.answer).score == 1
    for reply in (key[:-1], key[1:], f"{key}0", f"{key}; {int(key) ^ 1}", "none"):
        assert score(f"<answer>{reply}</answer>", sample.answer).score < 1
    assert score(f"The pass key is {key}.", sample.answer, "plain").score == 1
    assert sample != haystacks.sample(seed, "train", "passkey", length, depths=[0.5])


def test_a_pass_key_has_no_lexical_gap() -> None:
    with pytest.raises(ConfigError, match="task passkey has no lexical gap"):
        make_haystacks("gpt2", lexical_gap=True).sample(0, "train", "passkey", 1024)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"preset": "rulers"}, "preset must be one of ruler, passkey, niah"),
        ({"tasks": "vt", "curriculum": True}, "no ladder for vt"),
    ],
)
def test_refused_in_one_line(settings: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        check(HaystackEnvConfig(tokenizer_name="x", **settings), [])
    assert "\n" not in str(error.value)


def test_a_task_of_the_whole_text_is_asked_as_often_as_others_and_at_no_depth() -> None:
    config = HaystackEnvConfig(tasks="vt,cwe,aggregation", lengths="4096", depths="3", repeats=2, tokenizer_name="x")
    requests = evaluation_requests(config, check(config, []))
    asked = {task: [r for r in requests if r.task == task] for task in ("vt", "cwe", "aggregation")}
    assert {len(each) for each in asked.values()} == {6}
    assert {r.depth for r in asked["vt"]} == {0, 0.5, 1} and {r.depth for r in asked["cwe"]} == {None}
    assert len({r.key for r in requests}) == len(requests)
    assert any(r.task == "absent_aggregation" for r in requests)


@pytest.mark.usefixtures("clean")
def test_evaluate_and_process_bear_rulers_names(server, tokenizer) -> None:
    server.reply = said("<answer>none</answer>")
    shorter = {"env_preset": "ruler", "env_lengths": "6000", "env_depths": "0.5,", "env_repeats": 1}
    chosen = {"env_tasks": "niah_multivalue,vt,fwe", "env_values": 2, "env_group_size": 2}
    args = command("evaluate", tokenizer, server.url, **shorter, **chosen, env_data_dir_to_save_evals="out")
    assert run_cli(args) == 0
    records = {record["task"]: record for record in rows_of(_path("out/samples.jsonl"))}
    assert set(records) == set(chosen["env_tasks"].split(","))
    assert records["vt"]["recipe"]["task"] == "variable_tracking" and records["niah_multivalue"]["wanted"] == 2
    results = json.loads(_path("out/metrics.json").read_text())["results"]["all"]
    assert results["eval/score_by_task/fwe"] == 0.02 and "niah_multivalue" in _path("out/report.html").read_text()
    written = yaml.safe_load(_path("out/evaluate_config.yaml").read_text())["env"]
    assert written["values"] == 2 and "distractors" not in written  # or it would win over RULER's
    args = command("process", tokenizer, server.url, **shorter, **chosen, env_data_path_to_save_groups="rows.jsonl")
    assert run_cli(args) == 0
    assert sorted(row["task"] for row in rows_of(_path("rows.jsonl"))) == ["fwe", "niah_multivalue", "vt"]
    assert "niah_multivalue" in _path("rows.html").read_text()


def _path(name: str):  # noqa: ANN202
    from pathlib import Path

    return Path(name)


def test_runs_of_other_options_have_other_names(server, tokenizer) -> None:
    def name(**settings) -> str:
        return make_env(
            tokenizer, server.url, NeedleEnv, tasks="niah_multivalue", absent_share=0.0, **settings
        ).run_digest()

    assert name() != name(values=2)
