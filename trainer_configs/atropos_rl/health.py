"""The health of a run: one JSON line a step, from the groups of the step, the sums of its loss, and the clock."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from environments.rollouts.rollout import PASS
from longthread.files import JsonObject, read_jsonl, replacing
from trainer_configs.atropos_rl.groups import Group

NAME = "steps.jsonl"


@dataclass
class Sums:
    """What the health of a step is computed from, summed over its trained tokens; `ratio_max` is their largest."""

    tokens: int = 0
    ratio: float = 0.0
    ratio_max: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    moved: float = 0.0  # estimate of KL(old || new)
    entropy: float = 0.0
    loss: float = 0.0

    def add(self, other: "Sums") -> None:
        """Add the sums of more tokens."""
        for name, value in vars(other).items():
            setattr(self, name, max(self.ratio_max, value) if name == "ratio_max" else getattr(self, name) + value)


@dataclass
class Cell:
    """Completions of one task at one length, flat groups included: without them a task that is solved would look failed."""

    completions: int = 0
    score: float = 0.0
    passed: int = 0

    def add(self, completions: int, score: float, passed: int) -> None:
        """Count completions with the sum of their scores."""
        self.completions += completions
        self.score += score
        self.passed += passed

    def to_json(self) -> JsonObject:
        """Return the mean score, the share that passed, and how many there were."""
        n = self.completions
        return {"reward": self.score / n, "pass_rate": self.passed / n, "completions": n}


@dataclass(frozen=True)
class Timing:
    """Seconds of a step: until its groups were there, of the update, and of publishing; and tokens that came meanwhile."""

    waited: float
    trained: float
    published: float
    completion_tokens: int


def row(
    step: int, groups: Sequence[Group], dropped: Mapping[str, int], staleness: Sequence[int], sums: Sums, timing: Timing
) -> JsonObject:
    """Return a step's health. Shares, ratio, entropy (nats) and KL are means over the trained tokens."""
    cells = _cells(groups)
    whole = Cell()
    for by_length in cells.values():
        for cell in by_length.values():
            whole.add(cell.completions, cell.score, cell.passed)
    lengths = [len(one) for group in groups for one in group.completions]
    total = timing.waited + timing.trained + timing.published
    tokens = max(sums.tokens, 1)
    flat = sum(one.groups for group in groups for one in group.flat)
    return {
        "step": step,
        **whole.to_json(),
        "tasks": {t: {str(length): c.to_json() for length, c in by.items()} for t, by in sorted(cells.items())},
        "levels": {task: level for group in groups for task, level in group.levels.items()},
        "groups": {"trained": len(groups), "flat": flat, **Counter({"stale": 0, "repeated": 0, "unknown": 0}), **dropped},
        "staleness": {"mean": sum(staleness) / len(staleness), "max": max(staleness)},
        "ratio": {"mean": sums.ratio / tokens, "max": sums.ratio_max},
        "clip": {"low": sums.clipped_low / tokens, "high": sums.clipped_high / tokens},
        "entropy": sums.entropy / tokens,
        "kl_old": sums.moved / tokens,
        "loss": sums.loss / tokens,
        "completion_tokens": {"mean": sum(lengths) / len(lengths), "max": max(lengths)},
        "tokens_per_second": {
            "trainer": sum(group.unique_tokens for group in groups) / max(timing.trained, 1e-9),
            "trainer_row_by_row": sum(group.all_tokens for group in groups) / max(timing.trained, 1e-9),
            "sampler": timing.completion_tokens / max(total, 1e-9),
        },
        "seconds": asdict(timing) | {"total": total},
    }  # fmt: skip


def _cells(groups: Sequence[Group]) -> dict[str, dict[int, Cell]]:
    cells: dict[str, dict[int, Cell]] = {}
    for group in groups:
        n = len(group.scores)
        here = cells.setdefault(group.task, {}).setdefault(group.length, Cell())
        here.add(n, sum(group.scores), sum(score >= PASS for score in group.scores))
        for flat in group.flat:
            there = cells.setdefault(flat.task, {}).setdefault(flat.length, Cell())
            there.add(n * flat.groups, n * flat.score, n * flat.passed)
    return cells


def flattened(row: JsonObject, prefix: str = "") -> JsonObject:
    """Return a step's numbers with their place as name ("tasks/chain/2048/reward"), as W&B takes them."""
    flat: JsonObject = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = value
    return flat


class HealthLog:
    """The file of a run's steps."""

    def __init__(self, run: Path, step: int) -> None:
        """Open the log, without the lines of steps beyond `step`, whose work a killed trainer has lost."""
        self.path = run / NAME
        kept = [one for one in rows(run) if one["step"] <= step]
        with replacing(self.path) as file:
            file.write(b"".join(json.dumps(one).encode() + b"\n" for one in kept))

    def add(self, health: JsonObject) -> None:
        """Append a step's line, synced to the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(health) + "\n")
            file.flush()
            os.fsync(file.fileno())


def rows(run: Path) -> list[JsonObject]:
    """Return the lines of a run's steps; none where there is no file yet."""
    path = run / NAME
    return list(read_jsonl(path)) if path.exists() else []
