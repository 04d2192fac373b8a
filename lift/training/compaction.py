"""The fit of recipe `compact`: a document, segment by segment, into a compact memory. Nothing is trained.

A segment is read once; then its reference rows are read with it beside the window, and the memory follows in closed form
(`lift.memory.compact`). Each segment is kept in the working folder as soon as it is done, so that a killed fit goes on behind
it, and a fit holds no more than one segment's keys, values, questions and memory at a time. What a segment becomes depends on
its own tokens and those of the segment before it alone: a text that is appended to keeps the segments that it has.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lift.document.repeats import places_in_text
from lift.document.segments import segments
from lift.inference.capacity import replied_tokens
from lift.inference.generate import before_text, index_batches
from lift.library import segment_terms
from lift.library.compact_store import PARTS, POSITIONS, CompactStore, StoredSegment
from lift.library.compact_writer import Text, slots_of, write_memory, write_sources
from lift.memory.compact import Compaction, Slots, compact
from lift.memory.compact_memory import CompactMemory
from lift.memory.document_cache import KeysValues, keys_and_values
from lift.memory.reference_queries import by_head, observe
from lift.memory.tuner import GatedMemoryLayer, layers
from lift.tasks import Item
from lift.training import checkpoint
from lift.training.batches import AnswerEncoder
from lift.training.calibration import OWN, calibrated
from lift.training.job import FitJob
from lift.training.reference_rows import ReferenceRows
from longthread.errors import ConfigError
from longthread.files import replacing
from longthread.language_model import AdaptedLM, ModelConfig

ADAPTER = "default"
OVERLAP = 8  # a segment shares one part in so many with the next: a fact, or a link, stands whole in one of them
ROOM = 2048  # positions of the model's window that a segment leaves for prompts, at most; a quarter of a short window
LEAST_QUERIES = 2048  # reference tokens of each kind, where the document has fewer itself
ASKED = 2.5  # tokens of questions that are read, for each that is kept
GROWING = ("dynamic", "longrope")  # kinds of RoPE whose frequencies depend on how long the row is
STORED = (*PARTS, POSITIONS)


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


def spans_of(tokens: int, most: int, config: ModelConfig) -> list[range]:
    """Return a document's segments: of `most` tokens, or of what the model's window leaves room for."""
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or most + ROOM
    length = max(1, min(most, window - min(ROOM, window // 4)))
    return segments(tokens, length, max(1, length - length // OVERLAP))


@dataclass(frozen=True)
class SegmentMemory:
    """The memory of one segment: flat keys, biases and values of each layer, and how many each key/value head has.

    `positions` are the numbers of the slots' tokens in the text, in int32.
    """

    keys: list[Tensor]
    biases: list[Tensor]
    values: list[Tensor]
    positions: list[Tensor]
    slots: list[list[int]]

    @classmethod
    def of(cls, heads: Sequence[Slots], n_layers: int, first: int, dtype: torch.dtype) -> "SegmentMemory":
        """Put the slots of all layers' heads together, layer by layer, in the computer's own memory.

        `first` is the segment's first token, `dtype` that of its keys and values.
        """
        per_layer = len(heads) // n_layers
        by_layer = [heads[at : at + per_layer] for at in range(0, len(heads), per_layer)]
        parts = ([torch.cat([head[i] for head in part]).cpu() for part in by_layer] for i in range(4))
        keys, biases, values, tokens = parts
        return cls(
            [each.to(dtype) for each in keys],
            [each.float() for each in biases],
            [each.to(dtype) for each in values],
            [(each + first).to(torch.int32) for each in tokens],
            [[len(head.b_S) for head in part] for part in by_layer],
        )

    @classmethod
    def stored(cls, store: CompactStore, digest: str) -> "SegmentMemory | None":
        """Return the segment that an earlier fit has written to its adapter under this digest; None if there is none."""
        digests = [each.digest for each in store.sources.segments] if store.sources else []
        if digest not in digests:
            return None
        at = digests.index(digest)
        keys, biases, values = ([store.read(part, layer, at) for layer in store.layers] for part in PARTS)
        positions = [store.sources.positions(layer, at) for layer in store.layers] if store.sources else []
        return cls(keys, biases, values, positions, [store.slots[layer][at] for layer in store.layers])

    def save(self, path: Path, digest: str) -> None:
        """Write the segment atomically, under the digest of its fit."""
        tensors = {f"{name}.{i}": x.contiguous() for name in STORED for i, x in enumerate(getattr(self, name))}
        with replacing(path) as file:
            save_file(tensors, file.name, {"of": digest, "slots": json.dumps(self.slots)})

    @classmethod
    def load(cls, path: Path, digest: str) -> "SegmentMemory | None":
        """Return the segment that this very fit has written to the file; None if there is none."""
        try:
            with safe_open(path, "pt") as file:
                stated = file.metadata()
                if stated["of"] != digest:
                    return None
                slots = json.loads(stated["slots"])
                of_layers = range(len(slots))
                keys, biases, values, at = ([file.get_tensor(f"{name}.{i}") for i in of_layers] for name in STORED)
                return cls(keys, biases, values, at, slots)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError):
            return None


def fit_compact(model: AdaptedLM, job: FitJob, spans: Sequence[range]) -> None:
    """Fit the compact memory of a document with the segments `spans`, and write its adapter to the fit's folder.

    The memory of `model` stays empty. Segments that `job.options.earlier` holds are taken from there.
    """
    encoder = AnswerEncoder(job.document, job.tokenizer, model)
    rows = ReferenceRows(job, encoder, spans)
    out, earlier = job.options.out, job.options.earlier
    store = CompactStore(earlier) if earlier else None
    files: list[Path] = []
    own: list[Item] = []
    stored: list[StoredSegment] = []
    bar = tqdm(spans, desc=job.document.name, unit="segment", disable=not job.options.progress)
    for number, span in enumerate(bar):
        path, digest = out / f"checkpoint-segment-{number}.safetensors", _digest(model, job, rows, number)
        if SegmentMemory.load(path, digest) is None:
            memory = SegmentMemory.stored(store, digest) if store else None
            (memory or _segment_memory(model, job, rows, span)).save(path, digest)
        files.append(path)
        own += rows.questions(span)[: -(-OWN // len(spans))]
        stored.append(StoredSegment(span.start, span.stop, digest))
    _write(model, job, encoder, files, stored)
    if switch := calibrated(model, job, CompactStore(out), own):
        switch.save(out)
    if len(spans) > 1:
        stretches = (encoder.spans.characters((span.start, span.stop)) for span in spans)
        segment_terms.write(out, (job.document.text[start:end] for start, end in stretches))


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


@torch.no_grad()
def _segment_memory(model: AdaptedLM, job: FitJob, rows: ReferenceRows, span: range) -> SegmentMemory:
    """Read one segment and return its memory."""
    recipe, seed = job.recipe, job.options.seed
    prefix = before_text(job.tokenizer)  # takes what a model spends on its first tokens; the window has its own
    ids = [*prefix, *job.ids[span.start : span.stop]]
    document = [
        KeysValues(read.k_KTD[:, len(prefix) :], read.v_KTD[:, len(prefix) :])
        for read in keys_and_values(model, ids, -len(ids))
    ]
    kept = min(recipe.queries, max(LEAST_QUERIES, len(span)))
    kinds = [
        (rows.asked(span, int(ASKED * kept)), True),
        (rows.again(span), True),
        (rows.quiet(span, kept) if recipe.quiet_weight else [], False),
    ]
    queries = []
    for part, heard in kinds:
        if part:
            batches = _batches(part, replied_tokens(model))
            beside = document if heard else None
            queries.append((observe(model, batches, beside, kept / _tokens(part), seed), heard))
    kv_heads = document[0].k_KTD.shape[0]
    scales = [layer.probe.scale for layer in layers(model)]
    k_GTD = torch.cat([scale * each.k_KTD for scale, each in zip(scales, document, strict=True)]).to(_dtype(model))
    v_GTD = torch.cat([each.v_KTD for each in document]).to(_dtype(model))
    del document
    how = Compaction(
        _slots(recipe.share, k_GTD),
        recipe.bias_ridge,
        recipe.value_ridge,
        recipe.quiet_weight,
        recipe.biases,
        recipe.values,
    )
    heads = compact(by_head(queries, kv_heads), k_GTD, v_GTD, how)
    return SegmentMemory.of(heads, len(scales), span.start, _dtype(model))


def _slots(share: float, k_GTD: Tensor) -> int:
    """Return how many slots take this share of the bytes of the keys and values: a slot has a bias in fp32 beside both."""
    heads, tokens, dim = k_GTD.shape
    of_token, of_slot = 4 * dim, 4 * dim + 4
    return heads * tokens if share >= 1 else max(heads, int(share * heads * tokens * of_token / of_slot))


def _dtype(model: AdaptedLM) -> torch.dtype:
    return cast(CompactMemory, layers(model)[0].gm_memory[ADAPTER]).dtype


def _tokens(rows: Sequence[Sequence[int]]) -> int:
    return max(1, sum(map(len, rows)))


def _batches(rows: Sequence[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    for batch in index_batches([len(row) for row in rows], 0, tokens):
        yield [rows[i] for i in batch]
