"""Recipe `compact+` at toy size: what it learns, a killed fit, and what it refuses."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lift.document.document import Document
from lift.memory.tuner import layers
from lift.training import calibration, checkpoint, closed_form, refinement
from lift.training.recipes import RECIPES, Recipe
from longthread.errors import ConfigError, RunError
from tests.lift.training.test_compaction import DOCUMENT, SHORT, fitted, loaded


@pytest.fixture(scope="module", autouse=True)
def little_other_text() -> Iterator[None]:
    """A toy's tokens are bytes: its rows of prose would be most of a step, and what the switch is set on most of a fit.

    The same model's replies are made once: that they are the same each time is `test_regularization`'s.
    """
    make, made = refinement.Refinement._other_text, dict[int, Any]()

    def once(self: Any) -> Any:
        if self.tokens not in made:
            made[self.tokens] = make(self)
        return made[self.tokens]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "TALK_ROWS", 3)
        patch.setattr(refinement, "LONG", 400)
        patch.setattr(refinement.Refinement, "_other_text", once)
        patch.setattr(calibration, "OWN", 8)
        patch.setattr(calibration, "OTHER", 40)
        yield


def toy(**changes: Any) -> Recipe:
    small = {"queries": 100, "items": 4, "share": 0.3, "tasks": ("needle", "absent"), "packed": 256, "steps": 6}
    return replace(RECIPES["compact+"], **small | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, little_other_text: None) -> Any:
    """The fit of the short text without a step."""
    return fitted(tmp_path_factory.mktemp("plain"), SHORT, toy(steps=0))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The losses of all steps."""
    taken: list[tuple[float, float]] = []
    run = refinement.CudaGraph.run

    def counted(self: Any, *inputs: torch.Tensor) -> torch.Tensor:
        figures = run(self, *inputs)
        taken.append((figures[0].item(), figures[1].item()))
        return figures

    monkeypatch.setattr(refinement.CudaGraph, "run", counted)
    return taken


def test_steps_teach_the_answers_and_leave_a_compact_memory(tmp_path: Path, plain: Any, steps: list[Any]) -> None:
    done = fitted(tmp_path / "plus", SHORT, toy(steps=12, learning_rate=0.1))
    assert done.steps == len(steps) == 12 and done.losses == {"loss": steps[-1][0], "KL": steps[-1][1]}
    assert min(loss for loss, _ in steps[-3:]) < steps[0][0] - 0.5, steps
    one, other = weights(done.folder), weights(plain.folder)
    assert {name: (x.shape, x.dtype) for name, x in one.items()} == {
        name: (x.shape, x.dtype) for name, x in other.items()
    }
    assert all(not torch.equal(one[name], other[name]) for name in one)
    assert all(type(layer.gm_memory["default"]).__name__ == "CompactMemory" for layer in layers(loaded(done.folder)))
    assert plain.steps == 0 and not list(done.folder.glob("checkpoint*"))


def test_frozen_keys_stay(tmp_path: Path, plain: Any) -> None:
    one = weights(fitted(tmp_path / "plus", SHORT, toy(steps=1, key_rate=0.0)).folder)
    other = weights(plain.folder)
    assert all(torch.equal(one[name], other[name]) == name.endswith("keys") for name in one)


def test_the_divergence_is_held_down(tmp_path: Path, steps: list[Any]) -> None:
    fitted(tmp_path / "held", SHORT, toy(learning_rate=0.1, kl_weight=10.0))
    held, steps[:] = list(steps), []
    fitted(tmp_path / "free", SHORT, toy(learning_rate=0.1, kl_weight=0.0))
    assert held[0] == steps[0] and held[-1][1] < steps[-1][1] and held[-1][0] > steps[-1][0]


@pytest.mark.parametrize("segment", [36_864, 200], ids=["one segment", "several"])
def test_a_killed_fit_goes_on_behind_its_last_step(
    tmp_path: Path, segment: int, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    monkeypatch.setattr(refinement, "CHECKPOINT_SECONDS", -1)  # after every step
    recipe = toy(segment=segment, steps=3)
    save, saved = checkpoint.save, []
    solve, solved = closed_form.compact, []

    def killed(*given: Any) -> None:
        save(*given)
        saved.append(given)
        if len(saved) == 2:
            raise KeyboardInterrupt

    def counted(*given: Any) -> Any:
        solved.append(given)
        return solve(*given)

    monkeypatch.setattr(closed_form, "compact", counted)
    straight = fitted(tmp_path / "straight", DOCUMENT, recipe)
    (expected, steps[:]), (segments, solved[:]) = (list(steps), []), (len(solved), [])
    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "killed", DOCUMENT, recipe)
    assert len(steps) == 2
    resumed = fitted(tmp_path / "killed", DOCUMENT, recipe)
    assert steps == expected and len(solved) == segments and resumed.steps >= recipe.steps
    one, other = weights(straight.folder), weights(resumed.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "killed").glob("checkpoint*"))


def test_each_segment_is_trained_on_its_own_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[tuple[int, ...]]] = []
    run: Callable[..., None] = refinement.Refinement.run

    def kept(self: Any, rows: Any, digest: str) -> None:
        asked.append({tuple(row.ids) for row in rows})
        run(self, rows, digest)

    monkeypatch.setattr(refinement.Refinement, "run", kept)
    done = fitted(tmp_path, DOCUMENT, toy(segment=200, steps=1, tasks=("needle",)))
    assert done.steps == len(asked) > 1
    assert len(set.union(*asked)) > max(map(len, asked)), "all segments have the same questions"


@pytest.mark.parametrize(("steps_taken", "what"), [(1, "memory"), (3, "loss")])
def test_what_is_not_finite_ends_the_fit_in_one_line(tmp_path: Path, steps_taken: int, what: str) -> None:
    with pytest.raises(RunError, match=f"step 1 .*: the {what} is not finite: lower the learning rate") as caught:
        fitted(tmp_path, SHORT, toy(learning_rate=float("inf"), steps=steps_taken))
    assert "\n" not in str(caught.value) and not (tmp_path / "adapter_model.safetensors").exists()


def test_a_text_without_questions_is_refused(tmp_path: Path) -> None:
    dull = Document("dull", "it rained and it rained and nobody came. " * 6)
    with pytest.raises(ConfigError, match="dull: no question could be made of it: use recipe compact, or self-study"):
        fitted(tmp_path / "out", dull, toy(tasks=("needle",)))
    assert not (tmp_path / "out").exists()
