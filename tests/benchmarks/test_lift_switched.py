"""Documents behind the switch: each is fitted once, every figure is there, and a closed switch is the base model."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import lift_switched
from benchmarks.lift_switched import app
from lift import tasks
from lift.document.document import Document
from lift.inference import together
from lift.inference.switch import Switch
from lift.library.base_model import fingerprint, record, recorded
from lift.tasks import synthetic_document
from lift.training import calibration, closed_form
from tests.environments.tiny_model import save_tiny
from tests.lift.toy_texts import OTHERS, PEOPLE, text_of, toy


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of six facts, few questions, and a recipe of few queries."""

    def generated(tokenizer: Any, tokens: int, seed: int) -> tuple[Document, list[Any]]:
        return Document(f"chronicle-{tokens}-{seed}", text_of((PEOPLE, OTHERS)[seed % 2], 4829104756 + 77 * seed)), []

    monkeypatch.setattr(synthetic_document, "generate", generated)
    monkeypatch.setattr(synthetic_document, "unrelated", lambda: [tasks.Item("unrelated", "What is 2 + 2?", "4", ())])
    monkeypatch.setitem(lift_switched.RECIPES, "compact", toy(queries=40, segment=2048))
    for module, name, value in (
        (lift_switched, "NEEDLES", 2), (lift_switched, "OTHERS", 1), (lift_switched, "REPLY", 4),
        (closed_form, "LEAST_QUERIES", 60), (calibration, "OTHER", 48), (calibration, "OWN", 6),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def threshold(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Let every switch open above this score."""
    load = Switch.load
    monkeypatch.setattr(
        together.Switch,
        "load",
        lambda folder: load(folder).model_copy(update={"threshold": value}),  # type: ignore[union-attr]
    )


def run(out: Path, base: Path, *more: str) -> str:
    done = CliRunner().invoke(app, [str(out), "--model", str(base), "--tokens", "512", *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_every_figure_is_there_and_nothing_is_fitted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_tiny(tmp_path / "base")
    assert "512" in run(tmp_path, base, "--seconds", "0", "--documents", "2") and not [*tmp_path.glob("switched-*")]
    threshold(monkeypatch, -1e6)  # whatever is asked, all would open
    output = run(tmp_path, base, "--documents", "2,3", "--open", "2")
    assert sorted(path.name for path in tmp_path.glob("512-compact-*")) == [f"512-compact-{seed}" for seed in range(3)]
    found = json.loads((tmp_path / "switched-512-compact-3.json").read_text())
    assert found["documents"] == [f"chronicle-512-{seed}" for seed in range(3)] and found["open"] == 2
    assert all([asked for _, asked in found[how]] == [2] * 3 for how in ("alone", "switched", "own open"))
    assert found["closed"] == [0, 2] and found["base"] == [0, 0]
    two = json.loads((tmp_path / "switched-512-compact-2.json").read_text())
    assert two["own open"] == [[2, 2], [2, 2]]  # both are
    assert "documents" in output and "switched" in output

    monkeypatch.setattr(lift_switched, "fit_one", lambda *_: pytest.fail("fitted again"))
    threshold(monkeypatch, 1e6)
    run(tmp_path, base, "--documents", "2")
    shut = json.loads((tmp_path / "switched-512-compact-2.json").read_text())
    assert shut["closed"] == [2, 2] and shut["base"] == [1, 1]  # bit for bit
    assert shut["own open"] == [[0, 2], [0, 2]] and shut["alone"] == two["alone"]


def test_fits_to_another_model_are_left_alone_and_made_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_tiny(tmp_path / "base")
    run(tmp_path, base, "--documents", "2")
    of_model = fingerprint(base)
    first, second = (tmp_path / f"512-compact-{seed}" for seed in range(2))
    assert recorded(first) == recorded(second) == of_model
    record(first, "f" * 64)
    second.rename(tmp_path / "512-compact@reader-1")
    (tmp_path / "512-compact+-1").mkdir()
    kept = (first / "adapter_model.safetensors").stat().st_mtime_ns
    run(tmp_path, base, "--documents", "2")
    beside = tmp_path / f"512-compact@{of_model[:12]}-0"
    fits = {path.name for path in tmp_path.glob("512-compact*")}
    assert fits == {first.name, beside.name, "512-compact@reader-1", "512-compact+-1"}
    assert recorded(beside) == of_model and (first / "adapter_model.safetensors").stat().st_mtime_ns == kept
    monkeypatch.setattr(lift_switched, "fit_one", lambda *_: pytest.fail("fitted again"))
    run(tmp_path, base, "--documents", "2")
    (first / "base.json").unlink()  # fitted before it was stated
    run(tmp_path, base, "--documents", "2")


def test_a_method_without_a_switch_is_refused(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, [str(tmp_path), "--model", str(save_tiny(tmp_path / "base")), "--method", "lse"])
    assert refused.exit_code == 2 and refused.output.startswith("error: method must be one of compact, compact+")
