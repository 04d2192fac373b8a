"""What `benchmarks.lift` measures, on a toy: a document in the window, exact documents beside it, a real text, and one
command for all of it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from typer.testing import CliRunner

from benchmarks import lift as benchmark
from benchmarks import lift_ceilings, lift_measure, lift_together
from benchmarks.lift import app
from benchmarks.lift_ceilings import add_exact, ceilings, question_gates, switch
from benchmarks.lift_measure import made, measured
from lift import tasks
from lift.document.document import Document
from lift.inference.generate import before_text, chat
from lift.memory.document_cache import KeysValues, keys_and_values, standing_in
from lift.memory.reference_queries import ExactMemory, Kept, ReferenceLayer
from lift.memory.tuner import GatedMemoryConfig, gate, layers
from lift.tasks import synthetic_document
from lift.training import refinement
from lift.training.recipes import RECIPES
from longthread.errors import ConfigError, DataError
from tests.environments.tiny_model import save_tiny, tiny_model, tiny_tokenizer

TEXT = " ".join(
    f"On {day} June old Thomas {name} went down to the river with {4 + day} dogs and a basket of bread."
    for day, name in enumerate(("Brook", "Carver", "Dale", "Elm", "Foster", "Gale", "Hart", "Ives"), 2)
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "base", max_position_embeddings=4096)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of three facts, few questions, and recipes of a step or two."""

    def generated(tokenizer: Any, tokens: int, seed: int) -> tuple[Document, list[Any]]:
        people = ("Maro Fenth", "Lisa Kord", "Timo Varga")
        facts = [
            f"The combination that {p} uses for the safe is {4829104756 + 7919 * (i + 3 * seed)}."
            for i, p in enumerate(people)
        ]
        return Document(f"chronicle-{tokens}-{seed}", " ".join(facts)), []

    def asked(document: Document, facts: Sequence[Any], seed: int) -> list[tasks.Item]:
        return [
            *tasks.make(document, ("needle",), 2, seed, "eval"),
            *tasks.make(document, ("absent",), 1, seed, "eval"),
        ]

    monkeypatch.setattr(synthetic_document, "generate", generated)
    monkeypatch.setattr(synthetic_document, "neutral", lambda split: "It rained all day. " * 9)
    monkeypatch.setattr(synthetic_document, "unrelated", lambda: [tasks.Item("unrelated", "What is 2 + 2?", "4", ())])
    monkeypatch.setattr(lift_measure, "questions", asked)
    for module, name, value in (
        (lift_measure, "REPLY", 4), (lift_ceilings, "REPLY", 4), (lift_measure, "OTHERS", 1), (lift_measure, "OF_TEXT", 2),
        (lift_together, "NEEDLES", 1), (lift_together, "SWITCHES", 2), (lift_together, "LOADS", 1),
        (lift_measure, "WINDOW", 64), (lift_ceilings, "WINDOW", 64), (refinement, "TALK_ROWS", 2), (refinement, "LONG", 300),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    of_toy = {"queries": 60, "items": 3, "tasks": ("needle", "absent", "cloze")}
    for name in ("compact", "compact+"):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], **of_toy, packed=256, steps=name.endswith("+")))  # type: ignore[arg-type]


