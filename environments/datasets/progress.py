"""How far a run of `longthread collect` has come: its rows and groups, and why there are no more."""

import re
import sys
import time
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from environments.datasets.atropos_processes import CollectionPlan, Kind
from longthread.files import GrowingFile
from longthread.secrets import redact_text

QUIET_SECONDS = 60.0  # without a row before the reason is told


class Progress:
    """Copies the generator's wanted rows to `path`, and prints each kind of warning in the environment's log once."""

    def __init__(self, plan: CollectionPlan, folder: Path):
        """Read `generated` and the environment's log in `folder`, where the processes write them."""
        self.plan = plan
        own = folder / "rows"  # a folder of its own: OUT may have any name, also one of ours
        own.mkdir(exist_ok=True)
        self.path, self.generated, self.log = own / plan.out.name, folder / "rows.jsonl", folder / "environment.log"
        self.rows = self.size = 0  # of `path`: whole lines, their bytes
        self.groups = 0  # that run-api has got
        self._groups_at_row, self._row_at = 0, time.monotonic()  # of the last row
        self._flat_groups = 0  # since the last row, in a row: all completions of a group score the same
        self._new_rows, self._new_words = GrowingFile(self.generated), GrowingFile(self.log)
        self._told: set[str] = set()

    @property
    def enough(self) -> bool:
        """Whether there are as many rows as are wanted."""
        return self.rows >= self.plan.rows

    def look(self, file: BinaryIO, bar: tqdm) -> None:
        """Write wanted rows that are new to `file`; print the environment's warnings, and why no row has come of late."""
        for line in self._new_rows.new_lines():
            if not self.enough and self.plan.wants(line):
                file.write(line + b"\n")
                file.flush()
                self.rows, self.size = self.rows + 1, self.size + len(line) + 1
                self._groups_at_row, self._flat_groups, self._row_at = self.groups, 0, time.monotonic()
                bar.update()
        for line in self._new_words.new_lines():
            words = line.decode(errors="replace")
            if flat := re.search(r"(\d+) groups in a row are not sent", words):
                self._flat_groups = int(flat[1])
            if self._worth_telling(words):
                bar.write(f"environment: {redact_text(words)[:300]}", file=sys.stderr)
        bar.set_postfix(groups=self.groups, refresh=False)
        if time.monotonic() - self._row_at > QUIET_SECONDS:
            self._row_at = time.monotonic()
            bar.write(f"no row for {QUIET_SECONDS:.0f} s: {self.reason()}", file=sys.stderr)

    def _worth_telling(self, words: str) -> bool:
        """Return True for a warning of a kind not printed yet; those that differ in numbers alone are of one kind."""
        kind = re.sub(r"\d+", "#", words)
        usual = "Waiting to register" in words
        if not words.startswith(("WARNING", "ERROR", "error:")) or usual or kind in self._told:
            return False
        self._told.add(kind)
        return True

    def reason(self) -> str:
        """Return why no row comes, as far as the counts of groups and rows tell."""
        plan, groups = self.plan, self.groups - self._groups_at_row
        if self._flat_groups:
            return (
                f"{self._flat_groups} groups in a row had completions that all scored the same; easier settings (shorter "
                "--env.lengths), a larger --group-size or a higher --env.temperature make them differ"
            )
        if groups < (batch := plan.batch // plan.group_size):
            why = "the model may need that long" + ", or all of a group score the same" * (plan.kind == Kind.DPO)
            return f"{groups} of the {batch} groups of a batch have come; {why} (see {self.log})"
        if plan.kind == Kind.DPO:
            return f"{groups} groups came, none with a pair that differs by more than --min-difference {plan.least}"
        return (
            f"{groups} groups came, none with a completion that scores --min-score {plan.least}; easier settings "
            "(shorter --env.lengths, --env.answer_format plain) give the model a chance"
        )
