"""Rows in a file, in the form that a framework reads: `longthread rows FORMAT OUT --tokenizer NAME`."""

import json
from collections.abc import Callable
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from environments.tasksets import core, nemo_gym, trl
from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error, option
from longthread.files import JsonObject, replacing


class Format(StrEnum):
    """The framework that reads the rows."""

    TRL = "trl"  # and Axolotl's rl: grpo
    NEMO_GYM = "nemo_gym"
    SKYRL = "skyrl"


def _skyrl_row(row: core.Row) -> JsonObject:
    spec = {"method": "rule", "ground_truth": json.dumps(core.target_of(row))}
    return {"data_source": "longthread", "prompt": row["messages"], "env_class": "longthread", "reward_spec": spec}


LINES: dict[Format, Callable[[core.Row], JsonObject]] = {
    Format.TRL: trl.dataset_row,
    Format.NEMO_GYM: nemo_gym.dataset_row,
    Format.SKYRL: _skyrl_row,
}


def write(config: core.TasksetConfig, form: Format, out: Path, count: int) -> None:
    """Write the first `count` rows of the config, one JSON object a line; all of them or no file. Raises `ConfigError`."""
    if count < 1:
        raise ConfigError(f"count {count} must be at least 1", setting="count")
    if out.exists():
        raise ConfigError(f"{out} exists: give another name for the output, or delete it")
    made = core.samples(config)
    with replacing(out) as file:
        for row in islice(made, count):
            file.write(json.dumps(LINES[form](row), ensure_ascii=False).encode() + b"\n")


app = App()


@app.command(no_args_is_help=True)
def main(
    form: Annotated[Format, typer.Argument(metavar="FORMAT", help="What reads the rows: trl, nemo_gym or skyrl.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl file to write; it must not exist.")],
    tokenizer: Annotated[str, typer.Option(help="Of the model that is asked: a local folder or a hub name.")],
    count: Annotated[int, typer.Option(help="Rows.")] = 1000,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of docs/frameworks.md; repeatable."),
    ] = None,
) -> None:
    """Rows of the environments' tasks for another framework."""
    with exit_on_error(_flag):
        write(core.read_config({"tokenizer": tokenizer, **_settings(setting or [])}), form, out, count)
        print(f"written: {out}")


def _settings(pairs: list[str]) -> dict[str, str]:
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ConfigError(f"--set {wrong[0]} must be NAME=VALUE, like --set lengths=4096")
    return dict(pair.split("=", 1) for pair in pairs)


def _flag(setting: str) -> str:
    shown = {"tokenizer_name": "tokenizer"}.get(setting, setting)
    return option(shown) if shown in ("tokenizer", "count") else f"--set {shown}="


if __name__ == "__main__":
    app()
