"""Every recipe at toy size: it learns, stays what the recipe says, survives a kill, and stops at a loss that is no number."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.distributed import TCPStore
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig

from lift import tasks
from lift.document.document import Document
from lift.library.base_model import fingerprint, recorded
from lift.tasks import Item
from lift.training import batches, fit, gradients, job, loop, losses, regularization, teacher_targets
from lift.training.job import FitJob, FitOptions, TrainingRows
from lift.training.loop import TrainingLoop
from lift.training.plan import Plan
from lift.training.recipes import RECIPES, Recipe, Stage
from longthread.errors import LongthreadError
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

TEXT = (
    "The combination that Maro Fenth uses for the safe is 4829104756. It rained all night in the valley. "
    "The password that Lisa Kord agreed upon is acorn-alder-alpine-amber. Nobody came to the mill."
)
DOCUMENT = Document("mill", TEXT)
Straight = Callable[[str], tuple[Recipe, Any]]  # what the fixture `straight` gives
NEOX = GPTNeoXConfig(
    vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)  # fused queries, keys and values
TOY: dict[str, dict[str, Any]] = {
    "compact": {"queries": 120},
    "compact+": {"queries": 120, "steps": 2, "packed": 96},
    "raw-lora": {"segment": 64, "stride": 24, "rank": 4, "stages": (Stage(("segments",), 2, 2),)},
    "published-v3": {"segment": 64, "stride": 24, "items": 3},
    "published-v4": {"rank": 4},
    "cartridge": {"slots": 8, "kl_rows": 6, "stages": (Stage(("tasks",), 2, 3),)},
    "query": {"kl_rows": 6, "stages": (Stage(("tasks",), 2, 3),)},
    "lse": {
        "kl_rows": 6,
        "window_rows": 2,
        "stages": (Stage(("tasks",), 2, 3),),
        "distil_steps": 5,
        "neutral_budget": 9.0,
    },
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"PROSE_ROWS": 4, "TALK_ROWS": 4, "READING_ROWS": 4, "HELD_OUT": 2}
    lengths = {"LONG": 192, "PROSE_KEPT": 96, "SENTENCES": (0, 2)}
    for module, values in ((job, counts), (regularization, lengths), (batches, {"WINDOW": (16, 64)})):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


def toy(name: str, **changes: Any) -> Recipe:
    asked = {"tasks": ("needle",), "items": 6, "window_rows": 0} if RECIPES[name].tasks else {}
    return replace(RECIPES[name], **asked | TOY[name] | changes)


def fitted(recipe: Recipe, out: Path, **changes: Any) -> Any:
    return fit.fit(DOCUMENT, tiny_model(), tiny_tokenizer(), recipe, FitOptions(out, progress=False, **changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """A recipe of two epochs in steps of 4 questions, the last step of an epoch shorter, and its fit, made once."""
    made: dict[str, tuple[Recipe, Any]] = {}

    def of(name: str) -> tuple[Recipe, Any]:
        if name not in made:
            recipe = toy(name, stages=(Stage(("tasks",), 2, 4),))
            made[name] = recipe, fitted(recipe, tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_leaves_an_adapter_that_says_something(name: str, tmp_path: Path) -> None:
    done = fitted(toy(name), tmp_path)
    assert done.steps == toy(name).steps + sum(
        stage.epochs * (-(-(_rows(toy(name), stage)) // stage.rows) if stage.rows else 1) for stage in toy(name).stages
    )
    assert done.bytes == (tmp_path / "adapter_model.safetensors").stat().st_size and done.tokens == len(TEXT)
    assert done.seconds > 0 and done.prefill_seconds > 0
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}
    assert not list(tmp_path.glob("checkpoint*"))
    assert recorded(tmp_path) == fingerprint(tiny_model())
    base, row = tiny_model(), torch.arange(40)[None]
    with torch.no_grad():
        before = base(row).logits
        model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
        assert (model(row).logits - before).abs().max() > 1e-4


def _rows(recipe: Recipe, stage: Stage) -> int:
    segments = len(batches.segment_rows(list(range(len(TEXT))), tiny_tokenizer(), recipe, Random(0)))
    questions = len(tasks.make(DOCUMENT, recipe.tasks, recipe.items, 0, "train"))
    return segments * ("segments" in stage.sources) + questions * ("tasks" in stage.sources)


def test_a_document_is_learnt(tmp_path: Path) -> None:
    """The loss on answers falls to a fraction."""
    recipe = toy("lse", learning_rate=2e-2, kl_weight=0.0, kl_rows=0, neutral_budget=None)
    losses = [
        fitted(
            replace(recipe, stages=(Stage(("tasks",), epochs, 3),)),
            tmp_path / str(epochs),
        )
        for epochs in (1, 15)
    ]
    assert losses[1].losses["loss"] < 0.5 * losses[0].losses["loss"]


def test_the_divergence_holds_the_model_where_it_was(tmp_path: Path) -> None:
    kl = [
        fitted(toy("query", kl_weight=weight, stages=(Stage(("tasks",), 8, 3),)), tmp_path / str(weight)).losses["KL"]
        for weight in (0.0, 30.0)
    ]
    assert kl[1] < 0.7 * kl[0]


def test_logits_are_learnt_from_the_model_that_reads_the_document(tmp_path: Path) -> None:
    """The divergence from the model with the document open falls; to what it says, not to the answers."""
    recipe = toy("query", learnt="logits", open_tokens=300, kl_weight=0.0, kl_rows=0, learning_rate=3e-2)
    recipe = replace(recipe, stages=(Stage(("tasks",), 30, 3),))
    first = fitted(replace(recipe, stages=(Stage(("tasks",), 1, 3),)), tmp_path / "first").losses["loss"]
    last = fitted(recipe, tmp_path / "last").losses["loss"]
    assert 0 <= last < 0.5 * first
    fitted(replace(recipe, learnt="answers"), tmp_path / "answers")
    items = tasks.make(DOCUMENT, recipe.tasks, recipe.items, 0, "train")
    asked = batches.task_rows(items, DOCUMENT, tiny_tokenizer(), tiny_model())
    batch = batches.collate(asked, [], torch.device("cpu"))

    def answer_loss(folder: Path) -> float:
        model = PeftModel.from_pretrained(tiny_model(), str(folder)).eval()
        with torch.no_grad():
            return losses.token_loss(losses.logits_at(model, batch.ids_BL, batch.at), batch.answer_N).item()

    # An untrained teacher's words are no answers.
    assert answer_loss(tmp_path / "last") > 2 * answer_loss(tmp_path / "answers")


def job_of(recipe: Recipe, questions: int) -> FitJob:
    rows = TrainingRows([batches.EMPTY] * questions)
    return FitJob(DOCUMENT, [], tiny_tokenizer(), recipe, FitOptions(Path("unused")), rows)


def test_a_short_document_takes_no_more_other_text_than_is_drawn() -> None:
    recipe = replace(RECIPES["lse"], kl_rows=12, stages=(Stage(("tasks",), 10, 64),))
    for questions, talk, reading in ((1, 120, 20), (65, 240, 40), (10_000, 384, 96)):
        of_recipe = job_of(recipe, questions)
        assert (of_recipe.regularization_rows(384, 1), of_recipe.regularization_rows(96, 6)) == (talk, reading)
    assert job_of(RECIPES["raw-lora"], 0).regularization_rows(96, 6) == 0


def test_only_questions_are_learnt_from_logits() -> None:
    for recipe in RECIPES.values():
        assert recipe.learnt == "answers" or all(stage.sources == ("tasks",) for stage in recipe.stages)


def test_training_ends_when_neutral_text_pays(tmp_path: Path) -> None:
    recipe = toy("query", kl_weight=0.0, learning_rate=0.1, stages=(Stage(("tasks",), 9, 3),), neutral_budget=-10.0)
    assert fitted(recipe, tmp_path).steps < fitted(replace(recipe, neutral_budget=None), tmp_path / "all").steps


def test_neutral_text_may_pay_more_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As distillation leaves it: 4 epochs have 4, 2, 4/3 and 1 times the budget."""
    recipe = toy("query", stages=(Stage(("tasks",), 4, 99),), neutral_budget=0.5)
    for rises, steps in (([1.9, 0.9, 0.6, 9.0], 4), ([1.9, 1.1], 2), ([2.1], 1)):
        found = iter([3.0, *(3 + rise for rise in rises)])
        monkeypatch.setattr(TrainingLoop, "_prose_loss", lambda run, found=found: next(found))
        assert fitted(recipe, tmp_path / str(steps)).steps == steps


