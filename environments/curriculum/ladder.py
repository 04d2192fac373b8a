"""Difficulties, and ladders of them from easy to hard that differ, rung by rung, in one knob."""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass, fields

from longthread.errors import ConfigError


@dataclass(frozen=True)
class Difficulty:
    """What makes a question hard; each field is a knob."""

    length: int  # tokens of the prompt
    hops: int
    decoys: int  # chains that lead elsewhere
    distractors: int  # near-duplicates of what is asked for
    lexical_gap: bool  # the question shares no content word with the needle
    absent_share: float  # share of samples whose fact is not in the text


KNOBS = tuple(f.name for f in fields(Difficulty))


@dataclass(frozen=True)
class Limits:
    """The values that each knob (a field of `Difficulty`) may take, easiest first. A knob with one value never changes."""

    length: tuple[int, ...] = (4_096, 8_192, 16_384, 32_768)
    hops: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    decoys: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # LoongRL trains with 4 a 1,024 tokens
    distractors: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    lexical_gap: tuple[bool, ...] = (False, True)
    absent_share: tuple[float, ...] = (0.1, 0.15, 0.2)

    def __post_init__(self) -> None:
        floors = {"length": 1, "hops": 1}
        for knob in KNOBS:
            values = getattr(self, knob)
            if not values or any(not a < b for a, b in zip(values, values[1:], strict=False)):
                raise ConfigError(f"{knob} {values} must be one or more values, each harder (larger) than the last")
            if not floors.get(knob, 0) <= values[0] or not math.isfinite(values[-1]):
                raise ConfigError(f"{knob} {values} must be finite and at least {floors.get(knob, 0)}")
        if self.absent_share[-1] > 0.9:
            raise ConfigError(f"absent_share {self.absent_share[-1]} must be at most 0.9")


@dataclass(frozen=True)
class Ladder:
    """Difficulties ("rungs") from easiest to hardest. `knobs` names the fields in which they differ."""

    rungs: tuple[Difficulty, ...]
    knobs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rungs:
            raise ConfigError("a ladder needs at least one rung")

    def level(self, rung: int) -> float:
        """Return how far up the ladder `rung` is: 0 at the bottom, 1 at the top; 1 where there is only one rung."""
        return rung / (len(self.rungs) - 1) if len(self.rungs) > 1 else 1.0

    def digest(self) -> str:
        """Return 16 hex digits that name the ladder by its rungs."""
        return hashlib.sha256(json.dumps([astuple(rung) for rung in self.rungs]).encode()).hexdigest()[:16]


def ladder(knobs: Collection[str], limits: Limits, fits: Callable[[Difficulty], bool] = lambda _: True) -> Ladder:
    """Return a ladder whose rungs grow harder in one of `knobs` at a time; the other knobs stay at their easiest value.

    Weighted round-robin: a knob of s steps takes its i-th step (from 0) when (i + 1/2)/s of the way is done, so that
    all knobs arrive together and none is left to grow alone at the end. A step to a difficulty for which `fits` is
    false (512 decoys in 1,024 tokens) waits until others have made room; the ladder ends where no step fits.
    """
    if unknown := sorted(set(knobs) - set(KNOBS)):
        raise ConfigError(f"unknown knob {unknown[0]!r}; there are {', '.join(KNOBS)}")
    used = [knob for knob in KNOBS if knob in knobs and len(getattr(limits, knob)) > 1]
    at = dict.fromkeys(KNOBS, 0)
    rungs = [_rung(limits, at)]
    if not fits(rungs[0]):
        raise ConfigError(f"the easiest rung does not fit: {rungs[0]}; make its length longer")
    while True:
        left = [knob for knob in used if at[knob] + 1 < len(getattr(limits, knob))]
        left.sort(key=lambda knob: (at[knob] + 0.5) / (len(getattr(limits, knob)) - 1))  # stable: ties in KNOBS' order
        for knob in left:
            step = {**at, knob: at[knob] + 1}
            if fits(_rung(limits, step)):
                at = step
                rungs.append(_rung(limits, at))
                break
        else:
            return Ladder(tuple(rungs), tuple(used))


def _rung(limits: Limits, at: Mapping[str, int]) -> Difficulty:
    return Difficulty(**{knob: getattr(limits, knob)[at[knob]] for knob in KNOBS})
