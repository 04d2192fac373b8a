"""The plugin in Axolotl: the smoke recipe from rows to a merged model, preferences, and each part by itself."""

from __future__ import annotations

import atexit
import gc
import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"  # before Axolotl is imported: no test may reach the network

import axolotl.core.builders  # noqa: F401 (here, or each of the forks would import it)
import axolotl.utils.config
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from axolotl.cli.args import PreprocessCliArgs, TrainerCliArgs
from axolotl.cli.config import load_cfg
from axolotl.cli.merge_lora import do_cli as merge_lora
from axolotl.cli.preprocess import do_preprocess
from axolotl.cli.train import do_train
from axolotl.integrations.base import PluginManager
from axolotl.integrations.config import merge_input_args
from axolotl.integrations.expert_parallel import shard
from axolotl.telemetry.manager import TelemetryManager
from axolotl.utils.config import validate_config
from axolotl.utils.data.shared import load_dataset_with_config
from axolotl.utils.data.wrappers import get_dataset_wrapper
from axolotl.utils.dict import DictDefault
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import trainer_configs.longlora
from tests.environments.tiny_model import save_tiny, tiny_model, tiny_tokenizer
from trainer_configs.longlora import telemetry
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.merge import merge
from trainer_configs.longlora.plugin import LongLoRAPlugin
from trainer_configs.longlora.schedule import Schedule, is_full, with_rates
from trainer_configs.longlora.startup_summary import table

SMOKE = str(Path(trainer_configs.longlora.__file__).parents[1] / "smoke-cpu.yaml")  # Axolotl takes no Path
NAME = "trainer_configs.longlora.LongLoRAPlugin"
LAYERS, WINDOW, LENGTH = 2, 64, 128
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")

# ---- whole runs: each in a process of its own, since Axolotl keeps one set of plugins a process ------------------


@cache
def config_classes(input_args: tuple[str, ...]) -> Any:
    """Axolotl's configuration with the keys of these plugins, which takes a second to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManager, "get_input_args", lambda _: list(input_args))
        return merge_input_args()


def start(folder: Path, work: Callable[[], dict[str, Any]]) -> int:
    """Forks, so that Axolotl is imported once; what `work` returns is in result.json, what it prints in log."""
    config_classes((LongLoRAPlugin().get_input_args(),))  # here, or each of the forks would make them
    if pid := os.fork():
        return pid
    gc.freeze()  # Axolotl collects after every phase, and need not look through all that was imported
    code = 1
    try:
        torch.set_num_threads(1)  # OpenMP's threads did not come along
        os.chdir(folder)
        log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
        save = datasets.Dataset.save_to_disk  # by itself it starts Python again, for half a minute
        datasets.Dataset.save_to_disk = lambda self, path, **named: save(self, path, **named | {"num_proc": None})
        axolotl.utils.config.merge_input_args = lambda: config_classes(
            tuple(PluginManager.get_instance().get_input_args())
        )
        Path("result.json").write_text(json.dumps(work()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(pid: int, folder: Path) -> dict[str, Any]:
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"{os.waitstatus_to_exitcode(status)}\n{(folder / 'log').read_text()[-4000:]}"
    return json.loads((folder / "result.json").read_text())


def watched(cfg: DictDefault) -> dict[str, Any]:
    """Trains; the trainer, and the attentions that the plugin put in."""
    plugin, seen = PluginManager.get_instance().plugins[NAME], {}
    create = plugin.post_trainer_create

    def post_trainer_create(cfg: Any, trainer: Any) -> None:
        create(cfg, trainer)
        seen["trainer"], seen["attentions"], seen["logits"] = trainer, list(plugin.attentions), set()
        head = trainer.model.get_output_embeddings()
        head.register_forward_hook(lambda _, args, out: seen["logits"].add(tuple(out.shape[:2])))

    plugin.post_trainer_create = post_trainer_create
    do_train(cfg, TrainerCliArgs())
    plugin.post_trainer_create = create
    return seen


def trained(cfg: DictDefault) -> dict[str, Any]:
    """Trains, and says what can be seen of the plugin while it does."""
    seen = watched(cfg)
    callback = next(c for c in seen["trainer"].callback_handler.callbacks if isinstance(c, Schedule))
    return {
        "plugins": list(PluginManager.get_instance().plugins),
        "steps": [callback.sparse, callback.full],
        "calls": [attention.calls for attention in seen["attentions"]],
        "tails": [len(attention._pass.tails) for attention in seen["attentions"]],  # of the last batch
        "attention_after": seen["trainer"].model.config._attn_implementation,
        "rates": [[group.get("lr"), len(group["params"])] for group in seen["trainer"].optimizer.param_groups],
        "losses": [line["loss"] for line in seen["trainer"].state.log_history if "loss" in line],
        "evaluations": [line["eval_loss"] for line in seen["trainer"].state.log_history if "eval_loss" in line],
        "use_cpu": seen["trainer"].args.use_cpu,
        "bf16": seen["trainer"].args.bf16,
        "max_length": getattr(seen["trainer"].args, "max_length", None),
        "rows": len(seen["trainer"].train_dataset),
        "logits": sorted(seen["logits"]),
    }


def smoke() -> dict[str, Any]:
    """The recipe as it stands: preprocess, train, and Axolotl's own merge."""
    do_preprocess(load_cfg(SMOKE, is_preprocess=True), PreprocessCliArgs())
    prepared = sorted(str(path) for path in Path("prepared").rglob("*.arrow"))
    result = trained(load_cfg(SMOKE)) | {"prepared": prepared}
    merge_lora(SMOKE)
    return result


