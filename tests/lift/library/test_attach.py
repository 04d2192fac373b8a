"""A model with documents attached says what each says by itself, and nothing of one that is off or not its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, TaskType
from safetensors.torch import load_file, save_file

from lift.library.attach import Attached, of_one_method
from lift.library.base_model import record
from lift.library.library import CONFIG, WEIGHTS, Library
from lift.memory.tuner import GatedMemoryConfig
from longthread.errors import LongthreadError
from tests.environments.tiny_model import tiny_model
from tests.lift.shelf import entry_for, make_adapter, refused

IDS = torch.arange(40).reshape(2, 20)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def alone(adapters: list[Path]) -> list[torch.Tensor]:
    """What each adapter by itself says, loaded by PEFT."""
    return [logits(PeftModel.from_pretrained(tiny_model(), str(folder)).eval()) for folder in adapters]


def test_each_document_is_itself_in_any_order_and_the_base_is_the_base(library: Library, alone: list[Any]) -> None:
    memory = Attached(library, tiny_model(), ["a", "b"])
    model = memory.model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    for name in ("a", "b", "c", "a", "c", "b"):
        if name != "a" or model.active_adapters:
            memory.switch(name)
        assert torch.equal(logits(model), alone["abc".index(name)])
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model()))


def test_the_first_of_the_attached_is_active(library: Library, alone: list[Any]) -> None:
    assert torch.equal(logits(Attached(library, tiny_model(), ["c", "a"]).model), alone[2])


def test_switching_reads_nothing_from_disk_once_loaded(library: Library, alone: list[Any]) -> None:
    memory = Attached(library, tiny_model(), ["a", "b"])
    library.folder.rename(library.folder.with_name("gone"))
    memory.switch("b")
    assert torch.equal(logits(memory.model), alone[1])
    memory.switch("a")
    assert torch.equal(logits(memory.model), alone[0])
    refused(lambda: memory.switch("c"), "'c'")
    assert torch.equal(logits(memory.model), alone[0])


def test_several_documents_at_once_and_one_again(library: Library, adapters: list[Path], alone: list[Any]) -> None:
    memory = Attached(library, tiny_model(), ["a"])
    memory.switch(["a", "b"])
    both = logits(memory.model)
    reference = tiny_model()
    for folder in adapters[:2]:  # LoRA adds up
        weights = load_file(folder / WEIGHTS)
        scaling = json.loads((folder / CONFIG).read_text())["lora_alpha"] / 2
        for key in [key for key in weights if "lora_A" in key]:
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            change = weights[key.replace("lora_A", "lora_B")] @ weights[key] * scaling
            reference.get_submodule(module).weight.data += change
    torch.testing.assert_close(both, logits(reference), atol=1e-3, rtol=1e-4)
    assert not torch.allclose(both, alone[0])
    memory.switch("b")
    assert torch.equal(logits(memory.model), alone[1])


def test_the_least_recently_used_goes(library: Library, alone: list[Any]) -> None:
    memory = Attached(library, tiny_model(), ["a", "b"], loaded=2)
    memory.switch("b")
    memory.switch("a")
    memory.switch("c")  # b is the one unused for longest
    keys = {name: library.get(name).folder for name in "abc"}
    assert set(memory.model.peft_config) == {keys["a"], keys["c"]}
    assert torch.equal(logits(memory.model), alone[2])
    memory.switch(["a", "b", "c"])  # more at once than are kept
    assert set(memory.model.peft_config) == set(keys.values())
    memory.switch("b")
    assert len(memory.model.peft_config) == 2 and torch.equal(logits(memory.model), alone[1])


def test_another_base_model_is_refused_though_it_has_the_same_shape(library: Library) -> None:
    other = tiny_model()
    other.model.layers[1].mlp.up_proj.weight.data.add_(0.01)
    refused(lambda: Attached(library, other, ["a"]), "'a'", "another model", "tiny")
    refused(lambda: Attached(library, tiny_model(num_hidden_layers=3), ["a"]), "another model")


def test_an_adapter_of_another_base_model_is_refused_though_the_index_names_this_one(library: Library) -> None:
    memory = Attached(library, tiny_model(), ["a"])
    record(library.path(library.get("b")), "f" * 64)
    refused(lambda: memory.switch("b"), "'b'", "another base model (ffffffffffff)")
    # As `lift serve` asks at each request:
    refused(lambda: memory.check_fit(library.get("b")), "'b'", "another base model")
    refused(lambda: Attached(library, tiny_model(), ["b"]), "'b'", "another base model")
    refused(lambda: Attached(library, tiny_model(), ["b"], closed=True), "'b'", "another base model")
    assert memory.model.active_adapters == [library.get("a").folder]


def test_no_document_and_a_model_that_has_one_are_refused(library: Library) -> None:
    refused(lambda: Attached(library, tiny_model(), []), "at least one")
    memory = Attached(library, tiny_model(), ["a"])
    refused(lambda: memory.switch([]), "no document")
    refused(lambda: Attached(library, memory.model, ["a"]), "base model")


@pytest.mark.parametrize("damage", ["cut", "lacking", "resized"])
def test_weights_that_do_not_fit_are_one_line(library: Library, damage: str) -> None:
    path = library.path(library.get("b")) / WEIGHTS
    weights = load_file(path)
    name = next(iter(weights))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        weights.pop(name) if damage == "lacking" else weights.update({name: torch.zeros(3, 3)})
        save_file(weights, path)
    refused(lambda: Attached(library, tiny_model(), ["b"]), "'b'", "cannot be loaded", "(replace)")
    memory = Attached(library, tiny_model(), ["a"])
    refused(lambda: memory.switch("b"), "'b'", "cannot be loaded")


def test_a_cartridge_is_a_document_too_but_not_beside_a_lora(library: Library, tmp_path: Path, base: str) -> None:
    prefix = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    for seed, name in enumerate("pq"):
        library.add(make_adapter(tmp_path / name, seed, prefix), entry_for(base, name))
    memory = Attached(library, tiny_model(), ["p"], loaded=1)
    first = logits(memory.model)
    memory.switch("q")
    assert list(memory.model.peft_config) == [library.get("q").folder] and not torch.allclose(
        logits(memory.model), first
    )
    memory.switch("p")
    assert torch.equal(logits(memory.model), first)
    refused(lambda: memory.switch(["p", "q"]), "2 documents")
    refused(lambda: memory.switch("a"), "LORA", "PREFIX_TUNING")


# ---- from files alone -------------------------------------------------------------------------------------------


def test_only_safetensors_and_json_are_attached(library: Library) -> None:
    (library.path(library.get("a")) / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused(lambda: Attached(library, tiny_model(), ["a"]), "adapter_model.bin", "safetensors")


@pytest.fixture
def mixed(library: Library, tmp_path: Path, base: str) -> Library:
    """Beside three documents by LoRA two by each other method."""
    configs = {
        "prefix": PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4),
        "query": GatedMemoryConfig(gate="query"),
        "lse": GatedMemoryConfig(gate="lse"),
    }
    for method, config in configs.items():
        for seed in range(2):
            name = f"{method}{seed}"
            library.add(make_adapter(tmp_path / name, seed, config), entry_for(base, name))
    return library


def test_documents_of_one_method_are_on_at_once_where_it_takes_several(mixed: Library) -> None:
    for names in (["a", "b", "c"], ["lse0", "lse1"], ["prefix0"], ["query0", "query0"]):
        assert [entry.name for entry in of_one_method(mixed, names)] == list(dict.fromkeys(names))
        memory = Attached(mixed, tiny_model(), names)
        memory.switch(names)
        assert logits(memory.model).isfinite().all()
    memory = Attached(mixed, tiny_model(), ["query0"])
    refused(lambda: memory.switch(["query0", "query1"]), "2 documents", "gate query", "one name")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ((), ("at least one",)),
        (("a", "zz"), ("'zz'",)),
        (("a", "prefix0"), ("'prefix0'", "PREFIX_TUNING", "'a'", "LORA", "one recipe")),
        (("a", "lse0"), ("GATED_MEMORY with gate lse", "LORA")),
        (("lse0", "query0"), ("gate lse", "gate query")),
    ],
)
def test_what_one_model_cannot_take_is_refused_without_it_and_with_it(
    mixed: Library, names: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    refused(lambda: of_one_method(mixed, names), *parts)

    with pytest.raises(LongthreadError):
        Attached(mixed, tiny_model(), names[:1]).switch(names)


@pytest.mark.parametrize("raw", ["", "[]", "{}", '{"peft_type": "SPELL"}', '{"peft_type": ["LORA"]}', "\x00"])
def test_an_adapter_config_that_says_no_method(library: Library, raw: str) -> None:
    (library.path(library.get("b")) / CONFIG).write_text(raw)
    refused(lambda: of_one_method(library, ["a", "b"]), "'b'", CONFIG, "again")
    assert [entry.name for entry in of_one_method(library, ["a", "c"])] == ["a", "c"]
