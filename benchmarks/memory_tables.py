"""Tables of `benchmarks.memory` beside those of memory-env: what a way of looking up is worth, and asking step by step.

Each gain is over the same questions asked in another way, with the 95 % interval of a paired bootstrap.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.memory_cells import MODES, WAYS
from environments.memory.config import HYBRID, RETRIEVAL
from environments.memory.results import difference
from environments.memory.tables import Table
from longthread.files import JsonObject
from longthread.statistics import estimate


class _Group(NamedTuple):
    """Questions of one kind about documents of one length, all asked in one way."""

    length: int
    kind: str
    way: str


_Lines = dict[_Group, list[JsonObject]]


def ways(cells: Sequence[JsonObject]) -> list[Table]:
    """Return the table of the ways of looking up, each beside its mode with the environment's defaults; none without any."""
    lines = _lines(cells)
    rows = []
    for group in _in_order(lines, (RETRIEVAL, HYBRID, *WAYS)):
        plain = WAYS[group.way][0] if group.way in WAYS else ""
        gain = _gain(lines[group], lines.get(group._replace(way=plain), []))
        recall = estimate(line["recall"]["needles"] for line in lines[group] if line["recall"])
        rows.append([*_named(group, lines), f"over {plain}: {gain}" if plain else "", str(recall)])
    header = ["length", "kind of question", "way", "n", "score", "gain", "evidence found"]
    note = "Retrieval and hybrid as they are, and what each setting gains over them on the same questions."
    return [Table("Ways of looking up", note, header, rows)] if any(group.way in WAYS for group in lines) else []


def in_steps(stepwise: Sequence[JsonObject], bare: Sequence[JsonObject]) -> list[Table]:
    """Return the table of what was asked step by step, beside the same asked for the answer alone; none without both."""
    lines, beside = _lines(stepwise), _lines(bare)
    rows = [
        [*_named(group, lines), str(_gain(lines[group], beside[group]))]
        for group in _in_order(lines, (*MODES, *WAYS))
        if group in beside
    ]
    note = "The same questions asked step by step, and what that gains over asking for the answer alone."
    return [Table("In steps", note, ["length", "kind of question", "way", "n", "score", "gain"], rows)] if rows else []


def _lines(cells: Sequence[JsonObject]) -> _Lines:
    lines: _Lines = defaultdict(list)
    for cell in cells:
        for line in cell["records"]:
            lines[_Group(line["length"], line["task"], cell["way"])].append(line)
    return dict(lines)


def _in_order(lines: Mapping[_Group, object], ways: Sequence[str]) -> list[_Group]:
    """Return the groups of these ways by length, kind as it came first, and way in this order."""
    kinds = list(dict.fromkeys(group.kind for group in lines))
    of_ways = (group for group in lines if group.way in ways)
    return sorted(of_ways, key=lambda group: (group.length, kinds.index(group.kind), ways.index(group.way)))


def _named(group: _Group, lines: _Lines) -> list[str]:
    score = estimate(line["score"] for line in lines[group])
    return [f"{group.length:,}", group.kind, group.way, str(score.n), str(score)]


def _gain(one: Sequence[JsonObject], other: Sequence[JsonObject]) -> str:
    """Return how much better one way is on the questions that both were asked; "–" where there are none."""
    scores, beside = ({line["question_key"]: line["score"] for line in each} for each in (one, other))
    found = difference(scores, beside)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if found.n else "–"
