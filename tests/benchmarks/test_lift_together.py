"""Documents fitted before, several at once: every figure is there, and too few are refused."""

import json
from pathlib import Path

import pytest
from peft import get_peft_model
from typer.testing import CliRunner

from benchmarks import lift_together
from benchmarks.lift_together import app
from lift.library.base_model import fingerprint, record
from lift.memory.tuner import GatedMemoryConfig, layers
from tests.environments.tiny_model import save_tiny, tiny_model


def test_documents_on_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lift_together, "NEEDLES", 2)
    base = save_tiny(tmp_path / "base")
    arguments = [str(tmp_path), "--model", str(base), "--tokens", "8192"]
    for seed in (0, 1):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2 and f"{tmp_path} has {seed} documents" in refused.output
        model = get_peft_model(tiny_model(), GatedMemoryConfig())
        for layer in layers(model):
            layer.gm_memory["default"].share.data.fill_(0.5)
        model.save_pretrained(tmp_path / f"8192-lse-{seed}")
        get_peft_model(tiny_model(), GatedMemoryConfig(gate="query")).save_pretrained(tmp_path / f"8192-query-{seed}")
        for method in ("lse", "query"):
            record(tmp_path / f"8192-{method}-{seed}", fingerprint(tiny_model()))
    one = CliRunner().invoke(app, [*arguments, "--method", "query"])
    assert one.exit_code == 2 and one.output.startswith("error: 2 documents at once") and one.output.count("\n") == 1
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "together-8192-lse.json").read_text())
    assert found["documents"] == ["chronicle-8192-0", "chronicle-8192-1"]
    assert all([asked for _, asked in found[how]] == [2, 2] for how in ("alone", "all", "another's"))
    assert found["switch_ms"] > 0 and found["load_ms"] > 0
    assert "chronicle-8192-1" in done.output


def test_fits_to_another_base_model_are_refused(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--model", str(save_tiny(tmp_path / "base")), "--tokens", "8192"]
    for seed in (0, 1):
        get_peft_model(tiny_model(), GatedMemoryConfig()).save_pretrained(tmp_path / f"8192-lse-{seed}")
    silent = CliRunner().invoke(app, arguments)
    assert silent.exit_code == 2 and "8192-lse-0 does not state the base model that it was fitted to" in silent.output
    for seed in (0, 1):
        record(tmp_path / f"8192-lse-{seed}", "0" * 64)
    other = CliRunner().invoke(app, arguments)
    assert (
        other.exit_code == 2
        and "was fitted to another base model (000000000000)" in other.output
        and other.output.count("\n") == 1
    )
