"""The tables of an evaluation in several modes, the same on a page and in a terminal, and its numbers as JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from environments.memory.results import ENOUGH, RESAMPLES, Difference, Results, advice
from environments.reports.metrics import length_label
from longthread.files import JsonObject


class Table(NamedTuple):
    """A table of texts, the same on the page and in the terminal."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        rows = ("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([self.title, *(row.rstrip() for row in rows)])


def tables_of(found: Results) -> list[Table]:
    """Return the tables of an evaluation; those that would be empty are left out."""
    tables = [_accuracy(found), _recall(found), _costs(found), _hybrid(found), _break_even(found)]
    return [table for table in tables if table.rows]


def _accuracy(found: Results) -> Table:
    rows = []
    for (kind, length), modes in found.cells.items():
        asked = [cell.score.n for cell in modes.values()]
        n = "–".join(dict.fromkeys([str(min(asked)), str(max(asked))]))
        marked = [(modes[mode].score, modes[mode].cut) if mode in modes else None for mode in found.modes]
        scores = [f"{one[0]}{' (cut)' if one[1] else ''}" if one else "–" for one in marked]
        rows.append([kind, length_label(length), n, *scores])
    note = "Mean score ± standard error. (cut): where the text did not fit the window, its middle was left out."
    return Table("Accuracy", note, ["kind of question", "length", "n", *found.modes], rows)


def _recall(found: Results) -> Table:
    rows = [
        [cell.kind, length_label(cell.length), mode, str(one.recall), str(one.missed), str(one.misread)]
        for cell, modes in found.cells.items()
        for mode, one in modes.items()
        if one.recall.n
    ]
    note = (
        "Share of the evidence in the prompt: among its passages, or in what was kept of a cut text. Wrong answers whose "
        "evidence was missed, and whose evidence was there but misread."
    )
    return Table(
        "Evidence in the prompt", note, ["kind of question", "length", "mode", "recall", "missed", "misread"], rows
    )


def _costs(found: Results) -> Table:
    rows = [
        [
            length_label(length),
            mode,
            _number(cost.seconds, ".3g"),
            _number(cost.tokens_read, ",.0f"),
            _number(cost.stored_bytes, ",.0f"),
            _number(cost.prepare_seconds, ".3g"),
        ]
        for length, modes in found.costs.items()
        for mode, cost in modes.items()
    ]
    note = (
        "Seconds are those of search and reply together, as many requests at a time as the run had. Of a document: the bytes "
        "kept and the seconds before its first question; – where the server does not state them."
    )
    header = ["length", "mode", "seconds a question", "tokens read", "bytes a document", "seconds to prepare"]
    return Table("Cost", note, header, rows)


def _hybrid(found: Results) -> Table:
    rows = []
    for cell, (mode, gain) in found.best.items():
        interval = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        rows.append([cell.kind, length_label(cell.length), mode, interval, str(gain.n), _verdict(gain)])
    note = (
        f"Hybrid's score minus that of the best single mode, 95 % interval of a paired bootstrap ({RESAMPLES:,} draws); "
        f"nothing is said of fewer than {ENOUGH} questions."
    )
    header = ["kind of question", "length", "best single mode", "hybrid minus it", "n", "hybrid is"]
    return Table("Hybrid against the best single mode", note, header, rows)


def _verdict(gain: Difference) -> str:
    """Return whether the difference is one: of a few questions alike a bootstrap draws the same again and again."""
    if gain.n < ENOUGH:
        return "too few questions"
    return "not told apart" if not gain.told_apart else "better" if gain.mean > 0 else "worse"


def _break_even(found: Results) -> Table:
    rows = [
        [length_label(e.length), e.mode, e.other, "never" if e.questions is None else f"{e.questions:,}"]
        for e in found.break_even
    ]
    note = (
        "From how many questions about one document on a mode takes less time in all, preparation included; 0: at once."
    )
    return Table("Break-even", note, ["length", "mode", "pays against", "questions"], rows)


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


# ---- numbers ----


def to_json(found: Results) -> JsonObject:
    """Return the numbers as JSON; what is not known is null."""
    return {
        "cells": [
            {"kind": cell.kind, "length": cell.length, "mode": mode, **_finite(asdict(one))}
            for cell, modes in found.cells.items()
            for mode, one in modes.items()
        ],
        "costs": [
            {"length": length, "mode": mode, **_finite(asdict(cost))}
            for length, modes in found.costs.items()
            for mode, cost in modes.items()
        ],
        "hybrid": [
            {"kind": cell.kind, "length": cell.length, "best_single": mode, **_finite(asdict(gain))}
            for cell, (mode, gain) in found.best.items()
        ],
        "break_even": [asdict(one) for one in found.break_even],
        "advice": advice(found),
    }


def _finite(values: JsonObject) -> JsonObject:
    """Return the values with null for NaN, within objects too."""
    return {
        name: _finite(value) if isinstance(value, dict) else None if value != value else value
        for name, value in values.items()
    }
