"""Settings of the environments; what is wrong with them, `config_checks` says.

Atropos' own settings stand here too, so that reading flags and files costs no import of atroposlib, which takes seconds. A
test holds names, types and limits against its `BaseEnvConfig` and `APIServerConfig` (0.4.0, frozen). Where a default
differs from Atropos', the reason stands beside it.
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_serializer, model_validator

from environments.haystack.options import Options
from environments.haystack.tasks import TASKS
from environments.presets import PRESETS, defaults
from longthread.files import JsonObject

# Settings of a run, beside options of its samples, that came after the first runs.
LATER_SETTINGS = ("request", "preset", "reading", "reading_turns", "reading_tokens")
SEEDS = 10**9  # samples that one seed can draw before it would meet the next one's
# Tasks of the environments whose commands read their settings before anything else is imported.
DEFAULT_TASKS = {
    "needle": "single,multi_key,multi_value,multi_query",
    "linked_needle": "chain,update,find_all,count,order,join",
    "memory": "single,multi_key,chain,find_all,count",
}


COMMANDS = {
    "process": "Rollouts to a file, and to a page to read them in.",
    "evaluate": "Scores over a grid of depths and lengths: samples, metrics, heatmap and report.",
    "serve": "Rollouts to a trainer, through Atropos' run-api.",
}


class EvalHandling(Enum):
    """What `serve` does with rollouts while it evaluates."""

    STOP_TRAIN = "STOP_TRAIN"
    LIMIT_TRAIN = "LIMIT_TRAIN"
    NONE = "NONE"


class AtroposSettings(BaseModel):
    """Settings that every Atropos environment has (`--env.NAME`)."""

    group_size: int = Field(8, description="completions of one prompt, scored together")
    max_num_workers: int = Field(4, description="rollouts at a time; -1: max_num_workers_per_node for each server")
    max_eval_workers: int = Field(4, description="samples of an evaluation at a time")
    max_num_workers_per_node: int = Field(8, description="rollouts at a time for each server")
    steps_per_eval: int = Field(0, description="serve: steps between evaluations; 0: none")
    max_token_length: int = Field(4096 + 128, description="longest sequence, as told to run-api")
    # STOP_TRAIN, Atropos' default, would throw away prompts that servers have already read.
    eval_handling: EvalHandling = Field(EvalHandling.NONE, description="serve: rollouts stop, slow down or go on")
    eval_limit_ratio: float = Field(0.5, description="serve: share of workers during evaluation, for LIMIT_TRAIN")
    inference_weight: float = Field(1.0, description="serve: this environment's weight among others; -1: none")
    batch_size: int = Field(-1, description="sequences of a trainer's batch; -1: as the trainer says")
    max_batches_offpolicy: int = Field(3, description="serve: batches that may wait for the trainer")
    tokenizer_name: str = Field("", description="tokenizer of the served model: a local folder or a hub name")
    use_wandb: bool = Field(False, description="log to Weights & Biases")  # on by default it fails without a login
    rollout_server_url: str = Field("http://localhost:8000", description="serve: address of run-api")
    total_steps: int = Field(100, description="process: groups; serve: steps of the trainer")
    wandb_name: str | None = Field(None, description="name at run-api and W&B")
    num_rollouts_to_keep: int = Field(32, description="groups in W&B's table of rollouts")
    num_rollouts_per_group_for_logging: int = Field(1, description="completions of a group in that table; -1: all")
    ensure_scores_are_not_same: bool = Field(True, description="serve: do not send groups whose scores are all equal")
    data_path_to_save_groups: str | None = Field(
        None, description="file for rollouts; process: data/NAME.jsonl if unset"
    )
    data_dir_to_save_evals: str | None = Field(
        None, description="folder for evaluations; data/NAME_evaluation if unset"
    )
    min_items_sent_before_logging: int = Field(2, description="serve: groups sent between two entries in W&B")
    include_messages: bool = Field(True, description="send messages to the trainer")  # SFT and DPO generators need them
    min_batch_allocation: float | None = Field(None, description="serve: least share of a batch for this environment")
    # A prompt of 128k tokens takes longer than Atropos' 600 s, which are less than its own limit for a request.
    worker_timeout: float = Field(3600, description="serve: seconds for one group; -1: no limit")
    thinking_mode: bool = Field(False, description="ask the server for reasoning")
    reasoning_effort: str | None = Field(None, description="none, minimal, low, medium, high or xhigh")
    max_reasoning_tokens: int | None = Field(None, ge=1024, le=32000, description="longest reasoning, in tokens")
    custom_thinking_prompt: str | None = Field(None, description="system prompt for thinking")

    @field_serializer("eval_handling")
    def _value(self, handling: Enum) -> str:
        return handling.value  # also of atroposlib's own Enum, which a running environment needs


class ServerSettings(BaseModel):
    """Settings of the model's server (`--openai.NAME`)."""

    timeout: int = Field(1800, description="seconds for one request; 0: no limit")  # a 128k prompt may take long
    num_max_requests_at_once: int = Field(512, description="requests at a time")
    num_requests_for_eval: int = Field(64, description="requests at a time in an evaluation")
    model_name: str = Field("default", description="the model's name at the server")
    rolling_buffer_length: int = Field(1000, description="requests whose timings Atropos keeps")
    server_type: Literal["openai", "trl", "sglang", "vllm"] = Field("openai", description="openai, vllm or sglang")
    tokenizer_name: str = Field("none", description="tokenizer of this server; none: that of the environment")
    # Without a key the openai client refuses to be made.
    api_key: str | None = Field("x", description="better set LONGTHREAD_API_KEY: other users can read arguments")
    base_url: str | None = Field("http://127.0.0.1:9001/v1", description="address of the server, with /v1")
    n_kwarg_is_ignored: bool = Field(False, description="the server gives one completion whatever n is")
    # On, Atropos' default, it sends a request every second, and a run whose server fails hangs silently.
    health_check: bool = Field(False, description="ask the server for a completion every second")