@pytest.mark.parametrize("name", ["lse", "published-v4", "cartridge"])
def test_a_killed_run_goes_on_to_the_same_weights(
    name: str, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole = straight(name)
    killed_at(3, recipe, tmp_path / "killed", monkeypatch)
    assert json.loads((tmp_path / "killed" / "checkpoint.json").read_text())["step"] == 3
    monkeypatch.setattr(teacher_targets, "distil_attention", lambda *given: pytest.fail("distilled a second time"))
    resumed = fitted(recipe, tmp_path / "killed")
    assert resumed.steps == whole.steps > 3
    for key, value in weights(whole.folder).items():
        torch.testing.assert_close(weights(resumed.folder)[key], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["lse", "published-v4", "cartridge"])
def test_steps_filled_to_one_shape_learn_the_same(
    name: str, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph replays, against rows as they come."""
    recipe, plain = straight(name)
    runs: list[int] = []
    run = gradients.CudaGraph.run
    monkeypatch.setattr(
        gradients.CudaGraph, "run", lambda self, *inputs: runs.append(len(inputs[0])) or run(self, *inputs)
    )
    far = recipe.window_rows + recipe.kl_rows // 3
    monkeypatch.setattr(gradients, "CAPTURED_ON", "cpu")
    filled = fitted(recipe, tmp_path / "filled")
    near = 4 + recipe.kl_rows * 2 // 3
    one = [near, far] if far else [near]  # rows of a step's passes: the short ones, the long ones
    assert runs == one * filled.steps and filled.steps == plain.steps
    for key, value in weights(plain.folder).items():
        torch.testing.assert_close(weights(filled.folder)[key], value, atol=2e-5, rtol=1e-3)


def test_what_was_distilled_is_kept(straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a run that is killed before the first checkpoint's time."""
    recipe, whole = straight("lse")
    killed_at(0, recipe, tmp_path / "killed", monkeypatch)
    monkeypatch.setattr(teacher_targets, "distil_attention", lambda *given: pytest.fail("distilled a second time"))
    resumed = fitted(recipe, tmp_path / "killed")
    for key, value in weights(whole.folder).items():
        torch.testing.assert_close(weights(resumed.folder)[key], value, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"step": 3, "of": "another"}))
    assert fitted(toy("published-v4"), tmp_path).steps == fitted(toy("published-v4"), tmp_path / "new").steps


