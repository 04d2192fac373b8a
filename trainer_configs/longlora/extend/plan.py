"""The plan of an extension: its settings, checked before any work, and the stages that they come to.

One jump trains once at the whole length. Gradual scaling doubles the window stage by stage, each from the merged model of the
one before, on its equal share of the same tokens. A stage's learning rates are the recipe's divided by the square root of
how many times longer its window is than the model's own.
"""

import copy
import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import yaml
from transformers import AutoConfig, PretrainedConfig

import trainer_configs
from environments.datasets.reader_rows.chats import WANTED
from environments.datasets.reader_rows.plan import CONVERSATION, FORMS, LEAST, POSE_LENGTH, RowSettings, short_lengths
from environments.datasets.reader_rows.questions import WEIGHTS
from environments.haystack.layout import LayoutError
from environments.haystack.options import Options
from environments.haystack.sample import Haystacks
from environments.haystack.tokens import load_tokenizer
from longthread.counts import counted
from longthread.errors import ConfigError
from longthread.files import JsonObject
from trainer_configs.longlora.perplexity import Source, read_text
from trainer_configs.longlora.rope.extension import plan as plan_rope
from trainer_configs.longlora.section import LongLoRA

RECIPES = Path(next(iter(trainer_configs.__path__)))
RECIPE, DPO_RECIPE = RECIPES / "smollm2-135m-32k.yaml", RECIPES / "smollm2-135m-32k-dpo.yaml"
KINDS = ("single", "multi_key", "linked", "absent")  # of questions in the rows of an extension
ATTENTIONS = ("shifted", "tail_global", "full")
LINK: JsonObject = {"hops": "2", "decoys": 0}  # options of evaluations over one link
CHATS = 1 / 32  # of an extension's tokens, beside its rows, in conversations
SHORT_TEXT = 1 / 16  # of a stage's tokens, beside its rows: without, short text was a fifth harder to a model of 128k
REPLY_TOKENS = 128  # of an evaluation: the longest prompts leave room for them in the window


@dataclass(frozen=True)
class ExtendSettings:
    """The settings of one run; all but `num_proc` and `untrained` decide its results. Lengths in tokens."""

    model: str
    to: int
    method: str = "ntk"
    temperature: float | None = None  # of the method ntk
    gradual: bool = False
    tokens: int = 13_107_200  # 400 rows of 32,768
    attention: str = ""  # the recipe's
    recipe: Path = RECIPE
    learning_rate: float | None = None  # the recipe's
    texts: str = ""
    ordinary: float = 0.25
    registers: float = 0.125
    lexical_gap: float = 0.0  # of the questions about facts and links: about people whom they describe in other words
    pose: float = 0.0  # of an extension's tokens: in short rows whose positions skip ahead
    questions: int = 48
    sft: int = 0  # rows
    chats: int = 1000  # general questions to the model as it is, for rows of its replies: without, it unlearns them
    chat_rows: Path | None = None  # conversations in their place, of the model that a reader comes from, say
    dpo: int = 0  # groups of rollouts
    dpo_recipe: Path = DPO_RECIPE
    held_out: str = ""
    lengths: tuple[int, ...] = ()
    depths: int = 11
    repeats: int = 3
    seed: int = 0
    untrained: bool = True  # the model with its RoPE extended alone is asked too, last
    num_proc: int = 2

    @property
    def has_chats(self) -> bool:
        """Return whether conversations stand among the rows."""
        return bool(self.chats or self.chat_rows)

    @property
    def extension(self) -> JsonObject:
        """Return the method of the RoPE extension with its options, as `context_extension` takes them."""
        options = {"temperature": self.temperature} if self.temperature is not None else {}
        return {"method": self.method, **options}


class Stage(NamedTuple):
    """One training of a run. `kind`: extend, sft or dpo; `length`: of its longest rows; `rows`: how many, or groups."""

    number: int
    kind: str
    length: int
    rows: int
    rate: float  # by which the recipe's learning rates are multiplied

    @property
    def name(self) -> str:
        """Return the stage's folder below that of the run."""
        return f"{self.number}-{self.kind}-{self.length}"


