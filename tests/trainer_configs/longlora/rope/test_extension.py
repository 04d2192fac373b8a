"""RoPE extension against the papers' formulas, written out here, in models that are built, saved and loaded again."""

import copy
import json
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteMoeHybridConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from typer.testing import CliRunner

from longthread.errors import ConfigError
from trainer_configs.longlora.rope.extension import (
    check,
    check_overrides,
    extended,
    frequencies,
    plan,
)
from trainer_configs.longlora.rope.methods import OPTIONS
from trainer_configs.longlora.rope.preview import app

NATIVE, TARGET, SCALE = 256, 1024, 4
SHAPE = {
    "vocab_size": 32,
    "hidden_size": 128,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": NATIVE,
}
PAIRS = 32  # of a head of 64 dimensions
LONG, SHORT = [1 + i / 8 for i in range(PAIRS)], [1 + i / 64 for i in range(PAIRS)]
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32, "num_hidden_layers": 2}


def llama(kind="default", most=NATIVE, **more):
    return LlamaConfig(
        **SHAPE | {"max_position_embeddings": most},
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **more},
    )


def neox():
    return GPTNeoXConfig(**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})  # fmt: skip  # noqa: E501


def gemma3(**full):
    full = {"rope_type": "default", "rope_theta": 1e6, **full}
    sliding = {"rope_type": "default", "rope_theta": 10000.0}
    return Gemma3TextConfig(
        **SHAPE | LAYERS, head_dim=64, num_key_value_heads=2,
        rope_parameters={"full_attention": full, "sliding_attention": sliding},
    )  # fmt: skip


def phi3(**more):
    return Phi3Config(**SHAPE | more, pad_token_id=0, original_max_position_embeddings=NATIVE)


def set_on(config, changes):
    """A new config with the changes."""
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config.get_text_config(), name, copy.deepcopy(value))
    return config


def rotary(model):
    (module,) = [module for name, module in model.named_modules() if name.endswith("rotary_emb")]
    return module


# ---- the papers' formulas, in doubles -----------------------------------------------------------------------------


