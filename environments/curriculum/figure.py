"""A curriculum's history as a picture."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from environments.curriculum.policy import Rule
from longthread.counts import counted
from longthread.errors import ConfigError


class Step(NamedTuple):
    """One group of a curriculum's history: its task, the task's level at that time, and the group's mean score."""

    task: str
    level: float
    pass_rate: float
    replayed: bool = False


def curve(history: Iterable[Step], rule: Rule | None = None) -> Figure:
    """Draw two charts for each task: its level over its groups, and its pass rates at the present rung and in replay."""
    rule = rule or Rule()
    tasks: dict[str, list[Step]] = {}
    for step in history:
        tasks.setdefault(step.task, []).append(step)
    if not tasks:
        raise ConfigError("the history is empty: nothing to draw")
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
    rate = f"pass rate, mean of {counted(rule.window, 'group')}"
    rows[0][1].set_title(rate, loc="right", fontsize=9, color="#4a5057")
    for axes in rows[-1]:
        axes.set_xlabel("groups", fontsize=9)
    handles = {label: h for _, r in rows for h, label in zip(*r.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _running(values: np.ndarray, window: int) -> np.ndarray:
    """Return at each place the mean of the last `window` values, or of as many as there are."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
