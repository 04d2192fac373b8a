"""What PEFT and transformers import without need is left out of a process of the command `lift`, and of no other."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lift.library import light_imports
from lift.library.base_model import fingerprint
from lift.library.library import Library
from tests.environments.tiny_model import save_tiny
from tests.lift.compact_shelf import compact_library
from tests.lift.shelf import entry_for, make_adapter

SPARED = (
    *light_imports.UNUSED,
    "torch._dynamo",
    "torch.distributed.tensor",
    "triton",
    "pandas",
    "datasets",
    "matplotlib",
)
PLAIN, QUANTISED = {"model_type": "llama"}, {"quantization_config": {"quant_method": "bitsandbytes"}}


def found() -> bool:
    """Whether the package of these tests can be imported."""
    try:
        importlib.import_module("heavy_package")
    except ModuleNotFoundError:
        return False
    return True


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a package that is installed could be imported, each time that PEFT and transformers were."""
    (tmp_path / "heavy_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "heavy_package", raising=False)
    seen: list[bool] = []
    monkeypatch.setattr(light_imports, "UNUSED", ("heavy_package",))
    monkeypatch.setattr(light_imports, "_import", lambda: seen.append(found()))
    return seen


@pytest.mark.parametrize("config", [PLAIN, QUANTISED, None], ids=["plain", "quantised", "no config"])
@pytest.mark.parametrize("allowed", [True, False], ids=["command", "other process"])
def test_left_out_for_a_plain_model_of_the_command_alone(
    allowed: bool, config: dict | None, seen: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(light_imports, "_allowed", allowed)
    light_imports.import_for(tmp_path)
    assert seen == [not (allowed and config is PLAIN)]
    assert found()  # afterwards it is there for whoever needs it


def test_what_is_imported_already_stays(seen: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PLAIN))
    monkeypatch.setattr(light_imports, "_allowed", True)
    package = importlib.import_module("heavy_package")
    light_imports.import_for(tmp_path)
    assert seen == [True] and sys.modules["heavy_package"] is package


@pytest.mark.parametrize("recipe", ["compact", "raw-lora"])
def test_a_question_is_answered_without_what_few_models_need(tmp_path: Path, recipe: str) -> None:
    base = save_tiny(tmp_path / "base")
    if recipe == "compact":
        compact_library(tmp_path, fingerprint(base), str(base))
    else:
        entry = entry_for(fingerprint(base), "a", base_model=str(base))
        Library(tmp_path / "books").add(make_adapter(tmp_path / "lora", 0), entry)
    program = f"""
import json, sys
sys.argv[1:] = ["ask", "--library", {str(tmp_path / "books")!r}, "--document", "a", "--device", "cpu", "Who?"]
from lift.cli import main
try:
    main()
finally:
    print(json.dumps([name for name in {SPARED} if name in sys.modules]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stderr.splitlines()[-1]) == [], done.stderr