def rope(theta, dims):
    return [theta ** (-2 * i / dims) for i in range(dims // 2)]


def interpolation(theta, dims, s, native):  # arXiv 2306.15595: position m becomes m / s
    return [f / s for f in rope(theta, dims)], 1.0


def ntk(theta, dims, s, native):  # arXiv 2309.00071, NTK-aware
    return rope(theta * s ** (dims / (dims - 2)), dims), 1.0


def dynamic(theta, dims, s, native, length):  # emozilla's, with alpha = s
    return rope(theta * (s * max(length, native) / native - (s - 1)) ** (dims / (dims - 2)), dims), 1.0


def yarn(theta, dims, s, native, fast=32, slow=1):
    """arXiv 2309.00071, NTK-by-parts and temperature; the ramp is the authors' code's, straight in i, not in turns."""

    def pair_of(turns):  # where 2*pi/theta_i * turns = native
        return dims * math.log(native / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair_of(fast)), 0), min(math.ceil(pair_of(slow)), dims - 1)
    found = []
    for i, f in enumerate(rope(theta, dims)):
        gamma = 1 - min(max((i - low) / (max(high - low, 0.001)), 0), 1)
        found.append((1 - gamma) * f / s + gamma * f)
    return found, 0.1 * math.log(s) + 1


def llama3(theta, dims, s, native, low=1.0, high=4.0):  # apply_scaling of meta-llama/llama-models
    found = []
    for f in rope(theta, dims):
        wavelength = 2 * math.pi / f
        if wavelength < native / high:
            found.append(f)
        elif wavelength > native / low:
            found.append(f / s)
        else:
            smooth = (native / wavelength - low) / (high - low)
            found.append((1 - smooth) * f / s + smooth * f)
    return found, 1.0


def longrope(theta, dims, s, native, factors=LONG):  # arXiv 2402.13753; the attention factor of Phi-3
    scaled = [f / factor for f, factor in zip(rope(theta, dims), factors, strict=True)]
    return scaled, math.sqrt(1 + math.log(s) / math.log(native))


FORMULAS = {"linear": interpolation, "ntk": ntk, "yarn": yarn, "llama3": llama3}


def same(there, formula, more=0.0):
    """In fp32; `more` is what frequencies may be off by beside that."""
    frequencies_, factor = there
    wanted, wanted_factor = torch.tensor(formula[0], dtype=torch.double), formula[1]
    near = (frequencies_.double() - wanted).abs() <= 3e-6 * wanted + more
    return bool(near.all()) and math.isclose(factor, wanted_factor, rel_tol=1e-6)


@pytest.mark.parametrize("method", FORMULAS)
@settings(max_examples=12, deadline=None)
@given(
    theta=st.sampled_from([10000.0, 100000.0, 500000.0, 1e6]),
    dims=st.sampled_from([32, 64, 80, 128, 256]),
    native=st.sampled_from([2048, 8192, 10000, 32768]),
    longer=st.integers(1, 400_000),
)
def test_frequencies_are_the_papers(method, theta, dims, native, longer):
    config = LlamaConfig(
        **SHAPE | {"max_position_embeddings": native}, head_dim=dims,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    changes = extended(config, method, native + longer)
    built = LlamaRotaryEmbedding(set_on(config, changes))
    formula = FORMULAS[method](theta, dims, (native + longer) / native, native)
    # llama3 blends f / s with f by a share that is rounded too: up to s times as much of f / s.
    share = 2**-22 * torch.tensor(rope(theta, dims), dtype=torch.double) if method == "llama3" else 0.0
    assert same((built.inv_freq, built.attention_scaling), formula, share)
    assert changes["max_position_embeddings"] == native + longer
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": theta}  # not written into


def test_yarn_leaves_the_fast_and_interpolates_the_slow():
    """The paper's own bounds: over 32 turns in the native window as before, under one turn divided by s."""
    config = LlamaConfig(max_position_embeddings=4096, hidden_size=4096, num_attention_heads=32)
    after, factor = frequencies(set_on(config, extended(config, "yarn", 32768)))
    for before, now in zip(rope(10000.0, 128), after.double().tolist(), strict=True):
        turns = 4096 * before / (2 * math.pi)
        assert before / 8 * (1 - 1e-6) <= now <= before * (1 + 1e-6)
        if turns > 32 or turns < 1:
            assert now == pytest.approx(before if turns > 32 else before / 8, rel=1e-6)
    assert factor**2 == pytest.approx((0.1 * math.log(8) + 1) ** 2)  # on q and on k: 1/t


@pytest.mark.parametrize(
    ("method", "options", "formula"),
    [
        ("linear", {}, interpolation(1e4, 64, SCALE, NATIVE)),
        ("ntk", {}, ntk(1e4, 64, SCALE, NATIVE)),
        ("ntk", {"rope_theta": 5e6}, (rope(5e6, 64), 1.0)),
        ("ntk", {"temperature": 0.3}, (ntk(1e4, 64, SCALE, NATIVE)[0], math.sqrt(1 + 0.3 * math.log(SCALE)))),
        ("yarn", {}, yarn(1e4, 64, SCALE, NATIVE)),
        ("yarn", {"beta_fast": 8, "beta_slow": 2}, yarn(1e4, 64, SCALE, NATIVE, 8, 2)),
        ("yarn", {"attention_factor": 1.5}, (yarn(1e4, 64, SCALE, NATIVE)[0], 1.5)),
        ("yarn", {"native_length": 128}, yarn(1e4, 64, 8, 128)),
        ("llama3", {}, llama3(1e4, 64, SCALE, NATIVE)),
        ("llama3", {"low_freq_factor": 2, "high_freq_factor": 8}, llama3(1e4, 64, SCALE, NATIVE, 2, 8)),
        ("dynamic", {}, dynamic(1e4, 64, SCALE, NATIVE, TARGET)),
        ("dynamic", {"native_length": 128}, dynamic(1e4, 64, 8, 128, TARGET)),
        ("longrope", {"long_factor": LONG}, longrope(1e4, 64, SCALE, NATIVE)),
    ],
)
def test_the_saved_and_loaded_model_rotates_by_the_formula(method, options, formula, tmp_path):
    config = llama()
    changes = extended(config, method, TARGET, **options)
    model = LlamaForCausalLM(set_on(config, changes)).eval()
    check(model, changes)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == changes["rope_parameters"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    check(model, changes)
    tokens = torch.randint(32, (1, TARGET))
    with torch.no_grad():
        assert model(tokens).logits.isfinite().all()  # a whole row: dynamic and longrope turn to its length
        cos, sin = rotary(model)(torch.zeros(1, 1), torch.tensor([[TARGET - 1]]))
    assert same((rotary(model).inv_freq, rotary(model).attention_scaling), formula)
    angle = (TARGET - 1) * torch.tensor(formula[0], dtype=torch.double).repeat(2)
    assert torch.allclose(cos[0, 0].double(), formula[1] * angle.cos(), atol=3e-3)
    assert torch.allclose(sin[0, 0].double(), formula[1] * angle.sin(), atol=3e-3)
    if method != "dynamic":  # nothing but the dict and the length is changed
        assert model.config.max_position_embeddings == TARGET


# ---- what models have is kept -------------------------------------------------------------------------------------


def test_gemma3_is_extended_in_full_attention_layers_alone(tmp_path):
    config = gemma3()
    for method in ("linear", "ntk", "dynamic", "yarn", "llama3"):
        changes = extended(config, method, TARGET)
        model = AutoModelForCausalLM.from_config(set_on(config, changes)).eval()
        check(model, changes)
        model.config.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).rope_parameters == changes["rope_parameters"]
        with torch.no_grad():
            model(torch.randint(32, (1, TARGET)))
        module = rotary(model)
        formula = (
            dynamic(1e6, 64, SCALE, NATIVE, TARGET) if method == "dynamic" else FORMULAS[method](1e6, 64, SCALE, NATIVE)
        )
        assert same((module.full_attention_inv_freq, module.full_attention_attention_scaling), formula), method
        assert same(
            (module.sliding_attention_inv_freq, module.sliding_attention_attention_scaling), (rope(1e4, 64), 1.0)
        )


def test_a_multimodal_config_is_extended_in_its_text_config():
    text = gemma3()
    config = Gemma3Config(text_config=text.to_dict())
    assert extended(config, "yarn", TARGET) == extended(text, "yarn", TARGET)


def test_partial_rotary_dimensions_stay():
    config = neox()
    for method, formula in FORMULAS.items():
        changes = extended(config, method, TARGET)
        assert changes["rope_parameters"]["partial_rotary_factor"] == 0.25
        model = AutoModelForCausalLM.from_config(set_on(config, changes))
        check(model, changes)
        assert same((rotary(model).inv_freq, rotary(model).attention_scaling), formula(1e4, 16, SCALE, NATIVE))


def test_scaled_models_are_extended_from_where_they_are():
    llama31 = llama("llama3", 2048, factor=8.0, original_max_position_embeddings=128, low_freq_factor=1.0, high_freq_factor=4.0)  # fmt: skip  # noqa: E501
    new = extended(llama31, "llama3", 4096)["rope_parameters"]  # 2,048 by factor 8 of 128: the factor doubles
    assert (new["factor"], new["original_max_position_embeddings"]) == (16, 128)

    for most in (
        256,
        1024,
    ):  # Qwen2.5 with yarn: the length before scaling in max_position_embeddings, or the one after
        scaled = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
        qwen = Qwen2Config(**SHAPE | {"max_position_embeddings": most}, rope_theta=1e6, rope_scaling=scaled)
        changes = extended(qwen, "yarn", 2048)
        assert same(frequencies(set_on(qwen, changes)), yarn(1e6, 64, 8, 256))
        with pytest.raises(ConfigError, match="native window of 1024"):
            extended(qwen, "yarn", 1024)

    two_steps = set_on(llama(), extended(llama(), "ntk", 1024))
    two_steps = set_on(two_steps, extended(two_steps, "ntk", 4096))
    assert same(frequencies(two_steps), ntk(1e4, 64, 16, 256))

    moving = set_on(llama(), extended(llama(), "dynamic", 1024))
    assert extended(moving, "dynamic", 2048) == extended(llama(), "dynamic", 2048)
    with pytest.raises(ConfigError, match="native window of 1024"):
        extended(moving, "dynamic", 1024)

    linear = gemma3(rope_type="linear", factor=8.0)  # as Gemma 3 4B
    changes = extended(linear, "linear", 1024, native_length=256)
    assert changes["rope_parameters"]["full_attention"]["factor"] == 32
    after, _ = frequencies(set_on(linear, extended(linear, "ntk", 1024, native_length=256)), layer="full_attention")
    assert same((8 * after, 1.0), ntk(1e6, 64, 4, 256))


def test_phi3_keeps_its_lists_and_its_original_length():
    scaled = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG}
    config = phi3(max_position_embeddings=1024, rope_parameters=scaled)
    longer = [2 * factor for factor in LONG]
    changes = extended(config, "longrope", 2048, long_factor=longer)
    new = changes["rope_parameters"]
    assert (new["short_factor"], new["long_factor"], new["original_max_position_embeddings"]) == (SHORT, longer, NATIVE)
    after = set_on(config, changes)
    check(AutoModelForCausalLM.from_config(after), changes)
    assert same(frequencies(after, 2048), longrope(1e4, 64, 8, NATIVE, longer))
    assert same(frequencies(after, NATIVE), longrope(1e4, 64, 8, NATIVE, SHORT))


# ---- traps: facts of transformers 5, shown, and what is done about them ---------------------------------------------

LLAMA2 = LlamaConfig(max_position_embeddings=4096, hidden_size=4096, num_attention_heads=32)
TRAPS = [  # overrides_of_model_config that replace the dict, and what they lose; None: right as they are
    (LLAMA2, {"rope_scaling": {"type": "linear", "factor": 8}}, "rope_scaling"),
    (LLAMA2, {"rope_parameters": {"rope_type": "linear", "factor": 8}}, "rope_theta"),
    (LLAMA2, {"rope_parameters": {"rope_type": "linear", "factor": 8, "rope_theta": 500000}}, None),
    (
        LLAMA2,
        {"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "yarn", "factor": 8, "rope_theta": 10000}},
        "original_max_position_embeddings",
    ),
    (
        LLAMA2,
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 8,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 4096,
            }
        },
        None,
    ),
    (gemma3(), {"rope_parameters": {"rope_type": "linear", "factor": 8, "rope_theta": 10000}}, "full_attention"),
    (neox(), {"rope_parameters": {"rope_type": "linear", "factor": 8, "rope_theta": 10000}}, "partial_rotary_factor"),
    (LLAMA2, {"rope_parameters": "yarn"}, "must be a mapping"),
    (LLAMA2, {"max_position_embeddings": 8192}, None),
]


