"""Merge an adapter and its base model into one model that serves as trained: LoRA, embeddings, norms, RoPE, tokenizer.

    longthread longlora merge ADAPTER OUT                    # --base MODEL, --dtype float32|bfloat16, --strength 0.9
    python -m trainer_configs.longlora.merge ...             # the same

Merged in fp32 on top of PEFT. The window that the adapter was trained for comes from the training run's config.json, which
Axolotl writes beside the adapter and its own merge forgets. Tied weights stay tied. OUT appears whole or not at all. The
merge checks itself: the adapter model, the merged one and the one read back from OUT must give the same logits.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from longthread.command_line import App
from longthread.errors import ConfigError, RunError, exit_on_error, option
from longthread.files import replacing_folder
from longthread.model_shape import window_of
from trainer_configs.longlora.adapter import (
    attach,
    base_of,
    configs,
    copy_tokenizer,
    copy_window,
    load_base,
    load_model,
)

if TYPE_CHECKING:  # imported where they are used: `--help` needs none of them
    import torch
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

DTYPES = ("float32", "bfloat16", "float16")
TOLERANCE = 3e-5  # of the largest logit, or of 1: fp32 rounds a right merge by up to 1e-5, a wrong one is off by 1e-2
BATCH = (2, 64)  # random tokens that the check runs
STEPS = ("base", "adapter", "check", "merge", "write", "read back")


@dataclass
class Merged:
    """A merged model, and how near it is to the model it was made from."""

    out: Path
    dtype: str
    tied: bool
    rope_parameters: dict[str, Any]
    max_position_embeddings: int | None
    difference: float = 0.0  # max |logit of the adapter model - of the merged model|, both in fp32
    written_difference: float = 0.0  # the same of the model read back from OUT: with bfloat16, its rounding
    largest_logit: float = 0.0
    divergence: float = 0.0  # mean KL(adapter model || the one read back) of a position, in nats
    rounded_away: dict[str, float] = field(default_factory=dict)  # kind -> share of trained changes the dtype undoes
    strength: float = 1.0  # share of the adapter's change
    notes: list[str] = field(default_factory=list)
    serve: str = ""  # the vLLM line that serves it as trained


def merge(
    adapter_dir: Path | str,
    out_dir: Path | str,
    base: str | None = None,
    dtype: str | None = None,
    progress: bool = False,
    strength: float = 1.0,
) -> Merged:
    """Write the merged model to `out_dir`. Raises `ConfigError` or `RunError`, with nothing written.

    `base`: folder or model name, when not the one the adapter names. `dtype` of what is written: the base's own when left
    out. `strength`: how much of the adapter's change of the weights is merged, above 0 and at most 1. Needs memory for the
    base in fp32 (4 bytes a parameter) and a second copy of the embeddings.
    """
    adapter, out = Path(adapter_dir), Path(out_dir)
    base = _check(adapter, out, base, dtype, strength)
    config, trained = configs(adapter, base)
    dtype = dtype or str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    from trainer_configs.longlora.rope.serving import serving

    with replacing_folder(out) as draft, _one_bar(progress) as step:
        if trained is not None:
            copy_window(trained, config)
        text = config.get_text_config()
        model = load_base(base, config, trained)
        tied = _is_tied(model)
        step()
        peft_model = attach(model, adapter, base)
        if strength < 1:
            _weaken(peft_model, strength)
        step()
        rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
        result = Merged(out, dtype, tied, rope, window_of(config), strength=strength)
        expected = _logits(peft_model)
        step()
        model = _merged(peft_model, expected, result)
        step()
        model.save_pretrained(draft)
        if not copy_tokenizer(adapter, base, draft, result.max_position_embeddings):
            result.notes.append("no tokenizer found beside the adapter or the base")
        result.serve, differences = serving(model.config, str(out))
        result.notes += differences
        del model, peft_model
        step()
        _read_back(draft, expected, result)
        step()
    if trained is None:
        result.notes.append("no config.json beside the adapter: RoPE and longest position are the base's")
    if tied and not result.tied:
        result.notes.append("embedding and head were tied but trained apart: the merged model is untied")
    return result


def _check(adapter: Path, out: Path, base: str | None, dtype: str | None, strength: float) -> str:
    """Return the base model's name. Refuses, before anything is loaded, what cannot work."""
    if not 0 < strength <= 1:
        raise ConfigError(f"strength must be above 0 and at most 1 (got {strength:g})", setting="strength")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)} (got {dtype!r})", setting="dtype")
    own = base_of(adapter)
    if out.exists():
        raise ConfigError(f"{out} exists: give a new folder")
    if not (name := base or own):
        raise ConfigError(f"{adapter} does not name its base model: give it", setting="base")
    return name


def _weaken(peft_model: "PeftModel", strength: float) -> None:
    """Scale the adapter's change of every weight, of LoRA and of what is trained in full."""
    from peft.tuners.lora import LoraLayer

    from trainer_configs.longlora.trainable import saved_modules

    for module in peft_model.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(strength)
    scaled: set[int] = set()
    for _, _, wrapper in saved_modules(peft_model):
        olds = dict(wrapper.original_module.named_parameters())
        for name, trained in wrapper.modules_to_save["default"].named_parameters():
            if id(trained) not in scaled:  # a tied head is the embedding once more
                scaled.add(id(trained))
                trained.data = olds[name].data.lerp(trained.data, strength)


