"""The fit of recipes `compact` and `compact+`: a document, segment by segment, into a compact memory.

A segment is read once; then its reference rows are read with it beside the window, and the memory follows in closed form
(`closed_form`). Recipe `compact+` then takes a few gradient steps (`refinement`). Each segment is kept in the working folder
as soon as it is done, so that a killed fit goes on behind it, and a fit holds no more than one segment's keys, values,
questions and memory at a time. What a segment becomes depends on its own tokens and those of the segment before it alone: a
text that is appended to keeps the segments that it has.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lift.document.repeats import places_in_text
from lift.document.segments import segments
from lift.library import segment_terms
from lift.library.compact_store import CompactStore, StoredSegment
from lift.library.compact_writer import Text, slots_of, write_memory, write_sources
from lift.memory.tuner import GatedMemoryLayer
from lift.tasks import Item
from lift.training import checkpoint
from lift.training.batches import AnswerEncoder
from lift.training.calibration import OWN, calibrated
from lift.training.closed_form import closed_form
from lift.training.job import FitJob, answerable, check_questions
from lift.training.reference_rows import ReferenceRows
from lift.training.refinement import Refinement
from lift.training.segment_memory import ADAPTER, SegmentMemory
from longthread.errors import ConfigError
from longthread.language_model import AdaptedLM, ModelConfig

OVERLAP = 8  # a segment shares one part in so many with the next: a fact, or a link, stands whole in one of them
ROOM = 2048  # positions of the model's window that a segment leaves for prompts, at most; a quarter of a short window
GROWING = ("dynamic", "longrope")  # kinds of RoPE whose frequencies depend on how long the row is


def check_positions(config: ModelConfig) -> None:
    """Raise `ConfigError` for a model whose RoPE depends on the length of the row: keys of one row would not fit another."""
    text: Any = config.get_text_config()
    stated = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [each.get("rope_type") for each in (stated, *stated.values()) if isinstance(each, dict)]
    if grown := [kind for kind in kinds if kind in GROWING]:
        raise ConfigError(
            f"the model's RoPE is of type {grown[0]}, which changes with the length of a row: "
            "use recipe published-v4, or a model with a fixed one such as yarn",
            setting="recipe",
        )


def check_share(share: float | None) -> None:
    """Raise `ConfigError` for a memory that would be larger than the document's keys and values, or have nothing in it."""
    if share is not None and not 0 < share <= 1:
        raise ConfigError(
            f"share must be above 0 and at most 1, all of the document's keys and values (got {share:g})",
            setting="share",
        )


