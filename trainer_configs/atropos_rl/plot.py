"""`longthread rl plot RUN`: the curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longthread.errors import ConfigError
from longthread.files import JsonObject, replacing
from trainer_configs.atropos_rl import health

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes

WINDOW = 10  # steps of the moving mean


def plot(run: Path, out: Path | None = None) -> Path:
    """Draw a run's health and return the picture's path. Raises `ConfigError` for a run without steps."""
    rows = health.rows(run)
    if not rows:
        raise ConfigError(f"{run} has no {health.NAME} with steps: give the folder of a run that has begun")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    steps = [row["step"] for row in rows]
    _tasks(axes[0][0], rows)
    _lines(axes[0][1], steps, {"flat": [row["groups"]["flat"] for row in rows],
                               "stale": [row["groups"]["stale"] for row in rows]}, "groups not trained")  # fmt: skip
    _lines(axes[0][2], steps, {"mean": [row["staleness"]["mean"] for row in rows],
                               "max": [row["staleness"]["max"] for row in rows]}, "staleness, steps")  # fmt: skip
    _lines(axes[1][0], steps, {"entropy, nats": [row["entropy"] for row in rows],
                               "mean ratio": [row["ratio"]["mean"] for row in rows]}, "policy")  # fmt: skip
    clips = {side: [100 * row["clip"][side] for row in rows] for side in ("low", "high")}
    _lines(axes[1][1], steps, clips, "clipped tokens, %")
    speeds = {side: [row["tokens_per_second"][side] for row in rows] for side in ("trainer", "sampler")}
    _lines(axes[1][2], steps, speeds, "tokens a second")
    axes[1][2].set_yscale("log")
    for axis in axes.flat:
        axis.set_xlabel("step")
    path = out or run / "curves.png"
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=120)
    return path


def _tasks(axis: "Axes", rows: Sequence[JsonObject]) -> None:
    """Draw each task's reward over all its lengths, as a moving mean weighted by completions."""
    for task in sorted({task for row in rows for task in row["tasks"]}):
        seen = [(row["step"], cell) for row in rows for cell in row["tasks"].get(task, {}).values()]
        steps = sorted({step for step, _ in seen})
        means = []
        for step in steps:
            near = [cell for at, cell in seen if step - WINDOW < at <= step]
            total = sum(cell["completions"] for cell in near)
            means.append(sum(cell["reward"] * cell["completions"] for cell in near) / total)
        axis.plot(steps, means, label=task)
    axis.set_title(f"reward, mean of {WINDOW} steps, flat groups included")
    axis.legend(
        fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False
    )  # off the lines


def _lines(axis: "Axes", steps: Sequence[int], lines: dict[str, list[float]], title: str) -> None:
    for label, values in lines.items():
        axis.plot(steps, values, label=label)
    axis.set_title(title)
    axis.legend(fontsize="small")
