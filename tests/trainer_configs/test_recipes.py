"""Every recipe: taken whole by the installed Axolotl for the model it names, and run with all lengths 256 times shorter."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"  # before Axolotl is imported: no test may reach the network

import torch
import yaml
from axolotl.cli.config import load_cfg, prepare_plugins
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault
from datasets import Dataset
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import trainer_configs
from environments.datasets.reader_rows.encoding import RowEncoder, Turn
from environments.haystack.tokens import Tokens
from environments.tasksets.trl import longthread_reward
from tests.environments.tiny_model import tiny_tokenizer
from tests.trainer_configs.longlora.test_plugin import finish, start, watched
from trainer_configs.longlora.data.reader_build import write_rows
from trainer_configs.longlora.rope.extension import plan

FOLDER = Path(trainer_configs.__file__).parent
RL = "smollm2-135m-4k-grpo"  # without the plugin: TRL's own trainer
RECIPES = {
    path.stem: path.read_text()
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.stem != RL and not path.stem.endswith("-rl")
}
SMOKE = "smoke-cpu"  # its model and rows are the tests' own; test_plugin.py runs it
SHORTER = 256  # times
STEPS = 2
PAIRS_A_FILE = 8
LIGER = "axolotl.integrations.liger.LigerPlugin"  # Triton kernels: CUDA alone
H200 = {"bf16": True, "fp8": True, "tf32": True, "n_gpu": 1, "compute_capability": "sm_90"}  # as Axolotl asks it

# ---- the models, as their config.json describes them -------------------------------------------------------------


def llama3(factor: float, **shape: Any) -> LlamaConfig:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = scaling | {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256}
    return LlamaConfig(rope_parameters=rope, max_position_embeddings=131_072, **heads, **shape)


def qwen2(window: int, **shape: Any) -> Qwen2Config:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    heads = {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True}
    return Qwen2Config(rope_parameters=rope, max_position_embeddings=window, **heads, **shape)


MODELS: dict[str, PretrainedConfig] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49_152, tie_word_embeddings=True, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    ),
    "Qwen/Qwen2.5-0.5B": qwen2(
        32_768, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": qwen2(
        32_768, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14
    ),
    "Qwen/Qwen2-1.5B": qwen2(
        131_072, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12
    ),
    "meta-llama/Llama-3.2-1B-Instruct": llama3(
        32.0, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, head_dim=64, tie_word_embeddings=True
    ),
    "meta-llama/Llama-3.1-8B-Instruct": llama3(
        8.0, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32
    ),
}  # fmt: skip
TRAINED = {"Qwen/Qwen2-1.5B": 32_768}  # tokens, where it is not what the config says


def shrunk(config: PretrainedConfig) -> PretrainedConfig:
    """The same family, RoPE and ties, small, with windows `SHORTER` times shorter."""
    small = config.to_dict() | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 260}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "layer_types": None}
    small |= {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    small["max_position_embeddings"] = config.max_position_embeddings // SHORTER
    if original := small["rope_parameters"].get("original_max_position_embeddings"):
        small["rope_parameters"]["original_max_position_embeddings"] = original // SHORTER
    return CONFIG_MAPPING[config.model_type].from_dict(small)


def save_model(folder: Path, config: PretrainedConfig) -> None:
    AutoModelForCausalLM.from_config(shrunk(config)).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|finetune_right_pad_id|>"]})
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))


# ---- rows, where the recipes look for them -----------------------------------------------------------------------


def save_rows(folder: Path, length: int) -> None:
    """As the commands that the recipes name write them, but short; needles as longthread 0.1 wrote them, with a mask."""
    ids = [[(7 * row + i) % 256 for i in range(length)] for row in range(4)]
    full = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * length] * 4, "labels": ids})
    positions = {"position_ids": [list(range(length))] * 4, "length": [length] * 4}
    made = Dataset.from_dict(full.to_dict() | positions)
    for kind in ("text", "needles"):
        (folder / "rows" / kind / "data").mkdir(parents=True)
        rows = made if kind == "needles" else made.remove_columns("attention_mask")
        rows.to_parquet(folder / "rows" / kind / "data" / "train-000000000.parquet")
    encoder = RowEncoder(Tokens(tiny_tokenizer()))
    turns = [Turn("A?", "one"), Turn("B?", "two")]
    whole = [encoder.text("A text, " * length, length), encoder.chat(turns)]
    for kind, made_rows in (
        ("haystacks", whole),
        ("reader", [*whole, *2 * [encoder.parallel(["One.", "A two."], turns)]]),
    ):
        (folder / "rows" / kind).mkdir()
        write_rows(made_rows, folder / "rows" / kind / "train-000000000.parquet")

    def said(i: int, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"<answer>{answer}</answer>"}]

    kept = {"task": "single", "prompt_tokens": 30}
    rows = {
        "rows.jsonl": [{"messages": said(i, str(i)), "score": 1.0} for i in range(PAIRS_A_FILE)],
        "pairs.jsonl": [{"pos": said(i, str(i)), "score": 1.0, "neg": said(i, "none")} for i in range(PAIRS_A_FILE)],
        "exported.jsonl": [
            {"chosen": said(i, str(i)), "rejected": said(i, "none"), "score_chosen": 1.0, "score_rejected": 0.0} | kept
            for i in range(PAIRS_A_FILE)
        ],
    }
    for name, lines in rows.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


# ---- runs ---------------------------------------------------------------------------------------------------------


def parsed(name: str) -> dict[str, Any]:
    return yaml.safe_load(RECIPES[name])


def toy(name: str) -> dict[str, Any]:
    """The recipe with another model, shorter lengths and fewer steps; without what only CUDA has."""
    recipe = parsed(name) | {"base_model": "model", "max_steps": STEPS, "gradient_accumulation_steps": 1}
    recipe["plugins"] = [plugin for plugin in recipe["plugins"] if plugin != LIGER]
    for key in [key for key in recipe if key.startswith("liger_") or key in ("tf32", "num_epochs")]:
        del recipe[key]
    if "lr_scheduler_kwargs" in recipe:
        recipe |= {"warmup_steps": 0, "lr_scheduler_kwargs": {"num_decay_steps": 1}}
    recipe |= {"sequence_len": recipe["sequence_len"] // SHORTER, "dataset_num_proc": 1}
    longlora = recipe["longlora"]
    for section in (longlora, longlora.get("context_extension") or {}):
        for key in ("group_size", "target_length", "native_length"):
            if key in section:
                section[key] //= SHORTER
    return recipe


DISTRIBUTED = [name for name in RECIPES if {"fsdp_config", "deepspeed"} & parsed(name).keys()]
RUN = {name: toy(name) for name in RECIPES if name != SMOKE and name not in DISTRIBUTED}
# The DPO recipe beside its own rows on those of `longthread export dpo`, as its comment says.
PAIRS = RUN["smollm2-135m-32k-dpo"]["datasets"]
PAIRS.append({k: v for k, v in PAIRS[0].items() if not k.startswith("field_")} | {"path": "exported.jsonl"})


def run(recipe: dict[str, Any]) -> dict[str, Any]:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    cfg = load_cfg("recipe.yaml")
    seen = watched(cfg)
    with safe_open(Path(cfg.output_dir) / "adapter_model.safetensors", "pt") as adapter:
        keys = list(adapter.keys())
    state = seen["trainer"].state
    return {
        "losses": [line["loss"] for line in state.log_history if "loss" in line],
        "rows": len(seen["trainer"].train_dataset),
        "calls": sum(attention.calls for attention in seen["attentions"]),
        "sparse": len(seen["attentions"]),
        "keys": keys,
        "saved": sorted(path.name for path in Path(cfg.output_dir).glob("*.safetensors")),
        "rope": seen["trainer"].model.config.rope_parameters,
        "bf16": seen["trainer"].args.bf16,
    }


def loaded(folder: Path) -> dict[str, Any]:
    """Every recipe as it stands but for the name of its model, through the plugin and Axolotl's own checks."""
    results = {}
    for name in RECIPES:
        cfg = DictDefault(parsed(name) | {"base_model": str(folder / parsed(name)["base_model"])})
        try:
            prepare_plugins(cfg)
            cfg = validate_config(cfg, H200, {"torch_version": torch.__version__.partition("+")[0]})
        except ValueError as error:  # LongLoRAError is one
            results[name] = {"error": str(error)}
        else:
            results[name] = {"cfg": json.loads(json.dumps(cfg.to_dict(), default=str))}
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of all runs, each in a process of its own and at the same time: Axolotl is imported once, and keeps one set of
    plugins a process."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    models = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        config.save_pretrained(models / name)
        tiny_tokenizer().save_pretrained(models / name)
    small = parsed(SMOKE)
    shrunk(MODELS["HuggingFaceTB/SmolLM2-135M-Instruct"]).save_pretrained(models / small["base_model"])
    (models / "trainer_configs").symlink_to(FOLDER)  # for the DeepSpeed recipe's second file
    started = {"": (models, start(models, lambda: loaded(models)))}
    for name, recipe in RUN.items():
        folder = tmp_path_factory.mktemp("run")
        save_model(folder / "model", MODELS[parsed(name)["base_model"]])
        save_rows(folder, recipe["sequence_len"])
        started[name] = folder, start(folder, lambda recipe=recipe: run(recipe))
    return {name: outcome(pid, folder) for name, (folder, pid) in started.items()}


