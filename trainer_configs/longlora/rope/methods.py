"""The methods of RoPE extension: a model's parameters in, those for a longer window out. Arithmetic alone, without torch.

d: rotary dimensions, s: target / native length, theta_i = theta^(-2i/d).

| method   | frequency of pair i                                                | source |
|----------|--------------------------------------------------------------------|--------|
| linear   | theta_i / s                                                        | position interpolation, arXiv 2306.15595 |
| ntk      | theta becomes theta * s^(d/(d-2)), or the one that is given        | NTK-aware, in 2309.00071; ABF, 2309.16039 |
|          | with temperature c: cos and sin * sqrt(1 + c ln s)                 | arXiv 2512.12167 (c 0.103) |
| dynamic  | theta becomes theta * (s*L/native - (s-1))^(d/(d-2)), row length L | emozilla's, as transformers has it |
| yarn     | theta_i to theta_i / s by its turns; cos and sin * (0.1 ln s + 1)  | arXiv 2309.00071, ramp of its code |
| longrope | theta_i / long_factor_i: found by search, so to be given           | arXiv 2402.13753 |
| llama3   | theta_i to theta_i / s by its wavelength                           | Llama 3.1's code |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from longthread.errors import ConfigError
from longthread.files import JsonObject

Parameters = JsonObject  # of one layer type, as a config's rope_parameters has them

OPTIONS = {  # beside native_length, which each method has
    "linear": (),
    "ntk": ("rope_theta", "temperature"),
    "dynamic": (),
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate"),
    "longrope": ("long_factor", "short_factor", "attention_factor"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
# The methods that can extend a model with scaling of its own. transformers holds one type: another would undo the first.
EXTENDS = {kind: (kind,) for kind in OPTIONS} | {"default": tuple(OPTIONS), "linear": ("linear", "ntk")}


@dataclass(frozen=True)
class Scaling:
    """What a method works on: `own` are the model's parameters, with `rope_type`; `options` are those the user gave."""

    own: Parameters
    dims: int  # rotary dimensions of a head
    native: int  # tokens that the model reads now
    target: int  # tokens that it shall read
    options: Parameters

    @property
    def own_factor(self) -> float:
        """Return the factor of the model's present scaling; 1 without any."""
        return float(self.own.get("factor") or 1) if self.own["rope_type"] != "default" else 1.0

    @property
    def grown_factor(self) -> float:
        """Return the present factor times the growth of the window, target / native."""
        return self.own_factor * self.target / self.native

    @property
    def original(self) -> int:
        """Return how many tokens the window had before any scaling."""
        if self.own["rope_type"] == "default":
            return self.native
        return int(self.own["original_max_position_embeddings"])

    def option(self, name: str, default: float) -> float:
        """Return the user's value of an option, else the model's own, else the default."""
        return self.options.get(name) or self.own.get(name) or default


def check_options(method: str, target_length: object, options: Parameters) -> None:
    """Raise `ConfigError` for an unknown method, an option that it does not have, or a value of the wrong kind."""
    if method not in OPTIONS:
        raise ConfigError(f"method must be one of {', '.join(OPTIONS)} (got {method!r})", setting="method")
    allowed = (*OPTIONS[method], "native_length")
    if unknown := sorted(options.keys() - set(allowed)):
        raise ConfigError(f"method {method} has no option {unknown[0]!r}: it has {', '.join(allowed)}")
    for name, value in (("target_length", target_length), *options.items()):
        _check_value(name, value)


def _check_value(name: str, value: object) -> None:
    if name.endswith("_length"):
        right = isinstance(value, int) and not isinstance(value, bool) and value > 0
        wanted = "a whole number of tokens above 0"
    elif name == "truncate":
        right, wanted = isinstance(value, bool), "true or false"
    elif name in ("long_factor", "short_factor"):
        right = isinstance(value, list) and all(map(is_positive, value))
        wanted = "a list of numbers above 0"
    else:
        right, wanted = is_positive(value), "a number above 0"
    if not right:
        raise ConfigError(f"{name} must be {wanted} (got {repr(value)[:60]})")


