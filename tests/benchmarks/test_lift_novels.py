"""The benchmark of one very long text: what stands where in it, that processes share a fit, and every figure is there."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import lift_novels
from benchmarks.lift_novel_text import READ, PlantedText, depths, planted_text
from benchmarks.lift_novels import Cell, app, session_of
from benchmarks.segment_fits import LongFit, fit_segment, segments_of
from lift.training import calibration, closed_form, compaction
from lift.training.fit import FitOptions, fit
from longthread.errors import LongthreadError
from tests.conftest import build_tokenizer
from tests.environments.tiny_model import save_tiny, tiny_tokenizer
from tests.lift.toy_texts import toy

NOVEL = """The river was wide there, and the ferryman slept in his boat until somebody rang the bell. It was a small bell,
which hung from a willow. Nobody had rung it for two days.

On the third day a woman came down the road with a goose under her arm. She did not ring. She sat down upon the bank and
looked at the water for so long that the goose fell asleep. Then the ferryman woke, and they spoke of the weather.
"""
ANIMALS = ("duck", "hen", "lamb", "piglet", "kid", "puppy", "kitten", "parrot", "hedgehog", "tortoise")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(lift_novels.RECIPES, "compact", toy(queries=40))
    for module, name, value in (
        (lift_novels, "TIMED", 1), (closed_form, "LEAST_QUERIES", 60), (calibration, "OTHER", 48), (calibration, "OWN", 6),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    for cached in (segments_of, session_of):
        cached.cache_clear()
    return save_tiny(tmp_path / "base")


@pytest.fixture
def novels(tmp_path: Path) -> Path:
    (tmp_path / "novels").mkdir()
    for animal in ANIMALS:
        (tmp_path / "novels" / f"{animal}.txt").write_text(NOVEL.replace("goose", animal))
    return tmp_path / "novels"


@pytest.mark.parametrize(("singles", "chains"), [(64, 16), (1, 1), (3, 2), (0, 4)], ids=str)
def test_facts_have_strata_of_their_own_and_chains_stand_half_of_the_text_apart(singles: int, chains: int) -> None:
    n = singles + 2 * chains
    at = depths(singles, chains, Random(0))
    assert sorted(int(depth * n) for depth in at) == list(range(n))
    for first, second in zip(at[singles::2], at[singles + 1 :: 2], strict=True):
        assert abs(int(first * n) - int(second * n)) == n // 2
    firsts = [a < b for a, b in zip(at[singles::2], at[singles + 1 :: 2], strict=True)]
    assert singles != 64 or (any(firsts) and not all(firsts))  # either sentence may come first


def test_a_text_holds_its_novels_and_its_facts_and_goes_on_where_they_end(novels: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer("smollm2")
    made = planted_text(tokenizer, 3000, novels, 6, 2, 0)
    text = made.document.text
    assert abs(len(tokenizer(text)["input_ids"]) - 3000) <= 30
    read = [text.count(f"with a {animal} under her arm") for animal in ANIMALS]
    assert max(read) == 1
    assert [fact.kind for fact in made.facts] == ["single"] * 6 + ["two-hop"] * 2
    for fact in made.facts:
        assert [text[slice(*span)] for span in fact.spans] == list(fact.sentences)
        assert set(fact.spans) <= set(made.document.sentences)
    made.save(tmp_path / "kept")
    assert PlantedText.load(tmp_path / "kept") == made
    assert planted_text(tokenizer, 3000, novels, 6, 2, 0) == made != planted_text(tokenizer, 3000, novels, 6, 2, 1)
    with pytest.raises(LongthreadError, match=r"300 tokens are too few for [\d,]+ tokens of facts: give at least"):
        planted_text(tokenizer, 300, novels, 6, 2, 0)


def cell_of(base: Path) -> Cell:
    return Cell(base, None, 1000, "compact", 400, 2, 1, 0, 1, "plain")


def test_segments_that_processes_have_fitted_are_those_of_one_fit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)  # as each process has: more of them add in another order
    cell, kept = cell_of(base), tmp_path / "kept"
    text = planted_text(tiny_tokenizer(), cell.tokens, None, cell.facts, cell.chains, cell.seed)
    text.save(kept)
    model, tokenizer = lift_novels.load(base)
    whole = fit(text.document, model, tokenizer, cell.given, FitOptions(tmp_path / "whole", progress=False))
    given = LongFit(base, kept / READ, cell.given, kept / "fit", cell.seed)
    for number in reversed(range(len(segments_of(given).rows.segments))):
        assert fit_segment(given, number) > 0
    monkeypatch.setattr(compaction, "closed_form", lambda *_: pytest.fail("fitted again"))
    model, _ = lift_novels.load(base)
    part = fit(text.document, model, tokenizer, cell.given, FitOptions(kept / "fit", progress=False))
    for name in ("adapter_model.safetensors", "sources.safetensors", "segments.json"):
        assert (part.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_command_goes_on_where_it_was(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = [
        str(out),
        "--model",
        str(base),
        "--tokens",
        "1000",
        "--segments",
        "400",
        "--facts",
        "2",
        "--chains",
        "1",
    ]
    none = CliRunner().invoke(app, [*arguments, "--seconds", "0"])
    assert none.exit_code == 0 and not (out / "novels.json").exists()
    asked: list[int] = []

    def counted(cell: Cell, folder: Path, number: int, real: Any = lift_novels.asked) -> dict[str, Any]:
        asked.append(number)
        if len(asked) == 2:
            raise RuntimeError("the machine went away")
        return real(cell, folder, number)

    monkeypatch.setattr(lift_novels, "asked", counted)
    assert CliRunner().invoke(app, arguments).exit_code != 0
    first = json.loads((out / "novels.json").read_text())["1000 compact 400 steps"]
    assert first["facts"]["right"][1] + first["chains"]["right"][1] == 1
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert sorted(asked) == sorted([0, 1, 2, asked[1]])  # what failed was asked again, and nothing else
    found = json.loads((out / "novels.json").read_text())["1000 compact 400 steps"]
    assert [found[kind][what][1] for kind in ("facts", "chains") for what in ("right", "opened", "cited")] == [
        2
    ] * 3 + [1] * 3
    assert found["apart"] == [1, 1] and found["ask_seconds"] > 0 and 0 < found["bytes"] < found["kv"]
    assert "1000" in done.output and "compact" in done.output
    replies = json.loads(next(out.glob("1000-compact-400-*/asked-steps.json")).read_text())
    assert all(len(reply["segments"]) <= 6 and reply["reply"] is not None for reply in replies.values())
    cell = cell_of(base)
    assert replace(cell, seed=1).digest("x") != cell.digest("x") != cell.digest("y")
    assert replace(cell, form="steps").digest("x") == cell.digest("x")  # both ways of asking share the fit
