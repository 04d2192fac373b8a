"""The command line of the environments: `process`, `serve` and `evaluate`.

Flags and YAML are read here, without importing atroposlib, whose own parser has traps: it ignores unknown keys and
abbreviated flags, reads `--flag -1` as a bare flag, prints API keys, and turns W&B on in `process` and `evaluate`.
"""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from environments.config import AtroposSettings, HaystackEnvConfig, ServerSettings
from environments.haystack.options import Options
from longthread.errors import ConfigError, exit_on_error
from longthread.files import JsonObject, write_text
from longthread.secrets import mask_key

GENERAL = {
    "config": "YAML file with the sections env and openai; flags win over it",
    "slurm": "Atropos' own way to find servers on a Slurm cluster",
    "testing": "Atropos' stand-in for a server",
}
KEY_FLAG = "--openai.api_key"
Settings = TypeVar("Settings", bound=BaseModel)
YAML_SECTIONS = {"env", "openai", "slurm", "testing", "tinker"}  # tinker-atropos' own, in the one file for both


@dataclass(frozen=True)
class Command:
    """A parsed command line: which command to run, and with which settings."""

    name: str
    config: HaystackEnvConfig
    servers: list[ServerSettings]
    slurm: bool = False
    testing: bool = False

    def write(self, path: Path) -> None:
        """Write the settings as a file for --config; an API key is replaced by its stand-in.

        Options of samples that were not given are left out: in the file they would win over those of a benchmark's task.
        """
        servers = [server.model_dump(mode="json") for server in self.servers]
        unset = set(asdict(Options())) - self.config.model_fields_set
        sections = {"env": self.config.model_dump(mode="json", exclude=unset), "openai": servers}
        write_text(path, yaml.safe_dump(sections | {"slurm": self.slurm, "testing": self.testing}, sort_keys=False))


def main(defaults: HaystackEnvConfig, run: Callable[[Command], None], argv: Sequence[str] | None = None) -> None:
    """Read an environment's command line and `run` it. Exit codes are those of `exit_on_error`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("httpx", "openai", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    given = sys.argv
    with exit_on_error(flag):
        args = join_values(given[1:] if argv is None else argv)
        if not args or "--help" in args or "-h" in args:
            print(help_text(args, defaults), end="")
            return
        sys.argv = [given[0], *args]  # W&B writes it down: an API key has its stand-in there
        try:
            run(read_command(args, defaults))
        finally:
            sys.argv = given


def flag(setting: str) -> str:
    """Return the flag of a setting: `--env.lengths` for "lengths", `--openai.timeout` for "openai.timeout"."""
    return f"--{setting}" if "." in setting else f"--env.{setting}"


def join_values(argv: Sequence[str]) -> list[str]:
    """Return the arguments with `--flag value` and `--flag -1` as `--flag=value`, and a bare `--flag` as `--flag=true`.

    An API key is replaced by its stand-in.
    """
    joined: list[str] = []
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if arg.startswith("--") and "=" not in arg and arg != "--help":
            takes_next = rest and (not rest[0].startswith("-") or re.match(r"-[\d.]", rest[0]))
            arg = f"{arg}={rest.pop(0) if takes_next else 'true'}"
        name, _, value = arg.partition("=")
        joined.append(f"{name}={mask_key(value)}" if name == KEY_FLAG and value else arg)
    return joined


def read_command(args: Sequence[str], defaults: HaystackEnvConfig) -> Command:
    """Return the command that joined arguments ask for. Flags win over the YAML file, and the file over `defaults`.

    Raises `ConfigError`.
    """
    if not args or args[0] not in defaults.commands:
        known_commands = ", ".join(defaults.commands)
        raise ConfigError(f"the command must be one of {known_commands} (got {args[0] if args else ''!r})")
    names = _known_names(type(defaults))
    flags = _read_flags(args[1:], names)
    path = flags.get("config")
    file = _read_yaml(Path(path), names) if path is not None else {}
    servers, server_flags = _servers(file) or [{}], _section(flags, "openai.")
    if len(servers) > 1 and server_flags:
        raise ConfigError(f"--openai.{next(iter(server_flags))} with several servers in {path}; set it there")
    reader = _Reader(flags, path)
    given = file.get("env") or {}
    # Only what is set, so that options which a user gave can be told from defaults.
    known = defaults.model_dump(exclude_unset=True)
    if flags.get("env.preset") or given.get("preset"):
        known.pop("tasks", None)  # the environment's own
    return Command(
        name=args[0],
        config=reader.validate("env.", type(defaults), {**known, **given}),
        servers=[reader.validate("openai.", ServerSettings, _without_key(server)) for server in servers],
        **{name: str(flags.get(name, file.get(name, False))).lower() == "true" for name in ("slurm", "testing")},
    )


def _read_flags(args: Sequence[str], known: Collection[str]) -> dict[str, str | None]:
    """Return the values of flags by name, which must be `known`; the text "None" becomes None."""
    flags: dict[str, str | None] = {}
    for arg in args:
        name, _, value = arg.removeprefix("--").partition("=")
        if not arg.startswith("--"):
            raise ConfigError(f"unknown argument {arg!r}; settings begin with --env. or --openai.")
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            raise ConfigError(f"unknown flag --{name}; " + (f"did you mean --{near[0]}?" if near else "see --help"))
        flags[name] = None if value == "None" else value
    return flags


def _known_names(settings: type[HaystackEnvConfig]) -> set[str]:
    sections: dict[str, type[BaseModel]] = {"env.": settings, "openai.": ServerSettings}
    return {*GENERAL, *(prefix + name for prefix, model in sections.items() for name in model.model_fields)}


def _section(flags: Mapping[str, str | None], prefix: str) -> dict[str, str | None]:
    return {name.removeprefix(prefix): value for name, value in flags.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class _Reader:
    flags: Mapping[str, str | None]
    path: str | None  # of the YAML file

    def validate(self, prefix: str, model: type[Settings], values: Mapping[str, object]) -> Settings:
        """Return one section's settings; its flags win over `values`. Raises `ConfigError` for the first invalid one."""
        try:
            return model(**{**values, **_section(self.flags, prefix)})
        except ValidationError as error:
            first = error.errors()[0]
            name, message = prefix + ".".join(map(str, first["loc"])), first["msg"].lower()
            if name in self.flags:
                raise ConfigError(f"--{name} {first['input']!r}: {message}") from None
            raise ConfigError(f"--config {self.path}: {name}: {message}") from None


