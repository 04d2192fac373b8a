"""RoPE extension: what to set on a model's config so that it reads `target_length` tokens.

`extended` merges into the parameters that the model has, so its theta, partial rotary factor, original length and nesting
by layer type stay, and refuses what transformers would compute wrongly. d: rotary dimension, s: target / native length.

| method   | frequency of pair i, where theta_i = theta^(-2i/d)                 | source |
|----------|--------------------------------------------------------------------|--------|
| linear   | theta_i / s                                                        | position interpolation, arXiv 2306.15595 |
| ntk      | theta becomes theta * s^(d/(d-2)), or the one that is given        | NTK-aware, in 2309.00071; ABF, 2309.16039 |
| dynamic  | theta becomes theta * (s*L/native - (s-1))^(d/(d-2)), row length L | emozilla's, as transformers has it |
| yarn     | theta_i to theta_i / s by its turns; cos and sin * (0.1 ln s + 1)  | arXiv 2309.00071, ramp of its code |
| longrope | theta_i / long_factor_i: found by search, so to be given           | arXiv 2402.13753 |
| llama3   | theta_i to theta_i / s by its wavelength                           | Llama 3.1's code |

    longthread longlora rope --model MODEL --method yarn --target 131072 --plot rope.png
"""

import copy
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

logger = logging.getLogger(__name__)

