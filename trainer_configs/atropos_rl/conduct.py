"""How a model replies, beside what it scores: whether training has bought reward by a strategy that is no reading.

Each share is of greedy replies on the held-out split (samples.jsonl), where the fact is in the text, but for `invented`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from longthread.files import read_jsonl
from longthread.statistics import Z95, Estimate, estimate

Record = Mapping[str, Any]


def dumps(record: Record) -> bool:
    """Return whether a reply names more values than are asked for."""
    return bool(record["predicted"] > max(1, record["wanted"]))


def echoes(record: Record) -> bool:
    """Return whether a reply copies a whole hidden sentence instead of the value in it."""
    return any(needle["text"].strip() in record["completion"] for needle in record["needles"] if needle["text"].strip())


def drafts(record: Record) -> bool:
    """Return whether a reply opens an answer more than once."""
    return record["completion"].count("<answer>") > 1


CONDUCT: Mapping[str, Callable[[Record], bool]] = {
    "abstains": lambda record: bool(record["abstained"]),
    "dumps": dumps,
    "echoes": echoes,
    "drafts": drafts,
    "has no form": lambda record: not record["well_formed"],
    "is cut off": lambda record: record["finish_reason"] == "length",
}
INVENTED = "names what is absent"


def shares(records: Sequence[Record]) -> dict[str, Estimate]:
    """Return each strategy's share of the replies."""
    there = [record for record in records if record["present"]]
    found = {name: estimate(does(record) for record in there) for name, does in CONDUCT.items()}
    absent = [record for record in records if not record["present"]]
    return found | {INVENTED: estimate(not record["abstained"] for record in absent)}


def table(run: Path, names: Sequence[str]) -> Table | None:
    """Return the shares before and after training, over all environments; None where nothing was evaluated."""
    before, after = (_records(run / when, names) for when in ("before", "after"))
    if not before or not after:
        return None
    shown = Table("the model …", "n", "before", "after", "change, 95 %", title="conduct, held-out split, greedy")
    old, new = shares(before), shares(after)
    for name in [name for name in old if old[name].n]:
        reach = Z95 * (old[name].stderr ** 2 + new[name].stderr ** 2) ** 0.5
        n, difference = str(old[name].n), f"{new[name].mean - old[name].mean:+.3f} ± {reach:.3f}"
        shown.add_row(name, n, f"{old[name].mean:.3f}", f"{new[name].mean:.3f}", difference)
    return shown


def _records(folder: Path, names: Sequence[str]) -> list[Record]:
    paths = [folder / name / "samples.jsonl" for name in names]
    return [record for path in paths if path.exists() for record in read_jsonl(path) if record["error"] is None]