@pytest.mark.parametrize(("config", "overrides", "lost"), TRAPS)
def test_overrides_that_lose_part_of_the_rope_are_refused(config, overrides, lost):
    if lost is None:
        check_overrides(config, overrides)
        return
    with pytest.raises(ConfigError, match=lost) as error:
        check_overrides(config, overrides)
    assert "\n" not in str(error.value) and "context_extension" in str(error.value)


def unchanged(config):
    before = rope(10000.0, 128)
    return sum(
        math.isclose(f, now, rel_tol=1e-4) for f, now in zip(before, frequencies(config)[0].tolist(), strict=True)
    )


def test_yarn_counts_from_the_length_before():
    right = set_on(LLAMA2, extended(LLAMA2, "yarn", 32768))
    wrong = set_on(LLAMA2, TRAPS[3][1])
    wrong.standardize_rope_params()
    assert (unchanged(right), unchanged(wrong)) == (21, 36)


def test_partial_rotary_is_lost_by_an_override_that_runs():
    wrong = rotary(AutoModelForCausalLM.from_config(set_on(neox(), TRAPS[6][1])))
    right = rotary(AutoModelForCausalLM.from_config(set_on(neox(), extended(neox(), "linear", TARGET))))
    assert (2 * len(wrong.inv_freq), 2 * len(right.inv_freq)) == (64, 16)


