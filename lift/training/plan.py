"""Which rows each optimizer step takes. All randomness comes from the seed and the step's number, so a run can resume."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from lift.training.batches import RegularizationRow, Row, SupervisedRow, bucketed, padded_width, segment_rows
from lift.training.gradients import MicroBatch
from lift.training.job import FitJob
from lift.training.recipes import Stage

WARM_STEPS = 10  # at least, until the rate is whole: Adam's first steps are as long as the rate, whatever the gradient

StepRows = tuple[int, list[SupervisedRow]]  # the width they are padded to, 0 for that of the longest; and the rows


@dataclass(frozen=True)
class PlannedStep:
    """The rows of one optimizer step, padded to `width`.

    `size` is how many rows a full step has, for fixed shapes.
    """

    width: int
    rows: list[SupervisedRow]
    size: int
    ends_epoch: bool


@dataclass(frozen=True)
class DrawnRows:
    """Rows drawn for one step: questions `beside` pieces of the document, and other text, short (`talk`) and `long`."""

    beside: list[SupervisedRow]
    talk: list[RegularizationRow]
    long: list[RegularizationRow]


class Plan:
    """Decides which rows each optimizer step of a fit takes. `total` is the number of steps."""

    def __init__(self, job: FitJob):
        self.job, rows = job, job.rows
        self.total = sum(stage.epochs * len(self._epoch(stage, 0)) for stage in job.recipe.stages)
        self.talk_width = padded_width(max((len(row.ids) for row in rows.talk), default=0))
        long_rows: list[Row] = [*rows.beside, *rows.reading, *rows.prose]
        self.long_width = padded_width(max((len(row.ids) for row in long_rows), default=0))

    def steps(self, done: int) -> Iterator[PlannedStep]:
        """Yield all optimizer steps after the first `done`."""
        number = 0
        for stage in self.job.recipe.stages:
            for epoch in range(stage.epochs):
                steps = self._epoch(stage, epoch)
                for i, (width, rows) in enumerate(steps, 1):
                    number += 1
                    if number > done:
                        yield PlannedStep(width, rows, stage.rows or len(rows), i == len(steps))

    def _epoch(self, stage: Stage, epoch: int) -> list[StepRows]:
        """Return the steps of one epoch. Steps of questions alone have rows of similar length."""
        job, rng = self.job, Random(f"{self.job.options.seed} {stage.sources} {epoch}")
        if stage.sources == ("tasks",) and stage.rows:
            return bucketed(job.rows.tasks, stage.rows, rng)
        rows = segment_rows(job.ids, job.tokenizer, job.recipe, rng) if "segments" in stage.sources else []
        rows = rows + (job.rows.tasks if "tasks" in stage.sources else [])
        rng.shuffle(rows)
        size = stage.rows or max(1, len(rows))
        return [(0, rows[first : first + size]) for first in range(0, len(rows), size)]

    def draw(self, step: int) -> DrawnRows:
        """Draw the other rows of step number `step`: other text, and questions beside pieces of the document."""
        recipe, pool = self.job.recipe, self.job.rows
        rng = Random(f"{self.job.options.seed} {step}")
        sixth = recipe.kl_rows // 6
        talk = rng.sample(pool.talk, recipe.kl_rows - 2 * sixth)
        long_rows = rng.sample(pool.reading, sixth) + rng.sample(pool.prose, sixth)
        beside = rng.sample(pool.beside, min(recipe.window_rows, len(pool.beside)))
        return DrawnRows(beside, talk, long_rows)

    def micro_batches(self, step: PlannedStep, drawn: DrawnRows, rank: int, ranks: int) -> list[MicroBatch]:
        """Return the micro-batches of a step for process `rank` of `ranks`: one of short rows and one of long rows."""
        short_width = step.width and max(step.width, self.talk_width)
        short, beside = step.rows[rank::ranks], drawn.beside[rank::ranks]
        return [
            MicroBatch(short_width, short, -(-step.size // ranks), drawn.talk[rank::ranks]),
            MicroBatch(self.long_width, beside, -(-len(drawn.beside) // ranks), drawn.long[rank::ranks]),
        ]

    def rate(self, step: int) -> float:
        """Return the factor, 0 to 1, by which the recipe's learning rate is multiplied at this step."""
        if self.job.recipe.schedule == "constant":
            return 1.0
        warm_up = min(1.0, (step + 1) / max(WARM_STEPS, self.total // 20))
        return warm_up * 0.5 * (1 + math.cos(math.pi * step / max(1, self.total)))
