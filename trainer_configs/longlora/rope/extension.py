"""RoPE extension: what to set on a model's config so that it reads `target_length` tokens.

`extended` merges into the parameters that the model has: its theta, partial rotary factor, original length and nesting by
layer type stay. It refuses what transformers would compute wrongly. The methods themselves are in methods.py.

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

from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.language_model import CausalLM
from longthread.model_shape import head_size
from trainer_configs.longlora.rope.methods import EXTENDS, Parameters, Scaling, check_options, extend, is_positive

logger = logging.getLogger(__name__)

STAGE = 8  # times longer at once; a warning recommends stages beyond it
RATIO = 1e-5  # relative difference of frequencies computed twice in fp32


@dataclass(frozen=True)
class Extension:
    """A planned RoPE extension. Lengths are in tokens.

    `changes` are to be set on `config.get_text_config()` before the model is built.
    """

    changes: JsonObject
    layer: str | None  # of nested parameters: the layer type that is extended
    native: int
    target: int
    warnings: tuple[str, ...]

    @property
    def factor(self) -> float:
        """Return how many times longer the target is than the model's present window."""
        return self.target / self.native


def extended(config: PretrainedConfig, method: str, target_length: int, **options: Any) -> JsonObject:
    """Return {"rope_parameters": …, "max_position_embeddings": …} for the loaded config; log the warnings of `plan`.

    `max_position_embeddings` is the target, but for `dynamic`, whose formula divides by it: there it stays the native
    length, and the target is factor * max_position_embeddings. Raises `ConfigError`.
    """
    extension = plan(config, method, target_length, **options)
    for warning in extension.warnings:
        logger.warning("%s", warning)
    return extension.changes


def plan(config: PretrainedConfig, method: str, target_length: int, **options: Any) -> Extension:
    """Return the extension that `extended` sets, with its lengths and warnings. Raises `ConfigError`.

    `options` are those of `methods.OPTIONS`, and `native_length`: the tokens that the model was trained to read, where
    its config does not say it (linear) or says too much.
    """
    options = {name: value for name, value in options.items() if value is not None}
    text = config.get_text_config()
    check_options(method, target_length, options)
    layer, own = rope_of(text)
    if method not in EXTENDS.get(kind := own["rope_type"], ()):
        able = ", ".join(EXTENDS.get(kind, ())) or "no method"
        raise ConfigError(f"method {method} would replace the model's own {kind} scaling: {able} can extend it")
    native = _native_length(text, own, options)
    if target_length <= native:
        raise ConfigError(
            f"target_length {target_length} is not above the native window of {native} tokens: raise it, or leave the "
            "extension out"
        )
    options.pop("native_length", None)
    parameters = extend(method, Scaling(own, rotary_dims(text, own), native, target_length, options))
    if layer and not parameters.get("truncate", True):
        raise ConfigError("transformers ignores truncate false where parameters are per layer type: leave it out")
    longest = target_length
    if method == "dynamic":
        longest = native if kind == "default" else text.max_position_embeddings
    nested = {**copy.deepcopy(text.rope_parameters), layer: parameters} if layer else parameters
    changes = {"rope_parameters": nested, "max_position_embeddings": longest}
    _check_accepted(text, changes, layer)
    return Extension(changes, layer, native, target_length, _warnings(method, text, layer, native, target_length))


def rope_of(text: PretrainedConfig) -> tuple[str | None, Parameters]:
    """Return the layer type that is extended and its RoPE parameters. Raises `ConfigError`.

    The layer type is None where the parameters are not nested by layer type.
    """
    name = type(text).__name__
    parameters = getattr(text, "rope_parameters", None)
    positions = getattr(text, "position_embedding_type", "rope")  # GraniteMoeHybrid has parameters even without RoPE
    if not parameters or getattr(text, "alibi", False) or positions not in ("rope", "rotary"):
        raise ConfigError(f"{name} has no RoPE (ALiBi, learned or no positions): choose another model")
    layer = None
    if all(isinstance(value, dict) or value is None for value in parameters.values()):
        layer, parameters = "full_attention", parameters.get("full_attention")
        if not parameters or layer not in (getattr(text, "layer_types", None) or [layer]):
            raise ConfigError(f"{name} has no full_attention layers with RoPE: choose another model")
    theta, longest = parameters.get("rope_theta"), getattr(text, "max_position_embeddings", None)
    if not is_positive(theta) or not isinstance(longest, int) or longest <= 0:
        raise ConfigError(f"{name} has rope_theta {theta} and max_position_embeddings {longest}: both must be numbers")
    return layer, {**copy.deepcopy(parameters), "rope_type": parameters.get("rope_type", "default")}