def preferences() -> dict[str, Any]:
    """Pairs as `longthread export dpo` writes them; bf16, and rates of their own."""
    recipe = yaml.safe_load(Path(SMOKE).read_text())
    entry = {"path": "pairs.jsonl", "ds_type": "json", "split": "train", "type": "chat_template.argilla_chat"}
    recipe |= {"rl": "dpo", "datasets": [entry], "val_set_size": 0, "bf16": True, "learning_rate": 2e-5}
    del recipe["eval_steps"]
    recipe["longlora"] |= {"embedding_lr": 1e-3, "norm_lr": 1e-4, "full_attention_steps": 0.5}
    Path("dpo.yaml").write_text(yaml.safe_dump(recipe))
    result = trained(load_cfg("dpo.yaml"))
    losses = []  # in fp32: bf16 rounds products of other shapes otherwise, by as much as the processor likes
    for name in ("kept", "whole"):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": name, "bf16": False}))
        losses.append(trained(load_cfg(f"{name}.yaml"))["losses"])
        pytest.MonkeyPatch().setattr("trainer_configs.longlora.plugin.can_keep", lambda trainer: False)
    return result | {"fp32": losses}


def resumed() -> dict[str, Any]:
    """Rows without a mask under PoSE: four steps at once, and the same from a checkpoint of the second."""
    recipe = yaml.safe_load(Path(SMOKE).read_text()) | {"sequence_len": WINDOW, "use_pose": True, "save_steps": 2}
    recipe |= {"datasets": [{"path": "rows", "type": ""}], "val_set_size": 0, "pad_to_sequence_len": False}
    recipe |= {"lr_scheduler": "cosine", "longlora": recipe["longlora"] | {"group_size": 16}}
    del recipe["eval_steps"]
    Path("once.yaml").write_text(yaml.safe_dump(recipe))
    result = trained(load_cfg("once.yaml"))
    rows = load_from_disk(str(next(Path("prepared").glob("*/dataset_info.json")).parent))
    again = {"output_dir": "again", "resume_from_checkpoint": "out/checkpoint-2"}
    Path("again.yaml").write_text(yaml.safe_dump(recipe | again))
    later = trained(load_cfg("again.yaml"))
    return result | {"later": later, "columns": rows.column_names}


def parallel() -> dict[str, Any]:
    """Rows of parallel documents: the smoke recipe's steps and evaluations."""
    recipe = yaml.safe_load(Path(SMOKE).read_text()) | {"datasets": [{"path": "side-by-side", "type": ""}]}
    recipe |= {"longlora": recipe["longlora"] | {"parallel_documents": True}}
    Path("parallel.yaml").write_text(yaml.safe_dump(recipe))
    return trained(load_cfg("parallel.yaml"))


def tail_global() -> dict[str, Any]:
    """Rows of one document each, with tail-global attention: the smoke recipe's steps."""
    recipe = yaml.safe_load(Path(SMOKE).read_text()) | {"sequence_len": WINDOW, "val_set_size": 0}
    recipe |= {"datasets": [{"path": "rows", "type": ""}], "pad_to_sequence_len": False}
    recipe |= {"longlora": recipe["longlora"] | {"attention": "tail_global", "group_size": 16}}
    del recipe["eval_steps"]
    Path("tail.yaml").write_text(yaml.safe_dump(recipe))
    return trained(load_cfg("tail.yaml"))


