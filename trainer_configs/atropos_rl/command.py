"""`longthread rl`: a whole run from one YAML, one part of it, or its curves."""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error
from trainer_configs.atropos_rl import health
from trainer_configs.atropos_rl.config import RLConfig, read
from trainer_configs.atropos_rl.plot import plot as draw
from trainer_configs.atropos_rl.toy_model import TOY, write_toy_model

app = App(no_args_is_help=True, help="Reinforcement from served environments.")
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML of the run.")]
REDRAW = 1.0  # seconds


@app.command()
def run(
    config: Config,
    part: Annotated[
        str | None, typer.Option(help="Run only this part: api, server, trainer, or an environment.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Of the whole run: training ends when the last evaluation must begin.")
    ] = None,
) -> None:
    """Run everything, or go on where the run was stopped; `longthread rl CONFIG` is short for it."""
    with exit_on_error():
        settings = _settings(config)
        _check_same_run(settings, config)
        if part is not None:
            from trainer_configs.atropos_rl import parts

            argv = parts.command(settings, config, part)
            os.execv(argv[0], argv)
        _run(settings, config, seconds)


def _settings(path: Path) -> RLConfig:
    config = read(path)
    if config.model != TOY:
        return config
    return config.model_copy(update={"model": str(write_toy_model(config.run / "toy-model"))})


def _check_same_run(config: RLConfig, path: Path) -> None:
    """Keep the config in the run's folder; refuse another one, but for how long and by which ports it runs."""
    free = {"steps", "api_port", "server", "restarts", "checkpoint_every", "processes", "use_wandb", "wandb_name"}
    kept, own = config.run / "config.json", config.model_dump_json(exclude=free)
    if not kept.exists():
        from longthread.files import write_text

        write_text(kept, own)
    elif kept.read_text() != own:
        raise ConfigError(f"{config.run} is the run of another config than {path}: give another run", setting="run")


def _run(config: RLConfig, path: Path, seconds: float | None) -> None:
    from trainer_configs.atropos_rl.launch import launch
    from trainer_configs.atropos_rl.screen import line, screen

    console, shown, drawn = Console(), -1, 0.0
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def show(restarts: Counter[str]) -> None:
            nonlocal shown, drawn
            if time.monotonic() - drawn < REDRAW:
                return
            drawn, rows = time.monotonic(), health.rows(config.run)
            if console.is_terminal:
                live.update(screen(rows, config.steps, restarts), refresh=True)
            else:
                for row in rows:
                    if row["step"] > shown:
                        print(line(row), flush=True)
                        shown = row["step"]

        asyncio.run(launch(config, path, show, seconds))
    _print_tables(console, config.run)
    curves, last = draw(config.run), health.rows(config.run)[-1]["step"]
    print(f"curves   {curves}\nadapter  {config.run / f'adapter-{last}'}")


def _print_tables(console: Console, run: Path) -> bool:
    """Print what has changed on the held-out split. Returns False where it was not evaluated before and after."""
    from trainer_configs.atropos_rl import comparison, conduct

    names = sorted(path.name for path in (run / "before").glob("*") if path.is_dir())
    shown = [made.table(run, names) for made in (comparison, conduct)]
    for table in shown:
        if table is not None:
            console.print(table)
    return any(table is not None for table in shown)


@app.command()
def compare(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Print scores and conduct on the held-out split, before and after."""
    with exit_on_error():
        if not _print_tables(Console(), run):
            raise ConfigError(f"{run} has no evaluation before and after: give the folder of a run that is done")


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="The picture; RUN/curves.png when left out.")] = None,
) -> None:
    """Draw the curves of a run."""
    with exit_on_error():
        print(draw(run, out))


@app.command(hidden=True)
def train(config: Config, until: float = math.inf) -> None:
    """Run the trainer in this process, until that time at most (time.time())."""
    with exit_on_error():
        settings = _settings(config)
        from trainer_configs.atropos_rl.trainer import Trainer

        asyncio.run(Trainer(settings).run(until))


def main(arguments: Sequence[str]) -> None:
    """Run the command; a config in the first place is run."""
    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    whole = [*arguments] if not arguments or arguments[0] in commands | {"--help"} else ["run", *arguments]
    app(whole, prog_name="longthread rl")