def test_dynamic_does_nothing_once_the_maximum_is_raised():
    changes = extended(llama(), "dynamic", TARGET)
    assert changes["max_position_embeddings"] == NATIVE
    assert changes["rope_parameters"]["factor"] * NATIVE == TARGET  # where the new maximum is recorded
    model = LlamaForCausalLM(set_on(llama(), changes))
    check(model, changes)
    model.config.max_position_embeddings = TARGET  # as Axolotl does, to sequence_len
    assert same(frequencies(model.config, TARGET), (rope(1e4, 64), 1.0))
    with pytest.raises(ConfigError, match=f"max_position_embeddings {TARGET}, not {NATIVE}"):
        check(model, changes)


def test_a_model_that_computes_something_else_is_refused():
    changes = extended(llama(), "yarn", TARGET)
    with pytest.raises(ConfigError, match="rope_parameters"):
        check(LlamaForCausalLM(llama()), changes)
    late = LlamaForCausalLM(llama())  # set after the model was built: the frequencies stay as they were
    late.config.rope_parameters, late.config.max_position_embeddings = changes.values()
    with pytest.raises(ConfigError, match="other frequencies"):
        check(late, changes)
    scaled = LlamaForCausalLM(set_on(llama(), changes))
    rotary(scaled).attention_scaling = 1.0
    with pytest.raises(ConfigError, match="attention factor 1.0"):
        check(scaled, changes)
    with pytest.raises(ConfigError, match="other frequencies"):  # in bf16 a position of 100,000 is off by whole turns
        check(LlamaForCausalLM(set_on(llama(), changes)).to(torch.bfloat16), changes)
    without = LlamaForCausalLM(set_on(llama(), changes))
    without.model.rotary_emb = torch.nn.Identity()
    with pytest.raises(ConfigError, match="does not use"):
        check(without, changes)


