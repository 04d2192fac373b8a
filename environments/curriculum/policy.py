"""How hard the next question is: pass rates -> difficulty. Pure: no I/O, no clock, no random numbers of its own.

Groups report their mean score, and a task moves on its ladder (`ladder.py`) by the first row that holds:

| verdict | present rung                           | replays: the last `window`, whatever their rung       |
|---------|----------------------------------------|-------------------------------------------------------|
| DOWN    | surely below `low`, and not the bottom |                                                       |
| DOWN    | not the bottom                         | surely below `low`                                    |
| STAY    | the top                                |                                                       |
| STAY    |                                        | mean below the middle of the band: forgetting grows   |
| UP      | surely above `high - lead`             |                                                       |
| STAY    | anything else                          |                                                       |

- "Surely": of the last `window` groups, at least `least`, the mean is `z` standard errors away. The standard error counts
  one more group, at 0.5: a few groups that agree are no proof.
- Up is early, since learners improve: evidence of being beyond `high` itself comes when the pass rate has been there for
  long, and would keep it at the edge of the band (measured: `benchmarks/curriculum.py`). Down is late for the same reason:
  a pass rate just above `low` still teaches, and practice improves it.
- A move empties the window. Each fall from a rung doubles (up to `2**most_falls` times) how many groups must pass below it
  before it is tried again, so that a rung too high to hold is not tried over and over. Passing it forgives the falls.
- With probability `replay` a group is drawn at an easier rung, all of them alike. Its score belongs to that rung, never to
  the present one: who fails the easier questions is not to practise harder ones. After a move down the replays start anew,
  so that the next move down needs evidence of its own.

Results may come late and in any order, as from many workers: each is given back with the difficulty it was drawn at.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field
from enum import Enum
from random import Random
from typing import Self

from environments.curriculum.ladder import Difficulty, Ladder
from longthread.errors import ConfigError, DataError
from longthread.files import JsonObject

VERSION = 1  # of the saved state


class Verdict(Enum):
    """Whether a task moves up, down or stays; the value is the number of rungs to move by."""

    UP = 1
    STAY = 0
    DOWN = -1


@dataclass(frozen=True)
class Rule:
    """The thresholds by which a task moves on its ladder of difficulties.

    A task moves up when its pass rate is surely above `high - lead`, and down when it is surely below `low`: by `z`
    standard errors, over at least `least` groups. The table in the module's docstring has all cases.
    """

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
            raise ConfigError(f"low {self.low} and high {self.high} must be in order, from 0 to 1")
        if not 0 <= self.lead < self.high - self.low:
            raise ConfigError(f"lead {self.lead} must be at least 0 and below the width of the band")
        if not 0 <= self.z < math.inf:
            raise ConfigError(f"z {self.z} must be finite and at least 0")
        if not 1 <= self.least <= self.window:
            raise ConfigError(f"least {self.least} must be from 1 to the window, {self.window}")
        if not 0 <= self.most_falls <= 16:
            raise ConfigError(f"most_falls {self.most_falls} must be from 0 to 16")
        if not 0 <= self.replay < 1:
            raise ConfigError(f"replay {self.replay} must be at least 0 and below 1")

    def above(self, rates: Collection[float]) -> bool:
        """Return True when the mean of the rates is more than `z` standard errors above `high - lead`."""
        mean, error = widened_estimate(rates)
        return mean - self.z * error > self.high - self.lead

    def below(self, rates: Collection[float]) -> bool:
        """Return True when the mean of the rates is more than `z` standard errors below `low`."""
        mean, error = widened_estimate(rates)
        return mean + self.z * error < self.low

    def verdict(self, track: "Track") -> Verdict:
        """Return whether the task of `track` moves up, down or stays: the first row of the module's table that holds."""
        present, replays = track.results_at(track.rung), track.replayed
        enough_replays = len(replays) >= self.least
        if track.rung > 0:
            if track.since >= self.least and self.below(present):
                return Verdict.DOWN
            if enough_replays and self.below(replays):
                return Verdict.DOWN
        if track.rung == len(track.ladder.rungs) - 1:
            return Verdict.STAY
        if enough_replays and widened_estimate(replays)[0] < (self.low + self.high) / 2:
            return Verdict.STAY
        patience = self.least * 2 ** min(track.falls.get(track.rung + 1, 0), self.most_falls)
        return Verdict.UP if track.since >= patience and self.above(present) else Verdict.STAY


