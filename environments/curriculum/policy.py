"""How hard the next question is: pass rates -> difficulty. Pure: no I/O, no clock, no random numbers of its own.

A task climbs a ladder of difficulties that differ, rung by rung, in one knob. Groups report their mean score, and

1. Of the last `window` groups at the task's present rung, mean and standard error are taken. The task moves up one rung if
   the mean less `z` standard errors is above `high - lead`, and down if the mean plus `z` standard errors is below `low`.
   Up is early, since learners improve: evidence of being beyond `high` itself comes when the pass rate has been there for
   long, and would keep it at the edge of the band (measured: `benchmarks/curriculum.py`). Down is late for the same
   reason: a pass rate just above `low` still teaches, and practice mends it.
2. The standard error counts one more group, at 0.5: a few groups that agree are no proof.
3. A move empties the window, and the next one waits for `least` groups at the new rung. Each fall from a rung doubles
   (up to `2**most_falls` times) how many groups must pass below it before it is tried again, so that a rung too high to
   hold is not tried over and over. Passing it forgives the falls.
4. With probability `replay` a group is drawn at an easier rung, all of them alike. Its score belongs to that rung, never
   to the present one. Of the last `window` replays, whatever their rung: below the middle of the band, the task does not
   climb, for there would only be more to forget; below `low`, as in 1., it moves down: who fails the easier questions is
   not to practise harder ones. The replays then start anew, so that the next move down needs evidence of its own.

Results may come late and in any order, as from many workers: each is given back with the difficulty it was drawn at.
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from random import Random
from typing import Any, NamedTuple, Self

import numpy as np
from matplotlib.figure import Figure

VERSION = 1  # of the saved state


class CurriculumError(ValueError):
    """A setting, a result or a saved state that cannot be used; one line that names it."""


@dataclass(frozen=True)
class Difficulty:
    length: int  # tokens of the prompt
    hops: int
    decoys: int  # chains that lead elsewhere
    distractors: int  # near-duplicates of what is asked for
    lexical_gap: bool  # the question shares no content word with the needle
    absent_share: float  # share of samples whose fact is not in the text


KNOBS = tuple(f.name for f in fields(Difficulty))


# ---- ladders ----


@dataclass(frozen=True)
class Limits:
    """The values each knob may take, easiest first. One value: the knob stays there."""

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
                raise CurriculumError(f"{knob} {values} must be one or more values, each harder (larger) than the last")
            if not floors.get(knob, 0) <= values[0] or not math.isfinite(values[-1]):
                raise CurriculumError(f"{knob} {values} must be finite and at least {floors.get(knob, 0)}")
        if self.absent_share[-1] > 0.9:
            raise CurriculumError(f"absent_share {self.absent_share[-1]} must be at most 0.9")


@dataclass(frozen=True)
class Ladder:
    """Difficulties from easiest to hardest. `knobs` are those that it turns."""

    rungs: tuple[Difficulty, ...]
    knobs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rungs:
            raise CurriculumError("a ladder needs at least one rung")

    def level(self, rung: int) -> float:
        """Share of the ladder that is climbed, 0 to 1."""
        return rung / (len(self.rungs) - 1) if len(self.rungs) > 1 else 1.0

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([astuple(rung) for rung in self.rungs]).encode()).hexdigest()[:16]


def ladder(knobs: Collection[str], limits: Limits, fits: Callable[[Difficulty], bool] = lambda _: True) -> Ladder:
    """Rungs that differ in one of `knobs`; the other knobs stay at their easiest value.

    Weighted round-robin: a knob of s steps takes its i-th step (from 0) when (i + 1/2)/s of the way is done, so that all
    knobs arrive together and none is left to grow alone at the end. A step to a difficulty that does not `fits` (512
    decoys in 1,024 tokens) waits until others have made room; the ladder ends where no step fits.
    """
    if unknown := sorted(set(knobs) - set(KNOBS)):
        raise CurriculumError(f"unknown knob {unknown[0]!r}; there are {', '.join(KNOBS)}")
    used = [knob for knob in KNOBS if knob in knobs and len(getattr(limits, knob)) > 1]
    at = dict.fromkeys(KNOBS, 0)
    rungs = [_rung(limits, at)]
    if not fits(rungs[0]):
        raise CurriculumError(f"the easiest rung does not fit: {rungs[0]}; make its length longer")
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


# ---- when to move ----


@dataclass(frozen=True)
class Rule:
    """When a task moves; see the module's docstring."""

    low: float = 0.2  # groups outside 0.2 to 0.8 are mostly all right or all wrong, and teach nothing
    high: float = 0.8
    lead: float = 0.1  # below `high`, where a task moves up
    z: float = 1.64  # 95 %, one-sided
    window: int = 32
    least: int = 8
    most_falls: int = 4  # 16 times as many groups
    replay: float = 0.15

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise CurriculumError(f"low {self.low} and high {self.high} must be in order, from 0 to 1")
        if not 0 <= self.lead < self.high - self.low:
            raise CurriculumError(f"lead {self.lead} must be at least 0 and below the width of the band")
        if not 0 <= self.z < math.inf:
            raise CurriculumError(f"z {self.z} must be finite and at least 0")
        if not 1 <= self.least <= self.window:
            raise CurriculumError(f"least {self.least} must be from 1 to the window, {self.window}")
        if not 0 <= self.most_falls <= 16:
            raise CurriculumError(f"most_falls {self.most_falls} must be from 0 to 16")
        if not 0 <= self.replay < 1:
            raise CurriculumError(f"replay {self.replay} must be at least 0 and below 1")

    def above(self, rates: Collection[float]) -> bool:
        mean, error = estimate(rates)
        return mean - self.z * error > self.high - self.lead

    def below(self, rates: Collection[float]) -> bool:
        mean, error = estimate(rates)
        return mean + self.z * error < self.low


