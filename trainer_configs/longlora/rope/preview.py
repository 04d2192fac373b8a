"""`longthread longlora rope`: what an extension would set, before and after, from a model's config alone: no weights.

longthread longlora rope --model MODEL --method yarn --target 131072 --plot rope.png
longthread longlora rope --model MODEL --method yarn --target 131072 --option beta_fast=64
"""

import copy
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error, option
from trainer_configs.longlora.rope.methods import OPTIONS

if TYPE_CHECKING:  # imported where they are used: `--help` needs neither
    from transformers import PretrainedConfig

    from trainer_configs.longlora.rope.extension import Extension


def load_config(model: str) -> "PretrainedConfig":
    """Load the config of a folder or a repository; runs no code of the model's. Raises `ConfigError`."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:160]
        raise ConfigError(f"{model} has no config that can be read ({reason})", setting="model") from None


def changed(config: "PretrainedConfig", extension: "Extension") -> "PretrainedConfig":
    """Return a copy of the config with the extension's changes set."""
    after = copy.deepcopy(config)
    for name, value in extension.changes.items():
        setattr(after.get_text_config(), name, copy.deepcopy(value))
    return after


class Rope(NamedTuple):
    """RoPE for rows of `length` tokens. `wavelengths`: tokens of one turn, for each pair of rotary dimensions."""

    length: int
    max_position_embeddings: int
    parameters: dict[str, Any]
    attention_factor: float
    wavelengths: list[float]


def ropes(config: "PretrainedConfig", extension: "Extension") -> tuple[Rope, Rope]:
    """Return the model's RoPE before and after the extension.

    The first is for rows of the native length, the second for rows of the target length.
    """
    from trainer_configs.longlora.rope.extension import frequencies, rope_of

    pair = []
    for stage, length in ((config, extension.native), (changed(config, extension), extension.target)):
        text = stage.get_text_config()
        layer, parameters = rope_of(text)
        turns, attention_factor = frequencies(text, length, layer)
        wavelengths = (2 * math.pi / turns.double()).tolist()
        pair.append(Rope(length, text.max_position_embeddings, parameters, attention_factor, wavelengths))
    return pair[0], pair[1]


def pair_counts(before: list[float], after: list[float], factor: float) -> tuple[int, int, int]:
    """Count the pairs of rotary dimensions by how the extension changes their wavelengths `before` to `after`.

    Returns three counts: unchanged (extrapolated), less than `factor` times longer, and `factor` times longer
    (interpolated).
    """
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    same = sum(ratio < 1.001 for ratio in ratios)
    interpolated = sum(ratio > 0.999 * factor for ratio in ratios)
    return same, len(ratios) - same - interpolated, interpolated


def table(config: "PretrainedConfig", extension: "Extension") -> Table:
    """Return a table of the model's RoPE before and after the extension, side by side."""
    before, after = pair = ropes(config, extension)
    same, between, interpolated = pair_counts(before.wavelengths, after.wavelengths, extension.factor)
    grid = Table("", "before", "after", title=escape(f"{type(config).__name__}: {extension.factor:g} times longer"))
    for name, values in {
        "window, tokens": [f"{rope.length:,}" for rope in pair],
        "max_position_embeddings": [f"{rope.max_position_embeddings:,}" for rope in pair],
        "rope_type": [rope.parameters["rope_type"] for rope in pair],
        "rope_theta": [f"{rope.parameters['rope_theta']:,.6g}" for rope in pair],
        "factor": [f"{rope.parameters.get('factor') or 1:g}" for rope in pair],
        "original length": [f"{rope.parameters.get('original_max_position_embeddings') or '-'}" for rope in pair],
        "attention factor": [f"{rope.attention_factor:.4f}" for rope in pair],
        "longest wavelength, tokens": [f"{rope.wavelengths[-1]:,.0f}" for rope in pair],
        "pairs of dimensions": [
            f"{len(before.wavelengths)}",
            f"{same} as before, {between} between, {interpolated} interpolated",
        ],
    }.items():
        grid.add_row(name, *map(escape, values))
    if extension.layer:
        grid.caption = f"{extension.layer} layers only"
    return grid


def plot(config: "PretrainedConfig", extension: "Extension", method: str, path: Path) -> None:
    """Write a picture of the wavelengths of all pairs of dimensions before and after, and of the two windows."""
    from matplotlib.figure import Figure

    before, after = ropes(config, extension)
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.semilogy(before.wavelengths, color="#777777", label="before")
    axes.semilogy(after.wavelengths, color="#c2410c", label=f"{method} to {after.length:,}")
    for length, style, name in ((before.length, ":", "native"), (after.length, "--", "target")):
        axes.axhline(length, color="black", linestyle=style, linewidth=0.8)
        axes.annotate(f"{name} window {length:,}", (0, length), (2, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="pair of rotary dimensions", ylabel="wavelength, tokens")
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Parse options `name=value` with the value in JSON; `name=@file` reads it from a file. Raises `ConfigError`."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"option {pair[:80]!r} is not name=value", setting="option")
        try:
            options[name] = json.loads(Path(value[1:]).read_text() if value.startswith("@") else value)
        except (OSError, ValueError):
            fault = f"option {pair[:80]!r} is not name=value or name=@file with a value in JSON"
            raise ConfigError(fault, setting="option") from None
    return options


app = App(no_args_is_help=True, help="LongLoRA: longer RoPE.")


@app.command()
def rope(
    model: Annotated[str, typer.Option(help="Folder or name of the model; only its config is read.")],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIONS)}.")],
    target: Annotated[int, typer.Option(help="Tokens that it shall read.")],
    native: Annotated[int | None, typer.Option(help="Tokens it reads now, if its config does not say so.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", help="Of the method, name=JSON or name=@file; repeat.")
    ] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Picture of the wavelengths to write.")] = None,
) -> None:
    """Show what an extension sets on a model's config, before and after, without its weights."""
    with exit_on_error(option):
        parsed = parse_options(options or [])
        from trainer_configs.longlora.rope.extension import plan

        config = load_config(model)
        extension = plan(config, method, target, **{"native_length": native} | parsed)
        if plot_to:
            plot(config, extension, method, plot_to)
    Console().print(table(config, extension))
    for warning in extension.warnings:
        typer.echo(f"warning: {warning}", err=True)
    from trainer_configs.longlora.rope.serving import serving

    served = serving(changed(config, extension), "MERGED")
    for note in served.notes:
        typer.echo(f"note: {note}", err=True)
    print(json.dumps(extension.changes))
    keys = {"method": method, "target_length": target} | ({"native_length": native} if native else {})
    lines = [f"{name}: {value}" for name, value in keys.items()]
    lines += [f"{name}: {json.dumps(value)}" for name, value in parsed.items()]
    print(f"longlora:\n  context_extension: {{{', '.join(lines)}}}")
    print(f"# merged: {served.command}")


@app.callback()
def main() -> None:
    """LongLoRA: RoPE extension."""
