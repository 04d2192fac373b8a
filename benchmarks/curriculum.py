"""What the curriculum does with learners whose skill is known: does it climb, hold the pass rate and not oscillate?

    python -m benchmarks.curriculum [--out curriculum.png] [--json out.json]

A learner passes with probability sigmoid(skill - height of the rung), and practice makes it better where groups are
mixed: skill grows by gain·4p(1-p) a group, in proportion to the variance that the advantages of a group come from. Skill
and height are in logits. A group is `GROUP` such passes. "In band" is the share of groups at the present rung whose true
pass rate is within 0.2 and 0.8, after the first time it was, and until the top is reached.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from environments.curriculum.figure import Step, curve
from environments.curriculum.ladder import KNOBS, Difficulty, Limits, ladder
from environments.curriculum.policy import Curriculum, Rule

GROUP = 8
GROUPS = 3_000
LIMITS = Limits(length=(4_096, 8_192, 16_384, 32_768, 65_536, 131_072))
STAIRS = ladder(KNOBS, LIMITS)
# Logits a step of each knob costs: hops and the lexical gap are what published models lose most by (NoLiMa, RULER vt).
COST = {"length": 0.4, "hops": 0.6, "decoys": 0.3, "distractors": 0.3, "lexical_gap": 1.5, "absent_share": 0.2}
EASY = 5  # rungs at the bottom whose pass rate shows what is forgotten


def height(difficulty: Difficulty) -> float:
    """Logits of difficulty above the easiest rung."""
    return sum(COST[knob] * getattr(LIMITS, knob).index(getattr(difficulty, knob)) for knob in KNOBS)


def sigmoid(x: float) -> float:
    """Probability of the logit `x`."""
    return 1 / (1 + math.exp(-x))


@dataclass
class Learner:
    """Skill rises with practice, up to `ceiling`. `wall` makes all rungs from `wall_at` on that much harder. What is not
    practised is forgotten by `loss` logits a group, and won back by practice within `reach` rungs of it."""

    skill: float = -0.5
    gain: float = 0.015
    ceiling: float = math.inf
    wall_at: int = 10**9
    wall: float = 0.0
    loss: float = 0.0
    reach: int = 3
    lost: list[float] = field(default_factory=lambda: [0.0] * len(STAIRS.rungs))

    def p(self, rung: int) -> float:
        """True pass rate at the rung."""
        wall = self.wall if rung >= self.wall_at else 0.0
        return sigmoid(self.skill - height(STAIRS.rungs[rung]) - wall - self.lost[rung])

    def group(self, rung: int, rng: Random, size: int = GROUP) -> float:
        """Mean score of one group at the rung, and practice by it."""
        p = self.p(rung)
        self.skill = min(self.ceiling, self.skill + self.gain * 4 * p * (1 - p))
        for k in range(len(self.lost)):
            near = max(0.0, 1 - abs(k - rung) / (self.reach + 1))
            self.lost[k] = (self.lost[k] + self.loss) * (1 - near)
        return sum(rng.random() < p for _ in range(size)) / size


@dataclass(frozen=True)
class Run:
    """What happened. All but `steps` are one value a group; `p` is the true pass rate at the present rung."""

    steps: list[Step]
    rung: list[int]
    p: list[float]
    easy: list[float]  # true pass rate on the easiest rungs
    learner: Learner
    curriculum: Curriculum

    @property
    def ups(self) -> int:
        """How often the rung rose."""
        return sum(b > a for a, b in zip(self.rung, self.rung[1:], strict=False))

    @property
    def downs(self) -> int:
        """How often the rung fell."""
        return sum(b < a for a, b in zip(self.rung, self.rung[1:], strict=False))

    def in_band(self, rule: Rule) -> float:
        """Share of groups whose true pass rate is in the band, between warm-up and the top."""
        top = len(STAIRS.rungs) - 1
        inside = [rule.low <= p <= rule.high for p, rung in zip(self.p, self.rung, strict=True) if rung < top]
        inside = inside[inside.index(True) :] if True in inside else inside
        return mean(inside) if inside else 0.0


def simulate(
    learner: Learner, rule: Rule, seed: int, groups: int = GROUPS, name: str = "", size: int = GROUP, late: int = 0
) -> Run:
    """`groups` groups of a learner under the curriculum; results come back `late` groups after they were drawn."""
    rng, curriculum = Random(seed), Curriculum({name: STAIRS}, rule)
    run = Run([], [], [], [], learner, curriculum)
    flying: list[tuple[Difficulty, float]] = []
    for _ in range(groups):
        drawn, rung = curriculum.draw(name, rng), STAIRS.rungs.index(curriculum.present(name))
        at = STAIRS.rungs.index(drawn)
        run.rung.append(rung)
        run.p.append(learner.p(rung))
        run.easy.append(mean(learner.p(k) for k in range(EASY)))
        flying.append((drawn, learner.group(at, rng, size)))
        run.steps.append(Step(name, curriculum.level(name), flying[-1][1], at < rung))
        if len(flying) > late:
            curriculum.record(name, *flying.pop(0))
    return run


LEARNERS: Mapping[str, tuple[Callable[[], Learner], Rule]] = {
    "improving": (Learner, Rule()),
    "plateau": (lambda: Learner(ceiling=6.0), Rule()),
    "wall (4 logits at rung 12)": (lambda: Learner(wall_at=12, wall=4.0, gain=0.008, ceiling=7.5), Rule()),
    "forgetting, replay 15 %": (lambda: Learner(loss=0.02), Rule()),
    "forgetting, no replay": (lambda: Learner(loss=0.02), Rule(replay=0.0)),
}


def figures(run: Run, rule: Rule) -> dict[str, Any]:
    """What the table shows of one run."""
    top = len(STAIRS.rungs) - 1
    tail = run.rung[-len(run.rung) // 3 :]
    return {
        "level": run.rung[-1] / top,
        "groups_to_top": run.rung.index(top) if top in run.rung else None,
        "in_band": run.in_band(rule),
        "ups": run.ups,
        "downs": run.downs,
        "spread_of_last_third": max(tail) - min(tail),
        "easy_pass_rate": mean(run.easy[-200:]),
    }


def average(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the figures of several runs, and the worst of them."""
    found: dict[str, Any] = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        found[key] = mean(values) if values else None
    return {**found, "worst_in_band": min(row["in_band"] for row in rows), "most_downs": max(r["downs"] for r in rows)}