def side_by_side(seed: int) -> list[int]:
    """The positions of a row of two documents and a tail, of other lengths for each seed."""
    ends, tail = 24 + seed, 20 + seed
    return [*range(ends), *range(ends - 9 - seed, ends), *range(ends + 1, ends + 1 + tail)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The runs at the same time, each with a folder and a model, tied or not."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = {}
    works = {"smoke": smoke, "preferences": preferences, "resumed": resumed, "parallel": parallel}
    works["tail_global"] = tail_global
    for name, work in works.items():
        tied = name != "preferences"
        folder = tmp_path_factory.mktemp(name)
        save_tiny(folder / "tiny-model", max_position_embeddings=WINDOW, tie_word_embeddings=tied)
        texts = [f"row {i}: " + "what follows is always the same, " * 3 for i in range(12)]
        (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (folder / "rows").mkdir()
        tokens = [[(7 * row + at) % 256 for at in range(WINDOW)] for row in range(12)]
        columns = {"input_ids": tokens, "labels": tokens, "position_ids": [list(range(WINDOW))] * 12}
        pq.write_table(pa.table(columns | {"length": [WINDOW] * 12}), folder / "rows" / "train.parquet")
        (folder / "side-by-side").mkdir()
        places = [side_by_side(i) for i in range(12)]
        tokens = [[(7 * row + at) % 256 for at in range(len(place))] for row, place in enumerate(places)]
        columns = {"input_ids": tokens, "labels": tokens, "position_ids": places}
        columns["attention_mask"] = [[1] * len(place) for place in places]
        pq.write_table(pa.table(columns), folder / "side-by-side" / "train.parquet")
        with (folder / "pairs.jsonl").open("w") as file:
            for i in range(8):
                said = [
                    [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": answer}]
                    for answer in (f"<answer>{i}</answer>", "<answer>none</answer>")
                ]
                pair = {"chosen": said[0], "rejected": said[1], "score_chosen": 1.0, "score_rejected": 0.0}
                file.write(json.dumps(pair | {"task": "single", "prompt_tokens": 30}) + "\n")
        started[name] = folder, start(folder, work)
    return {name: finish(pid, folder) | {"folder": folder} for name, (folder, pid) in started.items()}


def changes(run: dict[str, Any]) -> dict[str, float]:
    """Share of the elements of each kind that training changed; it changed every tensor."""
    adapter = load_file(run["folder"] / "out" / "adapter_model.safetensors")
    base = load_file(run["folder"] / "tiny-model" / "model.safetensors")
    found: dict[str, list[torch.Tensor]] = {"embed": [], "norm": []}
    for name, tensor in adapter.items():
        if "lora_" not in name and "lm_head" not in name:
            old = base[name.removeprefix("base_model.model.")]
            moved = tensor != old
            assert moved.any(), name
            found["norm" if "norm" in name else "embed"].append(moved.flatten())
    return {kind: torch.cat(tensors).float().mean().item() for kind, tensors in found.items()}


def logits(model: Any) -> torch.Tensor:
    """In double precision: single rounds this model's by up to 1e-5 of the largest, as much as a merge may change them."""
    ids = torch.randint(0, 256, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval().double()(input_ids=ids).logits


def adapter_model(folder: Path) -> Any:
    """The base as it was trained: its weights under the run's config, with the adapter."""
    config = AutoConfig.from_pretrained(folder / "out")
    base = AutoModelForCausalLM.from_pretrained(folder / "tiny-model", config=config, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(folder / "out"))


def test_the_smoke_recipe_trains_in_both_attentions(runs: dict[str, Any]) -> None:
    run = runs["smoke"]
    # From 0.20 on Axolotl always loads some of its own.
    assert [name for name in run["plugins"] if not name.startswith("axolotl.")] == [NAME]
    assert run["prepared"]
    assert run["steps"] == [3, 1]
    # A forward pass and, with checkpoints, one more backward; evaluation and the full step add none.
    assert run["calls"] == [3 * LAYERS * 2]
    assert run["attention_after"] == "sdpa"
    assert len(run["evaluations"]) == 2
    assert run["evaluations"][1] < run["evaluations"][0]
    assert run["use_cpu"]


def test_it_says_what_it_did(runs: dict[str, Any]) -> None:
    log = (runs["smoke"]["folder"] / "log").read_text()
    for said in (
        "tiny-model (LlamaForCausalLM, 2 layers)",
        "shifted sparse in training, sdpa in full steps and evaluation",
        "32 tokens, 4 groups a row",
        "25% of the steps",
        "16,640 in 1 tensor, float32",
        "320 in 5 tensors, float32",
        "128 tokens: rope_theta 10000, rope_type yarn, factor 2",
        "3 steps in sparse attention, 1 in full",
    ):
        assert said in log


def test_what_was_trained_is_in_the_adapter(runs: dict[str, Any]) -> None:
    keys = load_file(runs["smoke"]["folder"] / "out" / "adapter_model.safetensors").keys()
    assert sum("lora_" in key for key in keys) == LAYERS * 4 * 2
    for name in (*NORMS, "embed_tokens"):
        assert any(f"{name}.weight" in key for key in keys), name
    for name, run in runs.items():
        assert changes(run)["norm"] > 0.95, name  # one may have walked back to where it began
        assert changes(run)["embed"] > 0.05, name  # the tokens that the rows hold


@pytest.mark.parametrize("name", ["smoke", "preferences"])
def test_merged_it_is_the_same_model(runs: dict[str, Any], name: str, tmp_path: Path) -> None:
    folder = runs[name]["folder"]
    wanted = logits(adapter_model(folder))
    merge(folder / "out", tmp_path / "merged", str(folder / "tiny-model"))
    merged = [tmp_path / "merged", *([folder / "out" / "merged"] if name == "smoke" else [])]  # ours, and Axolotl's
    for path in merged:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        assert (logits(model) - wanted).abs().max() <= 1e-5 * wanted.abs().max(), path
        assert model.config.rope_parameters["rope_type"] == "yarn", path
        assert model.config.max_position_embeddings == LENGTH, path


def test_preferences_train_in_bf16_with_rates_of_their_own(runs: dict[str, Any]) -> None:
    run = runs["preferences"]
    assert run["bf16"]
    assert run["losses"][0] == pytest.approx(math.log(2), abs=1e-3)  # policy and reference are one model at first
    assert run["steps"] == [2, 2]
    assert run["calls"][0] > 0
    assert sorted(run["rates"]) == [[2e-5, LAYERS * 4 * 2], [1e-4, 2 * LAYERS + 1], [1e-3, 1]]
    assert run["rates"][0][0] == 2e-5  # the one that logs show


def test_pairs_take_the_logits_of_completions_alone(runs: dict[str, Any]) -> None:
    """huggingface/trl 2452 and 3701, unslothai/unsloth 1612: DPO of long rows runs out of memory, for its logits."""
    run = runs["preferences"]
    kept, whole = run["fp32"]
    assert kept == pytest.approx(whole, rel=1e-4) and kept[0] - kept[-1] > 1e-3
    completion = len("<answer>none</answer>") + 1
    assert all(rows == 4 and completion <= length <= completion + 4 for rows, length in run["logits"]), run["logits"]


def test_no_pair_is_cut_silently(runs: dict[str, Any]) -> None:
    """gradients-ai/G.O.D 1160: TRL's own max_length is 1,024, and what lies beyond is cut without a line."""
    assert runs["preferences"]["max_length"] == LENGTH
    assert runs["preferences"]["rows"] == 8
    trainer = SimpleNamespace(args=SimpleNamespace(max_length=64))
    with pytest.raises(LongLoRAError, match="would cut pairs at 64 tokens, sequence_len is 128: set them equal"):
        LongLoRAPlugin().post_trainer_create(
            DictDefault(longlora={"attention": "full"}, rl="dpo", sequence_len=LENGTH), trainer
        )


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(runs: dict[str, Any]) -> None:
    """huggingface/transformers 24252, 24354 and huggingface/sentence-transformers 3402: a resume that lost PEFT's weights.

    LoRA, embeddings and norms (fp32) to the bit; and the steps' attention: which were full, of those still to come.
    """
    run = runs["resumed"]
    once, again = (load_file(run["folder"] / name / "adapter_model.safetensors") for name in ("out", "again"))
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert run["later"]["losses"] == run["losses"]  # those before the checkpoint are read from it
    assert run["steps"] == [3, 1] and sum(run["later"]["steps"]) == 2
    full = [is_full(1, step, 0.25) for step in range(4)]
    assert run["later"]["steps"] == [2 - sum(full[2:]), sum(full[2:])]


def test_axolotls_pose_trains_on_rows_without_a_mask(runs: dict[str, Any]) -> None:
    run = runs["resumed"]
    assert {"input_ids", "labels", "position_ids"} <= set(run["columns"]) and "attention_mask" not in run["columns"]
    assert run["steps"] == [3, 1] and run["calls"] == [3 * LAYERS * 2]
    assert "positions skip as far as 128 tokens" in (run["folder"] / "log").read_text()


def test_parallel_documents_train_in_both_attentions(runs: dict[str, Any]) -> None:
    run = runs["parallel"]
    assert run["steps"] == [3, 1] and run["calls"] == [3 * LAYERS * 2]
    assert "no layer is computed again" in (run["folder"] / "log").read_text()
    assert run["evaluations"][1] < run["evaluations"][0] and run["tails"] == [2]
    assert runs["smoke"]["tails"] == [0]
    assert "read apart; tails see them all" in (run["folder"] / "log").read_text()


def test_tail_global_attention_is_given_the_labels_by_axolotls_trainer(runs: dict[str, Any]) -> None:
    run = runs["tail_global"]
    assert run["steps"] == [3, 1] and run["calls"] == [3 * LAYERS * 2]
    assert "tail-global in training" in (run["folder"] / "log").read_text()


# ---- telemetry --------------------------------------------------------------------------------------------------


def test_offline_axolotls_telemetry_is_off(cfg: DictDefault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager := TelemetryManager.get_instance(), "enabled", True)
    monkeypatch.setenv("AXOLOTL_DO_NOT_TRACK", "")
    for name in telemetry.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    LongLoRAPlugin().register(cfg)
    assert manager.enabled
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    LongLoRAPlugin().register(cfg)
    assert not manager.enabled and os.environ["AXOLOTL_DO_NOT_TRACK"] == "1"


def test_what_cannot_be_sent_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    unregistered, never = [], Event()
    monkeypatch.setattr(atexit, "unregister", unregistered.append)
    client = SimpleNamespace(shutdown=never.wait, default_client=SimpleNamespace(join="join"))
    manager = SimpleNamespace(enabled=True, shutdown="shutdown")
    assert not telemetry.settle(manager, client, grace=0)
    assert unregistered == ["shutdown", "join"]
    never.set()
    assert telemetry.settle(SimpleNamespace(enabled=False), client)


# ---- loading ----------------------------------------------------------------------------------------------------


def test_without_the_plugin_the_recipe_does_not_train(tmp_path: Path) -> None:
    """Up to 0.20 Axolotl goes on without a plugin that it cannot import, and drops its section without a word."""
    save_tiny(tmp_path / "tiny-model")
    recipe = yaml.safe_load(Path(SMOKE).read_text()) | {"base_model": str(tmp_path / "tiny-model"), "plugins": None}
    with pytest.raises(ValueError, match="attn_implementation='longlora' is not a recognized backend"):
        validate_config(DictDefault(recipe))


def test_a_plugin_that_cannot_be_imported_is_no_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer_configs.longlora.LongLoRAPlugin is LongLoRAPlugin
    monkeypatch.setitem(sys.modules, "trainer_configs.longlora.plugin", None)
    with pytest.raises(RuntimeError, match="the LongLoRA plugin cannot be loaded"):
        _ = trainer_configs.longlora.LongLoRAPlugin
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = trainer_configs.longlora.Other


def test_configs_of_others_are_left_alone() -> None:
    plugin, cfg = LongLoRAPlugin(), DictDefault({"plugins": ["other.Plugin"]})
    plugin.register(cfg)
    for hook in (plugin.post_model_build, plugin.pre_lora_load, plugin.post_lora_load, plugin.post_trainer_create):
        hook(cfg, None)
    assert plugin.get_training_args(cfg) == {}
    assert cfg == {"plugins": ["other.Plugin"]}


# ---- the hooks --------------------------------------------------------------------------------------------------


@pytest.fixture
def cfg(tmp_path: Path) -> DictDefault:
    save_tiny(tmp_path / "tiny-model", max_position_embeddings=WINDOW)
    recipe = yaml.safe_load(Path(SMOKE).read_text()) | {"base_model": str(tmp_path / "tiny-model")}
    LongLoRAPlugin().register(made := DictDefault(recipe))
    return made


def built(cfg: DictDefault) -> Any:
    """The base model as Axolotl builds it."""
    config = AutoConfig.from_pretrained(cfg.base_model)
    for name, value in (cfg.overrides_of_model_config or {}).items():
        setattr(config, name, value)
    return AutoModelForCausalLM.from_pretrained(cfg.base_model, config=config)


def test_a_model_that_cannot_have_it_is_refused_in_one_line(cfg: DictDefault) -> None:
    model = built(cfg)
    model._supports_attention_backend = False
    with pytest.raises(LongLoRAError, match="LlamaForCausalLM does not take attention .*set longlora.attention full"):
        LongLoRAPlugin().post_model_build(cfg, model)
    cfg.longlora["attention"] = "full"
    LongLoRAPlugin().post_model_build(cfg, model)


@pytest.mark.parametrize("key", ["merge_lora", "inference"])
def test_merging_and_inference_have_the_models_own_attention(cfg: DictDefault, key: str) -> None:
    cfg[key] = True
    plugin, model = LongLoRAPlugin(), built(cfg)
    plugin.post_model_build(cfg, model)
    plugin.post_lora_load(cfg, get_peft_model(model, LoraConfig(target_modules=["q_proj"])))
    assert model.config._attn_implementation == "sdpa"
    assert not plugin.prepared


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(cfg: DictDefault) -> None:
    plugin, model = LongLoRAPlugin(), built(cfg)
    plugin.post_model_build(cfg, model)
    plugin.pre_lora_load(cfg, model)
    model.resize_token_embeddings(261)
    with pytest.raises(LongLoRAError, match="made 261 of the model's 260 embeddings"):
        plugin.pre_lora_load(cfg, model)


def test_dynamic_scaling_survives_what_axolotl_does_to_the_window(cfg: DictDefault) -> None:
    cfg.longlora["context_extension"] = {"method": "dynamic", "target_length": LENGTH}
    cfg.overrides_of_model_config = None
    LongLoRAPlugin().register(cfg)
    plugin, model = LongLoRAPlugin(), built(cfg)
    plugin.post_model_build(cfg, model)
    model.config.max_position_embeddings = cfg.sequence_len  # `_adjust_model_config`
    plugin.pre_lora_load(cfg, model)
    assert model.config.max_position_embeddings == WINDOW


def test_a_model_without_the_rope_asked_for_is_refused(cfg: DictDefault) -> None:
    plugin, model = LongLoRAPlugin(), AutoModelForCausalLM.from_pretrained(cfg.base_model)
    plugin.post_model_build(cfg, model)
    with pytest.raises(LongLoRAError, match="rope_parameters"):
        plugin.pre_lora_load(cfg, model)


def test_a_merged_config_gets_the_rope(cfg: DictDefault, tmp_path: Path) -> None:
    (path := tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "max_position_embeddings": WINDOW})
    )
    LongLoRAPlugin().post_lora_merge(cfg, "adapter", str(tmp_path))
    config = json.loads(path.read_text())
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert config["max_position_embeddings"] == LENGTH
    assert config["model_type"] == "llama"


def test_under_fsdp_all_that_is_trained_is_saved(cfg: DictDefault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Axolotl saves LoRA alone, through this function; test_trainable.py saves shards with what takes its place."""
    saved: list[tuple[Any, str]] = []
    monkeypatch.setattr(
        "trainer_configs.longlora.plugin.save_sharded", lambda model, folder: saved.append((model, folder))
    )
    monkeypatch.setattr(shard, "save_fsdp2_lora_adapter", save := shard.save_fsdp2_lora_adapter)
    model = get_peft_model(built(cfg), LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", *NORMS]))
    trainer = SimpleNamespace(model=model, create_optimizer=None)
    LongLoRAPlugin().post_trainer_create(cfg, trainer)
    assert shard.save_fsdp2_lora_adapter is save
    cfg.fsdp_config = {"activation_checkpointing": True}
    LongLoRAPlugin().post_trainer_create(cfg, trainer)
    shard.save_fsdp2_lora_adapter("with preferences, the inner model", "out")
    assert saved == [(model, "out")]


def test_axolotl_finds_the_type_of_rollouts(cfg: DictDefault, tmp_path: Path) -> None:
    group = {"tokens": [[1, 2, 3], [1, 4]], "masks": [[-100, 2, 3], [-100, 4]], "scores": [1.0, 0.0]}
    (path := tmp_path / "rollouts.jsonl").write_text(json.dumps(group) + "\n")
    cfg.datasets = [{"path": str(path), "type": "trainer_configs.longlora.rollouts"}]
    LongLoRAPlugin().register(cfg)
    entry = DictDefault(cfg.datasets[0])
    rows = load_dataset_with_config(entry, False)
    wrapped, _ = get_dataset_wrapper(entry, tiny_tokenizer(), cfg, entry.type, rows)
    assert wrapped.to_list() == [{"input_ids": [1, 2, 3], "attention_mask": [1] * 3, "labels": [-100, 2, 3]}]


def test_axolotl_finds_the_type_of_rows_without_a_mask(cfg: DictDefault, tmp_path: Path) -> None:
    columns = {"input_ids": [[1, 2, 3]], "labels": [[1, 2, 3]], "position_ids": [[0, 1, 0]], "length": [3]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    cfg.datasets = [{"path": str(tmp_path / "rows.parquet"), "ds_type": "parquet", "type": ""}]
    LongLoRAPlugin().register(cfg)
    entry = DictDefault(cfg.datasets[0])
    rows = load_dataset_with_config(entry, False)
    for model_type, mask in (("llama", {}), ("gemma3", {"attention_mask": [1] * 3})):  # which Axolotl takes off again
        cfg.model_config_type = model_type
        wrapped, _ = get_dataset_wrapper(entry, tiny_tokenizer(), cfg, entry.type, rows)
        assert wrapped.to_list() == [{name: column[0] for name, column in columns.items()} | mask]
    old = Dataset.from_dict({"input_ids": [[1]], "attention_mask": [[1]], "labels": [[1]], "position_ids": [[0]]})
    old.to_parquet(tmp_path / "old.parquet")
    cfg.datasets.append(DictDefault(path=str(tmp_path / "old.parquet"), type=entry.type))
    cfg.model_config_type = "llama"
    wrapped, _ = get_dataset_wrapper(entry, tiny_tokenizer(), cfg, entry.type, rows)
    assert wrapped[0]["attention_mask"] == [1] * 3  # or the two could not be collated; the plugin looks at positions
    with pytest.raises(LongLoRAError, match="old.parquet may have one: train them apart, or with the plugin"):
        get_dataset_wrapper(entry, tiny_tokenizer(), DictDefault(cfg.to_dict() | {"longlora": None}), entry.type, rows)
    with pytest.raises(LongLoRAError, match="has no column input_ids: give rows of longthread longlora data"):
        get_dataset_wrapper(entry, tiny_tokenizer(), cfg, entry.type, rows.remove_columns("input_ids"))


def test_packed_rows_are_not_split_across_gpus(cfg: DictDefault) -> None:
    """axolotl-ai-cloud/axolotl 3608, PR 3867: rows packed before training, split across GPUs, as one document each."""
    cfg.longlora["attention"], cfg.context_parallel_size = "full", 2
    plugin, model = LongLoRAPlugin(), built(cfg)
    plugin.post_model_build(cfg, model)
    assert not plugin.apart
    rows = datasets.Dataset.from_dict({"position_ids": [[0, 1, 2, 3], [0, 1, 0, 1]]})
    with pytest.raises(LongLoRAError, match="rows of several documents, split across GPUs.*--mode window"):
        plugin.post_trainer_create(cfg, SimpleNamespace(model=model, train_dataset=rows))


@pytest.mark.parametrize(
    ("wanted", "rows", "side", "message"),
    [
        (False, [side_by_side(0)], "right", "rows hold parallel documents.*set longlora.parallel_documents true"),
        (True, [side_by_side(0), [0, 1, 0, 1, 2, 4, 5]], "right", "documents end at positions 1, 2"),
        (True, [side_by_side(0)], "left", "rows padded on the right: set tokenizer.padding_side right"),
    ],
    ids=["setting left out", "malformed", "padding"],
)
def test_rows_that_the_setting_does_not_go_with_are_refused_before_training(
    cfg: DictDefault, wanted: bool, rows: list[list[int]], side: str, message: str
) -> None:
    cfg.longlora["parallel_documents"] = wanted
    plugin, model = LongLoRAPlugin(), built(cfg)
    plugin.post_model_build(cfg, model)
    collator = SimpleNamespace(tokenizer=SimpleNamespace(padding_side=side))
    trainer = SimpleNamespace(
        model=model, train_dataset=datasets.Dataset.from_dict({"position_ids": rows}), data_collator=collator
    )
    with pytest.raises(LongLoRAError, match=message):
        plugin.post_trainer_create(cfg, trainer)


@pytest.mark.parametrize("attention", ["shifted", "full"])
def test_a_tail_sees_every_document_until_the_model_is_given_back(cfg: DictDefault, attention: str) -> None:
    cfg.longlora |= {"attention": attention, "parallel_documents": True}
    plugin, model = LongLoRAPlugin(), built(cfg).train()
    plugin.post_model_build(cfg, model)
    positions = torch.tensor([side_by_side(0)])
    ids = torch.arange(positions.shape[1])[None]
    other = torch.cat([ids[:, :1] + 200, ids[:, 1:]], dim=1)

    def moved(start: int, end: int) -> bool:
        a, b = (model(x, position_ids=positions, attention_mask=torch.ones_like(x)).logits for x in (ids, other))
        return not torch.equal(a[:, start:end], b[:, start:end])

    assert moved(0, 24) and not moved(24, 33) and moved(33, 53)
    plugin.post_train_unload(cfg)
    assert moved(24, 33) and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attention", ["shifted", "full"])
def test_packed_documents_do_not_see_each_other_until_the_model_is_given_back(cfg: DictDefault, attention: str) -> None:
    cfg.longlora["attention"] = attention
    plugin, model = LongLoRAPlugin(), built(cfg).eval()
    plugin.post_model_build(cfg, model)
    ids = torch.arange(40)[None]
    positions = torch.cat([torch.arange(10), torch.arange(30)])[None]
    wanted = model(ids[:, 10:]).logits

    def same() -> bool:
        found = model(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits[:, 10:]
        return torch.allclose(found, wanted, atol=1e-5)

    assert same()
    plugin.post_train_unload(cfg)
    assert not same() and model.config._attn_implementation == "sdpa"


# ---- the schedule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1])
def test_any_stretch_of_steps_has_its_share(share: float) -> None:
    for seed in range(8):
        steps = [is_full(seed, step, share) for step in range(300)]
        for n in (1, 4, 7, 100):
            for start_ in range(0, 300 - n, 13):
                full = sum(steps[start_ : start_ + n])
                assert abs(full - n * share) < 1 + 1e-9, (seed, n)
    assert len({tuple(is_full(seed, step, 0.25) for step in range(4)) for seed in range(64)}) == 4


def test_steps_that_were_not_what_they_should_be_end_the_run() -> None:
    attention = SimpleNamespace(sparse=True, calls=0)
    for share, calls, said in (
        (0, 0, "run in sparse attention and did not"),
        (1, 1, "run in full attention and did not"),
    ):
        schedule, state = Schedule([attention], share, 0), SimpleNamespace(global_step=0)
        schedule.on_step_begin(None, state, None)
        assert attention.sparse == (share == 0)
        attention.calls += 1 - calls
        schedule.on_step_end(None, state, None)
        schedule.on_step_begin(None, state, None)
        attention.calls += calls
        with pytest.raises(LongLoRAError, match=said):
            schedule.on_step_end(None, state, None)


# ---- learning rates, and what is expected -----------------------------------------------------------------------


def test_only_lora_is_decayed_and_rates_left_out_are_the_runs() -> None:
    names = ["embed_tokens", *NORMS]
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], modules_to_save=names))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def groups(embedding: float | None, norm: float | None) -> list[tuple[float, float, int]]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
        trainer = SimpleNamespace(model=model, create_optimizer=lambda: optimizer)
        made = with_rates(trainer, embedding, norm)()
        assert {id(p) for g in made.param_groups for p in g["params"]} == {id(p) for p in parameters}
        return sorted((g["lr"], g["weight_decay"], len(g["params"])) for g in made.param_groups)

    assert groups(1e-5, 1e-4) == [(1e-5, 0.0, 1), (1e-4, 0.0, 5), (1e-3, 0.1, 4)]
    assert groups(None, None) == [(1e-3, 0.0, 1), (1e-3, 0.0, 5), (1e-3, 0.1, 4)]


def test_the_table_knows_the_devices_speed(cfg: DictDefault, monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_peft_model(built(cfg), LoraConfig(target_modules=["q_proj"]))
    plain = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    plain.print(table(cfg, model, []))
    assert " s (" not in plain.export_text()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    plain.print(table(cfg, model, []))
    assert "0.00 s (" in plain.export_text()