_OPTIONS = {option.name: option for option in Options.fields()}


def _option(name: str) -> Any:
    return Field(_OPTIONS[name].default, description=_OPTIONS[name].description)


class SampleSettings(BaseModel):
    """Settings of what is asked, whoever asks it. Lists are comma strings, as on the command line."""

    tasks: str = Field("single", description=f"tasks to draw from: {', '.join(task.name for task in TASKS.own)}")
    preset: str = Field("", description="tasks, lengths and depths of a benchmark: " + ", ".join(PRESETS))
    lengths: str = Field("1024,2048,4096", description="prompt lengths in tokens; each sample is exactly one of them")
    absent_share: float = Field(0.15, description="share of samples whose fact is not in the text")
    seed: int = Field(0, description="everything drawn follows from it")
    # The options of a sample, whose defaults and meanings stand in haystack/options.py.
    value_kind: str = _option("value_kind")
    distractors: int = _option("distractors")
    values: int = _option("values")
    queries: int = _option("queries")
    hops: str = _option("hops")
    decoys: int = _option("decoys")
    versions: str = _option("versions")
    update_ask: str = _option("update_ask")
    graph_ask: str = _option("graph_ask")
    session_ask: str = _option("session_ask")
    aggregate_ask: str = _option("aggregate_ask")
    matches: str = _option("matches")
    partial_order: bool = _option("partial_order")
    min_span: float = _option("min_span")
    gaps: str = _option("gaps")
    lexical_gap: bool = _option("lexical_gap")
    needle: str = _option("needle")
    question: str = _option("question")
    expected: str = _option("expected")
    filler: str = _option("filler")
    filler_mode: str = _option("filler_mode")
    filler_path: str = _option("filler_path")
    filler_column: str = _option("filler_column")
    filler_sentences: str = _option("filler_sentences")
    numbered: bool = _option("numbered")
    no_context: bool = _option("no_context")
    answer_format: str = _option("answer_format")
    placement: str = _option("placement")

    @model_validator(mode="before")
    @classmethod
    def _as_comma_strings(cls, values: JsonObject) -> JsonObject:
        """Turn lists, numbers and mappings, as YAML has them, into text for the settings that are text.

        What a preset sets stands below what is given.
        """
        values = {**defaults(str(values.get("preset") or "")), **values}
        return {name: _comma_string(value) if _is_text(cls, name) else value for name, value in values.items()}


class HaystackEnvConfig(SampleSettings, AtroposSettings):
    """Settings of a haystack environment, beside those of Atropos. `commands`: what its command line runs."""

    commands: ClassVar[Mapping[str, str]] = COMMANDS

    depths: str = Field("11", description="depths of the evaluation grid: their number, or a list from 0 to 1")
    repeats: int = Field(3, description="samples a cell of the evaluation grid and a task")
    temperature: float = Field(1.0, description="of rollouts")
    eval_temperature: float = Field(0.0, description="of evaluation")
    max_new_tokens: int = Field(128, description="longest completion, in tokens")
    request: str = Field(
        "{}",
        description='more fields of each request, as JSON, like {"chat_template_kwargs": {"enable_thinking": false}}',
    )
    reading: str = Field(
        "off",
        description="look the text up instead of being given it: off, tools (OpenAI's) or plain (tags in replies)",
    )
    reading_turns: int = Field(8, description="reading: replies of an episode, the answer included")
    reading_tokens: int = Field(4096, description="reading: tokens of the text that an episode may read")
    max_failures: int = Field(20, description="items that may fail before the run stops")
    curriculum: bool = Field(
        False, description="serve climbs from easy to these settings, task by task, as scores allow"
    )
    state_path: str = Field(
        "", description="serve: file that keeps how far it is; started again, it goes on from there"
    )
    store: str = Field("compact", description="process keeps recipe and completions (compact) or all tokens too (full)")


def _is_text(settings: type[SampleSettings], name: str) -> bool:
    return name in settings.model_fields and settings.model_fields[name].annotation is str


def _comma_string(value: object) -> object:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