# ---- errors and warnings ------------------------------------------------------------------------------------------

SCALED3 = llama("llama3", 2048, factor=8.0, original_max_position_embeddings=128, low_freq_factor=1.0, high_freq_factor=4.0)  # fmt: skip  # noqa: E501
OWN = llama("yarn", 1024, factor=4.0, original_max_position_embeddings=256, attention_factor=1.3)


@pytest.mark.parametrize(
    ("config", "method", "target", "options", "says"),
    [
        (
            llama(),
            "pose",
            TARGET,
            {},
            "method must be one of linear, ntk, dynamic, yarn, longrope, llama3 (got 'pose')",
        ),
        (llama(), "yarn", NATIVE, {}, "target_length 256 is not above the native window of 256 tokens"),
        (llama(), "yarn", 100, {}, "target_length 100 is not above"),
        (llama(), "yarn", 1024.0, {}, "target_length must be a whole number of tokens above 0 (got 1024.0)"),
        (llama(), "yarn", "32k", {}, "target_length must be a whole number of tokens above 0 (got '32k')"),
        (llama(), "yarn", True, {}, "a whole number of tokens above 0 (got True)"),
        (llama(), "yarn", -5, {}, "a whole number of tokens above 0 (got -5)"),
        (llama(), "linear", TARGET, {"beta_fast": 32}, "linear has no option 'beta_fast': it has native_length"),
        (llama(), "yarn", TARGET, {"type": "yarn"}, "no option 'type'"),
        (llama(), "yarn", TARGET, {"beta_fast": "32"}, "beta_fast must be a number above 0 (got '32')"),
        (llama(), "yarn", TARGET, {"beta_fast": 1, "beta_slow": 2}, "beta_fast 1 is not above beta_slow 2"),
        (llama(), "yarn", TARGET, {"truncate": 1}, "truncate must be true or false (got 1)"),
        (
            llama(),
            "yarn",
            TARGET,
            {"attention_factor": math.nan},
            "attention_factor must be a number above 0 (got nan)",
        ),
        (llama(), "yarn", TARGET, {"native_length": 512}, "native_length 512 is above the config's"),
        (
            llama(),
            "yarn",
            TARGET,
            {"native_length": 1.5},
            "native_length must be a whole number of tokens above 0 (got 1.5)",
        ),
        (llama(), "ntk", TARGET, {"rope_theta": 9999}, "rope_theta 9999 is not above the model's own 10000"),
        (llama(), "ntk", TARGET, {"temperature": 0}, "temperature must be a number above 0 (got 0)"),
        (
            llama("linear", factor=4.0),
            "ntk",
            TARGET,
            {"temperature": 0.1, "native_length": 256},
            "temperature needs a model",
        ),
        (
            set_on(llama(), extended(llama(), "ntk", 512, temperature=0.1)),
            "ntk",
            TARGET,
            {},
            "would replace the model's own",
        ),
        (llama(), "llama3", TARGET, {"high_freq_factor": 1}, "high_freq_factor 1 is not above"),
        (llama(), "longrope", TARGET, {}, "longrope needs long_factor, 32 numbers"),
        (llama(), "longrope", TARGET, {"long_factor": [1.0]}, "long_factor has 1 numbers, not 32"),
        (llama(), "longrope", TARGET, {"long_factor": 2}, "long_factor must be a list of numbers above 0 (got 2)"),
        (GPT2Config(), "yarn", TARGET, {}, "GPT2Config has no RoPE"),
        (BloomConfig(), "yarn", TARGET, {}, "BloomConfig has no RoPE"),
        (FalconConfig(alibi=True), "yarn", 9999, {}, "FalconConfig has no RoPE"),  # though it has rope_parameters
        (GraniteMoeHybridConfig(), "yarn", 9999, {}, "GraniteMoeHybridConfig has no RoPE"),  # it has them too
        (MixtralConfig(**SHAPE), "yarn", TARGET, {}, "head_dim null"),
        (phi3(), "yarn", TARGET, {}, "Phi3Config does not take rope_type yarn"),  # it would become longrope
        (phi3(), "linear", TARGET, {}, "Phi3Config does not take rope_type linear"),
        (phi3(), "longrope", TARGET, {"long_factor": LONG, "native_length": 128}, "changes rope_parameters"),
        (gemma3(), "longrope", TARGET, {"long_factor": LONG}, "per layer type"),
        (gemma3(), "yarn", TARGET, {"truncate": False}, "ignores truncate false"),
        (SCALED3, "yarn", 4096, {}, "method yarn would replace the model's own llama3 scaling: llama3 can"),
        (SCALED3, "llama3", 2048, {}, "not above the native window of 2048"),
        (SCALED3, "llama3", 4096, {"native_length": 1024}, "says it: leave it out"),
        (llama("linear", factor=4.0), "linear", TARGET, {}, "set native_length, 256 if"),
        (llama("linear", factor=4.0), "yarn", TARGET, {}, "linear, ntk can extend it"),
        (OWN, "yarn", 2048, {}, "attention_factor of its own, 1.3, not 1.1386"),
    ],
)
def test_errors_are_one_line(config, method, target, options, says):
    with pytest.raises(ConfigError) as error:
        extended(config, method, target, **options)
    assert says in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 320


