"""What shapes a sample beside its seed, split, task, length and depths: the one home of each option's default and meaning.

Every option is part of the recipe, under its name here. A new one is given a default that leaves samples as they were.
"""

import re
from dataclasses import asdict, dataclass, field, fields
from random import Random
from typing import NamedTuple, TypeVar

from environments.haystack.depths import draw_depths
from environments.haystack.facts import VALUE_KINDS
from longthread.errors import ConfigError

ANY = "any"
UPDATE_ASKS = ("current", "then", "times")
GRAPH_ASKS = ("within", "parents", "common")
SESSION_ASKS = ("current", "then")
AGGREGATE_ASKS = ("count", "most", "total", "first", "last", "compare")
FORMATS = ("tags", "plain")
FILLERS = ("prose", "folder", "dataset", "noise", "facts")
CHOICES = {
    "value_kind": (*VALUE_KINDS, ANY),
    "update_ask": (*UPDATE_ASKS, ANY),
    "graph_ask": (*GRAPH_ASKS, ANY),
    "session_ask": (*SESSION_ASKS, ANY),
    "aggregate_ask": (*AGGREGATE_ASKS, ANY),
    "filler": FILLERS,
    "filler_mode": ("coherent", "shuffled"),
    "filler_sentences": ("auto", "script", "lines", "code"),
    "answer_format": FORMATS,
}
MAX_DECOYS = 512
LIMITS = {
    "distractors": (0, 256),
    "values": (1, 64),
    "queries": (1, 64),
    "decoys": (-1, MAX_DECOYS),
    "min_span": (0, 0.9),
}
RANGES = {"hops": (2, 8), "versions": (2, 16), "matches": (2, 64), "gaps": (2, 8)}  # of options like "3" or "2-8"

T = TypeVar("T")


class OptionField(NamedTuple):
    """An option's name, type, default and description, as a command line or a form shows them."""

    name: str
    type: type
    default: str | int | float | bool
    description: str


def _option(default: T, description: str) -> T:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True)
class Options:
    """Options that shape a sample. Raises `ConfigError` for a value that no sample can have."""

    value_kind: str = _option(ANY, "words, numbers, uuids, dates, names or any")
    distractors: int = _option(3, "near-duplicates of what is asked for")
    values: int = _option(3, "needles to find in multi_value")
    queries: int = _option(3, "entities asked for in multi_query")
    lexical_gap: bool = _option(False, "the question shares no content word with the needle")
    hops: str = _option("2-4", "facts from the head of a chain to its value, or steps in graph: a number or a range")
    # 4 for each 1,024 tokens is LoongRL's density; -1 keeps them within `sample.DECOY_SHARE` of the text.
    decoys: int = _option(-1, "chains of other people in linked tasks; -1 is 4 for each 1,024 tokens")
    versions: str = _option("2-5", "values that one key takes in update and sessions")
    update_ask: str = _option(ANY, "update asks for the current value, the one then, how many times, or any")
    aggregate_ask: str = _option(ANY, "aggregation asks for the count, most, total, first, last, compare, or any")
    matches: str = _option("2-8", "people who meet the condition in find_all, count, order and graph; times in turns")
    partial_order: bool = _option(False, "order pays for what is in order, not only for all of it")
    min_span: float = _option(0.0, "least share of the text between the first and the last fact needed")
    gaps: str = _option("2-4", "paragraphs taken out of the text in reconstruct")
    needle: str = _option("", "task custom: the sentence to hide")
    question: str = _option("", "task custom: what is asked")
    expected: str = _option("", "task custom: the right answer, a part of the needle")
    filler: str = _option("prose", "prose, folder, dataset, noise (the same few sentences) or facts (of other people)")
    # Sentences out of order are easier (Chroma, "Context Rot").
    filler_mode: str = _option("coherent", "coherent or shuffled")
    filler_path: str = _option("", "folder of text files or one file, or name of a Hugging Face dataset")
    filler_column: str = _option("text", "column of the dataset")
    # English rules, and what else finds text where they find none; see `filler/corpora.py`.
    filler_sentences: str = _option(
        "auto", "auto, script (each paragraph by its script), lines (as they stand) or code"
    )
    pool_tokens: int = _option(262_144, "filler kept in memory, in tokens; at least twice the longest haystack")
    seeds_per_pool: int = _option(1024, "samples that share a pool of prose before a new one is written")
    numbered: bool = _option(False, "number the passages and score cited evidence")
    no_context: bool = _option(False, "ask the question without the text: what guessing earns")
    may_abstain: bool = _option(True, "the prompt says what to reply when the text does not hold the answer")
    answer_format: str = _option("tags", "tags (<answer>) or plain (models that know no tags)")
    placement: str = _option("uniform", "depths of needles in rollouts: uniform, sigmoid, a list or a grid")
    graph_ask: str = _option(
        ANY, "graph asks for people within some steps of one, parents of one, common neighbours of two, or any"
    )
    session_ask: str = _option(ANY, "sessions asks for the current value, the one then, or any")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} {getattr(self, name)} is outside {low} to {high}", setting=name)
        if self.filler in ("folder", "dataset") and not self.filler_path:
            raise ConfigError(
                f"filler {self.filler} needs the folder, or the name of the dataset", setting="filler_path"
            )
        if self.seeds_per_pool < 1:
            raise ConfigError(f"seeds_per_pool {self.seeds_per_pool} must be at least 1", setting="seeds_per_pool")
        if self.no_context and self.numbered:
            raise ConfigError(
                "no_context leaves no passages to number or to cite; leave numbered out",
                setting=("no_context", "numbered"),
            )
        draw_depths(self.placement, 1, Random(0))  # raises on a bad rule

    @classmethod
    def fields(cls) -> list[OptionField]:
        """Return name, type, default and description of every option, in the order of the recipe."""
        defaults = asdict(cls())
        return [
            OptionField(f.name, type(defaults[f.name]), defaults[f.name], f.metadata["description"])
            for f in fields(cls)
        ]

    def bounds(self, name: str) -> tuple[int, int]:
        """Return both ends of an option in `RANGES`: (2, 4) for "2-4", (3, 3) for "3". Raises `ConfigError`."""
        spec, (low, high) = str(getattr(self, name)), RANGES[name]
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", spec)
        if match is None:
            raise ConfigError(f"{name} {spec!r} must be a number or a range like {low}-{high}", setting=name)
        least, most = int(match[1]), int(match[2] or match[1])
        if not low <= least <= most <= high:
            raise ConfigError(f"{name} {spec!r} is outside {low} to {high}", setting=name)
        return least, most


def refuse_lexical_gap(options: Options, task: str, reason: str) -> None:
    """Raise `ConfigError` if the options ask for a lexical gap, which the task cannot have for that reason."""
    if options.lexical_gap:
        raise ConfigError(f"task {task} has no lexical gap: {reason}; set lexical_gap to false", setting="lexical_gap")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError`, which names the setting, for a value that is not one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)} (got {value!r})", setting=name)
