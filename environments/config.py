"""Settings of a haystack environment, and what is wrong with them, said before any work starts."""

import math
from collections.abc import Iterable
from typing import Any

from atroposlib.envs.base import BaseEnvConfig
from pydantic import Field

from environments.haystack.layout import parse_depths
from environments.haystack.sample import ALL_TASKS
from environments.inference.endpoint import TOKEN_SERVERS
from longthread.errors import ConfigError

SEEDS = 10**9  # samples that one `--env.seed` can draw before it would meet the next one's


class HaystackEnvConfig(BaseEnvConfig):
    """Settings of a haystack environment, beside those of Atropos. Lists are comma strings: the command line of
    atroposlib cannot set lists."""

    tasks: str = Field("single", description="tasks to draw from: " + ", ".join(ALL_TASKS))
    lengths: str = Field("1024,2048,4096", description="prompt lengths in tokens; each sample is exactly one of them")
    depths: str = Field("11", description="depths of the evaluation grid: their number, or a list from 0 to 1")
    repeats: int = Field(3, description="samples a cell of the evaluation grid and a task")
    absent_share: float = Field(0.15, description="share of samples whose fact is not in the text")
    seed: int = Field(0, description="everything drawn follows from it")
    temperature: float = Field(1.0, description="of rollouts")
    eval_temperature: float = Field(0.0, description="of evaluation")
    max_new_tokens: int = Field(128, description="longest completion, in tokens")
    max_failures: int = Field(20, description="items that may fail before the run stops")
    curriculum: bool = Field(
        False, description="serve climbs from easy to these settings, task by task, as scores allow"
    )
    store: str = Field("compact", description="process keeps recipe and completions (compact) or all tokens too (full)")
    # The options of a sample, one by one: see haystack/sample.py and haystack/questions.py.
    value_kind: str = Field("any", description="words, numbers, uuids, dates, names or any")
    distractors: int = Field(3, description="near-duplicates of what is asked for")
    values: int = Field(3, description="needles to find in multi_value")
    queries: int = Field(3, description="entities asked for in multi_query")
    hops: str = Field("2-4", description="facts from the head of a chain to its value: a number or a range")
    decoys: int = Field(-1, description="chains of other people in linked tasks; -1 is 4 for each 1,024 tokens")
    versions: str = Field("2-5", description="values that one key takes in update")
    update_ask: str = Field(
        "any", description="update asks for the current value, the one then, how many times, or any"
    )
    matches: str = Field("2-8", description="people who meet the condition in find_all, count and order")
    partial_order: bool = Field(False, description="order pays for what is in order, not only for all of it")
    min_span: float = Field(0.0, description="least share of the text between the first and the last fact needed")
    lexical_gap: bool = Field(False, description="the question shares no content word with the needle")
    needle: str = Field("", description="task custom: the sentence to hide")
    question: str = Field("", description="task custom: what is asked")
    expected: str = Field("", description="task custom: the right answer, a part of the needle")
    filler: str = Field("prose", description="prose, folder or dataset")
    filler_mode: str = Field("coherent", description="coherent or shuffled")
    filler_path: str = Field("", description="folder of .txt and .md files, or name of a Hugging Face dataset")
    filler_column: str = Field("text", description="column of the dataset")
    numbered: bool = Field(False, description="number the passages and score cited evidence")
    answer_format: str = Field("tags", description="tags (<answer>) or plain (models that know no tags)")
    placement: str = Field("uniform", description="depths of needles in rollouts: uniform, sigmoid, a list or a grid")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_lengths(text: str) -> list[int]:
    """Token lengths from a comma list. Raises `ConfigError`."""
    try:
        lengths = [int(part) for part in _parts(text)]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"lengths {text!r} must be token counts separated by commas, like 1024,4096")
    return sorted(set(lengths))


def check(config: Any, servers: Iterable[Any]) -> tuple[list[str], list[int], list[float]]:
    """Tasks, lengths and depths of a config. Raises `ConfigError`, one line, for whatever cannot work."""
    tasks, lengths, depths = _parts(config.tasks), parse_lengths(config.lengths), parse_depths(config.depths)
    if unknown := [task for task in tasks if task not in ALL_TASKS]:
        raise ConfigError(f"unknown task {unknown[0]!r}; --env.tasks takes {', '.join(ALL_TASKS)}")
    if not tasks:
        raise ConfigError(f"--env.tasks is empty; it takes {', '.join(ALL_TASKS)}")
    if not config.tokenizer_name:
        raise ConfigError(
            "no tokenizer: give --env.tokenizer_name the model's own (a local folder or a hub name), since lengths "
            "are exact only for the tokenizer that the server uses"
        )
    for name, low, high in (
        ("absent_share", 0, 0.9),
        ("repeats", 1, 10**6),
        ("group_size", 1, 4096),
        ("max_new_tokens", 1, 10**6),
        ("total_steps", 1, SEEDS - 1),
        ("seed", 0, 10**9),
        ("max_failures", 0, SEEDS),
        ("max_eval_workers", 1, 4096),
        ("temperature", 0, 10),
        ("eval_temperature", 0, 10),
    ):
        if not low <= getattr(config, name) <= high:
            raise ConfigError(f"--env.{name} {getattr(config, name)} is outside {low} to {high}")
    if config.max_num_workers != -1 and config.max_num_workers < 1:
        raise ConfigError(
            f"--env.max_num_workers {config.max_num_workers} is neither -1 ({config.max_num_workers_per_node} a server) "
            "nor 1 or more"
        )
    if config.store not in ("compact", "full"):
        raise ConfigError(f"--env.store {config.store!r} is neither compact nor full")
    for server in servers:
        if getattr(server, "server_type", "openai") not in ("openai", *TOKEN_SERVERS):
            raise ConfigError(
                f"--openai.server_type {server.server_type!r} is none of openai, {', '.join(TOKEN_SERVERS)}"
            )
        for name, low in (("num_max_requests_at_once", 1), ("num_requests_for_eval", 1), ("timeout", 0)):
            if (value := getattr(server, name, low)) < low:
                raise ConfigError(
                    f"--openai.{name} {value} must be at least {low}" + ("; 0 is no limit" if not low else "")
                )
    check_batch(config.batch_size, config.group_size)
    return tasks, lengths, depths


def check_batch(batch_size: int, group_size: int) -> None:
    """Raises `ConfigError` if Atropos' API would wait for ever for a batch that no number of groups fills."""
    if batch_size > 0 and batch_size % group_size:
        raise ConfigError(
            f"batch_size {batch_size} is no multiple of group_size {group_size}: the API would never give a batch; "
            f"use --env.batch_size {math.ceil(batch_size / group_size) * group_size}"
        )