def outcome(pid: int, folder: Path) -> dict[str, Any]:
    try:
        return finish(pid, folder)
    except AssertionError as error:  # of this recipe: the others have results of their own
        return {"failed": str(error)}


# ---- what must hold -----------------------------------------------------------------------------------------------


def dropped(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Keys that Axolotl did not take over: those it does not know it leaves out without a word."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key}"
            else:
                yield from dropped(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and given and isinstance(given[0], dict):
        for value, there in zip(given, kept, strict=True):
            yield from dropped(value, there, path)


@pytest.mark.parametrize("name", RECIPES)
def test_axolotl_and_the_plugin_take_the_whole_recipe(results: dict[str, Any], name: str) -> None:
    assert "failed" not in results[""], results[""]["failed"]
    result = results[""][name]
    assert "error" not in result, result
    assert not list(dropped(parsed(name), result["cfg"]))
    assert result["cfg"]["lora_modules_to_save"][0] == "embed_tokens"


@pytest.mark.parametrize("name", [name for name in RECIPES if name != SMOKE])
def test_rows_lie_inside_the_window_and_an_extension_is_needed(name: str) -> None:
    recipe = parsed(name)
    config = MODELS[recipe["base_model"]]
    window = TRAINED.get(recipe["base_model"], config.max_position_embeddings)
    longlora = recipe["longlora"]
    if extension := longlora.get("context_extension"):
        assert plan(config, extension["method"], extension["target_length"]).native == window
        assert window < recipe["sequence_len"] <= extension["target_length"]
        # A reader's window holds more than its rows: a document, and a prompt behind it.
        assert (recipe["sequence_len"] < extension["target_length"]) == ("reader" in name)
    else:
        assert recipe["sequence_len"] <= window
    if longlora["attention"] == "shifted":
        assert recipe["sequence_len"] == 4 * longlora["group_size"]
        assert config.num_hidden_layers >= 2 * 4 - 1  # or the row's end would not reach its start


@pytest.mark.parametrize("name", [name for name in RECIPES if "context_extension: {" not in RECIPES[name]])
def test_what_a_comment_says_of_a_longer_window_is_right(name: str) -> None:
    """The extension in the comment works for that model; another method does not, where that is said."""
    recipe, config = RECIPES[name], MODELS[parsed(name)["base_model"]]
    said = yaml.safe_load(re.search(r"\{method: .*?\}", recipe)[0])
    extension = plan(config, **said)
    assert extension.native == TRAINED.get(parsed(name)["base_model"], config.max_position_embeddings)
    if "another method" in recipe:
        with pytest.raises(ValueError, match="llama3 can extend it"):
            plan(config, **said | {"method": "yarn"})


@pytest.mark.parametrize("name", RUN)
def test_the_recipe_trains(results: dict[str, Any], name: str) -> None:
    result, recipe = results[name], RUN[name]
    assert "failed" not in result, result["failed"]
    assert len(result["losses"]) == STEPS
    assert all(map(math.isfinite, result["losses"]))
    assert result["bf16"]
    assert result["saved"] == ["adapter_model.safetensors"]
    for kind in ("lora_A", "embed_tokens", "input_layernorm", "post_attention_layernorm", "model.norm"):
        assert any(kind in key for key in result["keys"]), kind
    shifted = recipe["longlora"]["attention"] == "shifted"
    assert result["sparse"] == shifted
    assert (result["calls"] > 0) == shifted
    extension = recipe["longlora"].get("context_extension")
    native = MODELS[parsed(name)["base_model"]].rope_parameters
    assert result["rope"]["rope_type"] == (extension["method"] if extension else native["rope_type"])


def test_pairs_of_both_makers_start_where_policy_and_reference_are_one(results: dict[str, Any]) -> None:
    result = results["smollm2-135m-32k-dpo"]
    assert result["rows"] == 2 * PAIRS_A_FILE
    assert result["losses"][0] == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_command_and_what_its_attention_costs(name: str) -> None:
    text = RECIPES[name]
    assert f"#   axolotl train trainer_configs/{name}.yaml" in text
    assert f"output_dir: out/{name}" in text or name == SMOKE
    if name != SMOKE:
        cost = "retrieval" if "attention: shifted" in text else "sparse steps would"
        assert cost in text


def test_distributed_recipes_shard_and_are_not_run_here() -> None:
    """FSDP2 and DeepSpeed need GPUs (and the package deepspeed): only what they hand over is checked."""
    assert len(DISTRIBUTED) == 2
    fsdp = parsed("multi-gpu-fsdp2")
    layers = type(AutoModelForCausalLM.from_config(shrunk(MODELS[fsdp["base_model"]])).model.layers[0]).__name__
    assert fsdp["fsdp_config"]["transformer_layer_cls_to_wrap"] == layers
    zero = json.loads((FOLDER.parent / parsed("multi-gpu-deepspeed-zero3")["deepspeed"]).read_text())
    assert zero["zero_optimization"]["stage"] == 3
    assert "optimizer" not in zero  # DeepSpeed's own would lose the rates of embeddings and norms


# Settings that TRL had dropped, like max_prompt_length, broke Axolotl's GRPO (axolotl#2752, axolotl#3390).
def test_axolotl_2752_and_3390_trl_takes_every_setting_of_the_grpo_recipe() -> None:
    from axolotl.core.trainers.grpo import GRPOStrategy  # 4 s, of Gradio: not in every process that collects tests

    text = (FOLDER / f"{RL}.yaml").read_text()
    given = yaml.safe_load(text)
    cfg = validate_config(DictDefault(given), H200, {"torch_version": torch.__version__.partition("+")[0]})
    assert not list(dropped(given, json.loads(json.dumps(cfg.to_dict(), default=str))))
    asked = {name: value for name, value in given["trl"].items() if name != "reward_funcs"}
    assert asked.keys() <= {field.name for field in dataclasses.fields(GRPOStrategy.get_training_args_class())}
    handed_over = GRPOStrategy.set_training_args_kwargs(cfg) | {"beta": cfg.trl.beta}  # this one by another way
    assert {name: handed_over[name] for name in asked} == asked
    assert GRPOStrategy.set_trainer_args(cfg) == [[longthread_reward]]
    assert given["micro_batch_size"] % given["trl"]["num_generations"] == 0
    assert f"#   axolotl train trainer_configs/{RL}.yaml" in text
