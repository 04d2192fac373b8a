"""The light tokenizer against AutoTokenizer: the same where it is used, and not used where it would differ."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from benchmarks.reference_tokenizers import CHATML
from environments.haystack import light_tokenizer
from environments.haystack.sample import rebuild
from environments.haystack.tokens import Tokens, load_tokenizer
from tests.conftest import build_tokenizer
from tests.environments.haystack.test_golden import GOLDEN, digest

V5 = int(transformers.__version__.split(".")[0]) >= 5
CONVERSATIONS = (
    [{"role": "user", "content": "Who <b>owns</b> the 'safe' & the 日本 key? 👩‍🚀 é e\u0301"}],
    [
        {"role": "system", "content": "Kurz."},
        {"role": "user", "content": "One\n\ntwo  three\t1234"},
        {"role": "assistant", "content": "<answer>Zoë Ünal; x</answer>"},
    ],
)
TEXTS = (
    "Hello  wörld 1234, isn't it?\n\n <|im_end|> x ",
    "On 3 May 1874 09:32:17, it rained!\n\nNobody said “yes”.",
    "\n\n \t",
    "日本語のテキスト 👩‍🚀",
)
TOOLS = (
    "{% if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% continue %}{% endif %}\n    {% if enable_thinking is defined %}think{% endif %}\n{{ bos_token }}{{ m | tojson }}"
    "{{ eos_token }}{% endfor %}\n{% if add_generation_prompt %}go{% endif %}"
)


def same(folder: Path) -> None:
    """Everything that this project asks of a tokenizer is alike."""
    light, full = light_tokenizer.load(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert light is not None
    assert Tokens(light).fingerprint == Tokens(full).fingerprint
    assert Tokens(light).special == Tokens(full).special
    assert len(light) == len(full) and light.name_or_path == full.name_or_path and light.is_fast
    assert light.chat_template == full.chat_template
    for conversation in CONVERSATIONS:
        for generate in (False, True):
            for variables in ({}, {"tools": [{"name": "größe <x>"}]}, {"enable_thinking": False}):
                asked: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generate, **variables}
                text = str(full.apply_chat_template(conversation, **asked))
                assert light.apply_chat_template(conversation, **asked) == text
        ids = full(text, add_special_tokens=False)["input_ids"]
        assert Tokens(light).encode(text) == ids
    for text in TEXTS:
        ids = full.encode(text)
        assert light.encode(text) == ids
        assert light.encode(text, add_special_tokens=False) == full.encode(text, add_special_tokens=False)
        for skip in (False, True):
            assert light.decode(ids, skip_special_tokens=skip) == full.decode(ids, skip_special_tokens=skip)
    for role in light_tokenizer.NAMED:
        assert getattr(light, role) == getattr(full, role)
        assert getattr(light, f"{role}_id") == getattr(full, f"{role}_id")


@pytest.fixture(scope="module")
def demo() -> Path:
    return Path(build_tokenizer("smollm2").name_or_path)


def saved(tokenizer: Any, folder: Path, **settings: Any) -> Path:
    tokenizer.save_pretrained(folder)
    return changed(folder, **settings)


def changed(folder: Path, file: str = "tokenizer_config.json", **settings: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))
    return folder


def of_class(name: str, folder: Path) -> Path:
    """A small tokenizer of that class of transformers, as it saves it."""
    state = json.loads(light_tokenizer._rebuilt()[name].to_str())
    trained = json.loads(build_tokenizer("cl100k-like").backend_tokenizer.to_str())["model"]
    state["model"] |= {"vocab": trained["vocab"], "merges": trained["merges"]}
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    if V5:
        merges = [tuple(pair) for pair in trained["merges"]]
        tokenizer = getattr(transformers, name)(vocab=trained["vocab"], merges=merges, **special)
    else:
        backend = Tokenizer.from_str(json.dumps(state))
        tokenizer = getattr(transformers, f"{name}Fast")(tokenizer_object=backend, pad_token="<|endoftext|>", **special)
    tokenizer.chat_template = CHATML
    return saved(tokenizer, folder, pad_token="<|endoftext|>", add_prefix_space=False)


def test_the_demo_model(demo: Path) -> None:
    same(demo)


def test_recipes_rebuild_with_the_light_tokenizer(demo: Path) -> None:
    golden = json.loads(GOLDEN.read_text())["samples"]
    entries = [e for e in golden if e["tokenizer"] == "smollm2" and e["recipe"]["options"]["filler"] == "prose"][:3]
    light = load_tokenizer(str(demo))
    assert isinstance(light, light_tokenizer.LightTokenizer)
    for entry in entries:
        assert digest(rebuild(entry["recipe"], light).to_json()) == entry["sha256"]


@pytest.mark.parametrize("name", ["gpt2", "mistral", "cl100k-like", "crossing"])
def test_folders_without_a_class_of_their_own(name: str, tmp_path: Path) -> None:
    same(saved(build_tokenizer(name), tmp_path, tokenizer_class="PreTrainedTokenizerFast"))


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_classes_that_build_the_tokenizer_anew(name: str, tmp_path: Path) -> None:
    folder = of_class(name, tmp_path)
    same(folder)
    changed(folder, tokenizer_class=f"{name}Fast")
    same(folder)
    for model_type in ("llama", "gpt2", "qwen3", "qwen2"):
        changed(folder, "config.json", model_type=model_type)
        if name == "GPT2Tokenizer" and model_type == "qwen2":
            assert light_tokenizer.load(str(folder)) is None
        else:
            same(folder)


def test_templates(tmp_path: Path) -> None:
    """White space of blocks, loop controls, JSON without HTML's escapes, tools and special tokens."""
    folder = saved(build_tokenizer("cl100k-like"), tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    (folder / "chat_template.jinja").write_text(TOOLS, encoding="utf-8")
    same(folder)
    light, full = light_tokenizer.load(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert light is not None
    for template in ("{{ raise_exception('roles') }}", "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        light.chat_template = full.chat_template = template
        for tokenizer in (light, full):  # refused by both: roles, and what leaves the sandbox
            with pytest.raises(Exception, match="roles|unsafe"):
                tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    light.chat_template = full.chat_template = "{{ strftime_now('%Y') }}"
    asked: list[dict[str, str]] = [{"role": "user", "content": "x"}]
    assert light.apply_chat_template(asked, tokenize=False) == full.apply_chat_template(asked, tokenize=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"auto_map": {"AutoTokenizer": ["a.B", None]}},
        {"add_prefix_space": True},
        {"add_bos_token": True},
        {"fix_mistral_regex": True},
        {"image_token": "<image>"},
        {"bos_token": "<never seen>"},
        {"extra_special_tokens": ["<never seen>"]},
        {"chat_template": [{"name": "default", "template": "x"}]},
        {"added_tokens_decoder": {"0": {"content": "<|im_start|>", "special": True}}},
    ],
)
def test_what_was_not_compared_is_left_to_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(build_tokenizer("cl100k-like"), tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    assert light_tokenizer.load(str(folder)) is not None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert light_tokenizer.load(str(changed(folder, **settings))) is None


def test_files_that_speak_against_each_other_are_left_to_transformers(tmp_path: Path) -> None:
    folder = saved(build_tokenizer("cl100k-like"), tmp_path / "a", tokenizer_class="PreTrainedTokenizerFast")
    for file, settings in (
        ("special_tokens_map.json", {"eos_token": "<|im_start|>"}),
        ("added_tokens.json", {"<|im_end|>": 1}),
        ("config.json", {"model_type": "gemma3_text"}),
    ):
        other = Path(shutil.copytree(folder, tmp_path / file))
        assert light_tokenizer.load(str(changed(other, file, **settings))) is None
    (folder / "tokenizer_config.json").write_text("not JSON")
    assert light_tokenizer.load(str(folder)) is None


def test_a_shape_of_its_own_under_a_class_that_builds_anew(tmp_path: Path) -> None:
    """SmolLM2 on the hub: GPT2Tokenizer by name, with digits apart in its tokenizer.json."""
    folder = saved(build_tokenizer("cl100k-like"), tmp_path, tokenizer_class="GPT2Tokenizer")
    changed(folder, bos_token=None, unk_token=None, pad_token=None)
    assert light_tokenizer.load(str(folder)) is None


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    """A hub name is read from the cache when the cache knows of every file; otherwise transformers looks for it."""
    assert light_tokenizer.load("nobody/nothing-of-the-kind") is None
    assert light_tokenizer.load("not a name: ..") is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--some--model"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(demo / file, snapshot)
    assert light_tokenizer.load("some/model") is None
    missing = cache / ".no_exist" / "0123"
    missing.mkdir(parents=True)
    for file in ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"):
        (missing / file).touch()
    light = light_tokenizer.load("some/model")
    assert light is not None and light.name_or_path == "some/model"
    assert Tokens(light).fingerprint == Tokens(build_tokenizer("smollm2")).fingerprint


def test_other_uses_are_refused(demo: Path) -> None:
    light = light_tokenizer.load(str(demo))
    assert light is not None
    with pytest.raises(NotImplementedError, match="load_full_tokenizer"):
        light.apply_chat_template([{"role": "user", "content": "x"}])
    light.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        light.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_a_first_sample_imports_neither_torch_nor_transformers(demo: Path) -> None:
    program = (
        "import sys; from longthread import Haystacks, Options, load_tokenizer, score\n"
        f"haystacks = Haystacks(load_tokenizer({str(demo)!r}), Options(pool_tokens=8192))\n"
        "print(haystacks.sample(0, 'train', 'single', 1024).length)\n"
        "print(sorted({'torch', 'transformers', 'atroposlib', 'datasets', 'pandas'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out == "1024\n[]\n"
