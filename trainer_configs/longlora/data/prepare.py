"""Documents as units that can be trained on: the part of the work that runs in parallel.

    for item in source.items(): ...         # texts, or numbers of texts that a worker writes itself
    units = prepare({"item": [...]}, job)   # pure: what a worker of `Dataset.map` does

A document is one file, one row of a dataset, some passages of fictional prose, or one question of an environment with its
answer. Its text is tokenised as it stands: nothing is cleaned, so nothing goes missing silently. What is unfit is rejected
with a reason. Special tokens spelled out in a corpus are text, not control tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from trainer_configs.longlora.data import near_duplicates, quality
from trainer_configs.longlora.data.encoder import EncodedText, Encoder, load_encoder
from trainer_configs.longlora.data.packing import plan_windows
from trainer_configs.longlora.data.quality import Checks


@dataclass(frozen=True)
class Job:
    """The settings that a worker process needs. Lengths are in tokens."""

    source: str  # "prose", "needles", or nothing for texts
    tokenizer: str
    length: int
    mode: str
    overlap: int
    slack: int  # how much more than `overlap` two windows may share
    seed: int
    checks: Checks


@dataclass(frozen=True)
class Unit:
    """A document to be joined, or a finished row (a window or a question), with the reason to reject it if any."""

    reason: str  # why it is rejected; "" so far
    tokens: int
    ids: bytes = b""  # int32; empty for a rejected unit
    cuts: bytes = b""  # int32; for a document
    signature: bytes = b""  # 128 uint16
    shared: int = -1  # tokens that a window shares with the one before it, kept or not; -1: there is none before
    cut: bool = False  # a window that ends within a sentence


FIELDS = tuple(Unit.__annotations__)


def prepare(batch: dict[str, list[str | int]], job: Job) -> dict[str, list[str | int | bytes | bool]]:
    """Turn a batch of items into units, in order, as columns; the function that `Dataset.map` runs in its processes."""
    units = [unit for item in batch["item"] for unit in units_of(item, job)]
    return {field: [getattr(unit, field) for unit in units] for field in FIELDS}


def units_of(item: str | int, job: Job) -> Iterator[Unit]:
    """Yield the units of one item, which is a text, or the number of a text that is written here."""
    encoder = load_encoder(job.tokenizer)
    if isinstance(item, str):
        document = encoder.document(item)
    else:
        from trainer_configs.longlora.data import generated  # the environments, which texts do not need

        if job.source == "needles":
            question = generated.question_row(item, job.length, job.seed, encoder)
            yield _question(*question, job) if question else Unit("no_exact_fit", job.length)
            return
        document = encoder.document(generated.prose_document(item, job.length, job.seed))
    yield from _windows(document, job, encoder) if job.mode == "window" else _whole(document, job, encoder)


def _question(prompt: str, row: np.ndarray, job: Job) -> Unit:
    return _judged(prompt, Unit("", len(row), row.tobytes()), job.checks, complete=True)


def _whole(document: EncodedText, job: Job, encoder: Encoder) -> Iterator[Unit]:
    """Yield the document as one unit, with the tokens that begin and end it."""
    ids = np.concatenate([encoder.bos, document.ids, [encoder.eos]]).astype(np.int32)
    if not len(document.ids) or len(ids) < job.checks.min_share * job.length:
        yield Unit("too_short", len(ids))
        return
    cuts = np.append(document.cuts + len(encoder.bos), len(ids)).astype(np.int32)
    yield _judged(document.text, Unit("", len(ids), ids.tobytes(), cuts.tobytes()), job.checks)


def _windows(document: EncodedText, job: Job, encoder: Encoder) -> Iterator[Unit]:
    """Yield the document's windows, and as rejected units the stretches that no window holds."""
    ids = np.append(document.ids, encoder.eos).astype(np.int32)
    room = job.length - len(encoder.bos)
    cuts = np.append(document.cuts, len(ids))
    end = 0
    for number, window in enumerate(plan_windows(cuts, room, job.overlap, job.slack, job.checks.truncated)):
        if window.start > end:  # no window of this length starts and ends at a sentence here
            yield Unit("truncated", window.start - end)
        last = min(window.start + room, len(document.chars)) - 1
        row = np.concatenate([encoder.bos, ids[window.start : window.start + room]]).astype(np.int32)
        shared = max(0, end - window.start) if number else -1
        end = window.start + room
        text = document.text[document.chars[window.start, 0] : document.chars[last, 1]]
        unit = Unit("", len(row), row.tobytes(), shared=shared, cut=not window.whole)
        yield _judged(text, unit, job.checks, complete=end < len(ids))  # the document itself may break off
    if end < len(ids):
        yield Unit("too_short" if len(ids) - end < room else "truncated", len(ids) - end)


def _judged(text: str, unit: Unit, checks: Checks, complete: bool = False) -> Unit:
    """Return the unit with the reason it is rejected for, or with its signature."""
    ids = np.frombuffer(unit.ids, np.int32)
    if reason := quality.judge(text, ids, checks, complete):
        return replace(unit, reason=reason, ids=b"", cuts=b"")
    if not checks.near_duplicate:
        return unit
    return replace(unit, signature=near_duplicates.minhash(near_duplicates.shingles(ids)).tobytes())
