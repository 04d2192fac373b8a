"""Make training rows of a document's questions and segments, and batches of rows.

B: rows, L: tokens they are padded to, N: tokens of answers, M: tokens of regularisation rows, K: a teacher's top tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lift.document import segments
from lift.document.document import Document
from lift.document.segments import IGNORED
from lift.document.token_spans import TokenSpans
from lift.inference.generate import chat, index_batches, stop_token_ids
from lift.memory.reference_queries import ReferenceRow
from lift.tasks import Item
from lift.training.losses import TopLogits
from lift.training.recipes import Recipe
from longthread.language_model import CausalLM, ChatTokenizer

WIDTHS = (128, 256, 512, 1024)  # tokens to which rows are padded; each is captured by itself, in a second
LONG = WIDTHS[-1]  # of a row with a text in its window: what is learnt at 128 does not hold at 1,024
WINDOW = (64, LONG - 192)  # tokens of the document beside a question


@dataclass(frozen=True)
class SupervisedRow:
    """A token sequence to learn, with a label for each token.

    `open_book` holds the same question and answer with the document in the window, which the teacher reads. `teacher`
    holds the teacher's logits at `predicted_at`.
    """

    ids: Sequence[int]
    labels: Sequence[int]
    open_book: "SupervisedRow | None" = None
    teacher: TopLogits | None = None

    @property
    def predicted_at(self) -> list[int]:
        """Return the positions whose next token is learnt."""
        return [t for t, label in enumerate(self.labels[1:]) if label != IGNORED]


@dataclass(frozen=True)
class RegularizationRow:
    """A sequence of other text, on whose last `kept` tokens the model should predict as before.

    `teacher` holds the base model's logits there.
    """

    ids: Sequence[int]
    kept: int
    teacher: TopLogits | None = None

    @property
    def predicted_at(self) -> range:
        """Return the positions of the last `kept` tokens, where the model should predict as before."""
        return range(len(self.ids) - self.kept, len(self.ids))


Row = SupervisedRow | RegularizationRow
AnyRow = TypeVar("AnyRow", bound=Row | ReferenceRow)
EMPTY = SupervisedRow([0], [IGNORED])


def task_rows(
    items: Sequence[Item], document: Document, tokenizer: ChatTokenizer, model: CausalLM, open_tokens: int = 0
) -> list[SupervisedRow]:
    """Return a training row for each question with its answer. The loss is on the answer and the token that ends it.

    With `open_tokens`, each row has an `open_book`: the same question behind so many tokens of the document around the
    evidence.
    """
    encode = AnswerEncoder(document, tokenizer, model)
    rows = [encode.row(item) for item in items]
    if not open_tokens:
        return rows
    return [
        replace(row, open_book=encode.row(item, encode.spans.window_around(item.evidence, open_tokens)))
        for row, item in zip(rows, items, strict=True)
    ]


def rows_beside_text(
    items: Sequence[Item], document: Document, tokenizer: ChatTokenizer, model: CausalLM, rng: Random
) -> list[SupervisedRow]:
    """Return a row for each question behind a random piece of the document: half with the evidence, half without."""
    encode = AnswerEncoder(document, tokenizer, model)
    pieces = (encode.spans.window_around, encode.spans.window_without)
    return [encode.row(item, rng.choice(pieces)(item.evidence, rng.randint(*WINDOW))) for item in items]


class AnswerEncoder:
    """Encodes questions about one document as training rows. `spans` is the document in tokens."""

    def __init__(self, document: Document, tokenizer: ChatTokenizer, model: CausalLM):
        self.name, self.tokenizer = document.name, tokenizer
        self.spans = TokenSpans.encode(tokenizer, document.text)
        self._stop = stop_token_ids(model, tokenizer)[:1]

    def row(self, item: Item, window: str = "") -> SupervisedRow:
        """Return the training row of a question, with the text `window` before it, and its answer."""
        prompt = chat(self.tokenizer, self.name, item.question, window)
        answer = [*self.tokenizer(item.answer, add_special_tokens=False)["input_ids"], *self._stop]
        return SupervisedRow([*prompt, *answer], [IGNORED] * len(prompt) + answer)


def segment_rows(ids: Sequence[int], tokenizer: ChatTokenizer, recipe: Recipe, rng: Random) -> list[SupervisedRow]:
    """Return a training row for each segment of the document, behind context where the recipe says so."""
    spans = segments.segments(len(ids), recipe.segment, recipe.stride)
    if recipe.contextualised:
        context = segments.Context.of(tokenizer)
        return [SupervisedRow(*segments.contextualised(ids, span, rng, context)) for span in spans]
    return [SupervisedRow(*segments.plain(ids, span)) for span in spans]


# ---- batches ----------------------------------------------------------------------------------------------------


def row_batches(rows: Sequence[AnyRow], tokens: int) -> Iterator[list[AnyRow]]:
    """Yield batches of rows of similar length, longest first. A padded batch has at most `tokens` tokens."""
    for batch in index_batches([len(row.ids) for row in rows], 0, tokens):
        yield [rows[i] for i in batch]


def bucketed(rows: Sequence[AnyRow], size: int, rng: Random) -> list[tuple[int, list[AnyRow]]]:
    """Group rows into steps of `size` rows of similar length, in random order; return each step's width and rows.

    Rows left over of one width go to the next, so that at most one step is smaller.
    """
    steps: list[tuple[int, list[AnyRow]]] = []
    remaining = sorted(rows, key=lambda row: len(row.ids))
    bucket: list[AnyRow] = []
    for width in (*WIDTHS, padded_width(len(remaining[-1].ids) if remaining else 0)):
        while remaining and len(remaining[0].ids) <= width:
            bucket.append(remaining.pop(0))
        rng.shuffle(bucket)
        while len(bucket) >= size:
            steps.append((width, bucket[:size]))
            bucket = bucket[size:]
    if bucket:
        steps.append((padded_width(max(len(row.ids) for row in bucket)), bucket))
    rng.shuffle(steps)
    return steps


def padded_width(longest: int) -> int:
    """Return the width to pad rows to, given the length of the longest: one of `WIDTHS`, else a multiple of 8."""
    return next((width for width in WIDTHS if width >= longest), _multiple_of_8(longest))


def _multiple_of_8(tokens: int) -> int:
    return -(-tokens // 8) * 8


def padded(rows: Sequence[Row], device: torch.device, width: int = 0) -> Tensor:
    """Return the token ids of the rows as one tensor, (batch, width), padded on the right.

    The width is `width`, or if 0 the next multiple of 8 for the longest row. At odd lengths cuDNN 9.19 (torch 2.11)
    computes gradients of attention silently wrong.
    """
    width = width or _multiple_of_8(max(len(row.ids) for row in rows))
    return torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows]).to(device)


def present(rows: Sequence[Row], ids_BL: Tensor) -> Tensor:
    """Return a mask of padded rows, (batch, length): 1 where a row has a token, 0 behind its end."""
    lengths = torch.tensor([len(row.ids) for row in rows], device=ids_BL.device)
    return (torch.arange(ids_BL.shape[1], device=ids_BL.device) < lengths[:, None]).long()


def places(rows: Sequence[Row], width: int) -> list[list[int]]:
    """Return for each row the positions where it predicts something.

    Positions are counted over all rows, padded to `width` and joined end to end.
    """
    return [[i * width + t for t in row.predicted_at] for i, row in enumerate(rows)]


class Batch(NamedTuple):
    """A batch of padded rows, supervised ones first, with the positions of all predictions and their targets.

    Positions that fill N up to a fixed shape have the target `IGNORED`. Without a teacher, its tensors are empty.
    """

    ids_BL: Tensor
    answer_at_N: Tensor
    answer_N: Tensor  # the next token at these places
    answer_top_NK: Tensor  # the teacher's tokens there
    answer_log_p_NK: Tensor
    quiet_at_M: Tensor
    quiet_weight_M: Tensor  # every regularisation row counts as much
    quiet_top_MK: Tensor
    quiet_log_p_MK: Tensor

    @property
    def at(self) -> Tensor:
        """Return the positions of all predictions, those of answers first, (N + M)."""
        return torch.cat([self.answer_at_N, self.quiet_at_M])


def collate(
    supervised: Sequence[SupervisedRow],
    regularization: Sequence[RegularizationRow],
    device: torch.device,
    width: int = 0,
    answer_room: int = 0,
) -> Batch:
    """Make a batch of these rows on the device, padded to `width` (0: to the longest row).

    The batch has at least `answer_room` answer positions; those without an answer have the target `IGNORED`.
    """
    rows: list[Row] = [*supervised, *regularization]
    ids_BL = padded(rows, device, width)
    at = places(rows, ids_BL.shape[1])
    answer_at, quiet_at = (sum(part, []) for part in (at[: len(supervised)], at[len(supervised) :]))
    answer = [row.labels[t + 1] for row in supervised for t in row.predicted_at]
    filling = max(0, answer_room - len(answer_at))
    answer_at_N = torch.tensor([*answer_at, *[0] * filling], dtype=torch.long)
    answer_N = torch.tensor([*answer, *[IGNORED] * filling], dtype=torch.long)
    quiet_at_M = torch.tensor(quiet_at, dtype=torch.long)
    quiet_weight_M = torch.tensor([1 / row.kept for row in regularization for _ in range(row.kept)])
    return Batch(
        ids_BL, answer_at_N.to(device), answer_N.to(device), *_teachers(supervised, device, filling),
        quiet_at_M.to(device), quiet_weight_M.to(device), *_teachers(regularization, device),
    )  # fmt: skip


def _teachers(rows: Sequence[Row], device: torch.device, filling: int = 0) -> TopLogits:
    teachers = [row.teacher for row in rows if row.teacher]
    if not teachers:
        nothing = torch.zeros(0, 1, device=device)
        return TopLogits(nothing.long(), nothing)
    teachers.append(TopLogits(*(x.new_zeros(filling, x.shape[1]) for x in teachers[0])))
    return TopLogits(*(torch.cat(parts) for parts in zip(*teachers, strict=True)))
