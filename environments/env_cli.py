"""The Atropos command line (`process`, `serve`, `evaluate`) without its traps.

atroposlib parses `sys.argv` itself, so what has to be mended is mended there, before it looks:

- API keys are taken out and handed to the environment by `secret`: atroposlib prints its server configs and `evaluate`
  writes them to a file.
- W&B stays off unless asked for (`process` and `evaluate` force it on, and then fail without a key).
- A negative number after a flag reads as a bare flag, and a bare flag is refused: both become `--flag=value`.
- Unknown keys in a YAML file, ignored there, are refused here.
- A user's mistake ends in one line and exit code 2.
"""

import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

COMMANDS = ("process", "serve", "evaluate")
KEY_FLAG = "--openai.api_key"
KEY_VARIABLES = ("LONGTHREAD_API_KEY", "OPENAI_API_KEY")
_HIDDEN = "hidden-key-"
_secrets: dict[str, str] = {}


class ConfigError(ValueError):
    """A setting that cannot work: one line that names the value, the limit and the fix."""


def hide(key: str) -> str:
    """A harmless stand-in for an API key, to be printed and written in its place."""
    stand_in = f"{_HIDDEN}{len(_secrets)}"
    _secrets[stand_in] = key
    return stand_in


def secret(stand_in: str) -> str:
    """The key behind a stand-in; anything else is a key itself. Without one: the environment's, or "x"."""
    if stand_in in _secrets:
        return _secrets[stand_in]
    if stand_in and stand_in != "x":
        return stand_in
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "x")


def main(env: Any, argv: list[str] | None = None) -> None:
    """Runs the environment's command line. Exits with 2 after a user's mistake, with 1 after a failed run."""
    warnings.filterwarnings("ignore", message=".*local Base URL.*")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("atroposlib.envs.base", "httpx", "openai", "asyncio"):
        # At DEBUG atroposlib prints every item; one root error is enough to turn that on.
        logging.getLogger(name).setLevel(logging.WARNING)
    given, old = list(sys.argv[1:] if argv is None else argv), sys.argv
    try:
        with tempfile.TemporaryDirectory() as scratch:
            sys.argv = [old[0], *prepare(given, env.env_config_cls, Path(scratch))]
            env.atropos_cli()
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"{'.'.join(map(str, first['loc']))} {first.get('input')!r}: {first['msg']}")
    except (ValueError, OSError) as error:
        if not _ours(error):
            raise
        _fail(str(error))
    finally:
        sys.argv = old


def _ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("environments.")


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def prepare(argv: list[str], config_cls: Any, scratch: Path) -> list[str]:
    """The arguments as atroposlib should see them. Raises `ConfigError`."""
    args = _join_values(argv)
    if not args or args[0] not in COMMANDS:
        return args
    args = [f"{KEY_FLAG}={hide(a.partition('=')[2])}" if a.startswith(f"{KEY_FLAG}=") else a for a in args]
    wandb_asked = any(a.startswith("--env.use_wandb=") for a in args)
    for i, arg in enumerate(args):
        if arg.startswith("--config="):
            config = _read_yaml(Path(arg.partition("=")[2]), config_cls)
            wandb_asked |= "use_wandb" in (config.get("env") or {})
            for server in _servers(config):
                if server.get("api_key"):
                    server["api_key"] = hide(str(server["api_key"]))
            path = scratch / "config.yaml"
            path.write_text(yaml.safe_dump(config))
            args[i] = f"--config={path}"
    return args if wandb_asked else [*args, "--env.use_wandb=false"]


def _join_values(argv: list[str]) -> list[str]:
    """`--flag value`, `--flag -1` and a bare `--flag` as `--flag=value`."""
    joined: list[str] = []
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if arg.startswith("--") and "=" not in arg and arg not in ("--help", "--version"):
            takes_next = rest and (not rest[0].startswith("-") or re.fullmatch(r"-\d[\d.]*", rest[0]))
            arg = f"{arg}={rest.pop(0) if takes_next else 'true'}"
        joined.append(arg)
    return joined


def _read_yaml(path: Path, config_cls: Any) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read ({error.strerror}); give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"--config {path} must hold the sections env and openai, not {type(config).__name__}")
    known = {"": {"env", "openai", "slurm", "testing"}, "env.": set(config_cls.model_fields)}
    for prefix, section in (("", config), ("env.", config.get("env") or {})):
        if unknown := sorted(set(section) - known[prefix]):
            raise ConfigError(f"--config {path} has unknown keys {', '.join(prefix + key for key in unknown)}")
    return config


def _servers(config: dict[str, Any]) -> list[dict[str, Any]]:
    servers = config.get("openai") or []
    return servers if isinstance(servers, list) else [servers]