def test_an_attention_factor_given_or_usual_is_no_error():
    assert extended(OWN, "yarn", 2048, attention_factor=1.4)["rope_parameters"]["attention_factor"] == 1.4
    usual = llama(
        "yarn", 1024, factor=4.0, original_max_position_embeddings=256, attention_factor=0.1 * math.log(4) + 1
    )
    changes = extended(usual, "yarn", 2048)
    assert same(frequencies(set_on(usual, changes)), yarn(1e4, 64, 8, 256))


def test_warnings(caplog):
    assert plan(llama(), "yarn", 8 * NATIVE).warnings == ()
    (stages,) = plan(llama(), "yarn", 8 * NATIVE + 1).warnings
    assert "stages" in stages and "2048" in stages
    once = set_on(llama(), extended(llama(), "yarn", 8 * NATIVE))
    assert plan(once, "yarn", 64 * NATIVE).warnings == ()  # the second stage
    assert "mixed lengths" in plan(llama(), "dynamic", TARGET).warnings[0]
    assert "two sets" in plan(llama(), "longrope", TARGET, long_factor=LONG).warnings[0]
    shared = Gemma2Config(**SHAPE | LAYERS, head_dim=64, num_key_value_heads=2)
    assert "sliding_attention layers are changed too" in plan(shared, "yarn", TARGET).warnings[0]
    assert plan(gemma3(), "yarn", TARGET).warnings == ()
    with caplog.at_level(logging.WARNING, "trainer_configs.longlora.rope.extension"):
        extended(llama(), "dynamic", 9 * NATIVE)
    assert len(caplog.messages) == 2 and not any("\n" in message for message in caplog.messages)