def rotary_dims(text: PretrainedConfig, parameters: Parameters) -> int:
    """Return how many dimensions of a head are rotated."""
    return int(head_size(text) * parameters.get("partial_rotary_factor", 1.0))


def frequencies(config: PretrainedConfig, length: int | None = None, layer: str | None = None) -> tuple[Tensor, float]:
    """Return the RoPE frequencies (d/2,) in radians a token, and the factor on cos and sin, as transformers computes
    them.

    `length` is the number of tokens of a row; None stands for the model as it is built.
    """
    text = copy.deepcopy(config.get_text_config())  # they write into it
    parameters = text.rope_parameters[layer] if layer else text.rope_parameters
    if (kind := parameters.get("rope_type", "default")) == "default":
        dims = rotary_dims(text, parameters)
        return 1.0 / parameters["rope_theta"] ** (torch.arange(0, dims, 2, dtype=torch.float) / dims), 1.0
    return ROPE_INIT_FUNCTIONS[kind](text, torch.device("cpu"), seq_len=length, layer_type=layer)


# ---- a built model ----------------------------------------------------------------------------------------------


def check(model: CausalLM, changes: JsonObject) -> None:
    """Raise `ConfigError` if the built model, before its first row, does not compute what `changes` ask for."""
    text = model.config.get_text_config()
    for name, wanted in changes.items():  # Axolotl raises max_position_embeddings to sequence_len: dynamic is then off
        if (value := getattr(text, name, None)) != wanted:
            raise ConfigError(f"the model's config has {name} {value}, not {wanted}: set it back after loading")
    layer, parameters = rope_of(text)
    prefix = f"{layer}_" if layer else ""
    original = "original_" if parameters["rope_type"] in ("dynamic", "longrope") else ""
    rotary = [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, f"{prefix}{original}inv_freq")
        and getattr(getattr(module, "config", None), "model_type", None) == text.model_type
    ]
    if not rotary:
        raise ConfigError(f"{type(model).__name__} does not use its config's rope_parameters: choose another model")
    for name, module in rotary:
        scaling = getattr(module, f"{prefix}attention_scaling", 1.0)
        _check_rotary(name, getattr(module, f"{prefix}{original}inv_freq"), scaling, frequencies(text, layer=layer))


def _check_rotary(name: str, inv_freq: Tensor, scaling: float, expected: tuple[Tensor, float]) -> None:
    if inv_freq.is_meta:  # another rank holds the weights
        return
    found, (wanted, factor) = inv_freq.detach().cpu().double(), expected
    if found.shape != wanted.shape or not torch.allclose(found, wanted.double(), rtol=RATIO, atol=0):
        raise ConfigError(f"{name} has other frequencies than the config says: build the model from the config")
    if not math.isclose(scaling, factor, rel_tol=RATIO):
        raise ConfigError(f"{name} has attention factor {scaling}, not {factor}: build the model from the config")


# ---- Axolotl's overrides ----------------------------------------------------------------------------------------


def check_overrides(config: PretrainedConfig, overrides: JsonObject) -> None:
    """Raise `ConfigError` for `overrides_of_model_config` that would lose part of the model's RoPE.

    Axolotl replaces the whole dict with them, where `extended` merges.
    """
    for name in ("rope_scaling", "rope_theta"):
        if name in overrides:
            raise _overrides_error(f"{name} is lost or replaces rope_parameters whole")
    if (given := overrides.get("rope_parameters")) is None:
        return
    if not isinstance(given, dict):
        raise _overrides_error(f"rope_parameters {str(given)[:60]!r} must be a mapping")
    text = config.get_text_config()
    layer, own = rope_of(text)
    needed = {"rope_type", "rope_theta"} | ({"partial_rotary_factor"} & own.keys())
    if layer:
        layers = {name for name, value in text.rope_parameters.items() if value}
        if missing := sorted(layers - given.keys()):
            raise _overrides_error(f"rope_parameters lacks {', '.join(missing)}")
        given = given[layer]
    if given.get("rope_type") in ("yarn", "longrope", "llama3"):  # by default what max_position_embeddings is set to
        needed.add("original_max_position_embeddings")
    if missing := sorted(needed - given.keys()):
        raise _overrides_error(f"rope_parameters lacks {', '.join(missing)}")


