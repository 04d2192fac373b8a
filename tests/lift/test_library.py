"""The library: what it refuses, what is left of it when a write is killed, and which document a model remembers."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model

from lift.library import ADDING, CONFIG, INDEX, PREVIOUS, VERSION, WEIGHTS, Entry, Library, LibraryError, fingerprint

torch.set_num_threads(1)  # tiny models are fastest so
FORK = multiprocessing.get_context("fork")  # a process that has loaded torch already
IDS = torch.arange(40).reshape(2, 20)


def make_adapter(folder: Path, seed: int, config: Any = None) -> Path:
    """A LoRA that does something, as PEFT saves it."""
    model = tiny_model()
    torch.manual_seed(seed)  # behind the model, which sets its own
    config = config or LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [make_adapter(tmp_path_factory.mktemp("adapter"), seed) for seed in range(4)]


@pytest.fixture(scope="session")
def base() -> str:
    return fingerprint(tiny_model())


def entry_for(base: str, name: str = "logbook", **changes: Any) -> Entry:
    fields = {"name": name, "digest": "d" * 64, "tokens": 900, "words": 600, "recipe": "lse", "base_model": "tiny"}
    return Entry(**fields | {"fingerprint": base, "constants": {"lr": 1e-3}, "losses": {"segments": 0.5}} | changes)


@pytest.fixture
def library(tmp_path: Path, adapters: list[Path], base: str) -> Library:
    """Three documents: a, b and c."""
    made = Library(tmp_path / "books")
    for name, adapter in zip("abc", adapters, strict=False):
        made.add(adapter, entry_for(base, name))
    return made


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def refused(action: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(LibraryError) as info:
        action()
    line = str(info.value)
    assert "\n" not in line and all(part in line for part in parts), line


# ---- the base model's fingerprint -------------------------------------------------------------------------------


def test_folder_and_model_have_one_fingerprint_in_either_dtype_whole_or_in_shards(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    mine = fingerprint(model)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    assert {fingerprint(tmp_path / name) for name in ("whole", "shards", "bf16")} | {fingerprint(model)} == {mine}


def test_tied_weights_count_once(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=True)
    mine = fingerprint(model)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights and fingerprint(tmp_path) == mine
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert fingerprint(tmp_path) == mine


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_other_weights_in_any_one_tensor_are_another_model(which: int) -> None:
    model = tiny_model()
    before, weights = fingerprint(model), list(model.state_dict().values())
    weights[which % len(weights)].mul_(1.01)  # in place: the model's own
    assert fingerprint(model) != before


def test_another_shape_of_heads_is_another_model_though_every_weight_is_the_same() -> None:
    model = tiny_model()
    before, model.config.num_attention_heads = fingerprint(model), 2
    assert fingerprint(model) != before


def test_a_model_in_float16_is_known_by_its_folder(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = tiny_model().half()
    refused(lambda: fingerprint(model), "float16", "bfloat16")
    model.config._name_or_path = str(tmp_path)
    assert fingerprint(model) == fingerprint(tmp_path)


def test_no_model_no_fingerprint(tmp_path: Path) -> None:
    refused(lambda: fingerprint(tmp_path), str(tmp_path), "config.json")
    tiny_model().config.save_pretrained(tmp_path)
    refused(lambda: fingerprint(tmp_path), "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x10" * 50)
    refused(lambda: fingerprint(tmp_path), "model.safetensors")
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    refused(lambda: fingerprint(adapted), "base model")


# ---- adding, finding, removing ----------------------------------------------------------------------------------


def test_what_was_added_is_there_again(library: Library, adapters: list[Path], base: str) -> None:
    again = Library(library.folder)
    assert [entry.name for entry in again.entries()] == ["a", "b", "c"]
    entry = again.get("b")
    assert entry.losses == {"segments": 0.5} and entry.constants == {"lr": 1e-3} and entry.created.endswith("+00:00")
    for name in (CONFIG, WEIGHTS):
        assert (again.path(entry) / name).read_bytes() == (adapters[1] / name).read_bytes()
    assert sorted(path.name for path in again.path(entry).iterdir()) == [CONFIG, WEIGHTS]  # no model card
    assert entry.bytes == sum((adapters[1] / name).stat().st_size for name in (CONFIG, WEIGHTS))
    assert again.verify() == []


@pytest.mark.parametrize(
    "name",
    ["../x", "..", "/etc/passwd", "CON", "x" * 5000, "Війна і мир", "中文", "a\nb", "C:\\x", "--", "\x00", "a.b"],
)
def test_any_text_is_a_name_and_none_leads_out(tmp_path: Path, adapters: list[Path], base: str, name: str) -> None:
    library = Library(tmp_path / "books")
    entry = library.add(adapters[0], entry_for(base, name))
    assert library.get(name) == entry and library.path(entry).parent == library.folder
    assert library.path(entry).is_dir() and len(entry.folder) < 60 and entry.folder.isascii()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["books"]
    library.remove(name)
    assert library.entries() == [] and not library.path(entry).exists()


@pytest.mark.parametrize("name", ["", "  ", "\udcff"])
def test_what_is_no_name_is_refused(tmp_path: Path, adapters: list[Path], base: str, name: str) -> None:
    refused(lambda: Library(tmp_path / "books").add(adapters[0], entry_for(base, name)), "--name")


def test_a_taken_name_says_whether_there_is_anything_to_do(library: Library, adapters: list[Path], base: str) -> None:
    refused(lambda: library.add(adapters[3], entry_for(base, "a")), "'a'", "already", "nothing to do", "--replace")
    for changes in ({"digest": "e" * 64}, {"recipe": "query"}, {"constants": {"lr": 2e-3}}):
        other = entry_for(base, "a", **changes)
        refused(lambda other=other: library.add(adapters[3], other), "'a'", "another", "--replace", "--name")
    before = library.path(library.get("a"))
    after = library.add(adapters[3], entry_for(base, "a", recipe="query"), replace=True)
    assert not before.exists() and library.get("a") == after and len(library.entries()) == 3
    assert (library.path(after) / WEIGHTS).read_bytes() == (adapters[3] / WEIGHTS).read_bytes()
    library.add(adapters[3], entry_for(base, "a", recipe="query"), replace=True)  # the very same once more
    assert library.verify() == [] and len(list(library.folder.glob("a-*"))) == 1


def test_a_library_is_for_one_base_model(library: Library, adapters: list[Path]) -> None:
    other = entry_for("f" * 64, "d")
    refused(lambda: library.check(other), "base model tiny", "weights differ", "--library")
    refused(lambda: library.add(adapters[3], other), "--library")


def test_an_unknown_name_is_told_what_is_near(
    library: Library, tmp_path: Path, adapters: list[Path], base: str
) -> None:
    refused(lambda: library.get("zzzz"), "'zzzz'", "'a', 'b', 'c'")
    library.add(adapters[0], entry_for(base, "Persuasion"))
    refused(lambda: library.remove("persuation"), "did you mean 'Persuasion'?")
    refused(lambda: Library(tmp_path / "none").get("x"), "there is none yet")


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.pt", "run.py", "adapter_model.safetensors.pkl"])
def test_only_safetensors_and_json(
    library: Library, tmp_path: Path, adapters: list[Path], base: str, name: str
) -> None:
    folder = tmp_path / "fitted"
    folder.mkdir()
    refused(lambda: library.add(folder, entry_for(base, "d")), "no adapter_config.json")
    for file in (CONFIG, WEIGHTS):
        (folder / file).write_bytes((adapters[0] / file).read_bytes())
    (folder / name).write_bytes(b"\x80\x04.")
    refused(lambda: library.add(folder, entry_for(base, "d")), name, "safetensors")
    inside = library.path(library.get("a")) / name
    inside.write_bytes(b"\x80\x04.")
    refused(lambda: library.attach(tiny_model(), ["a"]), name)
    assert len(library.verify()) == 1


def test_verify_names_what_was_changed(library: Library) -> None:
    weights = library.path(library.get("b")) / WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    (library.path(library.get("c")) / WEIGHTS).unlink()
    problems = library.verify()
    assert len(problems) == 2 and "'b'" in problems[0] and "'c'" in problems[1]


# ---- an index that cannot be trusted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1, "documents": 3}',
        '{"version": "x", "documents": []}',
        "\x00",
        '{"version": 1}x',
    ],
)
def test_a_damaged_index_says_how_to_mend_it(library: Library, raw: str) -> None:
    (library.folder / INDEX).write_text(raw)
    refused(library.entries, "damaged", PREVIOUS)
    (library.folder / INDEX).write_bytes((library.folder / PREVIOUS).read_bytes())
    assert [entry.name for entry in library.entries()] == ["a", "b"]
    (library.folder / PREVIOUS).unlink()
    (library.folder / INDEX).write_text(raw)
    refused(library.entries, "damaged", "anew")


def test_an_index_leads_nowhere_else(library: Library) -> None:
    path = library.folder / INDEX
    for folder in ("../books", "/tmp", "a/b", "..", "a-0123456789ab\n"):
        index = json.loads(path.read_text())
        index["documents"][0]["folder"] = folder
        path.write_text(json.dumps(index))
        refused(library.entries, "damaged")


def test_an_index_of_a_later_version_is_left_alone(library: Library, adapters: list[Path], base: str) -> None:
    path = library.folder / INDEX
    path.write_text(json.dumps({"version": VERSION + 1, "shelves": []}))
    refused(library.entries, f"version {VERSION + 1}", "upgrade")
    refused(lambda: library.add(adapters[3], entry_for(base, "d")), "upgrade")
    assert len(list(library.folder.glob("*-*"))) == 3


def test_somebodys_folder_is_not_taken_for_a_library(tmp_path: Path, adapters: list[Path], base: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(lambda: Library(tmp_path).add(adapters[0], entry_for(base)), "no library", "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    refused(Library(tmp_path / "notes.txt").entries, "notes.txt")
    refused(lambda: Library(tmp_path / "notes.txt").add(adapters[0], entry_for(base)), "notes.txt")


def test_a_folder_of_the_users_is_not_swept_away(library: Library, base: str, adapters: list[Path]) -> None:
    mine = library.folder / "notes-0123456789ab"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    library.add(adapters[3], entry_for(base, "d"))
    assert (mine / "notes.txt").read_text() == "mine"


# ---- killed while writing ---------------------------------------------------------------------------------------


STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree", "fcntl.flock")


def killed(action: Callable[[], Any], step: int) -> bool:
    """Whether a process that runs `action` was killed at its change of files `step` (audit events of Python)."""

    def run() -> None:
        left = [step]

        def hook(event: str, args: Any) -> None:
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in STEPS:
                left[0] -= 1
                if left[0] == -1:  # the kill is an event too
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action()
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def copy_of(library: Library, to: Path) -> Library:
    shutil.copytree(library.folder, to)
    return Library(to)


@pytest.mark.parametrize("what", ["first", "replace", "remove"])
def test_killed_at_any_step_the_library_is_as_before_or_as_after(
    what: str, library: Library, tmp_path: Path, adapters: list[Path], base: str
) -> None:
    actions: dict[str, Callable[[Library], Any]] = {
        "first": lambda mine: mine.add(adapters[3], entry_for(base, "d")),
        "replace": lambda mine: mine.add(adapters[3], entry_for(base, "b", recipe="query"), replace=True),
        "remove": lambda mine: mine.remove("b"),
    }
    before = [] if what == "first" else [(entry.name, entry.recipe) for entry in library.entries()]
    seen, step = [], 0
    while True:
        mine = Library(tmp_path / str(step)) if what == "first" else copy_of(library, tmp_path / str(step))
        ended = killed(lambda mine=mine: actions[what](mine), step)
        seen.append([(entry.name, entry.recipe) for entry in mine.entries()])
        assert mine.verify() == []
        mine.add(adapters[0], entry_for(base, "next"))  # the lock went with the process; what was left is swept
        folders = {entry.folder for entry in mine.entries()}
        assert {path.name for path in mine.folder.iterdir() if path.is_dir()} == folders
        assert not (mine.folder / ADDING).exists() and mine.verify() == []
        if not ended:
            break
        step += 1
    assert step >= 8 and seen[0] == before and seen[-1] != before
    after = seen[-1]
    assert all(state in (before, after) for state in seen) and seen == sorted(seen, key=lambda state: state == after)


def test_two_processes_add_at_once(tmp_path: Path, adapters: list[Path], base: str) -> None:
    def add_all(prefix: str) -> None:
        for number in range(5):
            Library(tmp_path / "books").add(adapters[number % 4], entry_for(base, f"{prefix}{number}"))
        os._exit(0)

    processes = [FORK.Process(target=add_all, args=(prefix,)) for prefix in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    library = Library(tmp_path / "books")
    assert {entry.name for entry in library.entries()} == {f"{p}{n}" for p in "xy" for n in range(5)}
    assert library.verify() == []


def test_a_full_disk_leaves_the_library_as_it_was(
    library: Library, adapters: list[Path], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(lambda: library.add(adapters[3], entry_for(base, "d")), "No space left")
    assert len(library.entries()) == 3 and not (library.folder / ADDING).exists()


# ---- in a model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def alone(adapters: list[Path]) -> list[torch.Tensor]:
    """What each adapter by itself says, loaded by PEFT."""
    from peft import PeftModel

    return [logits(PeftModel.from_pretrained(tiny_model(), str(folder)).eval()) for folder in adapters]


def test_each_document_is_itself_in_any_order_and_the_base_is_the_base(library: Library, alone: list[Any]) -> None:
    model = library.attach(tiny_model(), ["a", "b"])
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    for name in ("a", "b", "c", "a", "c", "b"):
        if name != "a" or model.active_adapters:
            library.switch(model, name)
        assert torch.equal(logits(model), alone["abc".index(name)])
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model()))


def test_the_first_of_the_attached_is_active(library: Library, alone: list[Any]) -> None:
    assert torch.equal(logits(library.attach(tiny_model(), ["c", "a"])), alone[2])


def test_switching_reads_nothing_from_disk_once_loaded(library: Library, alone: list[Any]) -> None:
    model = library.attach(tiny_model(), ["a", "b"])
    library.folder.rename(library.folder.with_name("gone"))
    library.switch(model, "b")
    assert torch.equal(logits(model), alone[1])
    library.switch(model, "a")
    assert torch.equal(logits(model), alone[0])
    refused(lambda: library.switch(model, "c"), "'c'")
    assert torch.equal(logits(model), alone[0])


def test_several_documents_at_once_and_one_again(library: Library, adapters: list[Path], alone: list[Any]) -> None:
    model = library.attach(tiny_model(), ["a"])
    library.switch(model, ["a", "b"])
    both = logits(model)
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
    library.switch(model, "b")
    assert torch.equal(logits(model), alone[1])


def test_the_least_recently_used_goes(library: Library, alone: list[Any]) -> None:
    small = Library(library.folder, loaded=2)
    model = small.attach(tiny_model(), ["a", "b"])
    small.switch(model, "b")
    small.switch(model, "a")
    small.switch(model, "c")  # b is the one unused for longest
    keys = {name: small.get(name).folder for name in "abc"}
    assert set(model.peft_config) == {keys["a"], keys["c"]}
    assert torch.equal(logits(model), alone[2])
    small.switch(model, ["a", "b", "c"])  # more at once than are kept
    assert set(model.peft_config) == set(keys.values())
    small.switch(model, "b")
    assert len(model.peft_config) == 2 and torch.equal(logits(model), alone[1])


def test_another_base_model_is_refused_though_it_has_the_same_shape(library: Library) -> None:
    other = tiny_model()
    other.model.layers[1].mlp.up_proj.weight.data.add_(0.01)
    refused(lambda: library.attach(other, ["a"]), "'a'", "another model", "tiny")
    refused(lambda: library.attach(tiny_model(num_hidden_layers=3), ["a"]), "another model")


def test_what_was_never_attached_cannot_be_switched(library: Library) -> None:
    refused(lambda: library.switch(tiny_model(), "a"), "attach")
    refused(lambda: library.attach(tiny_model(), []), "at least one")
    model = library.attach(tiny_model(), ["a"])
    refused(lambda: library.switch(model, []), "no document")
    refused(lambda: library.attach(model, ["a"]), "base model")


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
    refused(lambda: library.attach(tiny_model(), ["b"]), "'b'", "cannot be loaded", "--replace")
    model = library.attach(tiny_model(), ["a"])
    refused(lambda: library.switch(model, "b"), "'b'", "cannot be loaded")


def test_a_cartridge_is_a_document_too_but_not_beside_a_lora(library: Library, tmp_path: Path, base: str) -> None:
    from peft import PrefixTuningConfig, TaskType

    prefix = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    for seed, name in enumerate("pq"):
        library.add(make_adapter(tmp_path / name, seed, prefix), entry_for(base, name))
    small = Library(library.folder, loaded=1)
    model = small.attach(tiny_model(), ["p"])
    first = logits(model)
    small.switch(model, "q")
    assert list(model.peft_config) == [small.get("q").folder] and not torch.allclose(logits(model), first)
    small.switch(model, "p")
    assert torch.equal(logits(model), first)
    refused(lambda: small.switch(model, ["p", "q"]), "2 documents")
    refused(lambda: small.switch(model, "a"), "LORA", "PREFIX_TUNING")
