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
    _run("memory", "environments.memory_env", "MemoryEnv", ("environments.memory.config", "MemoryEnvConfig"))


def _run(
    name: str, module: str, environment: str, settings: tuple[str, str] = ("environments.config", "HaystackEnvConfig")
) -> None:
    try:
        from environments import cli, config

        config_cls = getattr(import_module(settings[0]), settings[1])
        defaults = config_cls(tasks=config.DEFAULT_TASKS[name], wandb_name=name)
        cli.main(defaults, lambda command: getattr(import_module(module), environment).run(command))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