@dataclass(frozen=True)
class Plan:
    """A checked run: the model's folder on this machine, its window, and the stages. Lengths in tokens."""

    settings: ExtendSettings
    model: Path
    native: int
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the lengths of an evaluation's prompts: those asked for, else what each of the windows up to `to` holds.

        A reply has its room in each, so that the base model and every stage are asked at their own windows too.
        """
        if self.settings.lengths:
            return self.settings.lengths
        ladder = [self.settings.to]
        while ladder[0] // 2 >= max(1024 + REPLY_TOKENS, self.native // 2):
            ladder.insert(0, ladder[0] // 2)
        return tuple(window - REPLY_TOKENS for window in ladder)

    @property
    def pose_length(self) -> int:
        """Return the tokens of rows whose positions skip ahead: no more than the model reads as it is."""
        return min(self.native, POSE_LENGTH)

    def said(self, stage: Stage) -> str:
        """Return what a stage trains on, in words."""
        if stage.kind == "dpo":
            return counted(stage.rows, "group")
        rows = self.row_settings(stage)
        short = f", {counted(rows.pose, 'row')} of {rows.pose_length:,} tokens whose positions skip ahead"
        return counted(rows.count, "row") + short * bool(rows.pose)

    def row_settings(self, stage: Stage) -> RowSettings:
        """Return what the rows of an extension or SFT stage are."""
        s = self.settings
        if stage.kind == "extend":
            count = round((1 - s.pose) * stage.rows)
            pose = round((stage.rows - count) * stage.length / self.pose_length)
            return RowSettings(
                count, stage.length, stage.length, 0.0, s.ordinary, s.questions, KINDS, ("tags",), "environments",
                s.seed + stage.number, s.registers, short_texts=_short_texts(stage),
                conversations=_conversations(stage) if s.has_chats else 0,
                pose=max(pose, 1) if s.pose else 0, pose_length=self.pose_length, lexical_gap=s.lexical_gap,
            )  # fmt: skip
        # Conversations take half of the shortest rows at most.
        shortest = max(2 * LEAST if s.has_chats else LEAST, stage.length // 16)
        return RowSettings(
            stage.rows, shortest, stage.length, 0.0, s.ordinary, s.questions, tuple(WEIGHTS), FORMS, "train",
            s.seed + stage.number, lexical_gap=s.lexical_gap,
        )  # fmt: skip


def make_plan(settings: ExtendSettings) -> Plan:
    """Return the plan of a run. Raises `ConfigError` for what cannot work, before any work is done."""
    _check_values(settings)
    if settings.chat_rows:
        settings = replace(settings, chats=0)  # nothing is asked, so their number makes no other run
    recipe = read_recipe(settings.recipe, "recipe")
    if settings.dpo:
        read_recipe(settings.dpo_recipe, "dpo_recipe")
    folder, config = _model(settings.model)
    native = config.get_text_config().max_position_embeddings
    if settings.to <= native:
        raise ConfigError(f"to {settings.to} must be more than the model's window of {native}", setting="to")
    windows = _windows(native, settings)
    notes = _check_rope(config, settings, windows)
    if settings.pose and native < LEAST:
        raise ConfigError(
            f"pose needs a model's window of at least {LEAST} (got {native}): leave it out", setting="pose"
        )
    share = settings.tokens // len(windows)
    stages = [
        Stage(i, "extend", length, share // length, 1 / math.sqrt(length / native))
        for i, length in enumerate(windows, 1)
    ]
    if few := [stage for stage in stages if stage.rows < 1]:
        raise ConfigError(
            f"tokens {settings.tokens} are less than a row of {few[0].length} for each of {len(windows)} stages: give more",
            setting="tokens",
        )
    for kind, rows, rate in (("sft", settings.sft, stages[-1].rate), ("dpo", settings.dpo, 1.0)):
        if rows:
            stages.append(Stage(len(stages) + 1, kind, settings.to, rows, rate))
    plan = Plan(settings, folder, native, tuple(stages), notes)
    for stage in stages:
        if stage.kind != "dpo":
            plan.row_settings(stage).check()
    _check_lengths(plan)
    _check_held_out(plan)
    LongLoRA.model_validate(recipe.get("longlora") or {})
    return plan


def held_out_texts(settings: ExtendSettings) -> list[str]:
    """Return the texts on which perplexity is measured. Raises `DataError` for one that cannot be read."""
    return [read_text(file) for file in sorted(Path(settings.held_out).rglob("*.txt"))] if settings.held_out else []


def read_recipe(path: Path, setting: str) -> JsonObject:
    """Return the recipe of a YAML file. Raises `ConfigError` for a file without a `longlora:` section."""
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ConfigError(f"{path} is not a readable YAML file", setting=setting) from None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("longlora"), dict):
        raise ConfigError(f"{path} is not a recipe: it has no longlora section", setting=setting)
    return recipe


def _check_values(settings: ExtendSettings) -> None:
    if settings.attention and settings.attention not in ATTENTIONS:
        raise ConfigError(
            f"attention must be one of {', '.join(ATTENTIONS)} (got {settings.attention!r})", setting="attention"
        )
    least_of = dict.fromkeys(("tokens", "depths", "repeats", "num_proc"), 1) | dict.fromkeys(("sft", "dpo", "chats"), 0)
    for name, least in least_of.items():
        if (value := getattr(settings, name)) < least:
            raise ConfigError(f"{name} must be at least {least} (got {value})", setting=name)
    if not 0 <= settings.pose <= 1:
        raise ConfigError(f"pose must be from 0 to 1 (got {settings.pose})", setting="pose")
    if settings.learning_rate is not None and not settings.learning_rate > 0:
        raise ConfigError(f"learning_rate must be above 0 (got {settings.learning_rate})", setting="learning_rate")
    for name in ("texts", "held_out"):
        if (folder := getattr(settings, name)) and not any(Path(folder).rglob("*.txt")):
            raise ConfigError(f"{folder} is not a folder with .txt files", setting=name)
    if (file := settings.chat_rows) and not file.is_file():
        raise ConfigError(f"{file} is not a file: give one of conversations, {WANTED}", setting="chat_rows")
    if find_spec("axolotl") is None:
        raise ConfigError("Axolotl is not installed, which trains: install longthread[train]")


def _check_held_out(plan: Plan) -> None:
    if texts := held_out_texts(plan.settings):
        longest = max(map(len, Source(str(plan.model)).token_ids(texts)))
        if longest < plan.settings.to:
            raise ConfigError(
                f"the longest text of {plan.settings.held_out} has {longest} tokens, which is less than the window of "
                f"{plan.settings.to}: give a longer one",
                setting="held_out",
            )


def _model(name: str) -> tuple[Path, PretrainedConfig]:
    """Return the model's folder and its config as it is stored; a name is looked up in the hub's cache, or fetched."""
    folder = Path(name)
    try:
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(name, ignore_patterns=["*.bin", "*.pth", "*.gguf"]))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(f"model {name} is no folder, and cannot be fetched: {reason}", setting="model") from None
    if not isinstance(getattr(config.get_text_config(), "max_position_embeddings", None), int):
        raise ConfigError(f"model {name} states no window (ALiBi or recurrent): nothing to extend", setting="model")
    return folder, config


def _short_texts(stage: Stage) -> int:
    """Return how many short texts have their share of a stage's tokens."""
    lengths = short_lengths(stage.length)
    return round(SHORT_TEXT * stage.rows * stage.length * len(lengths) / sum(lengths))


