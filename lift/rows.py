"""Training rows: a document's questions and segments, and other text on which the model is to stay as it was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from random import Random
from typing import Any

import torch
from torch import Tensor

from environments.haystack import prose
from environments.haystack.facts import BY_KIND, WORDS, Fact, draw_entity, draw_value, state
from lift import asking, segments
from lift.asking import answers, chat, ends
from lift.documents import Document
from lift.objectives import Top
from lift.placed import Placed
from lift.recipes import Recipe
from lift.segments import IGNORED
from lift.tasks import Item

QUIET_TOKENS = 128  # of a row of other text
WINDOW_TOKENS = 128  # of the document beside a question: with the question, one of `WIDTHS`
REPLY_TOKENS = 24  # of the base model's reply to a question that has nothing to do with any document
WIDTHS = (128, 256, 512)  # tokens to which steps of questions are padded; each is captured by itself, in a second


@dataclass(frozen=True)
class Row:
    """A sequence to learn, or one (`quiet`) on which the model is to stay as it was. `open_book`: the same answer with the
    document in the window. `taught`: what a teacher says at the places of `supervised`."""

    ids: Sequence[int]
    labels: Sequence[int]
    quiet: bool = False
    open_book: "Row | None" = None
    taught: Top | None = None

    @property
    def places(self) -> int:
        return QUIET_TOKENS if self.quiet else sum(label != IGNORED for label in self.labels[1:])


EMPTY = Row([0], [IGNORED])


def task_rows(
    items: Sequence[Item], document: Document, tokenizer: Any, model: Any, recipe: Recipe, seed: int
) -> list[Row]:
    """Questions with their answers; the loss is on the answer and the mark that ends it. A share of them is asked a second
    time beside a piece of the document, every other time one without the evidence."""
    stop, rng = ends(model, tokenizer)[:1], Random(f"windows {seed}")
    placed = Placed(tokenizer, document.text)
    rows = []
    for item in items:
        said = [*tokenizer(item.answer, add_special_tokens=False)["input_ids"], *stop]
        texts = [""]
        if rng.random() < recipe.window_share:
            texts.append(rng.choice((placed.around, placed.away))(item.evidence, WINDOW_TOKENS))
        asked = [_answered(chat(tokenizer, document.name, item.question, text), said) for text in texts]
        if recipe.learnt == "logits":
            evidence = placed.around(item.evidence, recipe.open_tokens)
            opened = _answered(chat(tokenizer, document.name, item.question, evidence), said)
            asked = [replace(row, open_book=opened) for row in asked]
        rows += asked
    return rows


def _answered(prompt: Sequence[int], said: Sequence[int]) -> Row:
    return Row([*prompt, *said], [IGNORED] * len(prompt) + list(said))


def segment_rows(ids: Sequence[int], tokenizer: Any, recipe: Recipe, rng: Random) -> list[Row]:
    spans = segments.segments(len(ids), recipe.segment, recipe.stride)
    if recipe.contextualised:
        joints = segments.joints(tokenizer)
        made = [segments.contextualised(ids, span, rng, joints) for span in spans]
    else:
        made = [segments.plain(ids, span) for span in spans]
    return [Row(each.ids, each.labels) for each in made]


# ---- other text -------------------------------------------------------------------------------------------------


def quiet_rows(model: Any, tokenizer: Any, rows: int, seed: int) -> list[Row]:
    """Rows of `QUIET_TOKENS`, half of them fiction, half questions that are not about the document with the base model's own
    replies, or a model that is taught nothing but a document's answers gives them to everything."""
    rng = Random(f"quiet {seed}")
    prompts = [_stranger(tokenizer, rng) if i % 2 else _general(tokenizer, rng) for i in range(rows)]
    replies = answers(model, tokenizer, prompts, REPLY_TOKENS)
    stop = ends(model, tokenizer)[:1]
    talks = (
        [*p, *tokenizer(r, add_special_tokens=False)["input_ids"], *stop] for p, r in zip(prompts, replies, strict=True)
    )
    story = (
        tokenizer(prose.join(passage) + "\n\n", add_special_tokens=False)["input_ids"]
        for passage in prose.passages(1_000_000 + seed, "train")
    )
    sources = [_parts(story), _parts(iter(cycle(list(talks))))]
    return [Row(next(sources[i % 2]), [IGNORED] * QUIET_TOKENS, quiet=True) for i in range(rows)]