def widened_estimate(rates: Collection[float]) -> tuple[float, float]:
    """Return the mean of the rates, and a standard error that counts one more rate of 0.5, so that a few equal rates
    are no proof. Raises ZeroDivisionError for no rates."""
    widened = [*rates, 0.5]
    centre = sum(widened) / len(widened)
    return sum(rates) / len(rates), math.sqrt(sum((r - centre) ** 2 for r in widened) / len(rates) / len(widened))


@dataclass
class Track:
    """The state of one task: the rung of its ladder where it stands, and its last results."""

    ladder: Ladder
    window: int
    rung: int = 0
    since: int = 0  # groups at this rung since the last move
    seen: dict[int, deque[float]] = field(default_factory=dict)  # rung -> its last results
    falls: dict[int, int] = field(default_factory=dict)  # rung -> times it could not be held
    replayed: deque[float] = field(init=False)  # the last results at easier rungs, whichever

    def __post_init__(self) -> None:
        self.replayed = deque(maxlen=self.window)

    def results_at(self, rung: int) -> deque[float]:
        """Return the last `window` results at a rung, oldest first."""
        return self.seen.setdefault(rung, deque(maxlen=self.window))

    def record(self, rung: int, rate: float) -> None:
        """Count a group's mean score at the rung it was drawn at; a rung below the present one counts as a replay."""
        self.results_at(rung).append(rate)
        if rung < self.rung:
            self.replayed.append(rate)
        elif rung == self.rung:
            self.since += 1

    def move(self, verdict: Verdict) -> None:
        """Go up or down one rung as the verdict says, and forget the earlier results at the new rung."""
        if verdict is Verdict.STAY:
            return
        if verdict is Verdict.UP:
            self.falls.pop(self.rung, None)
        else:
            self.falls[self.rung] = self.falls.get(self.rung, 0) + 1
            self.replayed.clear()  # the next move down needs new evidence
        self.rung += verdict.value
        self.since = 0
        self.seen.pop(self.rung, None)

    def state(self) -> JsonObject:
        """Return the track as JSON values, which `restore` reads."""
        return {
            "ladder": self.ladder.digest(),
            "rung": self.rung,
            "difficulty": asdict(self.ladder.rungs[self.rung]),
            "since": self.since,
            "seen": {str(rung): list(rates) for rung, rates in self.seen.items() if rates},
            "replayed": list(self.replayed),
            "falls": {str(rung): count for rung, count in self.falls.items()},
        }

    def restore(self, saved: JsonObject) -> str:
        """Set the track to a saved state. Returns a note on what a changed ladder made it drop, or an empty text.

        A damaged state raises KeyError, TypeError, ValueError or AttributeError.
        """
        rungs, top = self.ladder.rungs, len(self.ladder.rungs) - 1
        if saved["ladder"] != self.ladder.digest():
            was = astuple(Difficulty(**saved["difficulty"]))
            within = [i for i, rung in enumerate(rungs) if all(a <= b for a, b in zip(astuple(rung), was, strict=True))]
            self.rung = max(within, default=0)
            moved = f"from rung {_count(saved['rung'])} to {self.rung} of {top}"
            return f"the ladder has changed; {moved}, statistics dropped"
        self.rung, self.since = _count(saved["rung"], top), _count(saved["since"])
        for rung, rates in saved["seen"].items():
            self.results_at(_count(int(rung), top)).extend(_rate(rate) for rate in rates)
        self.replayed.extend(_rate(rate) for rate in saved["replayed"])
        self.falls = {_count(int(rung), top): _count(count) for rung, count in saved["falls"].items()}
        return ""


