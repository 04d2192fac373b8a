"""Seconds of fits: each is in the file, the first is left out of the medians, and what cannot be is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.lift_speed import app, summary
from lift.document.document import Document
from lift.tasks import synthetic_document
from lift.training import calibration, closed_form
from lift.training.recipes import RECIPES
from tests.environments.tiny_model import save_tiny
from tests.lift.toy_texts import MILL, toy


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def generated(tokenizer: Any, tokens: int, seed: int) -> tuple[Document, list[Any]]:
        return MILL, []

    monkeypatch.setattr(synthetic_document, "generate", generated)
    monkeypatch.setitem(RECIPES, "compact", toy(queries=40, segment=2048))
    for module, name, value in (
        (closed_form, "LEAST_QUERIES", 60), (calibration, "OTHER", 48), (calibration, "OWN", 6),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    return save_tiny(tmp_path / "base", max_position_embeddings=4096)


def test_every_fit_is_in_the_file_and_the_table(base: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out"), "--model", str(base), "--tokens", "500", "--times", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    fits = json.loads((tmp_path / "out" / "speed.json").read_text())["fits"]
    assert [(one["method"], one["asked"]) for one in fits] == [("compact", 500)] * 2
    assert len({one["tokens"] for one in fits}) == 1 and all(one["fit"] > 0 < one["prefill"] for one in fits)
    assert "compact" in done.output and "prefills" in done.output


def test_the_first_fit_counts_only_where_it_is_alone() -> None:
    fits = [{"fit": 9.0, "prefill": 0.5}, {"fit": 2.0, "prefill": 0.1}, {"fit": 4.0, "prefill": 0.2}]
    assert summary(fits) == {"fit": 3.0, "prefill": pytest.approx(0.15), "prefills": pytest.approx(20), "fits": 2}
    assert summary(fits[:1]) == {"fit": 9.0, "prefill": 0.5, "prefills": 18.0, "fits": 1}


@pytest.mark.parametrize(("option", "named"), [(("--methods", "fast"), "methods"), (("--tokens", "many"), "tokens")])
def test_what_is_unknown_is_refused(base: Path, tmp_path: Path, option: tuple[str, str], named: str) -> None:
    done = CliRunner().invoke(app, [str(tmp_path / "out"), "--model", str(base), *option])
    assert done.exit_code == 2 and not (tmp_path / "out").exists()
