"""The YAML of `longthread rl`: its keys with their defaults, and what cannot work, said in one line before work starts."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from environments.config import HaystackEnvConfig
from environments.config_checks import check_samples, request_fields
from longthread.errors import ConfigError
from longthread.files import JsonObject

PROGRAMS = {"needle": "environments.needle_env", "linked_needle": "environments.linked_needle_env"}
MODEL_NAME = "policy"  # what the environments call the served model
WEIGHTS = "weights.safetensors"  # in the run's folder: the last that were published
SAMPLING = ("top_p", "top_k", "min_p")  # request fields that change the policy which log-probabilities are given for


class Section(BaseModel, extra="forbid"):
    """A part of the YAML that knows all its keys."""


class Environment(Section):
    """One environment on `serve`: its program and the settings of its `--env.` flags."""

    program: Literal["needle", "linked_needle"]
    env: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] | None = None  # settings of `evaluate` that differ; None: not evaluated


class Server(Section):
    """The embedded server, which writes the completions."""

    port: int = 9001
    max_batch: int = Field(8, ge=1)  # requests decoded together, each of a whole group
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int | None = Field(None, ge=1)


class Batch(Section):
    """What one step learns from."""

    groups: int = Field(8, ge=1)
    group_size: int = Field(8, ge=2)  # completions of a prompt; one alone has nothing to be compared with
    max_tokens: int = Field(8192 + 129, ge=2)  # sequences are shorter
    pass_tokens: int = Field(16_384, ge=1)  # of groups forwarded together, prompts counted once
    least_spread: float = Field(0.0, ge=0, lt=1)  # from a group's worst score to its best; narrower groups are dropped
    max_staleness: int = Field(4, ge=0)  # steps that a group's policy may lie behind; older groups are dropped
    starve_seconds: float = Field(1800, gt=0)  # without a batch the run ends


class Loss(Section):
    """The policy loss (loss.py)."""

    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)  # DAPO: higher than low, or rare right answers never grow likely
    kl: float = Field(0.0, ge=0)  # weight of the distance from the base model; 0 spares a second forward pass
    scale: Literal["std", "none"] = "std"  # of a group's rewards: divide by their deviation (GRPO) or do not


class Optimizer(Section):
    """AdamW with a linear warmup and a constant rate."""

    learning_rate: float = Field(2e-5, gt=0)
    embedding_lr: float | None = Field(None, gt=0)  # None: learning_rate
    norm_lr: float | None = Field(None, gt=0)
    warmup_steps: int = Field(5, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)


class Lora(Section):
    """The adapter, with embeddings and norms trained in full beside it, as in the other recipes."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    train_embeddings: bool = True
    train_norms: bool = True


class RLConfig(Section):
    """A whole run."""

    model: str  # a local folder or a hub name
    run: Path  # folder of logs, weights and checkpoints
    steps: int = Field(200, ge=1)
    environments: list[Environment] = Field(min_length=1)
    api_port: int = 8000
    server: Server = Server()
    batch: Batch = Batch()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    context_extension: dict[str, Any] | None = None  # as in the `longlora:` section of other recipes
    publish_every: int = Field(1, ge=1)  # steps between two sets of weights for the server
    checkpoint_every: int = Field(10, ge=1)  # steps that a killed trainer may lose
    gradient_checkpointing: bool = False
    processes: int = Field(1, ge=1)  # of the trainer, each on a GPU of its own
    restarts: int = Field(5, ge=0)  # of a part that is killed, while `longthread rl CONFIG` runs
    seed: int = 1
    use_wandb: bool = False  # every step's health to Weights & Biases
    wandb_name: str | None = "rl"

    @property
    def api_url(self) -> str:
        """Address of run-api."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def server_url(self) -> str:
        """Address of the inference server, without /v1."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def names(self) -> dict[str, Environment]:
        """The environments by name: the program's, numbered from the second on."""
        names: dict[str, Environment] = {}
        for environment in self.environments:
            same = sum(one.program == environment.program for one in names.values())
            names[f"{environment.program}-{same + 1}" if same else environment.program] = environment
        return names

    def settings(self, environment: Environment) -> JsonObject:
        """Return an environment's settings for `serve`, the run's own included."""
        return {"max_num_workers": self.batch.groups, **environment.env, "group_size": self.batch.group_size}


def read(path: Path) -> RLConfig:
    """Return the checked config of a YAML file. Raises `ConfigError`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys with values: {', '.join(RLConfig.model_fields)}")
    try:
        config = RLConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {name}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    check(config)
    return config


def check(config: RLConfig) -> None:
    """Raise `ConfigError` for what would starve, or would learn from log-probabilities of another policy."""
    stalest = config.publish_every - 1
    if config.batch.max_staleness < stalest:
        raise ConfigError(
            f"max_staleness {config.batch.max_staleness} can never be met: with publish_every {config.publish_every} the "
            f"server's policy is up to {stalest} steps old; use {stalest} or more, or publish more often",
            setting=("batch.max_staleness", "publish_every"),
        )
    if config.api_port == config.server.port:
        raise ConfigError(
            f"run-api and the server both have port {config.api_port}", setting=("api_port", "server.port")
        )
    for name, environment in config.names.items():
        _check_environment(config, name, environment)


def _check_environment(config: RLConfig, name: str, environment: Environment) -> None:
    if unknown := sorted({*environment.env, *(environment.evaluation or {})} - set(HaystackEnvConfig.model_fields)):
        raise ConfigError(
            f"environments.{name}: there is no setting {unknown[0]}; see {name.replace('_', '-')}-env --help"
        )
    try:
        settings = HaystackEnvConfig(**config.settings(environment))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"environments.{name}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    longest = max(check_samples(settings, config.model).lengths) + settings.max_new_tokens
    if longest >= config.batch.max_tokens:
        raise ConfigError(
            f"{name}: sequences reach {longest} tokens, and the trainer takes fewer than {config.batch.max_tokens}; use "
            f"{longest + 1} or more, or shorter lengths",
            setting=("batch.max_tokens", f"environments.{name}.env.lengths"),
        )
    sampling = {field: value for field, value in request_fields(settings.request).items() if field in SAMPLING}
    if settings.temperature != 1 or sampling:
        shown = ", ".join(
            f"{field} {value}" for field, value in {"temperature": settings.temperature, **sampling}.items()
        )
        raise ConfigError(
            f"{name}: {shown}: the server's log-probabilities are those of temperature 1 over all tokens; leave both as "
            "they are",
            setting=(f"environments.{name}.env.temperature", f"environments.{name}.env.request"),
        )
