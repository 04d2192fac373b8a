"""An adapter and its base model into one model that serves as trained: LoRA, embeddings, norms, RoPE, tokenizer.

    longthread longlora merge ADAPTER OUT                    # --base MODEL, --dtype float32|bfloat16
    python -m trainer_configs.longlora.merge ...             # the same

Merged in fp32 on top of PEFT. The window the adapter was trained for comes from the training run's config.json, which
Axolotl writes beside the adapter and its own merge forgets; tied weights stay tied; OUT appears whole or not at all. The
merge checks itself: the adapter model, the merged one and the one read back from OUT must give the same logits.
Only safetensors are read, and no code from a model's folder is run.
"""

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

DTYPES = ("float32", "bfloat16", "float16")
TOLERANCE = 3e-5  # of the largest logit, or of 1: fp32 rounds a right merge by up to 1e-5, a wrong one is off by 1e-2
BATCH = (2, 64)  # random tokens that the check runs
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken")
TEMPLATES = ("chat_template*", "additional_chat_templates/*", "*processor_config.json")
STEPS = ("base", "adapter", "check", "merge", "write", "read back")


class MergeError(ValueError):
    """What cannot be merged; one line with the fix."""


class CheckError(MergeError):
    """The merged model is not the adapter model; nothing was written."""


@dataclass
class Merged:
    """What a merge made, and how near it is to the model it was made from."""

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
    notes: list[str] = field(default_factory=list)


# ---- reading ----------------------------------------------------------------------------------------------------


def check(adapter: Path, out: Path, base: str | None, dtype: str | None) -> str:
    """Raises `MergeError` for what cannot work, before anything is loaded. Returns the base model's name."""
    if dtype is not None and dtype not in DTYPES:
        raise MergeError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}: set --dtype")
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        kind = settings["peft_type"]
    except (OSError, ValueError, TypeError, KeyError):
        raise MergeError(f"{adapter} is not an adapter folder (no readable adapter_config.json)") from None
    if kind != "LORA":
        raise MergeError(f"{adapter} is an adapter of type {kind}: only LORA can be merged")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise MergeError(f"{adapter} has no adapter_model.safetensors (pickled weights are not read): save it anew")
    if out.exists():
        raise MergeError(f"{out} exists: give a new folder")
    name = base or settings.get("base_model_name_or_path")
    if not name:
        raise MergeError(f"{adapter} does not name its base model: give --base")
    return str(name)


def _configs(adapter: Path, base: str) -> tuple[Any, Any]:
    """Of the base model, and of the training run (None if it left none)."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        raise MergeError(f"base model {base} cannot be read (no such folder or model): give --base") from None
    if getattr(config, "quantization_config", None):
        raise MergeError(f"base model {base} is quantised: give the unquantised one with --base")
    run = adapter.parent if adapter.name.startswith("checkpoint-") else adapter  # checkpoints have no config.json
    for folder in (adapter, run):
        if (folder / "config.json").is_file():
            trained = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if trained.model_type != config.model_type:
                raise MergeError(
                    f"{adapter} was trained on a {trained.model_type}, {base} is a {config.model_type}: --base"
                )
            return config, trained
    return config, None


def _carry_window(config: Any, trained: Any) -> None:
    """RoPE and longest position of the training run, into the base model's config."""
    ours, theirs = config.get_text_config(), trained.get_text_config()
    for name in ("rope_parameters", "max_position_embeddings", "original_max_position_embeddings"):
        if hasattr(theirs, name):
            setattr(ours, name, copy.deepcopy(getattr(theirs, name)))


def _read(folder: str, **options: Any) -> Any:
    """A model in fp32 from safetensors, all of its weights found."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise MergeError(f"{folder} cannot be loaded as a causal language model from safetensors: {reason}") from None
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise MergeError(f"{folder} lacks {len(missing)} weights, {missing[0]} first: not a whole model")
    return model.eval()


def _with_adapter(model: Any, adapter: Path, base: str) -> Any:
    """The PEFT model; every tensor of the adapter in its place."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        there = set(file.keys())
    misfit = f"{adapter} does not fit base model {base}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing keys: found below, and fatal
            peft_model = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    except KeyError as error:
        raise MergeError(f"{misfit}: the adapter lacks {error.args[0]}; give --base") from None
    except (RuntimeError, ValueError) as error:
        reasons = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in reasons if "size mismatch" in line), reasons[0])
        raise MergeError(f"{misfit}: {reason[:250]}; give --base") from None
    wanted = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
    # Where the vocabulary grew, PEFT also saves the frozen embedding and head, and embeddings a second time.
    known = wanted | set(peft_model.state_dict()) | {n for n in there if n.replace(".modules_to_save.", ".") in wanted}
    if odd := sorted(wanted - there) + sorted(there - known):
        side = "the adapter lacks" if odd[0] in wanted else "the base has no place for"
        raise MergeError(f"{misfit}: {side} {odd[0]} and {len(odd) - 1} more; give --base")
    return peft_model.eval()