def estimate(rates: Collection[float]) -> tuple[float, float]:
    """Mean, and its standard error with one more group at 0.5. Raises ZeroDivisionError for no rates."""
    widened = [*rates, 0.5]
    centre = sum(widened) / len(widened)
    return sum(rates) / len(rates), math.sqrt(sum((r - centre) ** 2 for r in widened) / len(rates) / len(widened))


@dataclass
class _Track:
    """Where one task stands."""

    ladder: Ladder
    window: int
    rung: int = 0
    since: int = 0  # groups at this rung since the last move
    seen: dict[int, deque[float]] = field(default_factory=dict)  # rung -> its last results
    falls: dict[int, int] = field(default_factory=dict)  # rung -> times it could not be held
    replayed: deque[float] = field(init=False)  # the last results at easier rungs, whichever

    def __post_init__(self) -> None:
        self.replayed = deque(maxlen=self.window)

    def of(self, rung: int) -> deque[float]:
        return self.seen.setdefault(rung, deque(maxlen=self.window))

    def move(self, by: int) -> None:
        if by > 0:
            self.falls.pop(self.rung, None)
        else:
            self.falls[self.rung] = self.falls.get(self.rung, 0) + 1
            self.replayed.clear()  # the next move down needs new evidence
        self.rung += by
        self.since = 0
        self.seen.pop(self.rung, None)


# ---- the curriculum ----