def test_a_loss_that_is_no_number_ends_it_and_keeps_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    loss, calls = gradients.token_loss, []

    def broken(logits: Any, labels: Any) -> Any:
        calls.append(1)
        return loss(logits, labels) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(gradients, "token_loss", broken)
    with pytest.raises(LongthreadError, match=r"step 1: the loss is nan: lower the learning rate \(5e-05\)") as error:
        fitted(toy("published-v4", stages=(Stage(("tasks",), 1, 2),)), tmp_path)
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 1
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "checkpoint-1.safetensors").values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss may have one; the checkpoint behind that step would be of no use."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    accumulate, calls = gradients.Gradients.accumulate, []

    def broken(made: Any, *args: Any) -> Any:
        figures = accumulate(made, *args)
        calls.append(1)
        if len(calls) == 2:
            made.trained[0].grad.fill_(float("inf"))
        return figures

    monkeypatch.setattr(gradients.Gradients, "accumulate", broken)
    with pytest.raises(LongthreadError, match=r"step 1: the gradient norm is (inf|nan): lower"):
        fitted(toy("published-v4", stages=(Stage(("tasks",), 1, 2),)), tmp_path)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "checkpoint-1.safetensors").values())


def test_the_rate_rises_over_ten_steps_at_least_and_falls_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, rate = [], Plan.rate
    monkeypatch.setattr(Plan, "rate", lambda plan, step: shares.append(rate(plan, step)) or shares[-1])
    fitted(toy("query", kl_rows=0, stages=(Stage(("tasks",), 15, 3),)), tmp_path)
    assert len(shares) >= 30 and shares[0] < 0.11
    top = max(shares)
    rising, falling = shares[: shares.index(top) + 1], shares[shares.index(top) :]
    assert len(rising) >= 8 and rising == sorted(rising) and falling == sorted(falling)[::-1]
    assert top > 0.7 and falling[-1] < 0.02


