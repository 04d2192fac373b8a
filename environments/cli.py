"""The Atropos command line (`process`, `serve`, `evaluate`) without its traps.

atroposlib parses `sys.argv` itself, so what has to be mended is mended there, before it looks:

- API keys are taken out and handed to the environment by `secret`: atroposlib prints its server configs and `evaluate`
  writes them to a file.
- W&B stays off unless asked for (`process` and `evaluate` force it on, and then fail without a key).
- A negative number after a flag reads as a bare flag, and a bare flag is refused: both become `--flag=value`.
- Unknown keys in a YAML file and abbreviated flags, both ignored there, are refused here.
- All settings, a hundred lines, are printed before every run: they go to the log at INFO.
- A user's mistake ends in one line and exit code 2, a failed run in one line and exit code 1.
"""

import asyncio
import difflib
import errno
import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import yaml
from atroposlib.envs import base
from atroposlib.envs.server_handling.server_baseline import APIServerConfig
from pydantic import ValidationError

from longthread.errors import ConfigError

COMMANDS = ("process", "serve", "evaluate")
KEY_FLAG = "--openai.api_key"
KEY_VARIABLES = ("LONGTHREAD_API_KEY", "OPENAI_API_KEY")
_GENERAL = ("config", "slurm", "testing", "max_n_completions", "proxy_url", "help")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # the disk's fault, not the user's
_HIDDEN = "hidden-key-"
_secrets: dict[str, str] = {}


def hide(key: str) -> str:
    """A harmless stand-in for an API key, to be printed and written in its place."""
    if key.startswith(_HIDDEN):  # from the evaluate_config.yaml of an earlier run
        return key
    stand_in = f"{_HIDDEN}{len(_secrets)}"
    _secrets[stand_in] = key
    return stand_in


def secret(stand_in: str) -> str:
    """The key behind a stand-in; anything else is a key itself. Without one: the environment's, or "x"."""
    if stand_in in _secrets:
        return _secrets[stand_in]
    if stand_in and stand_in != "x" and not stand_in.startswith(_HIDDEN):
        return stand_in
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "x")


def redact(text: str) -> str:
    """The text without the API keys of this process: servers like to repeat a key that they refuse."""
    for key in (*_secrets.values(), *(os.environ.get(name, "") for name in KEY_VARIABLES)):
        if len(key) > 3:
            text = text.replace(key, "[API key]")
    return text


def main(env: Any, argv: list[str] | None = None) -> None:
    """Runs the environment's command line. Exits with 2 after a user's mistake, with 1 after a failed run, with 130 when
    it is interrupted while there is nothing to save."""
    warnings.filterwarnings("ignore", message=".*local Base URL.*")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("atroposlib.envs.base", "httpx", "openai", "asyncio"):
        # At DEBUG atroposlib prints every item; one root error is enough to turn that on.
        logging.getLogger(name).setLevel(logging.WARNING)
    given, old = list(sys.argv[1:] if argv is None else argv), sys.argv
    try:
        with tempfile.TemporaryDirectory() as scratch:
            sys.argv = [old[0], *prepare(given, env.env_config_cls, Path(scratch))]
            base.rprint = _log  # a hundred lines of settings before the first progress bar
            env.atropos_cli()
    except ValidationError as error:
        _fail(complaint(error))
    except RuntimeError as error:
        if not ours(error):
            raise
        _fail(str(error), 1)
    except OSError as error:
        if not ours(error) and error.errno is None:
            raise
        _fail(str(error), 1 if error.errno in _FULL else 2)
    except ValueError as error:
        if not ours(error):
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except asyncio.CancelledError:  # `serve`, told to end
        _fail("terminated", 143)
    finally:
        sys.argv = old


def _log(config: Any) -> None:
    logging.getLogger(__name__).info("%s", config)


def complaint(error: ValidationError, prefix: str = "") -> str:
    """The first of what pydantic found, in one line."""
    first = error.errors()[0]
    return f"{prefix}{'.'.join(map(str, first['loc']))} {first.get('input')!r}: {first['msg']}"


def ours(error: BaseException) -> bool:
    """Whether the error is one of this package, whose message is one line for the user."""
    return type(error).__module__.startswith(("environments.", "longthread."))


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {redact(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(code)


def prepare(argv: list[str], config_cls: Any, scratch: Path) -> list[str]:
    """The arguments as atroposlib should see them. Raises `ConfigError`."""
    args = join_values(argv) or ["--help"]
    if not args or args[0] not in COMMANDS:
        return args
    _check_flags(args[1:], config_cls)
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


def join_values(argv: list[str]) -> list[str]:
    """`--flag value`, `--flag -1` and a bare `--flag` as `--flag=value`."""
    joined: list[str] = []
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if arg.startswith("--") and "=" not in arg and arg not in ("--help", "--version"):
            takes_next = rest and (not rest[0].startswith("-") or re.match(r"-[\d.]", rest[0]))
            arg = f"{arg}={rest.pop(0) if takes_next else 'true'}"
        joined.append(arg)
    return joined


def _check_flags(args: list[str], config_cls: Any) -> None:
    # argparse takes an abbreviated flag, and atroposlib then looks for the whole name and uses the default.
    known = {*_GENERAL, *_prefixed("env.", config_cls), *_prefixed("openai.", APIServerConfig)}
    for name in (arg[2:].partition("=")[0] for arg in args if arg.startswith("--")):
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            raise ConfigError(f"unknown flag --{name}; " + (f"did you mean --{near[0]}?" if near else "see --help"))


def _prefixed(prefix: str, model: Any) -> set[str]:
    return {prefix + name for name in model.model_fields}


def _read_yaml(path: Path, config_cls: Any) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # Not the error's own text: it quotes the line, and the line may hold an API key.
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"--config {path} is not YAML ({where}{getattr(error, 'problem', 'not text')})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"--config {path} must hold the sections env and openai, not {type(config).__name__}")
    env, servers = config.get("env") or {}, _servers(config)
    if not all(isinstance(section, dict) for section in (env, *servers)):
        raise ConfigError(f"--config {path}: the sections env and openai must hold names with values")
    given = {*map(str, config), *(f"env.{key}" for key in env), *(f"openai.{key}" for part in servers for key in part)}
    _check_sections(path, env, servers, config_cls)
    known = {
        "env",
        "openai",
        "slurm",
        "testing",
        "tinker",  # tinker-atropos' own section, in the one file for both
        *_prefixed("env.", config_cls),
        *_prefixed("openai.", APIServerConfig),
    }
    if unknown := sorted(given - known):
        raise ConfigError(f"--config {path} has unknown keys {', '.join(unknown)}")
    return config


def _check_sections(path: Path, env: dict[str, Any], servers: list[dict[str, Any]], config_cls: Any) -> None:
    """Lists and numbers where the command line has comma strings become those; other mistakes are one line."""
    for name, value in env.items():
        if name in config_cls.model_fields and config_cls.model_fields[name].annotation is str:
            if isinstance(value, list):
                env[name] = ",".join(map(str, value))
            elif isinstance(value, int | float) and not isinstance(value, bool):
                env[name] = str(value)
    for server in servers:
        try:
            APIServerConfig(**{name: value for name, value in server.items() if name in APIServerConfig.model_fields})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"--config {path}: openai.{where}: {first['msg'].lower()}") from None


def _servers(config: dict[str, Any]) -> list[dict[str, Any]]:
    servers = config.get("openai") or []
    return servers if isinstance(servers, list) else [servers]
