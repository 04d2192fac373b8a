"""Benchmarks by their own names: which of our tasks, with which options, each of their tasks is.

A name of a preset may stand in the setting `tasks`; `preset` sets all of them, and the benchmark's lengths and depths.
`docs/haystack.md` says what differs from the benchmark.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import Task

if TYPE_CHECKING:  # the settings are read without it
    from environments.haystack.sample import Haystacks

Setting = str | int | float | bool


@dataclass(frozen=True)
class Variant:
    """A task of ours with options of its own. `filler` names the text that it is hidden in, where that is not the run's."""

    task: str
    options: Mapping[str, Setting] = field(default_factory=dict)
    filler: str = ""


@dataclass(frozen=True)
class Preset:
    """A benchmark: its tasks by name, and settings of a run.

    The variants are the run's tasks, unless the settings name tasks of ours, for a benchmark that needs no options.
    """

    variants: Mapping[str, Variant]
    settings: Mapping[str, Setting]


_NUMBERS: dict[str, Setting] = {"value_kind": "numbers", "distractors": 0}
RULER = Preset(
    variants={
        "niah_single_1": Variant("single", _NUMBERS, filler="noise"),
        "niah_single_2": Variant("single", _NUMBERS),
        "niah_single_3": Variant("single", {**_NUMBERS, "value_kind": "uuids"}),
        "niah_multikey_1": Variant("multi_key", {**_NUMBERS, "distractors": 3}),
        "niah_multikey_2": Variant("multi_key", _NUMBERS, filler="facts"),
        "niah_multikey_3": Variant("multi_key", {**_NUMBERS, "value_kind": "uuids"}, filler="facts"),
        "niah_multivalue": Variant("multi_value", {**_NUMBERS, "values": 4}),
        "niah_multiquery": Variant("multi_query", {**_NUMBERS, "queries": 4}),
        "vt": Variant("variable_tracking", {"hops": "5", "distractors": 0}, filler="noise"),
        "cwe": Variant("common_words"),
        "fwe": Variant("frequent_words"),
    },
    settings={"lengths": "4096,8192,16384,32768,65536,131072", "absent_share": 0.0},
)
# LongLoRA's evaluation (arXiv 2309.12307, figure 4): 1k to 34k tokens in steps of 1k, ten trials a length.
PASSKEY = Preset(
    variants={},
    settings={
        "tasks": "passkey",
        "lengths": ",".join(str(1024 * thousands) for thousands in range(1, 35)),
        "depths": "10",
        "repeats": 1,
        "absent_share": 0.0,
    },
)
# The needle in a haystack (github.com/gkamradt/LLMTest_NeedleInAHaystack): one needle, depths x lengths.
NIAH = Preset(
    variants={},
    settings={
        "tasks": "single",
        "lengths": "1024,2048,4096,8192,16384,32768,65536,131072",
        "depths": "11",
        "repeats": 1,
        "absent_share": 0.0,
    },
)
PRESETS = {"ruler": RULER, "passkey": PASSKEY, "niah": NIAH}
VARIANTS = {name: variant for preset in PRESETS.values() for name, variant in preset.variants.items()}


def task_of(name: str) -> Task:
    """Return the task of ours that a name in the setting `tasks` stands for."""
    return TASKS[VARIANTS[name].task if name in VARIANTS else name]


def haystacks_of(haystacks: "Haystacks", name: str, given: Collection[str]) -> "Haystacks":
    """Return the builder of samples of the task of that name: a benchmark's has options of its own.

    Options that are `given`, by name, win over those of the benchmark.
    """
    if name not in VARIANTS:
        return haystacks
    variant = VARIANTS[name]
    own: dict[str, Any] = {option: value for option, value in variant.options.items() if option not in given}
    if variant.filler:
        own["filler"] = variant.filler
    return haystacks.variant(replace(haystacks.options, **own))


def defaults(preset: str) -> dict[str, Setting]:
    """Return the settings of a run that a preset has other defaults for; none for a name that is no preset."""
    if preset not in PRESETS:
        return {}
    return {"tasks": ",".join(PRESETS[preset].variants), **PRESETS[preset].settings}