def main(
    out: Annotated[Path | None, typer.Option(help="Draw the curve of the first seed here.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each learner.")] = 20,
    groups: Annotated[int, typer.Option(min=10, help="Groups of each run.")] = GROUPS,
) -> None:
    """Print what becomes of each learner, over several seeds; draw the first."""
    table = Table("learner", "level", "to the top", "in band (worst)", "up", "down (most)", "spread", "easy pass rate")
    steps: list[Step] = []
    easy: list[list[float]] = []
    rows: dict[str, Any] = {}
    for name, (make, rule) in tqdm(LEARNERS.items(), desc="learners", unit="learner"):
        runs = [simulate(make(), rule, seed, groups, name) for seed in range(seeds)]
        steps += runs[0].steps
        easy.append(runs[0].easy)
        row = rows[name] = average([figures(run, rule) for run in runs])
        table.add_row(
            name,
            f"{row['level']:.2f}",
            "never" if row["groups_to_top"] is None else f"{row['groups_to_top']:.0f}",
            f"{row['in_band']:.1%} ({row['worst_in_band']:.1%})",
            f"{row['ups']:.1f}",
            f"{row['downs']:.1f} ({row['most_downs']})",
            f"{row['spread_of_last_third']:.1f}",
            f"{row['easy_pass_rate']:.2f}",
        )
    Console(width=120).print(table)
    if json_out:
        json_out.write_text(
            json.dumps({"seeds": seeds, "groups": groups, "rungs": len(STAIRS.rungs), **rows}, indent=2)
        )
    if out:
        figure = curve(steps)
        for axes, rates in zip(figure.axes[1::2], easy, strict=True):
            axes.plot(rates, color="#1c2024", linewidth=1.1, linestyle=":", label=f"true, {EASY} easiest rungs")
        figure.axes[1].legend(handles=figure.axes[1].lines[-1:], loc="lower right", fontsize=8, frameon=False)
        figure.savefig(out)


if __name__ == "__main__":
    typer.run(main)
