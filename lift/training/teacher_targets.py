"""What teachers say and see, before training: the base model on other text and on questions with the document in its window,
and its attention over the whole document."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any

import torch
from tqdm import tqdm

from lift.inference import generate
from lift.memory.gated_memory import Observed
from lift.memory.tuner import layers
from lift.training.batches import Row, batches, padded, present, supervised
from lift.training.losses import Teacher, Top, distil, logits_at, top
from lift.training.recipes import Recipe
from longthread.model_shape import head_size

OBSERVED_ROWS = 256  # that the teacher reads
OBSERVED_BYTES = 8 * 2**30  # of what it is shown, at most; 190 KB a token of SmolLM2-135M, 1.6 MB of Llama-3.1-8B
DISTIL_BATCH = {"cuda": 2048}  # tokens of a step, whose time there is the host's launches
SINK_TOKENS = 4  # at the start of a prompt, which take the attention that a model has to spare


@torch.no_grad()
def taught(model: Any, rows: Sequence[Row], tokens: int, progress: bool) -> list[Row]:
    """Rows, all of other text or none, with what the base model says: of questions, with the document open. `tokens`: of a
    batch."""
    made = list(rows)
    read = [row.open_book or row for row in rows]
    parts = generate.batches([len(row.ids) for row in read], 0, tokens)
    with model.disable_adapter():
        for part in tqdm(
            parts, desc="asking the base model", unit="batch", disable=not (progress and rows), leave=False
        ):
            batch = [read[i] for i in part]
            ids = padded(batch, model.device)
            told = top(logits_at(model, ids, supervised(batch, ids.shape[1], model.device).at))
            each = zip(*(x.split([row.places for row in batch]) for x in told), strict=True)
            for i, those in zip(part, each, strict=True):
                made[i] = replace(rows[i], taught=Top(*those))
    return made


def goal(rows: Sequence[Row], device: torch.device, room: int = 0) -> Top:
    """What rows were taught, at the places of `supervised`: at answers, filled up to `room`, and on other text."""
    told = [row.taught for row in rows if row.taught and not row.kept]
    if told:
        spare = max(0, room - sum(len(each.ids) for each in told))
        told.append(Top(*(x.new_zeros(spare, x.shape[1]) for x in told[0])))
    told += [row.taught for row in rows if row.taught and row.kept]
    if not told:
        nothing = torch.zeros(0, 1, device=device)
        return Top(nothing.long(), nothing)
    return Top(*(torch.cat(parts) for parts in zip(*told, strict=True)))


def distilled(
    model: Any, prompt: Sequence[int], ids: Sequence[int], rows: Sequence[Row], name: str, recipe: Recipe, seed: int,
    tokens: int, progress: bool,
) -> dict[str, float]:  # fmt: skip
    """Attention distillation of the adapter `name` on rows as the model that has the document, `ids`, beside its window
    reads them. `prompt`: how any question begins."""
    read = list(rows)
    Random(seed).shuffle(read)
    teacher = Teacher.read(model, prompt[:SINK_TOKENS], ids, recipe.piece)
    seen = []
    parts = list(batches(within_memory(model, read[:OBSERVED_ROWS]), tokens))
    for batch in tqdm(parts, desc="reading with the document", unit="batch", disable=not progress, leave=False):
        ids_BL = padded(batch, model.device)
        seen.append(teacher.logits(ids_BL, present(batch, ids_BL))[1])
    joined = [Observed(*(torch.cat(x, 1) for x in zip(*each, strict=True))) for each in zip(*seen, strict=True)]
    del seen
    batch = DISTIL_BATCH.get(model.device.type, 512)
    return distil(model, joined, name, recipe.distil_steps, recipe.distil_rate, batch, progress)


def within_memory(model: Any, rows: Sequence[Row]) -> Sequence[Row]:
    """As many rows, at least one, as `OBSERVED_BYTES` hold of `Observed`."""
    heads = len(layers(model)) * model.config.get_text_config().num_attention_heads
    room = OBSERVED_BYTES // (4 * heads * (3 * head_size(model.config) + 2))
    return rows[: max(1, bisect_right(list(accumulate(len(row.ids) for row in rows)), room))]