# ---- the command ---------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["rope", *map(str, arguments)], terminal_width=120)


def test_command_shows_what_would_be_set_from_the_config_alone(tmp_path):
    llama().save_pretrained(tmp_path)
    picture = tmp_path / "rope.png"
    found = run(
        "--model", tmp_path, "--method", "yarn", "--target", TARGET, "--plot", picture, "--option", "beta_fast=16"
    )
    assert found.exit_code == 0, found.output
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line) == extended(llama(), "yarn", TARGET, beta_fast=16)
    assert "context_extension: {method: yarn, target_length: 1024, beta_fast: 16}" in found.stdout
    ratios = [b / a for a, b in zip(yarn(1e4, 64, SCALE, NATIVE, fast=16)[0], rope(1e4, 64), strict=True)]
    counts = [sum(math.isclose(ratio, of, rel_tol=1e-4) for ratio in ratios) for of in (1, SCALE)]
    text = " ".join(found.stdout.replace("│", " ").split())
    assert f"{counts[0]} as before" in text and f"{counts[1]} interpolated" in text and "1.1386" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "rope.png"}


@pytest.mark.parametrize("method", OPTIONS)
def test_command_shows_every_method(method, tmp_path):
    gemma = method != "longrope"
    (gemma3() if gemma else phi3()).save_pretrained(tmp_path)
    (tmp_path / "factors.json").write_text(json.dumps(LONG))
    more = () if gemma else ("--option", f"long_factor=@{tmp_path / 'factors.json'}")
    found = run("--model", tmp_path, "--method", method, "--target", TARGET, *more)
    assert found.exit_code == 0, found.output
    assert ("full_attention layers only" in found.stdout) == gemma


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--method", "pose"), "must be one of linear, ntk, dynamic, yarn, longrope, llama3 (got 'pose') (--method)"),
        (("--method", "yarn", "--option", "beta_fast"), "is not name=value"),
        (("--method", "yarn", "--option", "beta_fast=x"), "is not name=value"),
        (("--method", "yarn", "--option", "beta_fast=@absent"), "is not name=value"),
        (("--method", "yarn", "--native", "512"), "native_length 512 is above"),
        (("--method", "yarn", "--model", "absent"), "no config that can be read"),
        (("--method", "yarn", "--plot", "absent/x.png"), "absent/x.png"),
    ],
)
def test_command_refuses_in_one_line(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llama().save_pretrained(tmp_path / "model")
    found = run("--model", "model", "--target", TARGET, *arguments)
    assert found.exit_code == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ") and says in line
