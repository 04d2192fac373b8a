"""One segment of a document in closed form: read once, asked by its reference rows, compacted (`lift.memory.compact`)."""

import time
from collections.abc import Sequence
from typing import cast

import torch

from lift.inference.capacity import read_tokens, synchronize
from lift.inference.generate import before_text
from lift.memory.compact import Compaction, compact, slots
from lift.memory.compact_memory import CompactMemory
from lift.memory.document_cache import KeysValues, keys_and_values
from lift.memory.reference_queries import ExactMemory, Queries, Recall, Shares, by_head, observe
from lift.memory.tuner import layers
from lift.training.batches import row_batches
from lift.training.job import FitJob
from lift.training.reference_rows import ReferenceRows
from lift.training.segment_memory import ADAPTER, SegmentMemory
from longthread.language_model import AdaptedLM

LEAST_QUERIES = 2048  # reference tokens of each kind, where the document has fewer itself
ASKED = 2.5  # tokens of questions that are read, for each that is kept


@torch.no_grad()
def closed_form(model: AdaptedLM, job: FitJob, rows: ReferenceRows, span: range) -> SegmentMemory:
    """Read one segment and return its memory."""
    recipe, dtype = job.recipe, cast(CompactMemory, layers(model)[0].gm_memory[ADAPTER]).dtype
    # The prefix takes what a model spends on its first tokens; the window has its own.
    prefix = [] if recipe.read_alone else before_text(job.tokenizer)
    ids = [*prefix, *job.ids[span.start : span.stop]]
    began = time.perf_counter()
    whole = keys_and_values(model, ids, -len(ids))
    synchronize(model.device)
    job.reading.seconds += time.perf_counter() - began
    job.reading.tokens += len(ids)
    document = [KeysValues(read.k_KTD[:, len(prefix) :], read.v_KTD[:, len(prefix) :]) for read in whole]
    recalls: list[Recall] = [ExactMemory(*each) for each in zip(document, layers(model), strict=True)]
    queries = _observed(model, job, rows, span, recalls)
    scales = [layer.probe.scale for layer in layers(model)]  # which the first pass has found
    k_GTD = torch.cat([scale * each.k_KTD for scale, each in zip(scales, document, strict=True)]).to(dtype)
    v_GTD = torch.cat([each.v_KTD for each in document]).to(dtype)
    how = Compaction(
        slots(recipe.share, *k_GTD.shape),
        recipe.bias_ridge,
        recipe.value_ridge,
        recipe.quiet_weight,
        recipe.biases,
        recipe.values,
    )
    heads = compact(by_head(queries, document[0].k_KTD.shape[0]), k_GTD, v_GTD, how)
    return SegmentMemory.of(heads, len(scales), span.start, dtype)


def _observed(
    model: AdaptedLM, job: FitJob, rows: ReferenceRows, span: range, recalls: Sequence[Recall]
) -> list[tuple[list[Queries], bool]]:
    """Return the queries of each kind of reference rows, and whether they should hear the document.

    What should not hear it is read without it.
    """
    recipe = job.recipe
    kept = min(recipe.queries, max(LEAST_QUERIES, len(span)))
    asked = rows.asked(span, int(ASKED * kept))
    again_weight = recipe.again_weight if asked else 1.0  # all that is known of a text without questions
    kinds = [
        (asked, True, 1.0),
        (rows.again(span) if again_weight else [], True, again_weight),
        (rows.quiet(span, kept) if recipe.quiet_weight else [], False, 1.0),  # `compact` weighs these
    ]
    queries = []
    for part, heard, weight in kinds:
        if part:
            batches, share = row_batches(part, read_tokens(model)), Shares.of(part, kept)
            seen = observe(model, batches, recalls if heard else None, share, job.options.seed)
            queries.append(([each._replace(weight_NH=weight * each.weight_NH) for each in seen], heard))
    return queries
