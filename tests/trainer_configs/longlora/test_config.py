"""The section and what it does to a config, without Axolotl: every bad one gets one line, every good one is set right."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.environments.tiny_model import tiny_config
from trainer_configs.longlora import conflicts
from trainer_configs.longlora.config import ROLLOUTS, LongLoRAError, configure, section
from trainer_configs.longlora.conflicts import KERNELS
from trainer_configs.longlora.row_files import ROWS

WINDOW = 128
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Configs alone: nothing here loads weights."""
    folders = {}
    for name, tied in (("untied", False), ("tied", True)):
        folders[name] = str(folder := tmp_path_factory.mktemp(name))
        tiny_config(max_position_embeddings=WINDOW, tie_word_embeddings=tied).save_pretrained(folder)
    return folders


def config(models: dict[str, str], model: str = "untied", longlora: Any = None, **changes: Any) -> dict[str, Any]:
    base = {"base_model": models[model], "plugins": ["trainer_configs.longlora.LongLoRAPlugin"], "adapter": "lora"}
    return base | {"sequence_len": WINDOW, "longlora": {} if longlora is None else longlora} | changes


def line(cfg: dict[str, Any]) -> str:
    """The one line that the config gets."""
    with pytest.raises(LongLoRAError) as error:
        configure(cfg)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 300
    return said


