"""What vLLM makes of a model's RoPE where it differs from transformers, and the line that serves the model as trained.

| rope_type | vLLM without the line | in the line |
|-----------|-----------------------|-------------|
| linear    | takes max_position_embeddings times the factor for the window (vllm 33911) | --max-model-len |
| dynamic   | has one theta for rows of all lengths (vllm 41236) | the theta of the target length |
| yarn      | leaves an attention_factor out, in some versions (vllm 46280, 48351) | the factor by both its names |
| longrope  | computes the attention factor from lengths alone; long frequencies everywhere | the factor |

Read in vLLM's sources, not run: it needs a GPU of its own. Windows are in tokens.
"""

import json
import math
import shlex
from typing import NamedTuple

from transformers import PretrainedConfig

from longthread.files import JsonObject
from longthread.model_shape import window_of
from trainer_configs.longlora.rope.methods import Parameters

WINDOW_STATED = ("default", "llama3", "longrope", "su")  # types whose factor vLLM does not multiply the window by


class Serving(NamedTuple):
    """How vLLM serves a model: the line to give it, and what it would otherwise do, a sentence each."""

    command: str
    notes: tuple[str, ...]


def serving(config: PretrainedConfig, folder: str) -> Serving:
    """Return the `vllm serve` line for a model in a folder, and what differs from transformers without it."""
    text = config.get_text_config()
    if not layers_of(text):  # ALiBi or learned positions: nothing that vLLM could read otherwise
        longest = window_of(config)
        return Serving(f"vllm serve {shlex.quote(folder)}" + (f" --max-model-len {longest}" if longest else ""), ())
    window, notes = reads(text), []
    overrides: JsonObject = {}
    for layer, parameters in layers_of(text).items():
        changed, note = _differences(text, parameters, window)
        if note:
            notes.append(f"{layer}: {note}" if layer else note)
        if changed:
            rope = text.rope_parameters | {layer: changed} if layer else changed
            overrides = {"rope_parameters": overrides.get("rope_parameters", {}) | rope}
            if changed["rope_type"] == "default" and not layer:
                overrides["max_position_embeddings"] = window
    taken = vllm_window(text)
    if taken != window and "max_position_embeddings" not in overrides:
        notes.insert(0, f"vLLM would take {taken:,} tokens for the window, {taken / window:g} times what it is")
    line = f"vllm serve {shlex.quote(folder)} --max-model-len {window}"
    given = f" --hf-overrides {shlex.quote(json.dumps(overrides))}" if overrides else ""
    return Serving(line + given, tuple(notes))


def layers_of(text: PretrainedConfig) -> dict[str, Parameters]:
    """Return the RoPE parameters by layer type, with "" for parameters that are not nested; none without RoPE."""
    parameters = getattr(text, "rope_parameters", None) or {}
    if parameters and all(isinstance(value, dict) or value is None for value in parameters.values()):
        return {layer: value for layer, value in parameters.items() if value}
    return {"": parameters} if parameters else {}


def reads(text: PretrainedConfig) -> int:
    """Return how many tokens a model reads: max_position_embeddings, but for dynamic scaling, whose factor comes on top."""
    longest = int(text.max_position_embeddings)
    factors = [p.get("factor") or 1 for p in layers_of(text).values() if p.get("rope_type") == "dynamic"]
    return round(longest * max(factors, default=1))


def vllm_window(text: PretrainedConfig) -> int:
    """Return how many tokens vLLM takes for the window without --max-model-len."""
    window = float(text.max_position_embeddings)
    if "gemma3" in str(getattr(text, "model_type", "")):  # whose configs state the length after scaling
        return int(window)
    for parameters in layers_of(text).values():
        if parameters.get("rope_type", "default") in WINDOW_STATED:
            continue
        if parameters["rope_type"] == "yarn":
            window = float(parameters.get("original_max_position_embeddings") or window)
        window *= float(parameters.get("factor") or 1)
    return int(window)


def _differences(text: PretrainedConfig, parameters: Parameters, window: int) -> tuple[Parameters, str]:
    """Return the parameters with which vLLM computes what transformers does, {} for the same, and what it would do."""
    kind, factor, own = parameters.get("rope_type"), parameters.get("factor") or 1, parameters.get("attention_factor")
    if kind == "dynamic":
        theta = _dynamic_theta(text, parameters, window)
        kept = {key: value for key, value in parameters.items() if key != "factor"}
        return kept | {"rope_type": "default", "rope_theta": theta}, (
            "vLLM has no theta that grows with the row, as dynamic scaling was trained: the line gives rows of all lengths "
            f"the theta of {window:,} tokens, so rows shorter than that are read otherwise than in transformers"
        )
    if kind == "yarn" and own is not None and not math.isclose(own, usual := 0.1 * math.log(factor) + 1, rel_tol=1e-4):
        return parameters | {"attn_factor": own / usual}, (
            f"some versions of vLLM leave an attention_factor out and compute {usual:.4f} where the model was trained with "
            f"{own:g}: the line names it as those read it, too"
        )
    if kind == "longrope":
        return _longrope(text, parameters)
    return {}, ""


def _longrope(text: PretrainedConfig, parameters: Parameters) -> tuple[Parameters, str]:
    original = parameters["original_max_position_embeddings"]
    growth = text.max_position_embeddings / original
    usual = math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0
    factor = parameters.get("factor") or growth
    own = parameters.get("attention_factor") or (
        math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    )
    note = (
        f"vLLM uses the long frequencies at every length, transformers in rows of more than {original:,} tokens alone"
    )
    if math.isclose(own, usual, rel_tol=1e-4):
        return {}, note
    differs = f"vLLM would compute an attention factor of {usual:.4f} where the model was trained with {own:g}; {note}"
    return parameters | {"short_mscale": own, "long_mscale": own}, differs


def _dynamic_theta(text: PretrainedConfig, parameters: Parameters, length: int) -> float:
    """Return the theta that transformers takes for a row of so many tokens."""
    from trainer_configs.longlora.rope.extension import rotary_dims

    dims, factor = rotary_dims(text, parameters), parameters["factor"]
    growth = factor * length / text.max_position_embeddings - (factor - 1)
    return float(parameters["rope_theta"] * growth ** (dims / (dims - 2)))