def test_the_document_stands_in_the_window_of_its_own_questions_alone(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []

    def answered(model: Any, tokenizer: Any, asked: Sequence[Sequence[int]], *_: Any) -> list[str]:
        prompts.extend(tokenizer.decode(ids) for ids in asked)
        return [""] * len(asked)

    monkeypatch.setattr(lift_measure, "answers", answered)
    found = measured(base, None, 300, 0, Path("unused"))
    document = synthetic_document.generate(None, 300, 0)[0]
    with_all = [prompt for prompt in prompts if document.text in prompt]
    stepwise = [prompt for prompt in with_all if "<steps>" in prompt]
    assert stepwise and len(stepwise) < len(with_all)
    assert all('About "chronicle-300-0"' in prompt for prompt in with_all if prompt not in stepwise)
    assert 0 < len(with_all) < len(prompts)
    assert found["results"]["nll"] == found["results"]["nll_off"] and found["bytes"] == found["kv"] > 0
    assert found["seconds"] == found["prefill"] > 0 and not Path("unused").exists()


def test_a_text_file_is_cut_and_asked_for_gaps_and_order(tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    document, items = made(tiny_tokenizer(), 400, tmp_path / "river.txt")
    assert document.name == "river" and TEXT.startswith(document.text) and len(document.text) == 400
    assert {item.kind for item in items} == {"cloze", "order"}
    with pytest.raises(DataError, match=r"river.txt has \d+ tokens, 9,999 are asked for: give a longer text"):
        made(tiny_tokenizer(), 9999, tmp_path / "river.txt")


def test_an_exact_document_is_that_of_the_reference_layers() -> None:
    """The head in front of it aside: every key and value beside the window, and the gates are those of all heads."""
    tokenizer, model = tiny_tokenizer(), get_peft_model(tiny_model(), GatedMemoryConfig(slots={}))
    head, ids = before_text(tokenizer), list(b"It rained all day, and nobody came to the mill.")
    add_exact(model, "rain", head, ids)
    assert model.active_adapters == ["rain"]
    prompt = torch.tensor([chat(tokenizer, "rain", "Who came?")])
    read = keys_and_values(model, [*head, *ids], -len(head) - len(ids))
    exact = [KeysValues(k_KTD[:, len(head) :], v_KTD[:, len(head) :]) for k_KTD, v_KTD in read]
    kept = Kept(torch.zeros_like(prompt, dtype=torch.bool))
    reference = [
        ReferenceLayer(layer, ExactMemory(each, layer), kept) for layer, each in zip(layers(model), exact, strict=True)
    ]
    with torch.no_grad():
        with_it = model(prompt).logits
        with standing_in(model, reference):
            torch.testing.assert_close(with_it, model(prompt).logits, atol=1e-4, rtol=1e-4)
        with model.disable_adapter():
            assert not torch.allclose(model(prompt).logits, with_it, atol=1e-2)
    found = question_gates(model, prompt.tolist())
    assert found.shape == (1, 8) and (found > 0).all() and (found < 1).all()
    whole = gate(model, prompt)[0, 1:].mean().item()
    assert found.mean() == pytest.approx(whole, rel=1e-4)
    switch(model, ["default"])
    with torch.no_grad(), model.disable_adapter():
        assert model(prompt).logits.isfinite().all()


def test_ceilings_of_a_toy(base: Path, tmp_path: Path) -> None:
    arguments = [
        "ceilings",
        str(tmp_path),
        "--model",
        str(base),
        "--reader",
        str(base),
        "--tokens",
        "300",
        "--seeds",
        "0,1,2",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "ceilings.json").read_text())
    assert list(found) == ["300 reader"]  # the same model: measured once
    row = found["300 reader"]
    assert all(
        row[how]["needle"][1] == 6 and row[how]["absent"][1] == 3 for how in ("exact", "at once", "evidence", "around")
    )
    assert (
        len(row["neutral"]) == 4 and len(set(row["neutral"])) == 4 and set(row["gate"]) == {"mean", "best", "best 20"}
    )
    assert "gate AUROC" in done.output
    with pytest.raises(ConfigError, match="documents of 9,999 tokens do not fit beside 64 into a window of 4,096"):
        ceilings(base, None, 9999, [0], tmp_path)


def test_one_command_measures_documents_several_at_once_and_text(base: Path, tmp_path: Path) -> None:
    (tmp_path / "river.txt").write_text(TEXT)
    arguments = ["run", str(tmp_path / "out"), "--model", str(base), "--tokens", "250", "--seeds", "0,1"]
    done = CliRunner().invoke(app, [*arguments, "--methods", "window,compact+", "--text", str(tmp_path / "river.txt")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found) == {
        f"250 {method} {of}" for method in ("window", "compact+") for of in ("0", "1", "text-river")
    } | {"250 compact+ together"}, done.output
    assert found["250 compact+ 0"]["steps"] == 1 and found["250 compact+ 0"]["results"]["gate_auroc"] is not None
    assert {"cloze"} <= found["250 window text-river"]["results"]["closed"].keys() <= {"cloze", "order"}
    assert (tmp_path / "out" / "lift-seconds.png").exists() and benchmark.SEVERAL
