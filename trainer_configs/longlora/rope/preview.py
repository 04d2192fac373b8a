"""`longthread longlora rope`: what an extension would set, before and after, from a model's config alone: no weights.

longthread longlora rope --model MODEL --method yarn --target 131072 --plot rope.png
longthread longlora rope --model MODEL --method yarn --target 131072 --option beta_fast=64
"""

import copy
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from trainer_configs.longlora.rope.extension import OPTIONS, Extension, RopeError, frequencies, plan, rope_of


def load_config(model: str) -> PretrainedConfig:
    """A folder's or a repository's config; runs no code of the model's. Raises `RopeError`."""
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise RopeError(f"{model} has no config that can be read ({str(error).splitlines()[0][:160]})") from None


def changed(config: PretrainedConfig, extension: Extension) -> PretrainedConfig:
    """A copy of the config, extended."""
    after = copy.deepcopy(config)
    for name, value in extension.changes.items():
        setattr(after.get_text_config(), name, copy.deepcopy(value))
    return after


def wavelengths(frequencies_: Tensor) -> list[float]:
    """Tokens of one turn, for each pair of rotary dimensions."""
    return (2 * math.pi / frequencies_.double()).tolist()


def kinds(before: list[float], after: list[float], factor: float) -> tuple[int, int, int]:
    """Pairs that turn as before (extrapolated), slower by less than `factor`, and by `factor` (interpolated)."""
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    same = sum(ratio < 1.001 for ratio in ratios)
    whole = sum(ratio > 0.999 * factor for ratio in ratios)
    return same, len(ratios) - same - whole, whole


def table(config: PretrainedConfig, extension: Extension) -> Table:
    """Before and after, for rows as long as the native and the target window."""
    grid = Table("", "before", "after", title=escape(f"{type(config).__name__}: {extension.factor:g} times longer"))
    columns = []
    for one, length in ((config, extension.native), (changed(config, extension), extension.target)):
        text = one.get_text_config()
        layer, parameters = rope_of(text)
        turns, attention_factor = frequencies(one, length, layer)
        columns.append((length, text.max_position_embeddings, parameters, attention_factor, wavelengths(turns)))
    (_, _, _, _, before), (_, _, _, _, after) = columns
    same, between, whole = kinds(before, after, extension.factor)
    for name, values in {
        "window, tokens": [f"{column[0]:,}" for column in columns],
        "max_position_embeddings": [f"{column[1]:,}" for column in columns],
        "rope_type": [column[2]["rope_type"] for column in columns],
        "rope_theta": [f"{column[2]['rope_theta']:,.6g}" for column in columns],
        "factor": [f"{column[2].get('factor') or 1:g}" for column in columns],
        "original length": [f"{column[2].get('original_max_position_embeddings') or '-'}" for column in columns],
        "attention factor": [f"{column[3]:.4f}" for column in columns],
        "longest wavelength, tokens": [f"{column[4][-1]:,.0f}" for column in columns],
        "pairs of dimensions": [f"{len(before)}", f"{same} as before, {between} between, {whole} interpolated"],
    }.items():
        grid.add_row(name, *map(escape, values))
    if extension.layer:
        grid.caption = f"{extension.layer} layers only"
    return grid


def plot(config: PretrainedConfig, extension: Extension, method: str, path: Path) -> None:
    """Wavelengths of every pair of dimensions before and after, and the two windows."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    layer = extension.layer
    before = wavelengths(frequencies(config, extension.native, layer)[0])
    after = wavelengths(frequencies(changed(config, extension), extension.target, layer)[0])
    axes.semilogy(before, color="#777777", label="before")
    axes.semilogy(after, color="#c2410c", label=f"{method} to {extension.target:,}")
    for length, style, name in ((extension.native, ":", "native"), (extension.target, "--", "target")):
        axes.axhline(length, color="black", linestyle=style, linewidth=0.8)
        axes.annotate(f"{name} window {length:,}", (0, length), (2, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="pair of rotary dimensions", ylabel="wavelength, tokens")
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def parsed(pairs: list[str]) -> dict[str, Any]:
    """`name=value` with the value in JSON; `@file` reads it from a file. Raises `RopeError`."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            options[name] = json.loads(Path(value[1:]).read_text() if value.startswith("@") else value)
        except (OSError, ValueError):
            raise RopeError(f"option {pair[:80]!r} is not name=value or name=@file with a value in JSON") from None
        if not equals:
            raise RopeError(f"option {pair[:80]!r} has no value: write {name}=…")
    return options


app = typer.Typer(no_args_is_help=True, add_completion=False, help="LongLoRA: longer RoPE.")


@app.command()
def rope(
    model: Annotated[str, typer.Option(help="Folder or name of the model; only its config is read.")],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIONS)}.")],
    target: Annotated[int, typer.Option(help="Tokens that it shall read.")],
    native: Annotated[int | None, typer.Option(help="Tokens it reads now, if its config does not say so.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Of the method, name=JSON or name=@file; repeat.")] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Picture of the wavelengths to write.")] = None,
) -> None:
    """What an extension sets on a model's config, before and after, without its weights."""
    try:
        options = parsed(option or [])
        config = load_config(model)
        extension = plan(config, method, target, **{"native_length": native} | options)
        if plot_to:
            plot(config, extension, method, plot_to)
    except (RopeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    Console().print(table(config, extension))
    for warning in extension.warnings:
        typer.echo(f"warning: {warning}", err=True)
    print(json.dumps(extension.changes))
    lines = [f"method: {method}", f"target_length: {target}"]
    lines += [f"native_length: {native}"] if native else []
    lines += [f"{name}: {json.dumps(value)}" for name, value in options.items()]
    print(f"longlora:\n  context_extension: {{{', '.join(lines)}}}")


@app.callback()
def main() -> None:
    """LongLoRA: RoPE extension."""
