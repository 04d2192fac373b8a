"""Teachers' targets, computed before training: the base model's logits on other text and on questions with the document in
its window, and its attention over the whole document."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

import torch
from tqdm import tqdm

from lift.inference.generate import chat, index_batches
from lift.memory.distillation import Observed, Regression, Teacher, distil
from lift.memory.tuner import layers, right_padded
from lift.training.batches import AnyRow, Row, SupervisedRow, padded, places, present, row_batches
from lift.training.job import FitJob
from lift.training.losses import TopLogits, logits_at, top_logits
from longthread.language_model import AdaptedLM
from longthread.model_shape import head_size

OBSERVED_ROWS = 256  # that the teacher of attention reads
OBSERVED_BYTES = 8 * 2**30  # of what it is shown, at most; 190 KB a token of SmolLM2-135M, 1.6 MB of Llama-3.1-8B
LONG_ROWS = 16  # of each kind of long row that it reads beside questions
DISTIL_BATCH = {"cuda": 2048}  # tokens of a step, whose time there is the host's launches
SINK_TOKENS = 4  # at the start of a prompt, which take the attention that a model has to spare


@torch.no_grad()
def with_teacher(model: AdaptedLM, rows: Sequence[AnyRow], tokens: int, progress: bool) -> list[AnyRow]:
    """Return the rows with the base model's logits; for questions, with the document in the window.

    `tokens` is the size of a batch.
    """
    taught = list(rows)
    read = [row.open_book or row if isinstance(row, SupervisedRow) else row for row in rows]
    batches = index_batches([len(row.ids) for row in read], 0, tokens)
    hidden = not (progress and rows)
    with model.disable_adapter(), right_padded(model):
        for batch in tqdm(batches, desc="asking the base model", unit="batch", disable=hidden, leave=False):
            part = [read[i] for i in batch]
            ids_BL = padded(part, model.device)
            at = torch.tensor(sum(places(part, ids_BL.shape[1]), []), device=model.device)
            logits = top_logits(logits_at(model, ids_BL, at))
            of_rows = (x.split([len(row.predicted_at) for row in part]) for x in logits)
            for i, *teacher in zip(batch, *of_rows, strict=True):
                taught[i] = replace(rows[i], teacher=TopLogits(*teacher))
    return taught


def distil_attention(model: AdaptedLM, job: FitJob, name: str, tokens: int, progress: bool) -> dict[str, float]:
    """Train the memories `name` to give the attention of the model that has the document beside its window.

    The teacher reads questions, and some long rows and other text too: a memory stays open wherever it was never shown
    that there is nothing to find. `tokens` is the size of a batch. Returns the figures of `distil`.
    """
    rows: list[Row] = [*job.rows.tasks]
    for long_rows in (job.rows.beside, job.rows.reading, job.rows.prose):
        rows += long_rows[:LONG_ROWS]
    Random(job.options.seed).shuffle(rows)
    prefix = chat(job.tokenizer, job.document.name, "")[:SINK_TOKENS]  # how any question begins
    teacher = Teacher.read(model, prefix, job.ids, job.recipe.piece)
    seen = []
    batches = list(row_batches(within_memory(model, rows[:OBSERVED_ROWS]), tokens))
    for batch in tqdm(batches, desc="reading with the document", unit="batch", disable=not progress, leave=False):
        ids_BL = padded(batch, model.device)
        seen.append(teacher.logits(ids_BL, present(batch, ids_BL))[1])
    joined = [Observed(*(torch.cat(x, 1) for x in zip(*parts, strict=True))) for parts in zip(*seen, strict=True)]
    del seen
    batch_tokens = DISTIL_BATCH.get(model.device.type, 512)
    return distil(
        model, joined, name, Regression(job.recipe.distil_steps, job.recipe.distil_rate, batch_tokens, progress)
    )


def within_memory(model: AdaptedLM, rows: Sequence[Row]) -> Sequence[Row]:
    """Return as many rows from the first on, at least one, as `OBSERVED_BYTES` can hold `Observed` records of."""
    heads = len(layers(model)) * model.config.get_text_config().num_attention_heads
    room = OBSERVED_BYTES // (4 * heads * (3 * head_size(model.config) + 2))
    return rows[: max(1, bisect_right(list(accumulate(len(row.ids) for row in rows)), room))]
