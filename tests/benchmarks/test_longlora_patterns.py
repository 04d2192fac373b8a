"""The patterns' benchmark at toy size: the plain loop against the plugin's parts, budgets, restarts and the table."""

import json
import math
import shutil
import time

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from benchmarks import longlora_grid, longlora_in_process, longlora_patterns
from benchmarks.longlora_in_process import PATTERNS, Budget, InProcess, Row, rate_share, read_rows
from benchmarks.longlora_patterns import ASKED, Patterns, Results, app, arms, read_prompts, table
from environments.datasets.reader_rows.plan import RowSettings
from environments.haystack.filler import prose
from environments.haystack.tokens import load_full_tokenizer
from longthread.errors import ConfigError
from tests.environments.tiny_model import save_tiny
from trainer_configs.longlora.data.reader_build import Build, build

LENGTH = 1024
torch.set_num_threads(1)  # tiny models are fastest so, beside other work


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model of a window of half a row, rows, and questions in prose and in a held-out text."""
    folder = tmp_path_factory.mktemp("patterns")
    save_tiny(folder / "model", max_position_embeddings=LENGTH // 2)
    settings = RowSettings(4, LENGTH, LENGTH, 0.0, 0.25, 2, ("single", "linked"), ("tags",), "environments")
    build(Build(settings, folder / "rows", str(folder / "model"), num_proc=1))
    (folder / "novels").mkdir()
    passages = prose.passages(5, "eval")
    (folder / "novels" / "a.txt").write_text("\n\n".join(prose.join(next(passages)) for _ in range(40)))
    arguments = ["prompts", str(folder / "prompts.json"), "--model", str(folder / "model"), "--held-out"]
    arguments += [str(folder / "novels"), "--length", str(LENGTH), "--singles", "1", "--links", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder


def test_the_prompts_are_of_one_length_and_come_back_from_their_file(work):
    asked = read_prompts(work / "prompts.json")
    assert [prompt.task for prompt in asked] == ["single"] * 10 + ["chain"] * 2
    assert {len(prompt.ids) for prompt in asked} == {LENGTH}
    assert all(len(prompt.answer.steps) == 1 for prompt in asked if prompt.task == "chain")
    assert {type(prompt.answer.values) for prompt in asked} == {tuple}
    with pytest.raises(ConfigError, match="holds no prompts"):
        read_prompts(work / "model" / "config.json")


def test_a_pass_has_the_loss_and_gradients_of_the_whole_model(work):
    rows = read_rows(work / "rows", "cpu")
    arm = InProcess(work / "model", "full", LENGTH, 1)
    for row in rows[:1]:
        loss = arm._backward(row, full=True)
        ours = [parameter.grad.clone() for parameter in arm.model.parameters() if parameter.grad is not None]
        arm.optimizer.zero_grad(set_to_none=True)
        whole = arm.model(input_ids=row.ids, labels=row.labels, use_cache=False).loss
        whole.backward()
        theirs = [parameter.grad for parameter in arm.model.parameters() if parameter.grad is not None]
        arm.optimizer.zero_grad(set_to_none=True)
        assert torch.allclose(loss, whole, rtol=1e-5)
        assert len(ours) == len(theirs) and all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(ours, theirs, strict=True)
        )


def test_of_a_long_row_of_text_tokens_are_learnt_that_lie_evenly_over_it(work, monkeypatch):
    row = max(read_rows(work / "rows", "cpu"), key=lambda row: len(row.places))
    arm = InProcess(work / "model", "full", LENGTH, 1)
    assert len(row.places) == LENGTH - 1
    monkeypatch.setattr(longlora_in_process, "MOST_LOGITS", 400 * arm.model.config.vocab_size)
    third = row._replace(places=row.places[::3], learnt=row.learnt[:, ::3])
    assert arm._backward(row, full=True) == arm._backward(third, full=True)


def test_the_model_is_extended_trained_in_its_pattern_and_serves_in_its_own_attention(work):
    rows = read_rows(work / "rows", "cpu")
    for method, kinds in {"quarter": (3, 9), "tail_global": (0, 12), "full": (12, 0), "pose": (12, 0)}.items():
        arm = InProcess(work / "model", method, LENGTH, 1)
        assert arm.model.config.rope_parameters["rope_type"] == "yarn"
        trained = arm.train(rows[:1], Budget(steps=12))
        assert tuple(len(trained.step_seconds[kind]) for kind in ("full", "sparse")) == kinds
        assert trained.model.config._attn_implementation == "sdpa" and not trained.model.training
        assert not any("lora" in name or "modules_to_save" in name for name, _ in trained.model.named_parameters())
        assert trained.figures()["steps"] == len(trained.losses) == 12
        assert trained.losses[-1] < trained.losses[0]


def test_a_pattern_is_trained_with_the_extension_behind_its_name(work):
    theta = InProcess(work / "model", "full", LENGTH, 1).model.config.rope_parameters["rope_theta"]
    rope = {
        m: InProcess(work / "model", f"full+{m}", LENGTH, 1).model.config.rope_parameters for m in ("ntk", "linear")
    }
    assert rope["ntk"]["rope_type"] == "default" and rope["ntk"]["rope_theta"] > theta
    assert rope["linear"]["rope_type"] == "linear" and rope["linear"]["rope_theta"] == theta
    plain, sharper = (
        InProcess(work / "model", f"full+{m}", LENGTH, 1).model.base_model.model.model.rotary_emb.attention_scaling
        for m in ("ntk", "ntk_temperature")
    )
    assert plain == 1 and sharper == pytest.approx(math.sqrt(1 + 0.103 * math.log(2)))  # on q and on k
    assert arms(["full", "full+ntk"], [1], ["steps"]) == [("full", "seconds", 1), ("full+ntk", "steps", 1)]


@pytest.mark.parametrize("pattern", ["full", "tail_global"])
def test_what_is_trained_is_what_stands_behind_the_colon(work, pattern):
    rows = read_rows(work / "rows", "cpu")
    base = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
    changed = {}
    for learns in ("", ":lora", ":all"):
        trained = InProcess(work / "model", f"{pattern}{learns}", LENGTH, 1).train(rows[:1], Budget(steps=4))
        pairs = zip(base.named_parameters(), trained.model.parameters(), strict=True)
        changed[learns] = {name for (name, before), after in pairs if not torch.equal(before, after)}
        assert not any("lora" in name for name, _ in trained.model.named_parameters())
    every = {name for name, _ in base.named_parameters()}
    plain = {name for name in every if "norm" in name or "embed" in name}
    head = {"lm_head.weight"}  # not tied here
    assert changed[":all"] == every == changed[""] | head and plain < every
    assert changed[":lora"] == every - plain - head


def test_behind_a_skip_all_of_the_row_is_seen(work):
    """The loss is that of the model whose mask and turned keys are spelt out by hand: nothing is cut at the skip."""
    arm = InProcess(work / "model", "pose", LENGTH, 1)
    ids, positions = read_rows(work / "rows", "cpu")[0].ids[:, :600], torch.arange(600)
    positions[100:] += 300
    short = Row(ids, ids, torch.arange(599), ids[:, 1:], positions[None])
    loss = arm._backward(short, full=True)
    mask = torch.full((600, 600), float("-inf")).triu(1)[None, None]
    whole = arm.model(
        input_ids=ids, labels=ids, position_ids=positions[None], attention_mask=mask, use_cache=False
    ).loss
    assert torch.allclose(loss, whole, rtol=1e-5)


def test_rows_come_with_their_skips_and_the_model_that_is_asked_is_kept(work, tmp_path, monkeypatch):
    settings = RowSettings(
        0, LENGTH, LENGTH, 0.0, 0.0, 2, ("single",), ("tags",), "environments", pose=3, pose_length=512
    )
    build(Build(settings, tmp_path / "short", str(work / "model"), num_proc=1))
    short, rows = read_rows(tmp_path / "short", "cpu"), read_rows(work / "rows", "cpu")
    assert all(len(row.ids[0]) <= 512 < row.reach <= LENGTH and row.positions is not None for row in short)
    assert all(row.positions is None and row.reach == len(row.ids[0]) for row in rows)
    asked = []
    monkeypatch.setattr(longlora_patterns, "evaluate", lambda model, *_: asked.append(model) or [])
    patterns = Patterns(tmp_path, work / "model", rows, [], 0.2, time.perf_counter() + 1e6, short=short, keeps=True)
    assert patterns.measure(arm := ("pose", "seconds", 1))
    kept, base = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (patterns.folder(arm), work / "model")
    )
    assert kept.config.max_position_embeddings == LENGTH and len(
        load_full_tokenizer(str(patterns.folder(arm))).get_vocab()
    )
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), asked[0].parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(kept.parameters(), base.parameters(), strict=True))
    shutil.rmtree(patterns.folder(arm))
    arguments = [
        "run",
        str(tmp_path),
        "--model",
        str(work / "model"),
        "--rows",
        str(work / "rows"),
        "--methods",
        "pose",
    ]
    arguments += [
        "--short-rows",
        str(tmp_path / "short"),
        "--prompts",
        str(work / "prompts.json"),
        "--equal",
        "seconds",
    ]
    result = CliRunner().invoke(app, [*arguments, "--keep"])
    assert result.exit_code == 2 and "pose seconds 1 was measured without keep: give a new folder" in result.output


def test_layers_are_computed_again_in_long_rows_and_the_gradients_stay(work, monkeypatch):
    row = read_rows(work / "rows", "cpu")[0]
    gradients = []
    for kept in (LENGTH, LENGTH - 1):
        monkeypatch.setattr(longlora_in_process, "KEPT_TOKENS", kept)
        for method in ("full", "tail_global"):
            arm = InProcess(work / "model", method, LENGTH, 1)
            assert arm.model.is_gradient_checkpointing == (kept < LENGTH)
            arm._backward(row, full=method == "full")
            gradients.append([p.grad for p in arm.model.parameters() if p.grad is not None])
    for whole, again in zip(gradients[:2], gradients[2:], strict=True):
        assert whole and all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(whole, again, strict=True))


def test_the_rate_rises_and_falls_within_the_budget():
    assert [rate_share(share) for share in (0.025, 0.05, 0.5, 0.8, 0.9)] == pytest.approx([0.5, 1, 1, 1, 0.5])
    assert rate_share(0.0) == rate_share(1.0) == 0.02
    assert Budget(steps=8).share(0.0, 2) == 0.25
    assert Budget(seconds=1e9).share(time.perf_counter(), 5) < 0.01


def test_full_attention_is_trained_once_for_both_budgets_and_a_cut_run_goes_on(work, tmp_path, monkeypatch):
    monkeypatch.setattr(longlora_grid, "REPLY_TOKENS", 2)
    monkeypatch.setattr(longlora_grid, "STEPS_TOKENS", 1)
    before, *wanted = arms(["before", "full", "tail_global"], [3])
    assert before == ("before", "seconds", 3)
    assert wanted == [("full", "seconds", 3), ("tail_global", "seconds", 3), ("tail_global", "steps", 3)]
    rows, asked = read_rows(work / "rows", "cpu"), read_prompts(work / "prompts.json")[-3:]
    patterns = Patterns(tmp_path, work / "model", rows, asked, 0.2, time.perf_counter() + 1e6)
    assert not patterns.measure(wanted[2]), "its steps are not known before those of full attention"
    assert all(patterns.measure(arm) for arm in (before, wanted[0], wanted[2]))
    results = json.loads((tmp_path / "results.json").read_text())
    steps = results["full seconds 3"]["steps"]
    assert steps == results["tail_global steps 3"]["steps"] >= 1
    assert [record["task"] for record in results["full seconds 3"]["records"]] == ["single", "chain", "chain"]
    late = Patterns(tmp_path, work / "model", rows, asked, 0.2, time.perf_counter(), results)
    monkeypatch.setattr(longlora_patterns, "InProcess", lambda *_: pytest.fail("nothing is trained anew"))
    assert [late.measure(arm) for arm in wanted] == [True, False, True]
    lines = table(results, wanted).splitlines()
    assert table(results, [before]).splitlines()[1].split()[3:9] == ["0", "–", "–", "–", "0", "–"]
    assert lines[1].split()[:4] == ["full", "seconds", "3", str(steps)] and lines[2].split()[3:] == ["–"] * 8


def test_several_seeds_are_averaged_with_the_error_over_trainings() -> None:
    def of(seed: int, right: int) -> Results:
        records = [{"task": task, "score": float(i < right)} for task in ASKED for i in range(10)]
        return {f"full seconds {seed}": {"records": records, "steps": 0, "seconds": 0.0, "peak_gib": 0.0}}

    wanted = [("full", "seconds", seed) for seed in (1, 2, 3, 4)]
    results = of(1, 5) | of(2, 7) | of(3, 9)  # the fourth was not reached
    *_, fourth, mean = table(results, wanted).splitlines()
    assert fourth.split()[2:4] == ["4", "–"]
    assert mean.split()[:4] == ["full", "seconds", "3", "seeds"] and mean.split()[-6:] == "70 ± 12 70 ± 12".split()
    assert "seeds" not in table(of(1, 5), wanted)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--methods", "half"], f"methods must be of {', '.join(PATTERNS)}, with +"),
        (["--methods", "full+half"], "(got full+half)"),
        (["--methods", "full:half"], "(got full:half)"),
        (["--methods", "quarter", "--equal", "steps"], "the steps of the others are those of full"),
        (["--methods", "full+longrope"], "longrope"),
        (["--methods", "full,pose"], "pose needs shorter rows: make some with longlora reader-rows --pose"),
        (["--equal", "tokens"], "equal must be one of seconds, steps (got 'tokens')"),
        (["--seeds", "a"], "'a' are not whole numbers with commas"),
        (["--rows", "nowhere"], "nowhere holds no rows"),
        (["--prompts", "nowhere"], "nowhere holds no prompts"),
    ],
    ids=["methods", "rope", "learns", "no full", "longrope", "pose", "equal", "seeds", "rows", "prompts"],
)
def test_what_cannot_be_run_ends_in_one_line(work, tmp_path, change, line):
    arguments = ["run", str(tmp_path), "--model", str(work / "model"), "--rows", str(work / "rows")]
    result = CliRunner().invoke(app, [*arguments, "--prompts", str(work / "prompts.json"), *change])
    assert result.exit_code == 2 and line in result.output and "Traceback" not in result.output