OPTIONS = {  # beside native_length, which each has
    "linear": (),
    "ntk": ("rope_theta",),
    "dynamic": (),
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
    "longrope": ("long_factor", "short_factor", "attention_factor"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
# What a model with scaling of its own can be given: transformers holds one type, so another one would undo the first.
EXTENDS = {kind: (kind,) for kind in OPTIONS} | {"default": tuple(OPTIONS), "linear": ("linear", "ntk")}
STEP = 8  # times longer at once, beyond which training in stages is told to be better
RATIO = 1e-5  # relative difference of frequencies computed twice in fp32


class RopeError(ValueError):
    """An extension that cannot be, or would be silently wrong: one line."""


@dataclass(frozen=True)
class Extension:
    """`changes`: for `setattr` on `config.get_text_config()` before the model is built. Lengths in tokens."""

    changes: dict[str, Any]
    layer: str | None  # of nested parameters: the layer type that is extended
    native: int
    target: int
    warnings: tuple[str, ...]

    @property
    def factor(self) -> float:
        """How many times longer than the model's present window."""
        return self.target / self.native


def extended(config: PretrainedConfig, method: str, target_length: int, **options: Any) -> dict[str, Any]:
    """{"rope_parameters": …, "max_position_embeddings": …} for the loaded config; logs the warnings of `plan`.

    `max_position_embeddings` is the target, but for `dynamic`, whose formula divides by it: there it stays the native
    length, and the target is factor * max_position_embeddings. Raises `RopeError`.
    """
    extension = plan(config, method, target_length, **options)
    for warning in extension.warnings:
        logger.warning("%s", warning)
    return extension.changes


def plan(config: PretrainedConfig, method: str, target_length: int, **options: Any) -> Extension:
    """As `extended`, with what the change is about. Raises `RopeError`.

    `options` are those of `OPTIONS`, and `native_length`: the tokens that the model as it is was trained to read, where
    its config does not say it (linear) or says too much.
    """
    options = {name: value for name, value in options.items() if value is not None}
    text = config.get_text_config()
    _check_options(method, target_length, options)
    layer, old = rope_of(text)
    if method not in EXTENDS.get(kind := old["rope_type"], ()):
        fit = ", ".join(EXTENDS.get(kind, ())) or "no method"
        raise RopeError(f"method {method} would replace the model's own {kind} scaling: {fit} can extend it")
    native = _native_length(text, old, options)
    if target_length <= native:
        raise RopeError(
            f"target_length {target_length} is not above the native window of {native} tokens: raise it, or leave the "
            "extension out"
        )
    given = {name: value for name, value in options.items() if name != "native_length"}
    new = old | SCALED[method](old, rotary_dims(text, old), native, target_length, given)
    new.pop("type", None)  # the old spelling of rope_type
    new = {name: value for name, value in new.items() if value is not None}
    if layer and not new.get("truncate", True):
        raise RopeError("transformers does not heed truncate false in parameters per layer type: leave it out")
    longest = target_length
    if method == "dynamic":
        longest = native if kind == "default" else text.max_position_embeddings
    parameters = {**copy.deepcopy(text.rope_parameters), layer: new} if layer else new
    changes = {"rope_parameters": parameters, "max_position_embeddings": longest}
    _check_accepted(text, changes, layer)
    warnings = _warnings(method, text, layer, native, target_length)
    return Extension(changes, layer, native, target_length, warnings)


def rope_of(text: PretrainedConfig) -> tuple[str | None, dict[str, Any]]:
    """The layer type that is extended (None: the parameters are not nested) and its parameters. Raises `RopeError`."""
    name = type(text).__name__
    parameters = getattr(text, "rope_parameters", None)
    positions = getattr(text, "position_embedding_type", "rope")  # GraniteMoeHybrid has parameters even without RoPE
    if not parameters or getattr(text, "alibi", False) or positions not in ("rope", "rotary"):
        raise RopeError(f"{name} has no RoPE (ALiBi, learned or no positions): choose another model")
    layer = None
    if all(isinstance(value, dict) or value is None for value in parameters.values()):
        layer, parameters = "full_attention", parameters.get("full_attention")
        if not parameters or layer not in (getattr(text, "layer_types", None) or [layer]):
            raise RopeError(f"{name} has no full_attention layers with RoPE: choose another model")
    theta, longest = parameters.get("rope_theta"), getattr(text, "max_position_embeddings", None)
    if not _number(theta) or not _whole(longest):
        raise RopeError(f"{name} has rope_theta {theta} and max_position_embeddings {longest}: both must be numbers")
    return layer, {**copy.deepcopy(parameters), "rope_type": parameters.get("rope_type", "default")}


def rotary_dims(text: PretrainedConfig, parameters: dict[str, Any]) -> int:
    """Dimensions of a head that are rotated."""
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(size * parameters.get("partial_rotary_factor", 1.0))


def frequencies(config: PretrainedConfig, length: int | None = None, layer: str | None = None) -> tuple[Tensor, float]:
    """Frequencies (d/2,) in radians a token, and the factor on cos and sin, for rows of `length` tokens (None: as the
    model is built), by transformers' own functions."""
    text = copy.deepcopy(config.get_text_config())  # they write into it
    parameters = text.rope_parameters[layer] if layer else text.rope_parameters
    if (kind := parameters.get("rope_type", "default")) == "default":
        dims = rotary_dims(text, parameters)
        return 1.0 / parameters["rope_theta"] ** (torch.arange(0, dims, 2, dtype=torch.float) / dims), 1.0
    return ROPE_INIT_FUNCTIONS[kind](text, torch.device("cpu"), seq_len=length, layer_type=layer)


def check(model: Any, changes: dict[str, Any]) -> None:
    """Raises `RopeError` if the built model, before its first row, does not compute what `changes` ask for."""
    text = model.config.get_text_config()
    for name, wanted in changes.items():  # Axolotl raises max_position_embeddings to sequence_len: dynamic is then off
        if (there := getattr(text, name, None)) != wanted:
            raise RopeError(f"the model's config has {name} {there}, not {wanted}: set it back after loading")
    layer, parameters = rope_of(text)
    wanted, factor = frequencies(text, layer=layer)
    prefix = f"{layer}_" if layer else ""
    changing = "original_" if parameters["rope_type"] in ("dynamic", "longrope") else ""
    seen = False
    for name, module in model.named_modules():
        there = getattr(module, f"{prefix}{changing}inv_freq", None)
        of = getattr(getattr(module, "config", None), "model_type", None)
        if there is None or of != text.model_type:
            continue
        seen = True
        scaling = getattr(module, f"{prefix}attention_scaling", 1.0)
        if there.is_meta:  # another rank holds them
            continue
        there = there.detach().cpu().double()
        if there.shape != wanted.shape or not torch.allclose(there, wanted.double(), rtol=RATIO, atol=0):
            raise RopeError(f"{name} has other frequencies than the config says: build the model from the config")
        if not math.isclose(scaling, factor, rel_tol=RATIO):
            raise RopeError(f"{name} has attention factor {scaling}, not {factor}: build the model from the config")
    if not seen:
        raise RopeError(f"{type(model).__name__} does not use its config's rope_parameters: choose another model")


def check_overrides(config: PretrainedConfig, overrides: dict[str, Any]) -> None:
    """Raises `RopeError` for Axolotl's `overrides_of_model_config` that lose part of the model's RoPE: they replace the
    whole dict, where `extended` merges."""
    instead = "use longlora.context_extension, which keeps them"
    for name in ("rope_scaling", "rope_theta"):
        if name in overrides:
            raise RopeError(f"overrides_of_model_config.{name} is lost or replaces rope_parameters whole: {instead}")
    if (given := overrides.get("rope_parameters")) is None:
        return
    if not isinstance(given, dict):
        raise RopeError(f"overrides_of_model_config.rope_parameters {str(given)[:60]!r} must be a mapping: {instead}")
    text = config.get_text_config()
    layer, old = rope_of(text)
    needed = {"rope_type", "rope_theta"} | ({"partial_rotary_factor"} & old.keys())
    if layer:
        layers = {name for name, value in text.rope_parameters.items() if value}
        if missing := sorted(layers - given.keys()):
            raise RopeError(f"overrides_of_model_config.rope_parameters lacks {', '.join(missing)}: {instead}")
        given = given[layer]
    if given.get("rope_type") in ("yarn", "longrope", "llama3"):  # by default what max_position_embeddings is set to
        needed.add("original_max_position_embeddings")
    if missing := sorted(needed - given.keys()):
        raise RopeError(f"overrides_of_model_config.rope_parameters lacks {', '.join(missing)}: {instead}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_options(method: str, target_length: Any, options: dict[str, Any]) -> None:
    if method not in OPTIONS:
        raise RopeError(f"method {method!r} is none of {', '.join(OPTIONS)}")
    allowed = (*OPTIONS[method], "native_length")
    if unknown := sorted(options.keys() - set(allowed)):
        raise RopeError(f"method {method} has no option {unknown[0]!r}: it has {', '.join(allowed)}")
    for name, value in (("target_length", target_length), *options.items()):
        if name.endswith("_length"):
            if not _whole(value):
                raise RopeError(f"{name} {value!r} is not a whole number of tokens above 0")
        elif name == "truncate":
            if not isinstance(value, bool):
                raise RopeError(f"truncate {value!r} must be true or false")
        elif name in ("long_factor", "short_factor"):
            if not isinstance(value, list) or not all(map(_number, value)):
                raise RopeError(f"{name} {str(value)[:60]!r} must be a list of numbers above 0")
        elif not _number(value):
            raise RopeError(f"{name} {value!r} must be a number above 0")


def _native_length(text: PretrainedConfig, old: dict[str, Any], options: dict[str, Any]) -> int:
    """Tokens that the model reads as it is."""
    kind, given, longest = old["rope_type"], options.get("native_length"), text.max_position_embeddings
    if given is not None and kind not in ("default", "linear"):
        raise RopeError(f"native_length {given}: the config of a model with {kind} scaling says it: leave it out")
    if kind == "linear":
        if (
            given is None
        ):  # either is found: Vicuna's configs keep the length before scaling, Gemma 3's have the one after
            raise RopeError(
                f"the model is scaled already (linear, factor {old.get('factor')}) and its config does not say to what "
                f"length: set native_length, {longest} if max_position_embeddings is that"
            )
        return int(given)
    if given is not None and given > longest:
        raise RopeError(f"native_length {given} is above the config's max_position_embeddings {longest}: lower it")
    if kind == "dynamic":
        return round(old["factor"] * longest)
    if kind == "yarn":
        return max(longest, round((old.get("factor") or 1) * old["original_max_position_embeddings"]))
    return int(given or longest)


Parameters = dict[str, Any]


def _linear(old: Parameters, dims: int, native: int, target: int, given: Parameters) -> Parameters:
    return {"rope_type": "linear", "factor": _factor(old) * target / native}


def _ntk(old: Parameters, dims: int, native: int, target: int, given: Parameters) -> Parameters:
    """The type stays: the frequencies of linear scaling under a larger theta are both, one after the other."""
    if dims <= 2:
        raise RopeError(f"method ntk needs more than the model's {dims} rotary dimensions: use linear")
    theta = given.get("rope_theta", old["rope_theta"] * (target / native) ** (dims / (dims - 2)))
    if theta <= old["rope_theta"]:
        raise RopeError(f"rope_theta {theta} is not above the model's own {old['rope_theta']}: raise it")
    return {"rope_theta": theta}


def _dynamic(old: Parameters, dims: int, native: int, target: int, given: Parameters) -> Parameters:
    if dims <= 2:
        raise RopeError(f"method dynamic needs more than the model's {dims} rotary dimensions: use linear")
    return {"rope_type": "dynamic", "factor": _factor(old) * target / native}


def _yarn(old: Parameters, dims: int, native: int, target: int, given: Parameters) -> Parameters:
    original = _original(old, native)
    fast, slow = (given.get(name) or old.get(name) or usual for name, usual in (("beta_fast", 32), ("beta_slow", 1)))
    if fast <= slow:
        raise RopeError(f"beta_fast {fast} is not above beta_slow {slow}: raise it")
    own = _own_attention_factor(old, given, 0.1 * math.log(_factor(old)) + 1)
    return (
        {"rope_type": "yarn", "factor": target / original, "original_max_position_embeddings": original} | own | given
    )


def _longrope(old: Parameters, dims: int, native: int, target: int, given: Parameters) -> Parameters:
    original = _original(old, native)
    if "long_factor" not in given:
        raise RopeError(
            f"longrope needs long_factor, {dims // 2} numbers found by search for {target} tokens: or use yarn"
        )
    lists = {"short_factor": old.get("short_factor") or [1.0] * (dims // 2)} | given
    for name in ("short_factor", "long_factor"):
        if (there := len(lists[name])) != dims // 2:
            raise RopeError(f"{name} has {there} numbers, not {dims // 2}, one a pair of rotary dimensions")
    before = _factor(old) if old.get("factor") else native / original  # Phi-3 leaves the factor out
    own = _own_attention_factor(old, given, math.sqrt(1 + math.log(before) / math.log(original)))
    return (
        {"rope_type": "longrope", "factor": target / original, "original_max_position_embeddings": original}
        | own
        | lists
    )


def _llama3(old: Parameters, dims: int, native: int, target: int, given: Parameters) -> Parameters:
    """On top of llama3 the factor grows with the window: Llama 3.1 reads 131,072 by factor 8 of 8,192, not 16."""
    named = (("low_freq_factor", 1.0), ("high_freq_factor", 4.0))
    low, high = (given.get(name) or old.get(name) or usual for name, usual in named)
    if high <= low:
        raise RopeError(f"high_freq_factor {high} is not above low_freq_factor {low}: raise it")
    return {
        "rope_type": "llama3",
        "factor": _factor(old) * target / native,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": _original(old, native),
    }


SCALED = {
    "linear": _linear, "ntk": _ntk, "dynamic": _dynamic, "yarn": _yarn, "longrope": _longrope, "llama3": _llama3,
}  # fmt: skip


def _factor(old: Parameters) -> float:
    return float(old.get("factor") or 1) if old["rope_type"] != "default" else 1.0


def _original(old: Parameters, native: int) -> int:
    return int(old["original_max_position_embeddings"]) if old["rope_type"] != "default" else native


def _own_attention_factor(old: Parameters, given: Parameters, usual: float) -> Parameters:
    """A model's own attention factor belongs to its own factor: dropped if it is the usual one, which transformers then
    computes anew."""
    own = old.get("attention_factor")
    if own is None or "attention_factor" in given:
        return {}
    if not math.isclose(own, usual, rel_tol=1e-4):
        raise RopeError(f"the model has an attention_factor of its own, {own}, not {usual:.4f}: give the new one")
    return {"attention_factor": None}


def _check_accepted(text: PretrainedConfig, changes: dict[str, Any], layer: str | None) -> None:
    """Raises `RopeError` if the config class changes the parameters when it is saved and loaded, or refuses them (Phi-3
    turns yarn to longrope), or transformers cannot compute them."""
    name, method = type(text).__name__, (changes["rope_parameters"][layer] if layer else changes["rope_parameters"])
    if layer and method["rope_type"] == "longrope":  # UnboundLocalError in the second long row, up to 5.16 at least
        raise RopeError("longrope fails in transformers where parameters are per layer type: use yarn")
    if method["rope_type"] in ("dynamic", "yarn", "longrope") and getattr(text, "head_dim", 0) is None:  # Mixtral
        size = text.hidden_size // text.num_attention_heads
        raise RopeError(
            f"{name} has head_dim null, which transformers cannot compute with: set it to {size} in config.json"
        )
    saved = copy.deepcopy(text)
    for key, value in changes.items():
        setattr(saved, key, copy.deepcopy(value))
    try:
        loaded = type(text).from_dict(saved.to_dict())
        frequencies(loaded, layer=layer)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise RopeError(
            f"{name} does not take rope_type {method['rope_type']} ({reason}): use another method"
        ) from None
    for key, value in changes.items():
        there = getattr(loaded, key)
        lost = {k for k, v in value.items() if there.get(k) != v} if isinstance(value, dict) else there != value
        if lost:
            raise RopeError(f"{name} changes {key} when it is loaded ({str(there)[:120]}): use another method")


def _warnings(method: str, text: PretrainedConfig, layer: str | None, native: int, target: int) -> tuple[str, ...]:
    found = []
    if target > STEP * native:
        found.append(
            f"{target} tokens are {target / native:g} times the native {native}: go in stages of at most {STEP} times, "
            f"{STEP * native} first, each from the merged model of the one before"
        )
    if method == "dynamic":
        found.append(
            "dynamic takes its theta from the longest row so far, so rows of mixed lengths train at frequencies of "
            "another length: use rows of one length, or yarn or ntk"
        )
    if method == "longrope":
        found.append(
            "longrope has two sets of frequencies: rows of up to the original length do not train the long one"
        )
    sliding = {"sliding_attention", "chunked_attention"} & set(getattr(text, "layer_types", None) or ())
    if sliding and not layer:
        found.append(f"{type(text).__name__} has one RoPE for all layers: its {sliding.pop()} layers are changed too")
    return tuple(found)
