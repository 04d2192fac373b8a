"""One screen of a run: its last step, each task, and the reward so far."""

from collections.abc import Mapping, Sequence

from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from longthread.files import JsonObject

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # steps that the curve shows


def curve(values: Sequence[float]) -> str:
    """Return the values as bars between their least and their largest; the mean of neighbours where there are too many."""
    share = max(1, -(-len(values) // WIDTH))
    means = [sum(values[i : i + share]) / len(values[i : i + share]) for i in range(0, len(values), share)]
    low, high = min(means), max(means)
    return "".join(
        BARS[int((len(BARS) - 1) * (mean - low) / (high - low))] if high > low else BARS[0] for mean in means
    )


def line(row: JsonObject) -> str:
    """Return a step in one line, for a log."""
    groups, speed = row["groups"], row["tokens_per_second"]
    return (
        f"step {row['step']}  reward {row['reward']:.3f}  pass {row['pass_rate']:.0%}  flat {groups['flat']}  "
        f"stale {groups['stale']}  ratio {row['ratio']['mean']:.3f}  clip {_clip(row):.1%}  entropy {row['entropy']:.2f}  "
        f"trainer {speed['trainer']:.0f} tok/s  sampler {speed['sampler']:.0f} tok/s"
    )


def _clip(row: JsonObject) -> float:
    return float(row["clip"]["low"] + row["clip"]["high"])


def screen(rows: Sequence[JsonObject], steps: int, restarts: Mapping[str, int]) -> Stack:
    """Return the screen for the lines of a run's health."""
    if not rows:
        return Stack(Text("waiting for the first batch"))
    last = rows[-1]
    numbers = Table.grid(padding=(0, 3))
    groups, speed, seconds = last["groups"], last["tokens_per_second"], last["seconds"]
    dropped = ", ".join(f"{count} {name}" for name, count in groups.items() if name != "trained")
    cells = [
        ("step", f"{last['step']} of {steps}, {seconds['total']:.1f} s (waiting {seconds['waited']:.1f})"),
        ("reward", f"{last['reward']:.3f}, {last['pass_rate']:.0%} passed"),
        ("groups", f"{groups['trained']} trained; {dropped}"),
        ("staleness", f"{last['staleness']['mean']:.1f} steps, at most {last['staleness']['max']}"),
        ("ratio", f"{last['ratio']['mean']:.3f}, at most {last['ratio']['max']:.2f}; clipped {_clip(last):.2%}"),
        ("entropy", f"{last['entropy']:.3f} nats; gradient {last['grad_norm']:.3g}"),
        ("completion", f"{last['completion_tokens']['mean']:.0f} tokens, at most {last['completion_tokens']['max']}"),
        ("tokens/s", f"{speed['trainer']:.0f} trained ({speed['trainer_row_by_row']:.0f} by rows), "
                     f"{speed['sampler']:.0f} sampled"),
    ]  # fmt: skip
    if restarts:
        cells.append(("started again", ", ".join(f"{name} {count} x" for name, count in restarts.items())))
    for name, value in cells:
        numbers.add_row(Text(name, style="bold"), value)
    tasks = Table("task", "length", "reward", "passed", "n", "level", box=None)
    for task, lengths in last["tasks"].items():
        level = last["levels"].get(task)
        for length, cell in lengths.items():
            shown = (f"{cell['reward']:.3f}", f"{cell['pass_rate']:.0%}", str(cell["completions"]))
            tasks.add_row(task, length, *shown, "" if level is None else f"{level:.2f}")
    rewards = [row["reward"] for row in rows]
    return Stack(numbers, tasks, Text(f"reward {min(rewards):.2f} to {max(rewards):.2f}  {curve(rewards)}"))