# ---- merging ----------------------------------------------------------------------------------------------------


def _logits(model: Any) -> Any:
    """Of one random batch, the same each time, in fp32: (2, 64, vocabulary)."""
    import torch

    words = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, words, BATCH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def _state_tie(model: Any, was_tied: bool) -> bool:
    """Puts into the config whether head and embedding are one; PEFT ties no more than it was told to in training."""
    tied = was_tied and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied
    return tied


def _rounded_away(model: Any, dtype: Any) -> dict[str, float]:
    """Share of the elements training changed that are the base's again in `dtype`; embeddings and norms."""
    from trainer_configs.longlora.trainable import _wrappers

    changed: dict[str, int] = {}
    undone: dict[str, int] = {}
    for kind, _, wrapper in _wrappers(model):
        old, new = wrapper.original_module.weight, wrapper.weight
        if kind == "head" and "embedding" in changed:  # the same once more, or close to it
            continue
        moved = old != new
        changed[kind] = changed.get(kind, 0) + int(moved.sum())
        undone[kind] = undone.get(kind, 0) + int((moved & (old.to(dtype) == new.to(dtype))).sum())
    return {kind: undone[kind] / changed[kind] for kind in changed if changed[kind]}


def _tokenizer(adapter: Path, base: str, out: Path, length: int | None) -> bool:
    """Copies the tokenizer, the adapter's before the base's; its longest input is the model's. False if there is none."""
    folders = [adapter, Path(base)]
    if not Path(base).is_dir():
        from huggingface_hub import snapshot_download

        folders[1] = Path(snapshot_download(base, allow_patterns=[*TOKENIZER, *TEMPLATES]))
    found = next((f for f in folders if any(f.glob("tokenizer*"))), None)
    if found is None:
        return False
    for path in {path for pattern in (*TOKENIZER, *TEMPLATES) for path in found.glob(pattern) if path.is_file()}:
        target = out / path.relative_to(found)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    settings = out / "tokenizer_config.json"
    if length and settings.is_file():
        values = json.loads(settings.read_text())
        if values.get("model_max_length", length) < length:  # some servers take the smaller as their limit
            settings.write_text(json.dumps(values | {"model_max_length": length}, indent=2, ensure_ascii=False))
    return True


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, or vanishes."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            yield draft
            umask = os.umask(0)
            os.umask(umask)
            draft.chmod(0o777 & ~umask)  # mkdtemp's is for its owner alone
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise MergeError(f"cannot write {out}: {error.strerror or error}") from None


def _agree(what: str, difference: float, largest: float) -> None:
    limit = TOLERANCE * max(1.0, largest)
    if not difference <= limit:  # also not a number
        raise CheckError(f"{what} differs from the adapter model by {difference:.3g} in a logit (limit {limit:.3g})")


def merge(
    adapter_dir: Path | str,
    out_dir: Path | str,
    base: str | None = None,
    dtype: str | None = None,
    progress: bool = False,
) -> Merged:
    """Writes the merged model to `out_dir`. Raises `MergeError`, with nothing written.

    `base`: folder or model name, when not the one the adapter names. `dtype` of what is written: the base's own when left
    out. Needs memory for the base in fp32 (4 bytes a parameter) and a second copy of the embeddings.
    """
    adapter, out = Path(adapter_dir), Path(out_dir)
    base = check(adapter, out, base, dtype)
    config, trained = _configs(adapter, base)
    dtype = dtype or str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    with _whole(out) as draft, _one_bar(progress) as step:
        if trained is not None:
            _carry_window(config, trained)
        text = config.get_text_config()
        model, tied = _base(base, config, trained)
        step()
        peft_model = _with_adapter(model, adapter, base)
        step()
        result = Merged(out, dtype, tied, text.rope_parameters, text.max_position_embeddings)
        expected = _logits(peft_model)
        step()
        model = _merged(peft_model, expected, result)
        step()
        model.save_pretrained(draft)
        if not _tokenizer(adapter, base, draft, result.max_position_embeddings):
            result.notes.append("no tokenizer found beside the adapter or the base")
        del model, peft_model
        step()
        _read_back(draft, expected, result)
        step()
    if trained is None:
        result.notes.append("no config.json beside the adapter: RoPE and longest position are the base's")
    if tied and not result.tied:
        result.notes.append("embedding and head were tied but trained apart: the merged model is untied")
    return result


