"""The fit of recipes `compact` and `compact+`: a document, segment by segment, into a compact memory.

A segment is read once; then its reference rows are read with it beside the window, and the memory follows in closed form
(`lift.memory.compact`). Recipe `compact+` then takes a few gradient steps (`refinement`). Of a document with several
segments each is kept in the working folder as soon as it is done, so that a killed fit goes on behind it, and no more than
one segment's keys and values are held at a time.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lift.document.segments import segments
from lift.inference.capacity import replied_tokens
from lift.inference.generate import before_text, index_batches
from lift.library import segment_terms
from lift.memory.compact import Compaction, Slots, compact
from lift.memory.compact_memory import CompactMemory
from lift.memory.document_cache import KeysValues, keys_and_values
from lift.memory.reference_queries import by_head, observe
from lift.memory.tuner import layers
from lift.training import checkpoint
from lift.training.batches import AnswerEncoder
from lift.training.job import FitJob, answerable, check_questions
from lift.training.recipes import Recipe
from lift.training.reference_rows import ReferenceRows
from lift.training.refinement import Refinement
from longthread.errors import ConfigError
from longthread.files import replacing
from longthread.language_model import AdaptedLM, ModelConfig

ADAPTER = "default"
OVERLAP = 8  # a segment shares one part in so many with the next: a fact, or a link, stands whole in one of them
ROOM = 2048  # positions of the model's window that a segment leaves for prompts, at most; a quarter of a short window
LEAST_QUERIES = 2048  # reference tokens of each kind, where the document has fewer itself
ASKED = 2.5  # tokens of questions that are read, for each that is kept
GROWING = ("dynamic", "longrope")  # kinds of RoPE whose frequencies depend on how long the row is
STORED = ("keys", "biases", "values")


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


def check_share(share: float) -> None:
    """Raise `ConfigError` for a memory that would be larger than the document's keys and values, or have nothing in it."""
    if not 0 < share <= 1:
        raise ConfigError(
            f"share must be above 0 and at most 1, all of the document's keys and values (got {share:g})",
            setting="share",
        )