def spans_of(tokens: int, most: int, config: ModelConfig) -> list[range]:
    """Return a document's segments: of `most` tokens, or of what the model's window leaves room for."""
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or most + ROOM
    length = max(1, min(most, window - min(ROOM, window // 4)))
    return segments(tokens, length, max(1, length - length // OVERLAP))


def fit_compact(model: AdaptedLM, job: FitJob, spans: Sequence[range]) -> tuple[int, dict[str, float]]:
    """Fit the compact memory of a document with the segments `spans`, and write its adapter to the fit's folder.

    The memory of `model` stays empty. Segments that `job.options.earlier` holds are taken from there. Returns how many
    gradient steps were taken, and the last one's losses. Raises `ConfigError` where the recipe takes steps and no question
    can be made of the document, and `RunError` for a memory that cannot be computed.
    """
    fits = SegmentFits(model, job, spans)
    rows = fits.rows
    if job.recipe.steps and not any(answerable(rows.questions(span)) for span in spans):
        check_questions(rows.questions(spans[0]), job.document.name)
    out, spans_in_text = job.options.out, rows.encoder.spans
    files: list[Path] = []
    own: list[Item] = []
    stored: list[StoredSegment] = []
    bar = tqdm(spans, desc=job.document.name, unit="segment", disable=not job.options.progress)
    for number, span in enumerate(bar):
        path, digest = fits.keep(number)
        files.append(path)
        own += rows.questions(span)[: -(-OWN // len(spans))]
        stored.append(StoredSegment(span.start, span.stop, digest))
    _write(model, job, rows.encoder, files, stored)
    if len(spans) > 1:
        stretches = (spans_in_text.characters((span.start, span.stop)) for span in spans)
        segment_terms.write(out, (job.document.text[start:end] for start, end in stretches))
    if switch := calibrated(model, job, CompactStore(out), own):
        switch.save(out)
    return fits.steps, fits.losses


class SegmentFits:
    """Fits segments in closed form, and takes the gradient steps that the recipe asks for.

    Several processes may each `keep` some of a document's segments in one folder, and `fit_compact` then takes them from
    there. `steps` counts gradient steps over all segments; `losses` are the last one's.
    """

    def __init__(self, model: AdaptedLM, job: FitJob, spans: Sequence[range]):
        self.model, self.job = model, job
        self.rows = ReferenceRows(job, AnswerEncoder(job.document, job.tokenizer, model), spans)
        self._refinement: Refinement | None = None
        self._earlier = CompactStore(job.options.earlier) if job.options.earlier else None

    @property
    def steps(self) -> int:
        """Return how many gradient steps were taken, over all segments."""
        return self._refinement.steps if self._refinement else 0

    @property
    def losses(self) -> dict[str, float]:
        """Return the losses of the last gradient step."""
        return self._refinement.losses if self._refinement else {}

    def keep(self, number: int) -> tuple[Path, str]:
        """Fit a segment unless its file is there, and return its file in the working folder and the digest of its fit."""
        digest = _digest(self.model, self.job, self.rows, number)
        path = self.job.options.out / f"checkpoint-segment-{number}.safetensors"
        if SegmentMemory.load(path, digest) is None:
            memory = SegmentMemory.stored(self._earlier, digest) if self._earlier else None
            (memory or self._fitted(self.rows.segments[number], path, digest)).save(path, digest)
        return path, digest

    def _fitted(self, span: range, path: Path, digest: str) -> SegmentMemory:
        """Return the memory of a segment. Its closed form is kept in the file while steps are taken.

        Made again it might have other slots, and no step that a killed fit has taken would go with it.
        """
        closed = f"{digest} closed form"
        items = self.rows.questions(span) if self.job.recipe.steps else []
        memory = SegmentMemory.load(path, closed) if items else None
        memory = memory or closed_form(self.model, self.job, self.rows, span)
        if not answerable(items):
            return memory
        memory.save(path, closed)
        self._refinement = self._refinement or Refinement(self.model, self.job)
        with memory.held_by(self.model):
            self._refinement.run([self.rows.encoder.row(item) for item in items], digest)
            return memory.as_held_by(self.model)


def _write(
    model: Any, job: FitJob, encoder: AnswerEncoder, files: Sequence[Path], segments: Sequence[StoredSegment]
) -> None:
    """Write the adapter from its segments' files, and where in the text its slots stood."""
    out, config, read = job.options.out, model.peft_config[ADAPTER], job.document
    modules = {
        layer.index: f"{name}.gm_memory" for name, layer in model.named_modules() if isinstance(layer, GatedMemoryLayer)
    }
    empty, config.slots = config.slots, slots_of(files, list(modules))
    model.save_pretrained(out)  # of which the config counts: the memory is empty
    config.slots = empty
    write_memory(out, list(modules.values()), files)
    original = job.original or read
    starts = places_in_text(original, encoder.spans.starts)
    sentences = np.array(original.sentences, np.int32).reshape(-1, 2)
    write_sources(out, list(modules), files, segments, Text(len(original.text), np.array(starts, np.int32), sentences))


def _digest(model: AdaptedLM, job: FitJob, rows: ReferenceRows, number: int) -> str:
    """Return what identifies the fit of a segment: its tokens, those of the segment before it, recipe and model."""
    span, first = rows.segments[number], rows.segments[max(0, number - 1)].start
    ids = array("i", job.ids[first : span.stop])
    asked = [[item.question, item.answer] for item in rows.studied(span)]
    of_job = [asdict(job.recipe), job.document.name, job.options.seed, asked]
    parts = [*of_job, span.start, span.stop, len(rows.segments) == 1, hashlib.sha256(ids.tobytes()).hexdigest()]
    return checkpoint.digest_of(parts, model.parameters())
