"""What is wrong with the settings of an environment, said in one line before any work starts."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from environments.config import SEEDS, HaystackEnvConfig, SampleSettings, ServerSettings
from environments.haystack.depths import parse_depths
from environments.haystack.options import Options
from environments.haystack.tasks import TASKS
from environments.inference.token_servers import TOKEN_SERVERS
from environments.presets import PRESETS, VARIANTS, task_of
from longthread.errors import ConfigError
from longthread.files import JsonObject

LIMITS: dict[str, tuple[float, float]] = {
    "absent_share": (0, 0.9),
    "repeats": (1, 10**6),
    "group_size": (1, 4096),
    "max_new_tokens": (1, 10**6),
    "total_steps": (1, SEEDS - 1),
    "seed": (0, 10**9),
    "max_failures": (0, SEEDS),
    "reading_turns": (2, 1000),  # a call and the answer
    "reading_tokens": (1, 10**8),
    "max_eval_workers": (1, 4096),
    "temperature": (0, 10),
    "eval_temperature": (0, 10),
}
READING_FORMS = ("off", "tools", "plain")
EFFORTS = (None, "none", "minimal", "low", "medium", "high", "xhigh")


# Fields of a request that are no user's, and what sets them.
OWN_FIELDS = {
    **dict.fromkeys(("messages", "prompt", "input_ids", "n"), "the environment sets it"),
    **dict.fromkeys(("stream", "logprobs", "return_token_ids", "echo"), "replies are read whole and as they are"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_new_tokens"), "set --env.max_new_tokens"),
    "temperature": "set --env.temperature and --env.eval_temperature",
    "model": "set --openai.model_name",
}


@dataclass(frozen=True)
class Grid:
    """The tasks, lengths and depths to ask for: all combinations in an evaluation, one task and length in a rollout."""

    tasks: list[str]
    lengths: list[int]  # tokens of the prompt, ascending
    depths: list[float]  # 0: the text begins with the needle; 1: it ends with it


def check(config: HaystackEnvConfig, servers: Sequence[ServerSettings]) -> Grid:
    """Return the tasks, lengths and depths of a config. Raises `ConfigError`, one line, for whatever cannot work."""
    grid = replace(check_samples(config, config.tokenizer_name), depths=parse_depths(config.depths))
    if config.curriculum and (named := next((task for task in grid.tasks if task in VARIANTS), "")):
        raise ConfigError(
            f"the curriculum has no ladder for {named}, whose options are fixed; ask for the task {VARIANTS[named].task}",
            setting=("curriculum", "tasks"),
        )
    if config.max_num_workers != -1 and config.max_num_workers < 1:
        raise ConfigError(
            f"max_num_workers must be 1 or more, or -1 for {config.max_num_workers_per_node} a server "
            f"(got {config.max_num_workers})",
            setting="max_num_workers",
        )
    request_fields(config.request)
    _check_choice("store", config.store, ("compact", "full"))
    _check_choice("reasoning_effort", config.reasoning_effort, EFFORTS)
    for server in servers:
        _check_server(server)
    _check_reading(config, servers)
    check_batch(config.batch_size, config.group_size)
    return grid


def _check_reading(config: HaystackEnvConfig, servers: Sequence[ServerSettings]) -> None:
    _check_choice("reading", config.reading, READING_FORMS)
    if config.reading != "tools":
        return
    for server in servers:
        if server.server_type in TOKEN_SERVERS:
            raise ConfigError(
                f"reading tools needs a chat server: one of type {server.server_type} is given tokens; use plain",
                setting=("reading", "openai.server_type"),
            )
    if config.store == "full":
        raise ConfigError(
            "store full keeps the tokens of prompts, and with tools only the server knows them: use compact, or reading "
            "plain",
            setting=("store", "reading"),
        )


def check_samples(config: SampleSettings, tokenizer: str) -> Grid:
    """Return the tasks and lengths to draw from, without depths. `tokenizer`: its name. Raises `ConfigError`."""
    grid = Grid(_parts(config.tasks), parse_lengths(config.lengths), [])
    if not grid.tasks:
        raise ConfigError(f"tasks is empty; it takes {', '.join(TASKS)}", setting="tasks")
    for task in grid.tasks:
        _check_choice("tasks", task, [*TASKS, *VARIANTS])
    if config.preset:
        _check_choice("preset", config.preset, list(PRESETS))
    if not tokenizer:
        raise ConfigError(
            "no tokenizer: give the model's own (a local folder or a hub name), since lengths are exact only for the "
            "tokenizer that the server uses",
            setting="tokenizer_name",
        )
    for name, (low, high) in LIMITS.items():
        if name in type(config).model_fields and not low <= (value := getattr(config, name)) <= high:
            raise ConfigError(f"{name} must be from {low} to {high} (got {value})", setting=name)
    return grid


def sample_options(config: SampleSettings, grid: Grid) -> Options:
    """Return the options of the samples of a run: the settings', and those that follow from its tasks and lengths."""
    return Options(
        pool_tokens=max(Options.pool_tokens, 2 * max(grid.lengths)),
        may_abstain=config.absent_share > 0 or any(task_of(task).absent for task in grid.tasks),
        **{f.name: getattr(config, f.name) for f in fields(Options) if f.name in type(config).model_fields},
    )


def request_fields(text: str) -> JsonObject:
    """Return the fields of the setting `request`, which is JSON. Raises `ConfigError`."""
    try:
        request = json.loads(text)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise ConfigError(f"request must be a JSON object (got {text!r})", setting="request")
    for name in request:
        if name in OWN_FIELDS:
            raise ConfigError(f"request must not hold {name}: {OWN_FIELDS[name]}", setting="request")
    if not isinstance(template := request.get("chat_template_kwargs", {}), dict):
        raise ConfigError(
            f"request: chat_template_kwargs must be an object of the template's variables (got {template!r})",
            setting="request",
        )
    return request


def _check_server(server: ServerSettings) -> None:
    _check_choice("openai.server_type", server.server_type, ("openai", *TOKEN_SERVERS))
    for name, low in (("num_max_requests_at_once", 1), ("num_requests_for_eval", 1), ("timeout", 0)):
        if (value := getattr(server, name)) < low:
            no_limit = "" if low else "; 0 is no limit"
            raise ConfigError(f"{name} must be at least {low} (got {value}){no_limit}", setting=f"openai.{name}")


def _check_choice(setting: str, value: str | None, choices: Sequence[str | None]) -> None:
    if value not in choices:
        name = setting.rpartition(".")[2]
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))} (got {value!r})", setting=setting)


def check_batch(batch_size: int, group_size: int) -> None:
    """Raise `ConfigError` if no number of groups fills a batch, for which Atropos' API would wait for ever."""
    if batch_size > 0 and batch_size % group_size:
        fitting = math.ceil(batch_size / group_size) * group_size
        raise ConfigError(
            f"batch_size must be a multiple of group_size {group_size} (got {batch_size}), or the API would never give a "
            f"batch; use {fitting}",
            setting="batch_size",
        )


def parse_lengths(text: str) -> list[int]:
    """Return the token lengths of a comma list, ascending and each once. Raises `ConfigError`."""
    try:
        lengths = [int(part) for part in _parts(text)]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        message = f"lengths must be token counts separated by commas, like 1024,4096 (got {text!r})"
        raise ConfigError(message, setting="lengths")
    return sorted(set(lengths))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