class Curriculum:
    """`draw` a difficulty, ask at it, `record` the group's mean score with it."""

    def __init__(self, ladders: Mapping[str, Ladder], rule: Rule | None = None) -> None:
        if not ladders:
            raise CurriculumError("a curriculum needs at least one task")
        self.rule = rule or Rule()
        self.notes: tuple[str, ...] = ()  # what `restore` could not take over, for the caller to log
        self._tracks = {task: _Track(steps, self.rule.window) for task, steps in ladders.items()}

    @classmethod
    def fixed(cls, difficulty: Difficulty, tasks: Iterable[str]) -> Self:
        """A curriculum that never moves, for evaluation: its ladders have one rung."""
        return cls({task: Ladder((difficulty,)) for task in tasks})

    def draw(self, task: str, rng: Random) -> Difficulty:
        """The difficulty of the task's next group. Raises `CurriculumError` for an unknown task."""
        track = self._track(task)
        replay = rng.random() < self.rule.replay and track.rung > 0
        return track.ladder.rungs[rng.randrange(track.rung) if replay else track.rung]

    def record(self, task: str, difficulty: Difficulty, pass_rate: float) -> None:
        """A group's mean score, 0 to 1, at the difficulty it was drawn at; may move the task by one rung.

        Raises `CurriculumError` for a rate outside 0 to 1, and for a task or difficulty that is not of this curriculum.
        """
        track = self._track(task)
        if difficulty not in track.ladder.rungs:
            raise CurriculumError(f"{difficulty} is not on the ladder of {task}; record what draw gave")
        rung, rate = track.ladder.rungs.index(difficulty), _rate(pass_rate)
        track.of(rung).append(rate)
        if rung < track.rung:
            track.replayed.append(rate)
        elif rung == track.rung:
            track.since += 1
        if by := self._verdict(track):
            track.move(by)

    def _verdict(self, track: _Track) -> int:
        """+1, -1 or 0 rungs."""
        rule, replays = self.rule, track.replayed
        known = len(replays) >= rule.least
        if track.rung > 0 and (
            (track.since >= rule.least and rule.below(track.of(track.rung))) or (known and rule.below(replays))
        ):
            return -1
        forgetting = known and estimate(replays)[0] < (rule.low + rule.high) / 2
        if track.rung + 1 == len(track.ladder.rungs) or forgetting:
            return 0
        patience = rule.least * 2 ** min(track.falls.get(track.rung + 1, 0), rule.most_falls)
        return int(track.since >= patience and rule.above(track.of(track.rung)))

    def present(self, task: str) -> Difficulty:
        """The task's present rung, whatever is being replayed."""
        return self._track(task).ladder.rungs[self._track(task).rung]

    def level(self, task: str) -> float:
        """Share of its ladder that the task has climbed, 0 to 1."""
        return self._track(task).ladder.level(self._track(task).rung)

    def rates(self, task: str, difficulty: Difficulty) -> tuple[float, ...]:
        """The last results at one rung, oldest first; those of the present rung since the task came to it."""
        track = self._track(task)
        return (
            tuple(track.seen.get(track.ladder.rungs.index(difficulty), ())) if difficulty in track.ladder.rungs else ()
        )

    def metrics(self) -> dict[str, float]:
        """For the log. Rates are there once there is a result; knobs are those that the task's ladder turns."""
        found: dict[str, float] = {}
        for task, track in self._tracks.items():
            name = f"curriculum/{task}"
            found[f"{name}/level"] = self.level(task)
            if rates := track.seen.get(track.rung):
                found[f"{name}/pass_rate"] = estimate(rates)[0]
            if track.replayed:
                found[f"{name}/replay_pass_rate"] = estimate(track.replayed)[0]
            for knob in track.ladder.knobs:
                found[f"{name}/{knob}"] = float(getattr(track.ladder.rungs[track.rung], knob))
        return found

    # ---- saved and restored ----

    def state(self) -> dict[str, Any]:
        """What `restore` needs beside the settings, as JSON; small, since atroposlib logs what it saves."""
        tasks = {
            task: {
                "ladder": track.ladder.digest(),
                "rung": track.rung,
                "difficulty": asdict(track.ladder.rungs[track.rung]),
                "since": track.since,
                "seen": {str(rung): list(rates) for rung, rates in track.seen.items() if rates},
                "replayed": list(track.replayed),
                "falls": {str(rung): count for rung, count in track.falls.items()},
            }
            for task, track in self._tracks.items()
        }
        return {"version": VERSION, "tasks": tasks}

    @classmethod
    def restore(cls, state: Any, ladders: Mapping[str, Ladder], rule: Rule | None = None) -> Self:
        """The curriculum that `state` was taken of. Raises `CurriculumError` if the state is damaged.

        A task whose ladder has changed goes to the hardest rung that is in no knob harder than where it stood, with
        empty statistics; a new task starts at the bottom; one that is gone is dropped. `notes` says so.
        """
        new = cls(ladders, rule)
        if not isinstance(state, Mapping) or state.get("version") != VERSION or not _is_map(state.get("tasks")):
            raise CurriculumError(f"saved curriculum is not of version {VERSION}: {str(state)[:80]}")
        saved, notes = state["tasks"], []
        for task, track in new._tracks.items():
            if task not in saved:
                notes.append(f"{task}: not in the saved curriculum; starts at the bottom")
                continue
            try:
                note = _fill(track, saved[task])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CurriculumError(f"saved curriculum of {task} is damaged: {error!r}") from None
            notes += [f"{task}: {note}"] if note else []
        notes += [f"{task}: saved, but no longer a task; dropped" for task in saved if task not in new._tracks]
        new.notes = tuple(notes)
        return new

    def _track(self, task: str) -> _Track:
        if task not in self._tracks:
            raise CurriculumError(f"unknown task {task!r}; the curriculum has {', '.join(self._tracks)}")
        return self._tracks[task]


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise CurriculumError(f"pass rate {value!r} is outside 0 to 1")
    return float(value)