def _parts(texts: Iterator[list[int]]) -> Iterator[list[int]]:
    held: list[int] = []
    for ids in texts:
        held += ids
        while len(held) >= QUIET_TOKENS:
            yield held[:QUIET_TOKENS]
            held = held[QUIET_TOKENS:]


GENERAL = (
    ("sums", lambda rng: f"What is {rng.randrange(2, 60)} plus {rng.randrange(2, 60)}?"),
    ("words", lambda rng: f"Use the word {rng.choice(WORDS)} in a sentence."),
    ("everyday things", lambda rng: f"What is {rng.choice(WORDS)} used for?"),
    ("languages", lambda rng: f"What is the French word for {rng.choice(WORDS)}?"),
    ("the world", lambda rng: f"Where would one find {rng.choice(WORDS)}?"),
)


def _general(tokenizer: Any, rng: Random) -> list[int]:
    name, ask = rng.choice(GENERAL)
    return chat(tokenizer, name, ask(rng))


def _stranger(tokenizer: Any, rng: Random) -> list[int]:
    """About another text, which stands in the window."""
    kind = rng.choice(sorted(BY_KIND))
    fact = Fact(draw_entity("train", False, rng), BY_KIND[kind].name, draw_value(kind, "train", rng))
    story = next(iter(prose.passages(rng.randrange(10**9), "train")))
    sentences = [sentence for paragraph in story for sentence in paragraph][: rng.randrange(1, 4)]
    sentences.insert(rng.randrange(len(sentences) + 1), state(fact, False, rng))
    question = BY_KIND[kind].asked.format(e=fact.entity.asked, s="", is_="is")
    return chat(tokenizer, f"letter {rng.randrange(1000)}", question, " ".join(sentences))


# ---- batches ----------------------------------------------------------------------------------------------------


def batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, longest first, at most so many tokens when padded."""
    for batch in asking.batches([len(row.ids) for row in rows], 0, tokens):
        yield [rows[i] for i in batch]


def bucketed(rows: Sequence[Row], size: int, rng: Random) -> list[tuple[int, list[Row]]]:
    """All rows in steps of `size`, each with the width it is padded to, in random order. What is left over of a width goes
    to the next, so that one step at most is smaller."""
    made: list[tuple[int, list[Row]]] = []
    left = sorted(rows, key=lambda row: len(row.ids))
    here: list[Row] = []
    for width in (*WIDTHS, -(-max((len(row.ids) for row in rows), default=0) // 8) * 8):
        while left and len(left[0].ids) <= width:
            here.append(left.pop(0))
        rng.shuffle(here)
        while len(here) >= size:
            made.append((width, here[:size]))
            here = here[size:]
    if here:
        longest = max(len(row.ids) for row in here)
        made.append((next((width for width in WIDTHS if width >= longest), -(-longest // 8) * 8), here))
    rng.shuffle(made)
    return made


def padded(rows: Sequence[Row], device: torch.device, width: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, L), padded on the right: L is `width`, or that of the longest row."""
    width = width or max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    return ids.to(device), mask.to(device)


def supervised(rows: Sequence[Row], width: int, device: torch.device, room: int = 0) -> tuple[Tensor, Tensor]:
    """Where padded rows predict something, as places of the rows one after the other, and the tokens to predict: `room` of
    them, filled up with `IGNORED`, or as many as there are. Behind these stand the places of other text, without a token."""
    at = [i * width + t for i, row in enumerate(rows) for t, label in enumerate(row.labels[1:]) if label != IGNORED]
    targets = [label for row in rows for label in row.labels[1:] if label != IGNORED]
    spare = max(0, room - len(at))
    quiet = [i * width + t for i, row in enumerate(rows) if row.quiet for t in range(QUIET_TOKENS)]
    places = torch.tensor([*at, *[0] * spare, *quiet], dtype=torch.long)
    return places.to(device), torch.tensor([*targets, *[IGNORED] * spare], dtype=torch.long).to(device)
