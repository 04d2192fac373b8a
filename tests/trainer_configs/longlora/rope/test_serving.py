"""What is said of vLLM, against its formulas as its sources have them; vLLM itself is not run here."""

import json
import math
import shlex
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config
from typer.testing import CliRunner

from trainer_configs.longlora.rope.extension import frequencies, plan
from trainer_configs.longlora.rope.preview import app, changed
from trainer_configs.longlora.rope.serving import Serving, serving, vllm_window

NATIVE, TARGET = 8192, 32_768


def llama() -> LlamaConfig:
    return LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=NATIVE)


def extended(method: str, base: Any = None, **options: Any) -> Any:
    base = base or llama()
    return changed(base, plan(base, method, TARGET, **options))


def said(served: Serving) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the line, and what it overrides."""
    words = shlex.split(served.command)
    assert words[:3] == ["vllm", "serve", "my models/merged"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    return options, json.loads(options.get("--hf-overrides", "{}"))


def served(config: Any) -> Serving:
    return serving(config, "my models/merged")


@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn", "llama3", "ntk"])
def test_the_line_serves_the_window_that_was_trained(method: str) -> None:
    """vllm-project/vllm 33911 (PR 33958), NVIDIA-NeMo/Safe-Synthesizer PR 623: linear's factor counted twice."""
    config = extended(method)
    options, overrides = said(served(config))
    assert options["--max-model-len"] == str(TARGET)
    assert (vllm_window(config) == TARGET) == (method != "linear")
    assert bool(overrides) == (method == "dynamic")
    notes = " ".join(served(config).notes)
    assert ("would take 131,072 tokens for the window, 4 times what it is" in notes) == (method == "linear")


def test_dynamic_is_served_at_the_theta_of_the_target() -> None:
    """vllm-project/vllm 41236, 3488, 5093: one theta for all rows, which transformers draws from each row's length."""
    config = extended("dynamic")
    _, overrides = said(served(config))
    assert "rows shorter than that are read otherwise" in served(config).notes[0]
    assert overrides["max_position_embeddings"] == TARGET
    fixed = llama()
    for name, value in overrides.items():
        setattr(fixed, name, value)
    assert vllm_window(fixed) == TARGET
    torch.testing.assert_close(frequencies(fixed)[0], frequencies(config, TARGET)[0], rtol=1e-5, atol=0)


def test_ntk_with_a_temperature_is_served_with_its_window_and_both_names_of_its_factor() -> None:
    config = extended("ntk", temperature=0.103)
    options, overrides = said(served(config))
    assert options["--max-model-len"] == str(TARGET) and vllm_window(config) == TARGET
    rope = overrides["rope_parameters"]
    assert rope["attn_factor"] == rope["attention_factor"] == config.rope_parameters["attention_factor"] > 1


@pytest.mark.parametrize("factor", [1.0, 0.8, 1.5])
def test_a_custom_attention_factor_reaches_both_kinds_of_vllm(factor: float) -> None:
    """vllm-project/vllm 46280, 48351: it was dropped, and computed from the factor."""
    config = extended("yarn", attention_factor=factor)
    _, overrides = said(served(config))
    rope = overrides["rope_parameters"]
    older = (0.1 * math.log(rope["factor"]) + 1) * rope["attn_factor"]
    assert rope["attention_factor"] == pytest.approx(factor) == pytest.approx(older)
    assert rope.items() >= config.rope_parameters.items()
    assert f"trained with {factor:g}" in served(config).notes[0]


def test_the_usual_attention_factor_needs_no_word() -> None:
    for options in ({}, {"attention_factor": 0.1 * math.log(4) + 1}):
        assert served(extended("yarn", **options)).notes == ()


@pytest.mark.parametrize(("factor", "custom"), [(None, False), (1.7, True)])
def test_longrope(factor: float | None, custom: bool) -> None:
    base = Phi3Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=NATIVE)
    base.original_max_position_embeddings = NATIVE
    config = extended("longrope", base, long_factor=[2.0] * 8, attention_factor=factor)
    options, overrides = said(served(config))
    assert options["--max-model-len"] == str(TARGET) and vllm_window(config) == TARGET
    assert "long frequencies at every length" in served(config).notes[0]
    assert bool(overrides) == custom
    if custom:
        assert overrides["rope_parameters"]["long_mscale"] == overrides["rope_parameters"]["short_mscale"] == factor


def test_parameters_by_layer_type_stay_whole() -> None:
    base = Gemma3TextConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, head_dim=16,
        layer_types=["sliding_attention", "full_attention"], max_position_embeddings=NATIVE,
    )  # fmt: skip
    config = extended("yarn", base, attention_factor=1.5)
    _, overrides = said(served(config))
    assert overrides["rope_parameters"].keys() == config.rope_parameters.keys()
    assert overrides["rope_parameters"]["sliding_attention"] == config.rope_parameters["sliding_attention"]
    assert served(config).notes[0].startswith("full_attention: ")


def test_the_command_says_it(tmp_path: Any) -> None:
    llama().save_pretrained(tmp_path)
    found = CliRunner().invoke(app, ["rope", "--model", str(tmp_path), "--method", "linear", "--target", str(TARGET)])
    assert found.exit_code == 0, found.output
    assert f"# merged: vllm serve MERGED --max-model-len {TARGET}" in found.stdout
    assert "note: vLLM would take 131,072 tokens for the window" in found.stderr