def is_positive(value: object) -> bool:
    """Return True for a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def extend(method: str, scaling: Scaling) -> Parameters:
    """Return the RoPE parameters extended by the method, with all of the model's own that stay.

    Raises `ConfigError`.
    """
    extended = scaling.own | METHODS[method](scaling)
    extended.pop("type", None)  # the old spelling of rope_type
    return {name: value for name, value in extended.items() if value is not None}


def _linear(scaling: Scaling) -> Parameters:
    return {"rope_type": "linear", "factor": scaling.grown_factor}


def _ntk(scaling: Scaling) -> Parameters:
    """Return a larger theta and no new type.

    The type stays: linear scaling's frequencies under a larger theta are both methods, one after the other.
    """
    _check_dims("ntk", scaling)
    theta, dims = scaling.own["rope_theta"], scaling.dims
    larger = scaling.options.get("rope_theta", theta * (scaling.target / scaling.native) ** (dims / (dims - 2)))
    if larger <= theta:
        raise ConfigError(f"rope_theta {larger} is not above the model's own {theta}: raise it")
    return {"rope_theta": larger} | _temperature(scaling)


def _temperature(scaling: Scaling) -> Parameters:
    """Return what multiplies all attention logits by 1 + c ln s, nothing without the option.

    Among more keys softmax spreads; this sharpens it again. Only yarn's type has such a factor: with a factor of 1 its
    frequencies are those of the theta alone, in transformers and in vLLM.
    """
    if (temperature := scaling.options.get("temperature")) is None:
        return {}
    if scaling.own["rope_type"] != "default":
        raise ConfigError(f"temperature needs a model without scaling, not {scaling.own['rope_type']}: leave it out")
    sharper = math.sqrt(1 + temperature * math.log(scaling.target / scaling.native))  # on q, and on k
    return {
        "rope_type": "yarn",
        "factor": 1.0,
        "attention_factor": sharper,
        "original_max_position_embeddings": scaling.target,
    }


def _dynamic(scaling: Scaling) -> Parameters:
    _check_dims("dynamic", scaling)
    return {"rope_type": "dynamic", "factor": scaling.grown_factor}


def _yarn(scaling: Scaling) -> Parameters:
    fast, slow = scaling.option("beta_fast", 32), scaling.option("beta_slow", 1)
    if fast <= slow:
        raise ConfigError(f"beta_fast {fast} is not above beta_slow {slow}: raise it")
    new: Parameters = {
        "rope_type": "yarn",
        "factor": scaling.target / scaling.original,
        "original_max_position_embeddings": scaling.original,
    }
    return new | _attention_factor(scaling, 0.1 * math.log(scaling.own_factor) + 1) | scaling.options


def _longrope(scaling: Scaling) -> Parameters:
    pairs, original = scaling.dims // 2, scaling.original
    if "long_factor" not in scaling.options:
        raise ConfigError(
            f"longrope needs long_factor, {pairs} numbers found by search for {scaling.target} tokens: or use yarn"
        )
    options = {"short_factor": scaling.own.get("short_factor") or [1.0] * pairs} | scaling.options
    for name in ("short_factor", "long_factor"):
        if (count := len(options[name])) != pairs:
            raise ConfigError(f"{name} has {count} numbers, not {pairs}, one a pair of rotary dimensions")
    # Phi-3 leaves its factor out.
    factor = scaling.own_factor if scaling.own.get("factor") else scaling.native / original
    new: Parameters = {
        "rope_type": "longrope",
        "factor": scaling.target / original,
        "original_max_position_embeddings": original,
    }
    return new | _attention_factor(scaling, math.sqrt(1 + math.log(factor) / math.log(original))) | options


def _llama3(scaling: Scaling) -> Parameters:
    """Return the parameters of llama3.

    On top of llama3 the factor grows with the window: Llama 3.1 reads 131,072 by factor 8 of 8,192, not 16.
    """
    low, high = scaling.option("low_freq_factor", 1.0), scaling.option("high_freq_factor", 4.0)
    if high <= low:
        raise ConfigError(f"high_freq_factor {high} is not above low_freq_factor {low}: raise it")
    return {
        "rope_type": "llama3",
        "factor": scaling.grown_factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": scaling.original,
    }


METHODS: dict[str, Callable[[Scaling], Parameters]] = {
    "linear": _linear,
    "ntk": _ntk,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}


def _check_dims(method: str, scaling: Scaling) -> None:
    """Raise `ConfigError` unless there are more than two rotary dimensions, which the exponent d/(d-2) needs."""
    if scaling.dims <= 2:
        raise ConfigError(f"method {method} needs more than the model's {scaling.dims} rotary dimensions: use linear")


def _attention_factor(scaling: Scaling, usual: float) -> Parameters:
    """Drop the model's attention factor, which belongs to its old factor, so that transformers computes the new one.

    `usual`: what transformers computes for the old factor. Raises `ConfigError` where the model has another one.
    """
    own = scaling.own.get("attention_factor")
    if own is None or "attention_factor" in scaling.options:
        return {}
    if not math.isclose(own, usual, rel_tol=1e-4):
        raise ConfigError(f"the model has an attention_factor of its own, {own}, not {usual:.4f}: give the new one")
    return {"attention_factor": None}