def _conversations(stage: Stage) -> int:
    """Return how many rows of conversations have their share of a stage's tokens."""
    return max(1, round(CHATS * stage.rows * stage.length / CONVERSATION))


def _windows(native: int, settings: ExtendSettings) -> list[int]:
    """Return the window of each stage: twice the one before, the last one as asked."""
    windows = [settings.to]
    if settings.gradual:
        while (half := windows[0] // 2) > native:
            windows.insert(0, half)
    return windows


def _check_rope(config: PretrainedConfig, settings: ExtendSettings, windows: list[int]) -> tuple[str, ...]:
    """Plan the extension of each stage on top of the one before; return the warnings of the last."""
    config = copy.deepcopy(config)
    warnings: tuple[str, ...] = ()
    for window in windows:
        extension = plan_rope(config, target_length=window, **settings.extension)
        for name, value in extension.changes.items():
            setattr(config.get_text_config(), name, value)
        warnings = extension.warnings
    if settings.method == "dynamic":
        raise ConfigError("method dynamic has no fixed window to train stages for: use ntk", setting="method")
    return warnings


def _check_lengths(plan: Plan) -> None:
    most = plan.settings.to - REPLY_TOKENS
    if wrong := [length for length in plan.lengths if not 256 <= length <= most]:
        raise ConfigError(f"lengths must be from 256 to {most} (got {wrong[0]})", setting="lengths")
    shortest = min(plan.lengths)
    try:
        haystacks = Haystacks(load_tokenizer(str(plan.model)), Options(**LINK))
        haystacks.sample(0, "eval", "chain", shortest, None)
    except LayoutError as error:
        raise ConfigError(
            f"a question over one link at {shortest} tokens: {error.message}", setting="lengths"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{plan.settings.model}: {error.message}", setting="model") from None