def spans_of(tokens: int, most: int, config: ModelConfig) -> list[range]:
    """Return a document's segments: of `most` tokens, or of what the model's window leaves room for."""
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or most + ROOM
    length = max(1, min(most, window - min(ROOM, window // 4)))
    return segments(tokens, length, max(1, length - length // OVERLAP))


@dataclass(frozen=True)
class SegmentMemory:
    """The memory of one segment: flat keys, biases and values of each layer, and how many each key/value head has."""

    keys: list[Tensor]
    biases: list[Tensor]
    values: list[Tensor]
    slots: list[list[int]]

    @classmethod
    def of(cls, heads: Sequence[Slots], n_layers: int) -> "SegmentMemory":
        """Put the slots of all layers' heads together, layer by layer, in the computer's own memory."""
        per_layer = len(heads) // n_layers
        by_layer = [heads[first : first + per_layer] for first in range(0, len(heads), per_layer)]
        keys, biases, values = ([torch.cat([head[i] for head in part]).cpu() for part in by_layer] for i in range(3))
        return cls(keys, biases, values, [[len(head.b_S) for head in part] for part in by_layer])

    @classmethod
    def held_by(cls, model: AdaptedLM) -> "SegmentMemory":
        """Return the memory of the one segment that the model's adapter holds."""
        memories = [cast(CompactMemory, layer.gm_memory[ADAPTER]) for layer in layers(model)]
        keys, biases, values = ([getattr(memory, name).detach().cpu() for memory in memories] for name in STORED)
        return cls(keys, biases, values, [memory.slots[0] for memory in memories])

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
                keys, biases, values = ([file.get_tensor(f"{n}.{i}") for i in range(len(slots))] for n in STORED)
                return cls(keys, biases, values, slots)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError):
            return None


def fit_compact(model: AdaptedLM, job: FitJob, spans: Sequence[range]) -> tuple[int, dict[str, float]]:
    """Fit the compact memory of a document with the segments `spans`, and put it into the model's adapter.

    Returns how many gradient steps were taken, and the last one's losses. Raises `ConfigError` where the recipe takes steps
    and no question can be made of the document, and `RunError` for a memory that cannot be computed.
    """
    encoder = AnswerEncoder(job.document, job.tokenizer, model)
    rows = ReferenceRows(job, model, encoder, len(spans))
    if job.recipe.steps:
        check_questions(rows.items, job.document.name)
    out = job.options.out
    # All digests first: they cover the model's weights, of which the memory that is being made is one.
    made = [
        _Segment(span, out / f"checkpoint-segment-{number}.safetensors", _digest(model, job, span))
        for number, span in enumerate(spans)
    ]
    refinement: Refinement | None = None
    done = []
    for segment in tqdm(made, desc=job.document.name, unit="segment", disable=not job.options.progress):
        memory = SegmentMemory.load(segment.path, segment.digest)
        if memory is None:
            memory = segment.closed_form(job.recipe) or _segment_memory(model, job, rows, segment.span)
            if job.recipe.steps:
                refinement = refinement or Refinement(model, job)
                memory = _refined(model, refinement, rows, segment, memory)
            if len(spans) > 1:
                out.mkdir(parents=True, exist_ok=True)
                memory.save(segment.path, segment.digest)
        done.append(memory)
    _fill(model, done)
    if len(spans) > 1:
        stretches = [encoder.spans.characters((span.start, span.stop)) for span in spans]
        segment_terms.write(out, [job.document.text[start:end] for start, end in stretches])
    return (refinement.steps, refinement.losses) if refinement else (0, {})


class _Segment(NamedTuple):
    """A segment that is being fitted: its tokens, the file that keeps its memory, and the digest of its fit."""

    span: range
    path: Path
    digest: str

    @property
    def closed(self) -> str:
        """The digest under which the file keeps the closed form, until all steps are taken."""
        return f"{self.digest} closed form"

    def closed_form(self, recipe: Recipe) -> SegmentMemory | None:
        """Return the memory before the first step, if a fit was killed behind it."""
        return SegmentMemory.load(self.path, self.closed) if recipe.steps else None


def _refined(
    model: AdaptedLM, refinement: Refinement, rows: ReferenceRows, segment: _Segment, memory: SegmentMemory
) -> SegmentMemory:
    """Return the segment's memory after the gradient steps on its questions; the same where it has none."""
    items = rows.questions(segment.span)
    if not answerable(items):
        return memory
    segment.path.parent.mkdir(parents=True, exist_ok=True)
    memory.save(segment.path, segment.closed)  # made again, its slots might be others, and no step would fit
    _fill(model, [memory])
    refinement.run([rows.encoder.row(item) for item in items], segment.digest)
    return SegmentMemory.held_by(model)


def _digest(model: AdaptedLM, job: FitJob, span: range) -> str:
    asked = [[item.question, item.answer] for item in job.options.questions]
    parts = [asdict(job.recipe), job.document.digest, job.document.name, job.options.seed, span.start, span.stop, asked]
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
    return SegmentMemory.of(compact(by_head(queries, kv_heads), k_GTD, v_GTD, how), len(scales))


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


@torch.no_grad()
def _fill(model: Any, parts: Sequence[SegmentMemory]) -> None:
    """Replace the empty memories of the adapter by those of all segments, and state their slots in its config."""
    config = model.peft_config[ADAPTER]
    config.slots = {}
    for i, layer in enumerate(layers(model)):
        slots = config.slots[str(layer.index)] = [part.slots[i] for part in parts]
        memory = CompactMemory(layer.heads, parts[0].keys[i].shape[-1], slots, _dtype(model))
        for name in STORED:
            getattr(memory, name).copy_(torch.cat([getattr(part, name)[i] for part in parts]))
        layer.gm_memory[ADAPTER] = memory.to(model.device)
        layer.set_adapter([ADAPTER], inference_mode=True)