def _base(base: str, config: Any, trained: Any) -> tuple[Any, bool]:
    """The base model, its vocabulary grown to the training run's; and whether its head is its embedding."""
    model = _read(base, config=config)
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if trained is not None and (words := trained.get_text_config().vocab_size) != config.get_text_config().vocab_size:
        model.resize_token_embeddings(words, mean_resizing=False)
    return model, tied


def _merged(peft_model: Any, expected: Any, result: Merged) -> Any:
    """The model without PEFT, checked, in the dtype it is written in."""
    import torch

    dtype = getattr(torch, result.dtype)
    if result.dtype != "float32":
        result.rounded_away = _rounded_away(peft_model, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's on ties: seen to below
        model = peft_model.merge_and_unload(safe_merge=True)
    result.tied = _state_tie(model, result.tied)
    result.largest_logit = expected.abs().max().item()
    result.difference = (_logits(model) - expected).abs().max().item()
    _agree("the merged model", result.difference, result.largest_logit)
    for parameter in model.parameters():  # not the buffers: RoPE's frequencies are fp32 in any model
        parameter.data = parameter.data.to(dtype)
    return model


def _read_back(folder: Path, expected: Any, result: Merged) -> None:
    found = _logits(_read(str(folder)))
    result.written_difference = (found - expected).abs().max().item()
    if result.dtype == "float32":
        _agree("the model read back", result.written_difference, result.largest_logit)
    ours, theirs = found.log_softmax(-1), expected.log_softmax(-1)
    result.divergence = max(0.0, (theirs.exp() * (theirs - ours)).sum(-1).mean().item())


@contextmanager
def _one_bar(progress: bool) -> Iterator[Callable[[], None]]:
    """A bar over `STEPS` in place of those of transformers; gives what moves it on."""
    from transformers.utils import logging

    theirs = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with tqdm(total=len(STEPS), desc=STEPS[0], unit="step", leave=False, disable=not progress) as bar:

            def step() -> None:
                bar.update()
                bar.set_description(STEPS[min(bar.n, len(STEPS) - 1)])

            yield step
    finally:
        if theirs:
            logging.enable_progress_bar()


# ---- the command ------------------------------------------------------------------------------------------------

app = typer.Typer(no_args_is_help=True, add_completion=False, help="LongLoRA: merge.")


def lines(merged: Merged) -> Iterator[str]:
    """What to tell the user."""
    rope = merged.rope_parameters or {}
    kind = rope.get("rope_type") or ", ".join(
        f"{k}: {v.get('rope_type')}" for k, v in rope.items() if isinstance(v, dict)
    )
    factor = f" ×{rope['factor']:g}" if "factor" in rope else ""
    yield f"written: {merged.out} ({merged.dtype}, {'tied' if merged.tied else 'untied'} head)"
    yield f"  RoPE {kind or 'none'}{factor}, longest position {merged.max_position_embeddings:,}"
    yield f"  max |Δlogit| against the adapter model, fp32: {merged.difference:.2g} of {merged.largest_logit:.3g}"
    if merged.dtype == "float32":
        yield f"  read back from the disk: {merged.written_difference:.2g}"
    else:
        lost = ", ".join(f"{share:.0%} of the changed {kind} elements" for kind, share in merged.rounded_away.items())
        yield f"  rounded to {merged.dtype}: {merged.written_difference:.2g}, mean KL {merged.divergence:.2g} nats a token"
        yield f"  the rounding undoes {lost or 'no change in full'}; --dtype float32 keeps all"
    yield from (f"  note: {note}" for note in merged.notes)


@app.command("merge")
def command(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The training run's output_dir, or a checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the merged model.")],
    base: Annotated[str | None, typer.Option(help="Base model, when not the one the adapter names.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; the base's own when left out.")] = None,
) -> None:
    """Adapter and base model into one, checked: LoRA, embeddings, norms, RoPE, ties, tokenizer."""
    try:
        merged = merge(adapter, out, base, dtype, progress=True)
    except MergeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, CheckError) else 2) from None
    for line in lines(merged):
        print(line)


@app.callback()
def main() -> None:
    """LongLoRA: merge."""


if __name__ == "__main__":
    typer.run(command)