TAIL = {"attention": "tail_global"}
YARN = {"context_extension": {"method": "yarn", "target_length": 4 * WINDOW}}
ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": WINDOW}
# What stands in the section, or beside it, and what the line must name: key, value, fix.
SECTIONS = [
    ({"group": 64}, "longlora.group is an unknown key: valid keys are attention, group_size"),
    ({"attention": "sparse"}, "longlora.attention 'sparse': input should be 'shifted', 'tail_global' or 'full'"),
    ({"group_size": 2 * WINDOW}, rf"group_size {2 * WINDOW} is larger than sequence_len {WINDOW}: lower it, 32"),
    ({"group_size": 33}, "group_size 33 must be even.*set 32"),
    ({"group_size": 0}, "longlora.group_size 0: input should be greater than 1"),
    ({"group_size": "many"}, "longlora.group_size 'many': input should be a valid integer"),
    ({"sink_tokens": 17}, "sink_tokens 17 is over half of group_size 32"),
    ({"full_attention_steps": 1.5}, "longlora.full_attention_steps 1.5: input should be less than or equal to 1"),
    ({"min_score": -1}, "longlora.min_score -1: input should be greater"),
    ({"norm_lr": 0}, "longlora.norm_lr 0: input should be greater than 0"),
    ({"context_extension": {"method": "yarm", "target_length": 512}}, "context_extension.method 'yarm': .*'yarn'"),
    ({"context_extension": {"method": "yarn"}}, "longlora.context_extension.target_length is missing"),
    ({"context_extension": {"method": "yarn", "target_length": 64}}, "target_length 64 is not above the native window"),
    ({"context_extension": YARN["context_extension"] | {"beta": 1}}, "method yarn has no option 'beta'"),
    ("shifted", "longlora: 'shifted' must be a section of keys: attention"),
]
BESIDE = [
    ({"adapter": None}, "adapter None: set lora or qlora"),
    ({"sequence_len": None}, "sequence_len None: set the tokens of a row"),
    ({"unfrozen_parameters": ["norm"]}, "unfrozen_parameters .* not saved: leave it out"),
    ({"s2_attention": True}, "s2_attention is gone from Axolotl: .*longlora.attention: shifted"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling is gone from Axolotl: .*context_extension"),
    ({"embedding_lr": 1e-5}, "embedding_lr 1e-05 would be the norms' learning rate too: set longlora.embedding_lr"),
    ({"embedding_lr_scale": 0.1}, "embedding_lr_scale 0.1 would be the norms'"),
    ({"trust_remote_code": True}, "trust_remote_code runs code"),
    ({"peft_trainable_token_indices": [1]}, "peft_trainable_token_indices and longlora.train_embeddings"),
    ({"context_parallel_size": 2}, "context_parallel_size splits sequences"),
    ({"sequence_parallel_degree": 2}, "sequence_parallel_degree splits sequences"),
    ({"context_parallel": {"size": 2}}, "context_parallel splits sequences"),
    ({"fsdp_config": {"activation_checkpointing": True}}, 'save_strategy None: PEFT cannot save .*: set "no"'),
    ({"rl": "grpo"}, "rl grpo has no shifted attention"),
    ({"rl": "dpo", "longlora": TAIL}, "rl dpo gives the model no labels"),
    (
        {"sample_packing": True, "longlora": TAIL},
        "sample_packing packs rows, and tail_global takes rows of one document",
    ),
    ({"longlora": TAIL | {"parallel_documents": True}}, "parallel_documents have tails of their own"),
    ({"rl": "dpo", "rl_adapter_ref_model": True}, "rl_adapter_ref_model .* leave it out"),
    ({"rl": "dpo", "pad_to_multiple_of": 64}, "pad_to_multiple_of 64 crashes Axolotl with rl dpo"),
    ({"rl": "dpo", "sample_packing": True}, "sample_packing does not go with rl dpo"),
    ({"rl": "dpo", "use_pose": True}, "use_pose is not done with rl dpo"),
    ({"use_pose": True, "pose_max_context_len": 64}, rf"pose_max_context_len 64 is below sequence_len {WINDOW}: raise"),
    ({"use_pose": True, "pose_max_context_len": 512}, rf"_len 512 is above the window of {WINDOW} tokens: lower it"),
    ({"attn_implementation": "xformers"}, "attn_implementation xformers has no masks"),
    (
        {"sequence_len": 4 * WINDOW},
        rf"sequence_len {4 * WINDOW} is above the model's window of {WINDOW}: set longlora.con",
    ),
    ({"overrides_of_model_config": {"rope_scaling": {"type": "linear", "factor": 8}}}, "rope_scaling is lost"),
    ({"overrides_of_model_config": {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}}, "lacks rope_theta"),
    ({"base_model": "/nowhere/model"}, "base_model /nowhere/model: "),
    ({"base_model": None}, "base_model is missing"),
]
PARALLEL = {"parallel_documents": True}
BOTH = [  # section and beside
    (
        {"sink_tokens": 4},
        {"sample_packing": True},
        "sink_tokens need rows of one document each: set sample_packing false",
    ),
    (PARALLEL, {"use_pose": True}, "use_pose would write over the positions .*: set it false"),
    (PARALLEL, {"sample_packing": True}, "sample_packing would write over the positions .*: set it false"),
    (PARALLEL, {"batch_flattening": True}, "batch_flattening would write over the positions .*: set it false"),
    (PARALLEL, {"rl": "dpo"}, "parallel_documents are not in the pairs or prompts of rl dpo: set it false"),
    (PARALLEL | {"sink_tokens": 2}, {}, "sink_tokens 0 or parallel_documents false"),
    (
        PARALLEL | {"attention": "full"},
        {"context_parallel_size": 2},
        "context_parallel_size splits sequences across GPUs, where no tail sees every document: leave it out",
    ),
    (YARN, {"sequence_len": 8 * WINDOW}, rf"sequence_len {8 * WINDOW} is above .*target_length {4 * WINDOW}: lower it"),
    (YARN, {"merge_method": "memory_efficient"}, "merge_method memory_efficient would drop the context extension"),
    (
        YARN,
        {"overrides_of_model_config": {"rope_parameters": ROPE | {"factor": 2.0}}},
        "set the same: leave the first out",
    ),
]


@pytest.mark.parametrize(("given", "said"), SECTIONS, ids=str)
def test_a_bad_section_gets_one_line(models: dict[str, str], given: Any, said: str) -> None:
    assert re.search(said, line(config(models, longlora=given)))


@pytest.mark.parametrize(("given", "said"), BESIDE, ids=str)
def test_what_does_not_go_with_the_plugin_gets_one_line(models: dict[str, str], given: Any, said: str) -> None:
    assert re.search(said, line(config(models, **given)))


@pytest.mark.parametrize(("given", "beside", "said"), BOTH, ids=str)
def test_contradictions_get_one_line(models: dict[str, str], given: Any, beside: Any, said: str) -> None:
    assert re.search(said, line(config(models, longlora=given, **beside)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_modules_to_save": ["lm_head"]}, "lm_head is tied to the embeddings"),
        ({"peft_ensure_weight_tying": False}, "peft_ensure_weight_tying false would part"),
    ],
    ids=str,
)
def test_ties_are_not_to_be_cut(models: dict[str, str], given: Any, said: str) -> None:
    assert re.search(said, line(config(models, "tied", **given)))
    configure(config(models, "untied", **given))


def test_what_only_cuda_can_do_is_refused_without_it(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for key in (*KERNELS, "activation_offloading"):
        assert line(config(models, **{key: True})).startswith(key)
    configure(cfg := config(models, bf16="auto"))
    assert [cfg[key] for key in KERNELS] == [False] * 4
    assert cfg["fp16"] is False
    assert cfg["attn_implementation"] == "sdpa"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    configure(cfg := config(models, lora_mlp_kernel=True, activation_offloading=True))
    assert cfg["lora_mlp_kernel"]
    assert "lora_qkv_kernel" not in cfg


def test_flash_attention_is_taken_where_it_is_installed(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "find_spec", lambda name: None)
    assert "flash-attn: install it or set longlora" in line(config(models, attn_implementation="flash_attention_2"))
    monkeypatch.setattr(conflicts, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for given, taken in (("longlora", "flash_attention_2"), (None, "flash_attention_2"), ("sdpa", "sdpa")):
        configure(cfg := config(models, attn_implementation=given))
        assert cfg["attn_implementation"] == taken


@pytest.mark.parametrize("model", ["tied", "untied"])
def test_embeddings_and_norms_are_saved_and_ties_kept(models: dict[str, str], model: str) -> None:
    configure(cfg := config(models, model))
    assert cfg["lora_modules_to_save"] == ["embed_tokens", *NORMS]
    assert cfg.get("peft_ensure_weight_tying", False) == (model == "tied")
    configure(cfg := config(models, model, {"train_embeddings": False}, lora_modules_to_save=["mine"]))
    assert cfg["lora_modules_to_save"] == ["mine", *NORMS]
    assert "peft_ensure_weight_tying" not in cfg
    configure(cfg := config(models, model, {"train_embeddings": False, "train_norms": False}))
    assert "lora_modules_to_save" not in cfg


def test_the_extension_becomes_overrides_and_merges_keep_it(models: dict[str, str]) -> None:
    configure(
        cfg := config(models, longlora=YARN, sequence_len=4 * WINDOW, overrides_of_model_config={"use_cache": False})
    )
    assert cfg["overrides_of_model_config"]["rope_parameters"] == ROPE
    assert cfg["overrides_of_model_config"]["max_position_embeddings"] == 4 * WINDOW
    assert cfg["overrides_of_model_config"]["use_cache"] is False
    assert cfg["merge_method"] == "legacy"
    configure(plain := config(models))
    assert not {"overrides_of_model_config", "merge_method"} & plain.keys()


def test_rows_are_not_padded_further_than_they_must(models: dict[str, str]) -> None:
    for given, packed, taken in ((None, False, False), (None, True, None), (True, False, True)):
        configure(cfg := config(models, pad_to_sequence_len=given, sample_packing=packed))
        assert cfg["pad_to_sequence_len"] is taken


def test_twice_is_once(models: dict[str, str]) -> None:
    given = {"norm_lr": 1e-4, **YARN}
    configure(cfg := config(models, "tied", given, sequence_len=4 * WINDOW, attn_implementation="longlora"))
    once = copy.deepcopy(cfg)
    configure(cfg)
    assert cfg == once


@pytest.mark.parametrize(("length", "group"), [(32768, 8192), (8, 2), (1002, 250), (30, 6)])
def test_a_quarter_of_the_row_is_the_group(models: dict[str, str], length: int, group: int) -> None:
    configure(
        cfg := config(models, sequence_len=length, overrides_of_model_config={"max_position_embeddings": 1 << 20})
    )
    assert section(cfg).group_size == group
    configure(cfg := config(models, longlora={"attention": "full", "group_size": 999}))  # unread there
    assert section(cfg).attention == "full"


def test_rollouts_are_prepared_anew_when_they_or_the_score_change(models: dict[str, str], tmp_path: Path) -> None:
    (path := tmp_path / "rollouts.jsonl").write_text(json.dumps({"tokens": []}))

    def entry(**longlora: Any) -> dict[str, Any]:
        configure(cfg := config(models, longlora=longlora, datasets=[{"path": str(path), "type": ROLLOUTS}]))
        return cfg["datasets"][0]

    first = entry()
    assert first["ds_type"] == "text"
    assert first["conversation"] != entry(min_score=0.5)["conversation"]
    path.write_text(path.read_text() + "\n")
    assert first["conversation"] != entry()["conversation"]


def test_the_error_is_one_line_on_a_command_line_and_a_value_error_elsewhere() -> None:
    error = pickle.loads(pickle.dumps(LongLoRAError("what to do")))  # as it comes from a worker process
    assert isinstance(error, ValueError)
    assert isinstance(error, SystemExit)
    assert error.code == "what to do"


# ---- rows and positions -----------------------------------------------------------------------------------------


def test_pose_skips_to_the_end_of_the_window(models: dict[str, str]) -> None:
    """Axolotl's use_pose hands an unset pose_max_context_len on as None, and fails with it."""
    configure(cfg := config(models, use_pose=True, longlora=YARN))
    assert cfg["pose_max_context_len"] == 4 * WINDOW
    configure(cfg := config(models, use_pose=True))
    assert cfg["pose_max_context_len"] == WINDOW
    configure(cfg := config(models, use_pose=True, longlora=YARN, pose_max_context_len=300))
    assert cfg["pose_max_context_len"] == 300


def save_rows(folder: Path, *documents: int, mask: bool = False) -> str:
    length = sum(documents)
    columns: dict[str, Any] = {"input_ids": [[1] * length], "labels": [[1] * length], "length": [length]}
    columns["position_ids"] = [[at for n in documents for at in range(n)]]
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns | ({"attention_mask": [[1] * length]} if mask else {})), folder / "data/a.parquet")
    return str(folder)


def test_rows_without_a_mask_get_a_type_of_their_own(models: dict[str, str], tmp_path: Path) -> None:
    new, old = save_rows(tmp_path / "new", 8, 8), save_rows(tmp_path / "old", 8, 8, mask=True)
    paths = [new, f"{new}/data/a.parquet", old, str(tmp_path / "none"), "hub/name"]
    configure(cfg := config(models, datasets=[{"path": path, "type": ""} for path in paths]))
    assert [dataset["type"] for dataset in cfg["datasets"]] == [ROWS, ROWS, "", "", ""]
    configure(cfg := config(models, datasets=[{"path": new, "type": "completion"}]))
    assert cfg["datasets"][0]["type"] == "completion"


@pytest.mark.parametrize("mask", [False, True])
def test_pose_does_not_write_over_the_borders_of_documents(models: dict[str, str], tmp_path: Path, mask: bool) -> None:
    one, many = save_rows(tmp_path / "one", 16, mask=mask), save_rows(tmp_path / "many", 8, 8, mask=mask)
    configure(config(models, use_pose=True, datasets=[{"path": one, "type": ""}]))
    said = line(config(models, use_pose=True, datasets=[{"path": many, "type": ""}]))
    assert f"write over the positions of {many}" in said and "--mode window" in said
