"""The benchmark at toy size: every side trains the same model, and its shortcuts change no loss and no gradient."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks import longlora_attention as attention
from benchmarks import longlora_model as models
from benchmarks import longlora_step as step
from benchmarks.gpu_timing import Machine
from benchmarks.longlora_model import EAGER, Shape, build, checkpointing, usual_loss
from trainer_configs.longlora.attention.shifted_sparse import reference
from trainer_configs.longlora.attention.transformers_hook import install

LENGTH = 64
TOY = {
    "tied": Shape("qwen2", 48, 80, 3, 3, 1, 97, True),
    "untied": Shape("llama", 64, 96, 3, 4, 2, 97, False),
}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(models, "SHAPES", TOY)
    yield


@pytest.fixture(params=TOY)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = build(TOY[request.param], LENGTH, "cpu", torch.float64)
    for name, weight in made.named_parameters():
        if name.endswith(".b"):  # at zero, LoRA's other half has no gradient
            torch.nn.init.normal_(weight)
    return made.double()


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad]))


# ---- the model ----


def test_shortcuts_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept, fused or computed in chunks: the same loss and gradients."""
    ids = torch.randint(97, (1, LENGTH))
    sparse = install(model, LENGTH // 4)
    plain = usual_loss(model, ids)
    assert plain[1] == "default"
    expected = [plain[0], *gradients(model, plain[0])]
    assert sum(grad.abs().sum() > 0 for grad in expected[1:]) == len(expected) - 1
    monkeypatch.setattr(models, "LOGITS_FIT", 0)
    monkeypatch.setattr(models, "LOSS_CHUNK", 24)
    models.use(model, models.Kernels("other", models.norm, models.swiglu, models.rotary, usual_loss))
    for options in ({}, {"attention": True}, {"attention": True, "wide_layers": 2}):
        checkpointing(model, **options)
        loss, what = usual_loss(model, ids)
        assert what == "chunked"
        for mine, theirs in zip([loss, *gradients(model, loss)], expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, check_dtype=False)  # fp32 logits
    models.use(model, EAGER)
    sparse.uninstall()


def test_what_is_kept_is_not_computed_again(model: Any) -> None:
    ids, calls = torch.randint(97, (1, LENGTH)), []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            wide = op is torch.ops.aten.mm.default and args[1].shape[-1] == model.config.intermediate_size
            calls.append("attention" if op in models.ATTENTION_OPS else "wide" if wide else "")
            return op(*args, **(kwargs or {}))

    counts = []
    for options in ({}, {"attention": True}, {"attention": True, "wide_layers": 2}):
        checkpointing(model, **options)
        calls.clear()
        with Count():
            loss = usual_loss(model, ids)[0]
            gradients(model, loss)
        counts.append((calls.count("attention"), calls.count("wide")))
    (attention, wide), kept, filled = counts
    assert attention == 6 and kept == (3, wide) and filled == (3, wide - 4)  # 3 layers; 2 products in 2 of them


def test_lora_is_two_thin_products_beside_the_frozen_one(model: Any) -> None:
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 5, layer.weight.shape[1], dtype=torch.float64, requires_grad=True)
    plain = F.linear(x, layer.weight, layer.bias) + 2 * F.linear(F.linear(x, layer.a), layer.b)
    for mine, theirs in zip(
        *(torch.autograd.grad(out.sin().sum(), (x, layer.a, layer.b)) for out in (layer(x), plain)), strict=True
    ):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)  # LoRA's own gradients are fp32
    torch.testing.assert_close(layer(x), plain)


def test_masters_are_fp32_and_the_base_is_frozen() -> None:
    model = build(TOY["tied"], LENGTH, "cpu", torch.bfloat16)
    trainable = {name: weight.dtype for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(trainable.values()) == {torch.float32}
    assert len(trainable) == 1 + 2 * 3 + 1 + 2 * 4 * 3  # embedding (the head is it), norms, LoRA pairs
    assert model(input_ids=torch.randint(97, (1, LENGTH))).logits.dtype == torch.bfloat16


def test_plain_s2_is_the_reference_but_for_the_wrapped_group() -> None:
    q, k, v = (torch.randn(1, n, 32, 8) for n in (4, 2, 2))
    ours, plain = reference(q, k, v, torch.arange(32)[None], 8), attention.plain_s2(q, k, v, 8)
    torch.testing.assert_close(plain[:, :2], ours[:, :2])
    torch.testing.assert_close(plain[:, 2:, 4:], ours[:, 2:, 4:])
    assert not torch.allclose(plain[:, 2:, :4], ours[:, 2:, :4])  # these see the end of the sequence


# ---- the command ----


def test_command_writes_a_row_for_every_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = step.typer.Typer()
    app.command()(step.main)
    options = ["--shapes", "tied,untied", "--lengths", "64", "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row for row in rows if "error" in row] == []
    assert [row["side"] for row in rows if row["part"] == "a"] == 2 * attention.ATTENTION
    steps = [row for row in rows if row["part"] == "b"]
    assert {row["side"] for row in steps} == set(step.STEPS) and all(row["s"] > 0 for row in steps)
    assert {row["loss"] for row in steps} == {"default"}  # Liger's needs a GPU


def test_a_row_that_fails_does_not_cost_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attention, "full_attention", full)
    machine = Machine("cpu", torch.float32)
    rows = list(attention.attention_rows(["untied"], [LENGTH], machine))
    assert [row.get("error") for row in rows] == ["out of memory", "out of memory", None, None]
    late = list(step.step_rows(["untied"], [LENGTH], "off", machine, deadline=0.0))
    assert [row["error"] for row in late] == ["no time left"]


@pytest.mark.parametrize("option", [["--part", "c"], ["--shapes", "gpt-5"], ["--lengths", "12"], ["--fused", "yes"]])
def test_command_refuses(option: list[str]) -> None:
    app = step.typer.Typer()
    app.command()(step.main)
    assert CliRunner().invoke(app, option).exit_code == 2
