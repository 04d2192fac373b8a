"""Segments of one long text, fitted by several processes on each GPU; `lift.training.fit.fit` takes them from its folder."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from benchmarks.lift_measure import load
from benchmarks.spread import checked, spread
from lift.document.document import Document
from lift.document.repeats import read_once
from lift.document.token_spans import TokenSpans
from lift.library import base_model
from lift.training.compaction import SegmentFits, spans_of
from lift.training.fit import FitOptions, add_adapter
from lift.training.job import FitJob
from lift.training.recipes import Recipe
from longthread.files import write_json


@dataclass(frozen=True)
class LongFit:
    """A fit by recipe `compact` or `compact+`. `text`: the file that `write` has written; `out`: the fit's folder."""

    model: Path
    text: Path
    recipe: Recipe
    out: Path
    seed: int = 0

    def write(self, document: Document) -> None:
        """Write what of the document is read, for the processes."""
        write_json(self.text, asdict(read_once(document)))

    def read(self) -> Document:
        """Return what `write` has written."""
        return Document(**json.loads(self.text.read_text()))


@cache
def segments_of(given: LongFit) -> SegmentFits:
    """Load model and text, once a process."""
    torch.set_num_threads(1)
    model, tokenizer = load(given.model)
    document = given.read()
    ids = TokenSpans.encode(tokenizer, document.text).ids
    adapted: Any = add_adapter(model, tokenizer, given.recipe, document)
    job = FitJob(document, ids, tokenizer, given.recipe, FitOptions(given.out, given.seed, progress=False))
    return SegmentFits(adapted.eval(), job, spans_of(len(ids), given.recipe.segment, model.config))


def fit_segment(given: LongFit, number: int) -> float:
    """Fit one segment and keep it in the folder of the fit; return the seconds."""
    segments = segments_of(given)
    began = time.perf_counter()
    segments.keep(number)
    return time.perf_counter() - began


def processes(each: int) -> int:
    """Return how many processes fit segments, with `each` on a GPU."""
    return max(1, torch.cuda.device_count()) * each


def fit_segments(given: LongFit, each: int, seconds: float = math.inf) -> Sequence[float] | None:
    """Fit all segments, `each` at a time on a GPU; return the seconds of each, or None where the time was too short.

    One process alone fits none: `fit` does as well by itself. Raises what a process has raised.
    """
    if processes(each) == 1:
        return [] if seconds > 0 else None
    ids = TokenSpans.encode(base_model.tokenizer(given.model), given.read().text).ids
    spans = spans_of(len(ids), given.recipe.segment, AutoConfig.from_pretrained(given.model))
    jobs = {str(number): (given, number) for number in range(len(spans))}
    running = spread(fit_segment, jobs, max(1, torch.cuda.device_count()), seconds, each)
    took = [checked(found) for _, found in running]
    return took if len(took) == len(jobs) else None
