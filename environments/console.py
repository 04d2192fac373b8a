"""The console commands: nothing is imported before Ctrl-C is caught, and an environment only to run it."""

import sys
from importlib import import_module


def needle() -> None:
    """Run `needle-env`."""
    _run("needle", "environments.needle_env", "NeedleEnv")


def linked() -> None:
    """Run `linked-needle-env`."""
    _run("linked_needle", "environments.linked_needle_env", "LinkedNeedleEnv")


def memory() -> None:
    """Run `memory-env`."""
    _run("memory", "environments.memory_env", "MemoryEnv")


def _run(name: str, module: str, environment: str) -> None:
    try:
        from environments import cli, config

        defaults = config.HaystackEnvConfig(tasks=config.DEFAULT_TASKS[name], wandb_name=name)
        cli.main(defaults, lambda command: getattr(import_module(module), environment).run(command))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