def _is_tied(model: "PreTrainedModel") -> bool:
    """Return whether the model's head is its embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _merged(peft_model: "PeftModel", expected: "Tensor", result: Merged) -> "PreTrainedModel":
    """Return the model without PEFT, checked, in the dtype it is written in."""
    import torch

    dtype = getattr(torch, result.dtype)
    if result.dtype != "float32":
        result.rounded_away = _rounded_away(peft_model, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's about ties, which `_state_tie` settles
        model = peft_model.merge_and_unload(safe_merge=True)
    result.tied = _state_tie(model, result.tied)
    result.largest_logit = expected.abs().max().item()
    result.difference = (_logits(model) - expected).abs().max().item()
    _agree("the merged model", result.difference, result.largest_logit)
    for parameter in model.parameters():  # not the buffers: RoPE's frequencies are fp32 in any model
        parameter.data = parameter.data.to(dtype)
    return model


def _state_tie(model: "PreTrainedModel", was_tied: bool) -> bool:
    """Put into the config whether head and embedding are one: PEFT ties no more than it was told to in training."""
    tied = was_tied and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied
    return tied


def _read_back(folder: Path, expected: "Tensor", result: Merged) -> None:
    """Compare the model on the disk with the adapter model."""
    logits = _logits(load_model(str(folder)))
    result.written_difference = (logits - expected).abs().max().item()
    if result.dtype == "float32":
        _agree("the model read back", result.written_difference, result.largest_logit)
    log_q, log_p = logits.log_softmax(-1), expected.log_softmax(-1)
    result.divergence = max(0.0, (log_p.exp() * (log_p - log_q)).sum(-1).mean().item())


# ---- how near -----------------------------------------------------------------------------------------------------


def _logits(model: Any) -> "Tensor":
    """Return the model's logits on one random batch, the same each time, in fp32: (2, 64, vocabulary)."""
    import torch

    words = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, words, BATCH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def _agree(what: str, difference: float, largest: float) -> None:
    limit = TOLERANCE * max(1.0, largest)
    if not difference <= limit:  # NaN does not either
        raise RunError(f"{what} differs from the adapter model by {difference:.3g} in a logit (limit {limit:.3g})")


def _rounded_away(model: "PeftModel", dtype: "torch.dtype") -> dict[str, float]:
    """Return for embeddings and norms the share of trained changes that rounding to `dtype` undoes."""
    from trainer_configs.longlora.trainable import saved_modules

    changed: dict[str, int] = {}
    undone: dict[str, int] = {}
    for kind, _, wrapper in saved_modules(model):
        old, new = wrapper.original_module.weight, wrapper.weight
        if kind == "head" and "embedding" in changed:  # the same once more, or close to it
            continue
        moved = old != new
        changed[kind] = changed.get(kind, 0) + int(moved.sum())
        undone[kind] = undone.get(kind, 0) + int((moved & (old.to(dtype) == new.to(dtype))).sum())
    return {kind: undone[kind] / changed[kind] for kind in changed if changed[kind]}


# ---- the command ------------------------------------------------------------------------------------------------

app = App(no_args_is_help=True, help="LongLoRA: merge.")


@contextmanager
def _one_bar(progress: bool) -> Iterator[Callable[[], None]]:
    """Show a bar over `STEPS` in place of those of transformers; give the function that advances it."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with tqdm(total=len(STEPS), desc=STEPS[0], unit="step", leave=False, disable=not progress) as bar:

            def step() -> None:
                bar.update()
                bar.set_description(STEPS[min(bar.n, len(STEPS) - 1)])

            yield step
    finally:
        if was_on:
            logging.enable_progress_bar()


def lines(merged: Merged) -> Iterator[str]:
    """Yield the lines of the summary of a merge that the user reads."""
    rope = merged.rope_parameters or {}
    kind = rope.get("rope_type") or ", ".join(
        f"{layer}: {value.get('rope_type')}" for layer, value in rope.items() if isinstance(value, dict)
    )
    factor = f" ×{rope['factor']:g}" if "factor" in rope else ""
    yield f"written: {merged.out} ({merged.dtype}, {'tied' if merged.tied else 'untied'} head)"
    if merged.strength < 1:
        yield f"  {merged.strength:g} of the adapter's change of the weights; the RoPE is changed whole"
    window = f"longest position {merged.max_position_embeddings:,}" if merged.max_position_embeddings else "no window"
    yield f"  RoPE {kind or 'none'}{factor}, {window}"
    yield f"  max |Δlogit| against the adapter model, fp32: {merged.difference:.2g} of {merged.largest_logit:.3g}"
    if merged.dtype == "float32":
        yield f"  read back from the disk: {merged.written_difference:.2g}"
    else:
        lost = ", ".join(f"{share:.0%} of the changed {kind} elements" for kind, share in merged.rounded_away.items())
        yield f"  rounded to {merged.dtype}: {merged.written_difference:.2g}, mean KL {merged.divergence:.2g} nats a token"
        yield f"  the rounding undoes {lost or 'no change in full'}; --dtype float32 keeps all"
    yield from (f"  note: {note}" for note in merged.notes)
    yield f"  {merged.serve}"


@app.command("merge")
def command(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The training run's output_dir, or a checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the merged model.")],
    base: Annotated[str | None, typer.Option(help="Base model, when not the one the adapter names.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; the base's own when left out.")] = None,
    strength: Annotated[
        float, typer.Option(help="Share of the adapter's change, above 0 to 1: less keeps more of the base.")
    ] = 1.0,
) -> None:
    """Merge an adapter into its base model, checked: LoRA, embeddings, norms, RoPE, ties, tokenizer."""
    with exit_on_error(option):
        merged = merge(adapter, out, base, dtype, progress=True, strength=strength)
    for line in lines(merged):
        print(line)


@app.callback()
def main() -> None:
    """LongLoRA: merge."""


if __name__ == "__main__":
    typer.run(command)
