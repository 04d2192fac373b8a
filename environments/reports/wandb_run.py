"""The Weights & Biases run around a command: off unless `--env.use_wandb true`, always closed.

`serve` has Atropos' own run. Never sent: an API key, the terminal's output, or the state of the user's git repository.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from longthread.errors import ConfigError, RunError
from longthread.secrets import redact, redact_text

if TYPE_CHECKING:
    from wandb import Run

PROJECT = "longthread"  # where neither the trainer nor WANDB_PROJECT names one
_ADVICE = "run `wandb login` or set WANDB_API_KEY, or keep the run on this disk with WANDB_MODE=offline"


class RunSettings(Protocol):
    """The settings of an environment's config that a W&B run reads."""

    use_wandb: bool
    wandb_name: str | None

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return all settings as a dict, as pydantic does."""
        ...


def check_login(config: RunSettings) -> None:
    """Raise `ConfigError`, one line, if W&B is on and lacks a login that works. Never ask at the terminal."""
    if not config.use_wandb:
        return
    import wandb

    if wandb.run is not None:
        return
    # Neither the terminal's output, where a library may log a prompt, nor a diff of the user's repository is sent. Set
    # for the process, so that it also holds for the run that Atropos starts in `serve`.
    quiet = wandb.Settings(console="off", disable_git=True, save_code=False)
    try:
        if wandb.setup(quiet).settings.mode in ("offline", "dryrun", "disabled"):
            return
        known = wandb.login(prompt=False)
    except (wandb.Error, ValueError) as error:
        raise ConfigError(f"W&B refuses to start ({_line(error)}); {_ADVICE}") from None
    if not known:
        raise ConfigError(f"W&B is on, but there is no W&B login here: {_ADVICE}", setting="use_wandb")


def _line(error: Exception) -> str:
    return redact_text(" ".join(str(error).split()).rstrip("."))


@contextmanager
def start_run(
    config: RunSettings, job: str, model: str, project: str | None = None, group: str | None = None
) -> Iterator[Run | None]:
    """Yield a W&B run around `process` or `evaluate`: None when W&B is off; a run that is on already (`serve`'s) as it is.

    `job`, the command, is W&B's job type; `project` and `group` are those of atroposlib's environment, if it has any.
    Raises `ConfigError` for a missing login and `RunError` when W&B cannot be reached, both before anything is asked.
    """
    if not config.use_wandb:
        yield None
        return
    import wandb

    if wandb.run is not None:
        yield wandb.run
        return
    check_login(config)
    try:
        wandb.init(
            project=project or os.environ.get("WANDB_PROJECT") or PROJECT,
            name=f"{config.wandb_name}-{datetime.now():%Y-%m-%d}-{uuid.uuid4().hex[:6]}",
            group=group,
            job_type=job,
            config={**safe_settings(config), "model": model},
        )
    except wandb.Error as error:
        raise RunError(f"no W&B run ({_line(error)}); {_ADVICE}") from None
    with finishing(config):
        yield wandb.run


@contextmanager
def finishing(config: RunSettings) -> Iterator[None]:
    """When the block ends, finish the W&B run that is on, with exit code 0, 1 for a failure or 255 for Ctrl-C."""
    code = 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 255
        raise
    finally:
        if config.use_wandb:
            import wandb

            wandb.finish(exit_code=code)


def safe_settings(config: RunSettings) -> dict[str, Any]:
    """Return the settings of an environment without anything that is, or looks like, a secret."""
    settings: dict[str, Any] = redact(config.model_dump(mode="json"))
    return settings
