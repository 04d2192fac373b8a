"""What training has changed on the held-out split: mean scores before and after, task by task, from samples.jsonl."""

import math
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from longthread.files import read_jsonl
from longthread.statistics import Z95, Estimate, estimate


def differences(run: Path, names: list[str]) -> Iterator[tuple[str, str, Estimate, Estimate, float]]:
    """Yield environment, task, scores before and after, and half the width of their difference's 95 % interval.

    The samples of both are the same, so the interval is that of paired differences.
    """
    for name in names:
        before, after = _scores(run / "before" / name), _scores(run / "after" / name)
        for task in dict.fromkeys(task for task, *_ in before):
            pairs = [(before[key], after[key]) for key in before if key[0] == task and key in after]
            if pairs:
                change = estimate(new - old for old, new in pairs)
                yield (
                    name,
                    task,
                    estimate(old for old, _ in pairs),
                    estimate(new for _, new in pairs),
                    Z95 * change.stderr,
                )


def table(run: Path, names: list[str]) -> Table | None:
    """Return the differences as a table; None where nothing was evaluated."""
    shown = Table("environment", "task", "n", "before", "after", "change, 95 %", title="held-out split, greedy")
    for name, task, before, after, reach in differences(run, names):
        interval = "" if math.isnan(reach) else f" ± {reach:.3f}"
        change = f"{after.mean - before.mean:+.3f}{interval}"
        shown.add_row(name, task, str(before.n), f"{before.mean:.3f}", f"{after.mean:.3f}", change)
    return shown if shown.row_count else None


def _scores(folder: Path) -> dict[tuple[str, int, object, int], float]:
    path = folder / "samples.jsonl"
    rows = read_jsonl(path) if path.exists() else ()
    return {(row["task"], row["length"], row["depth"], row["repeat"]): row["score"] for row in rows}