def _count(value: Any, top: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= top:
        raise CurriculumError(f"{value!r} is no whole number from 0 to {top}")
    return value


def _fill(track: _Track, saved: Mapping[str, Any]) -> str:
    """Brings a track to its saved state; says what was lost."""
    rungs, top = track.ladder.rungs, len(track.ladder.rungs) - 1
    if saved["ladder"] != track.ladder.digest():
        was = astuple(Difficulty(**saved["difficulty"]))
        within = [i for i, rung in enumerate(rungs) if all(a <= b for a, b in zip(astuple(rung), was, strict=True))]
        track.rung = max(within, default=0)
        return f"the ladder has changed; from rung {_count(saved['rung'])} to {track.rung} of {top}, statistics dropped"
    track.rung, track.since = _count(saved["rung"], top), _count(saved["since"])
    for rung, rates in saved["seen"].items():
        track.of(_count(int(rung), top)).extend(_rate(rate) for rate in rates)
    track.replayed.extend(_rate(rate) for rate in saved["replayed"])
    track.falls = {_count(int(rung), top): _count(count) for rung, count in saved["falls"].items()}
    return ""


# ---- the picture ----


class Step(NamedTuple):
    """One group in a history: where its task stood, and what the group earned."""

    task: str
    level: float
    pass_rate: float
    replayed: bool = False


def curve(history: Iterable[Step], rule: Rule | None = None) -> Figure:
    """A row a task: the level over its groups, and beside it the pass rate at the present rung and in replay."""
    rule = rule or Rule()
    tasks: dict[str, list[Step]] = {}
    for step in history:
        tasks.setdefault(step.task, []).append(step)
    if not tasks:
        raise CurriculumError("the history is empty: nothing to draw")
    figure = Figure(figsize=(11, 0.7 + 1.75 * len(tasks)), dpi=200, layout="constrained")
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), (task, steps) in zip(rows, tasks.items(), strict=True):
        level = np.array([s.level for s in steps])
        left.plot(level, drawstyle="steps-post", color="#0072b2", linewidth=1.6)
        left.fill_between(range(len(level)), level, step="post", color="#0072b2", alpha=0.12, linewidth=0)
        left.set_title(task, loc="left", fontsize=10, fontweight="bold", color="#1c2024")
        right.axhspan(rule.low, rule.high, color="#009e73", alpha=0.12, linewidth=0, label="wanted")
        for replayed, colour, name in ((False, "#0072b2", "present rung"), (True, "#d55e00", "replayed rungs")):
            at = np.array([i for i, s in enumerate(steps) if s.replayed == replayed], dtype=int)
            if len(at):
                rates = np.array([steps[i].pass_rate for i in at])
                right.scatter(at, rates, s=2, color=colour, alpha=0.12, linewidth=0)
                right.plot(at, _running(rates, rule.window), color=colour, linewidth=1.6, label=name)
        for axes in (left, right):
            axes.set(ylim=(-0.03, 1.03), xlim=(0, max(1, len(steps) - 1)))
            axes.set_yticks([0, rule.low, 0.5, rule.high, 1] if axes is right else [0, 0.25, 0.5, 0.75, 1])
            axes.grid(color="#e4e6e9", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8, colors="#4a5057")
    rows[0][0].set_title("level", loc="right", fontsize=9, color="#4a5057")
    rows[0][1].set_title(f"pass rate, mean of {rule.window} groups", loc="right", fontsize=9, color="#4a5057")
    for axes in rows[-1]:
        axes.set_xlabel("groups", fontsize=9)
    handles = {label: h for _, r in rows for h, label in zip(*r.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _running(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values, or as many as there are."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