def _overrides_error(fault: str) -> ConfigError:
    return ConfigError(f"overrides_of_model_config.{fault}: use longlora.context_extension, which keeps them")


# ---- parts of a plan --------------------------------------------------------------------------------------------


def _native_length(text: PretrainedConfig, own: Parameters, options: JsonObject) -> int:
    """Return how many tokens the model reads as it is."""
    kind, given, longest = own["rope_type"], options.get("native_length"), int(text.max_position_embeddings)
    if given is not None and kind not in ("default", "linear"):
        raise ConfigError(f"native_length {given}: the config of a model with {kind} scaling says it: leave it out")
    if kind == "linear":
        if given is None:  # Vicuna's configs hold the length before scaling, Gemma 3's the one after
            raise ConfigError(
                f"the model is scaled already (linear, factor {own.get('factor')}) and its config does not say to what "
                f"length: set native_length, {longest} if max_position_embeddings is that"
            )
        return int(given)
    if given is not None and given > longest:
        raise ConfigError(f"native_length {given} is above the config's max_position_embeddings {longest}: lower it")
    if kind == "dynamic":
        return round(own["factor"] * longest)
    if kind == "yarn":
        return max(longest, round((own.get("factor") or 1) * own["original_max_position_embeddings"]))
    return int(given or longest)


def _check_accepted(text: PretrainedConfig, changes: JsonObject, layer: str | None) -> None:
    """Raise `ConfigError` if transformers cannot compute the parameters, or the config class refuses or changes them.

    Phi-3's, for one, turns yarn to longrope when it is saved and loaded.
    """
    name, parameters = type(text).__name__, (changes["rope_parameters"][layer] if layer else changes["rope_parameters"])
    kind = parameters["rope_type"]
    if layer and kind == "longrope":  # UnboundLocalError in the second long row, up to 5.16 at least
        raise ConfigError("longrope fails in transformers where parameters are per layer type: use yarn")
    if kind in ("dynamic", "yarn", "longrope") and getattr(text, "head_dim", 0) is None:  # Mixtral
        raise ConfigError(
            f"{name} has head_dim null, which transformers cannot compute with: set it to {head_size(text)} in config.json"
        )
    saved = copy.deepcopy(text)
    for key, value in changes.items():
        setattr(saved, key, copy.deepcopy(value))
    try:
        loaded = type(text).from_dict(saved.to_dict())
        frequencies(loaded, layer=layer)
    except Exception as error:  # each config class has its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise ConfigError(f"{name} does not take rope_type {kind} ({reason}): use another method") from None
    for key, value in changes.items():
        found = getattr(loaded, key)
        lost = {k for k, v in value.items() if found.get(k) != v} if isinstance(value, dict) else found != value
        if lost:
            raise ConfigError(f"{name} changes {key} when it is loaded ({str(found)[:120]}): use another method")


def _warnings(method: str, text: PretrainedConfig, layer: str | None, native: int, target: int) -> tuple[str, ...]:
    warnings = []
    if target > STAGE * native:
        warnings.append(
            f"{target} tokens are {target / native:g} times the native {native}: go in stages of at most {STAGE} times, "
            f"{STAGE * native} first, each from the merged model of the one before"
        )
    if method == "dynamic":
        warnings.append(
            "dynamic takes its theta from the longest row so far, so rows of mixed lengths train at frequencies of "
            "another length: use rows of one length, or yarn or ntk. vLLM has one theta for rows of all lengths and cannot "
            "serve it alike"
        )
    if method == "longrope":
        warnings.append(
            "longrope has two sets of frequencies: rows of up to the original length do not train the long one"
        )
    sliding = {"sliding_attention", "chunked_attention"} & set(getattr(text, "layer_types", None) or ())
    if sliding and not layer:
        kind = sliding.pop()
        warnings.append(f"{type(text).__name__} has one RoPE for all layers: its {kind} layers are changed too")
    return tuple(warnings)