# ---- YAML ----


def _read_yaml(path: Path, known: Collection[str]) -> JsonObject:
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
    if unknown := sorted(given - YAML_SECTIONS - set(known)):
        raise ConfigError(f"--config {path} has unknown keys {', '.join(unknown)}")
    return config


def _servers(config: JsonObject) -> list[JsonObject]:
    servers = config.get("openai") or []
    return servers if isinstance(servers, list) else [servers]


def _without_key(server: Mapping[str, object]) -> JsonObject:
    """The server's settings with a stand-in for its API key."""
    return {**server, "api_key": mask_key(str(server["api_key"]))} if server.get("api_key") else dict(server)


# ---- help ----


def help_text(args: Sequence[str], defaults: HaystackEnvConfig) -> str:
    """Return what --help prints: the list of commands or, where `args` begin with one, all its settings."""
    prog = f"{(defaults.wandb_name or 'haystack').replace('_', '-')}-env"
    if not args or args[0] not in defaults.commands:
        commands = "\n".join(f"  {name:10}{text}" for name, text in defaults.commands.items())
        return f"usage: {prog} COMMAND [--config FILE] [--env.X …] [--openai.X …]\n\ncommands:\n{commands}\n\n" \
               f"Settings of a command: {prog} COMMAND --help\n"  # fmt: skip
    parser = argparse.ArgumentParser(
        prog=f"{prog} {args[0]}",
        description=defaults.commands[args[0]],
        usage="%(prog)s [--NAME VALUE …]",
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=40, width=120),
    )
    for title, settings in _help_groups(defaults):
        group = parser.add_argument_group(title)
        for name, text, default in settings:
            group.add_argument(f"--{name}", metavar="", help=f"{text}{default}".replace("%", "%%"))
    return parser.format_help()


def _help_groups(defaults: HaystackEnvConfig) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    own = [name for name in type(defaults).model_fields if name not in AtroposSettings.model_fields]
    yield "general", [(name, text, "") for name, text in GENERAL.items()]
    yield "samples and scores", [_described("env.", defaults, name) for name in own]
    yield "the model's server", [_described("openai.", ServerSettings(), name) for name in ServerSettings.model_fields]
    yield "Atropos", [_described("env.", defaults, name) for name in AtroposSettings.model_fields]


def _described(prefix: str, defaults: BaseModel, name: str) -> tuple[str, str, str]:
    default = defaults.model_dump(mode="json")[name]
    shown = "" if default in ("", None) else f" [{str(default).lower() if isinstance(default, bool) else default}]"
    return prefix + name, type(defaults).model_fields[name].description or "", shown