class Curriculum:
    """Chooses how hard each task's next group is: `draw` a difficulty, ask at it, and `record` the group's mean score."""

    def __init__(self, ladders: Mapping[str, Ladder], rule: Rule | None = None) -> None:
        if not ladders:
            raise ConfigError("a curriculum needs at least one task")
        self.rule = rule or Rule()
        self.notes: tuple[str, ...] = ()  # what `restore` could not take over, for the caller to log
        self._tracks = {task: Track(steps, self.rule.window) for task, steps in ladders.items()}

    @classmethod
    def fixed(cls, difficulty: Difficulty, tasks: Iterable[str]) -> Self:
        """Return a curriculum for evaluation that always draws this difficulty for each task: its ladders have one
        rung."""
        return cls({task: Ladder((difficulty,)) for task in tasks})

    def draw(self, task: str, rng: Random) -> Difficulty:
        """Return the difficulty of the task's next group: its present rung or, with probability `replay`, an easier one.

        Raises `ConfigError` for an unknown task.
        """
        track = self._track(task)
        replay = rng.random() < self.rule.replay and track.rung > 0
        return track.ladder.rungs[rng.randrange(track.rung) if replay else track.rung]

    def record(self, task: str, difficulty: Difficulty, pass_rate: float) -> None:
        """Count a group's mean score, 0 to 1, at the difficulty it was drawn at; this may move the task by one rung.

        Raises `ConfigError` for a rate outside 0 to 1, and for a task or difficulty that this curriculum lacks.
        """
        track = self._track(task)
        if difficulty not in track.ladder.rungs:
            raise ConfigError(f"{difficulty} is not on the ladder of {task}; record what draw gave")
        track.record(track.ladder.rungs.index(difficulty), _rate(pass_rate))
        track.move(self.rule.verdict(track))

    def present(self, task: str) -> Difficulty:
        """Return the difficulty of the task's present rung, whatever is being replayed."""
        return self._track(task).ladder.rungs[self._track(task).rung]

    def level(self, task: str) -> float:
        """Return how far up its ladder the task is: 0 at the bottom, 1 at the top."""
        return self._track(task).ladder.level(self._track(task).rung)

    def rates(self, task: str, difficulty: Difficulty) -> tuple[float, ...]:
        """Return the last pass rates at a difficulty, oldest first; at the present rung, since the task came to it."""
        track = self._track(task)
        if difficulty not in track.ladder.rungs:
            return ()
        return tuple(track.seen.get(track.ladder.rungs.index(difficulty), ()))

    def metrics(self) -> dict[str, float]:
        """Return numbers for the log: each task's level, its pass rates once there are any, and the knobs of its ladder."""
        metrics: dict[str, float] = {}
        for task, track in self._tracks.items():
            name = f"curriculum/{task}"
            metrics[f"{name}/level"] = self.level(task)
            if rates := track.seen.get(track.rung):
                metrics[f"{name}/pass_rate"] = sum(rates) / len(rates)
            if track.replayed:
                metrics[f"{name}/replay_pass_rate"] = sum(track.replayed) / len(track.replayed)
            for knob in track.ladder.knobs:
                metrics[f"{name}/{knob}"] = float(getattr(track.ladder.rungs[track.rung], knob))
        return metrics

    def state(self) -> JsonObject:
        """Return as JSON what `restore` needs beside the settings; small, since atroposlib logs what it saves."""
        return {"version": VERSION, "tasks": {task: track.state() for task, track in self._tracks.items()}}

    @classmethod
    def restore(cls, state: object, ladders: Mapping[str, Ladder], rule: Rule | None = None) -> Self:
        """Return the curriculum whose `state` was saved. Raises `DataError` if the state is damaged.

        A task whose ladder has changed goes to the hardest rung that is in no knob harder than where it stood, with
        empty statistics; a new task starts at the bottom; one that is gone is dropped. `notes` says so.
        """
        curriculum = cls(ladders, rule)
        if not isinstance(state, Mapping) or state.get("version") != VERSION:
            raise DataError(f"saved curriculum is not of version {VERSION}: {str(state)[:80]}")
        saved, notes = state.get("tasks"), []
        if not isinstance(saved, Mapping):
            raise DataError(f"saved curriculum has no tasks: {str(state)[:80]}")
        for task, track in curriculum._tracks.items():
            if task not in saved:
                notes.append(f"{task}: not in the saved curriculum; starts at the bottom")
                continue
            try:
                note = track.restore(saved[task])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"saved curriculum of {task} is damaged: {error!r}") from None
            notes += [f"{task}: {note}"] if note else []
        notes += [f"{task}: saved, but no longer a task; dropped" for task in saved if task not in curriculum._tracks]
        curriculum.notes = tuple(notes)
        return curriculum

    def _track(self, task: str) -> Track:
        if task not in self._tracks:
            raise ConfigError(f"unknown task {task!r}; the curriculum has {', '.join(self._tracks)}")
        return self._tracks[task]


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"pass rate must be from 0 to 1 (got {value!r})")
    return float(value)


def _count(value: object, top: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= top:
        raise ConfigError(f"{value!r} must be a whole number from 0 to {top}")
    return value
