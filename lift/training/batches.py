"""Training rows: a document's questions and segments, and how rows become batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lift.document import segments
from lift.document.document import Document
from lift.document.segments import IGNORED
from lift.document.token_spans import Placed
from lift.inference import generate
from lift.inference.generate import chat, ends
from lift.tasks import Item
from lift.training.losses import Top
from lift.training.recipes import Recipe

WIDTHS = (128, 256, 512, 1024)  # tokens to which rows are padded; each is captured by itself, in a second
LONG = WIDTHS[-1]  # of a row with a text in its window: what is learnt at 128 does not hold at 1,024
WINDOW = (64, LONG - 192)  # tokens of the document beside a question


@dataclass(frozen=True)
class Row:
    """A sequence to learn, or one on whose last `kept` tokens the model is to stay as it was. `open_book`: the same answer
    with the document in the window. `taught`: what a teacher says at the places of `supervised`."""

    ids: Sequence[int]
    labels: Sequence[int]
    kept: int = 0
    open_book: "Row | None" = None
    taught: Top | None = None

    @property
    def places(self) -> int:
        return self.kept or sum(label != IGNORED for label in self.labels[1:])


EMPTY = Row([0], [IGNORED])


def task_rows(
    items: Sequence[Item], document: Document, tokenizer: Any, model: Any, recipe: Recipe, windows: Random | None = None
) -> list[Row]:
    """Questions with their answers; the loss is on the answer and the mark that ends it. `windows` draws a piece of the
    document to stand beside each, every other time one without the evidence."""
    stop, placed = ends(model, tokenizer)[:1], Placed(tokenizer, document.text)

    def answered(item: Item, window: str) -> Row:
        prompt = chat(tokenizer, document.name, item.question, window)
        said = [*tokenizer(item.answer, add_special_tokens=False)["input_ids"], *stop]
        return Row([*prompt, *said], [IGNORED] * len(prompt) + said)

    rows = []
    for item in items:
        piece = ""
        if windows:
            piece = windows.choice((placed.around, placed.away))(item.evidence, windows.randint(*WINDOW))
        row = answered(item, piece)
        if recipe.learnt == "logits":
            row = replace(row, open_book=answered(item, placed.around(item.evidence, recipe.open_tokens)))
        rows.append(row)
    return rows


def segment_rows(ids: Sequence[int], tokenizer: Any, recipe: Recipe, rng: Random) -> list[Row]:
    spans = segments.segments(len(ids), recipe.segment, recipe.stride)
    if recipe.contextualised:
        joints = segments.joints(tokenizer)
        made = [segments.contextualised(ids, span, rng, joints) for span in spans]
    else:
        made = [segments.plain(ids, span) for span in spans]
    return [Row(each.ids, each.labels) for each in made]


# ---- batches ----------------------------------------------------------------------------------------------------


def batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, longest first, at most so many tokens when padded."""
    for batch in generate.batches([len(row.ids) for row in rows], 0, tokens):
        yield [rows[i] for i in batch]


def bucketed(rows: Sequence[Row], size: int, rng: Random) -> list[tuple[int, list[Row]]]:
    """All rows in steps of `size`, each with the width it is padded to, in random order. What is left over of a width goes
    to the next, so that one step at most is smaller."""
    made: list[tuple[int, list[Row]]] = []
    left = sorted(rows, key=lambda row: len(row.ids))
    here: list[Row] = []
    for width in (*WIDTHS, padded_width(len(left[-1].ids) if left else 0)):
        while left and len(left[0].ids) <= width:
            here.append(left.pop(0))
        rng.shuffle(here)
        while len(here) >= size:
            made.append((width, here[:size]))
            here = here[size:]
    if here:
        made.append((padded_width(max(len(row.ids) for row in here)), here))
    rng.shuffle(made)
    return made


def padded_width(longest: int) -> int:
    return next((width for width in WIDTHS if width >= longest), _multiple(longest))


def _multiple(tokens: int) -> int:
    return -(-tokens // 8) * 8


def padded(rows: Sequence[Row], device: torch.device, width: int = 0) -> Tensor:
    """Ids, (B, L), padded on the right: L is `width`, or the next multiple of 8 for the longest row. At odd lengths cuDNN
    9.19 (torch 2.11) gets gradients of attention wrong, without a word."""
    width = width or _multiple(max(len(row.ids) for row in rows))
    return torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows]).to(device)


def present(rows: Sequence[Row], ids_BL: Tensor) -> Tensor:
    """Where padded rows have tokens, (B, L): 1, and 0 behind them."""
    lengths = torch.tensor([len(row.ids) for row in rows], device=ids_BL.device)
    return (torch.arange(ids_BL.shape[1], device=ids_BL.device) < lengths[:, None]).long()


class Places(NamedTuple):
    """Where padded rows predict something, as places of the rows one after the other: first those of answers, with the tokens
    to predict, then those of other text, with their weights: every row counts as much."""

    at: Tensor
    targets: Tensor
    weights: Tensor


def supervised(rows: Sequence[Row], width: int, device: torch.device, room: int = 0) -> Places:
    """Answers are filled up to `room` places with `IGNORED`."""
    at = [i * width + t for i, row in enumerate(rows) for t, label in enumerate(row.labels[1:]) if label != IGNORED]
    targets = [label for row in rows for label in row.labels[1:] if label != IGNORED]
    spare = max(0, room - len(at))
    kept = [
        i * width + t for i, row in enumerate(rows) for t in range(len(row.ids) - row.kept, len(row.ids)) if row.kept
    ]
    places = torch.tensor([*at, *[0] * spare, *kept], dtype=torch.long)
    wanted = torch.tensor([*targets, *[IGNORED] * spare], dtype=torch.long)
    weights = torch.tensor([1 / row.kept for row in rows for _ in range(row.kept)], dtype=torch.float32)
    return Places(places.to(device), wanted.to(device), weights.to(device))