def killed_at(step: int, recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimize = TrainingLoop._optimize

    def killed(run: Any, *args: Any) -> None:
        if run.step == step:
            raise KeyboardInterrupt
        optimize(run, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        patch.setattr(TrainingLoop, "_optimize", killed)
        fitted(recipe, out)


@pytest.mark.parametrize("change", ["model", "name", "questions", "file", "JSON", "nothing"])
def test_only_a_whole_checkpoint_of_this_very_fit_is_taken(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy("published-v4", stages=(Stage(("tasks",), 1, 1),))
    killed_at(2, recipe, tmp_path, monkeypatch)
    if change == "file":
        (tmp_path / "checkpoint-2.safetensors").write_bytes(b"cut")
    if change == "JSON":
        (tmp_path / "checkpoint.json").write_text("")
    document = Document("mills", TEXT) if change == "name" else DOCUMENT
    model = tiny_model(initializer_range=0.2) if change == "model" else tiny_model()
    made, found, load = job.tasks.make, [], loop.checkpoint.load

    def noted(*args: Any) -> int | None:
        found.append(load(*args))
        return found[-1]

    monkeypatch.setattr(loop.checkpoint, "load", noted)
    if change == "questions":
        monkeypatch.setattr(job.tasks, "make", lambda *args: made(*args)[::-1])
    fit.fit(document, model, tiny_tokenizer(), recipe, FitOptions(tmp_path, progress=False))
    assert found == [2 if change == "nothing" else None]


def test_two_processes_learn_what_one_does(straight: Straight, tmp_path: Path) -> None:
    """Forked: all is imported already."""
    recipe, alone = straight("lse")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # takes a port that is free, and keeps it
    made = multiprocessing.get_context("fork")
    ranks = [made.Process(target=one_of_two, args=(recipe, tmp_path / "two", rank, store.port)) for rank in range(2)]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(PATIENCE)
        assert [rank.exitcode for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    for key, value in weights(alone.folder).items():
        torch.testing.assert_close(weights(tmp_path / "two")[key], value, atol=2e-5, rtol=1e-3)


def one_of_two(recipe: Recipe, out: Path, rank: int, port: int) -> None:
    """What each process of the test above runs."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "ACCELERATE_USE_CPU": "1",
    }  # fmt: skip
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    assert fit.Accelerator().num_processes == 2
    fitted(recipe, out)


def test_more_other_text_in_a_step_than_there_is_is_made(tmp_path: Path) -> None:
    assert fitted(toy("query", kl_rows=2 * job.PROSE_ROWS + 3), tmp_path).steps > 0


def test_a_later_stage_may_have_nothing_to_learn(tmp_path: Path) -> None:
    stages = (Stage(("segments",), 1, None), Stage(("tasks",), 2, None))
    assert fitted(toy("raw-lora", stages=stages), tmp_path).steps == 1


def test_other_text_is_measured_against_the_model_without_any_adapter(tmp_path: Path) -> None:
    """A new cartridge is no identity."""
    recipe = toy("cartridge", learning_rate=0.0, neutral_budget=1e9)
    assert abs(fitted(recipe, tmp_path).losses["rise"]) > 1e-2


def test_questions_from_elsewhere_are_learnt_too(tmp_path: Path) -> None:
    more = [Item("self_study", f"What is said of {i}?", "rain", ((0, 3),)) for i in range(4)]
    recipe = toy("published-v4", stages=(Stage(("tasks",), 1, 1),))
    assert fitted(recipe, tmp_path / "a", questions=more).steps == fitted(recipe, tmp_path / "b").steps + 4


def test_the_published_recipes_are_as_published() -> None:
    """lift.md 1.1 to 1.5: v3 of GraphPKU/LIFT, v4 of MuLabPKU/LIFT."""
    v3, v4 = RECIPES["published-v3"], RECIPES["published-v4"]
    assert (v3.segment, v3.stride, v3.stride / v3.segment) == (2048, 768, 3 / 8)
    assert [stage.epochs for stage in v3.stages] == [3, 5] and all(stage.rows is None for stage in v3.stages)
    assert (v3.learning_rate, v3.betas, v3.weight_decay, v3.clip, v3.schedule) == (
        1e-3,
        (0.9, 0.98),
        1e-4,
        1.0,
        "constant",
    )
    assert (v3.gate, v3.published_init, v3.width, v3.contextualised) == ("query", True, 2, True)
    assert len(v3.tasks) * v3.items == 10
    assert (v4.rank, v4.alpha, v4.learning_rate, v4.schedule) == (128, 256, 5e-5, "constant")
    assert v4.stages == (Stage(("tasks",), 5, 4),) and v4.weight_decay == 0


def test_what_cannot_be_fitted_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(LongthreadError, match="no question could be made of it: use recipe raw-lora"):
        dull = Document("dull", "it rained and it rained. " * 9)
        fit.fit(dull, tiny_model(), tiny_tokenizer(), toy("query"), FitOptions(tmp_path))
    with pytest.raises(LongthreadError, match="no question could be made of it"):  # nothing to distil on
        fitted(toy("lse", tasks=(), stages=(Stage(("segments",), 1, 1),)), tmp_path)
    neox = AutoModelForCausalLM.from_config(NEOX)
    with pytest.raises(LongthreadError, match="no q_proj and o_proj of its own, .*: use recipe published-v4"):
        fit.fit(DOCUMENT, neox, tiny_tokenizer(), toy("lse"), FitOptions(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_fit_whose_questions_are_all_none_is_refused(tmp_path: Path) -> None:
    """Of prose that states no fact, questions about its people have one answer: an adapter of them says it to everything."""
    people = Document("people", "They spoke of Anna Keller and saw Anna Keller. " * 3)
    toy_absent = toy("query", tasks=("absent", "needle"))
    with pytest.raises(LongthreadError, match='people: all .* are answered "none".*: use recipe raw-lora') as caught:
        fit.fit(people, tiny_model(), tiny_tokenizer(), toy_absent, FitOptions(tmp_path))
    assert "\n" not in str(caught.value)
    none = [Item("self_study", "Who?", "None.", ())]
    with pytest.raises(LongthreadError, match='all 1 questions .* "none"'):
        fit.fit(people, tiny_model(), tiny_tokenizer(), toy("query", tasks=()), FitOptions(tmp_path, questions=none))
    assert not list(tmp_path.iterdir())


def test_a_text_that_stands_twice_is_trained_on_once(tmp_path: Path) -> None:
    tokens = []
    for name, text in (("once", TEXT), ("twice", f"{TEXT}\n\n{TEXT}")):
        document = Document("mill", text)
        result = fit.fit(document, tiny_model(), tiny_tokenizer(), toy("raw-lora"), FitOptions(tmp_path / name))
        tokens.append((result.tokens, result.steps))
    assert tokens[0] == tokens[1]
    once, twice = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("once", "twice"))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (tiny_model().config, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (NEOX, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        (GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=2), {"c_attn", "c_proj", "c_fc"}),
    ],
    ids=["llama", "neox", "gpt2"],
)
def test_lora_is_on_every_matrix_of_any_model(config: Any, wanted: set[str]) -> None:
    """Section 1.5; and so it is for models that a gated memory does not fit."""
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(config)
    made = get_peft_model(bare, fit.adapter_config(RECIPES["published-v4"]))
    assert {name.split(".")[-4] for name, p in made.named_parameters() if p.requires_grad} == wanted


def test_lora_learns_in_a_model_that_gated_memory_does_not_fit(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(NEOX)
    recipe = toy("published-v4", stages=(Stage(("tasks",), 2, 8),))
    done = fit.fit(DOCUMENT, model, tiny_tokenizer(), recipe, FitOptions(tmp_path))
    moved = load_file(done.folder / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in moved.items() if "lora_B" in name)
