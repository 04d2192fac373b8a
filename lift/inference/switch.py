"""The switch: which of many memories have something to say to a prompt, by the heads that tell their own text from others.

The base model reads the question once. In head h, a memory stands against the window by its gap

    d_h = mean over the question's tokens of s_h(q) - LSE_W,h,   z = mean over heads of (d_h - mean_h) / sd_h              (1)

with mean and deviation of d_h on questions about other things. The memory says something if z is above a threshold: the 95th
percentile of other such questions (split conformal), so that one in twenty of these opens it. The heads are those whose gap
tells the memory's own questions from others best (AUROC). Heads tell what a question is like, words whom it names: `WORDS`
times the text's match with the question (`segment_terms`) is added.

N: tokens of a question, H: query heads, D: head dimension, S: slots, P: prompts, F: heads of all layers.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from lift.inference.generate import index_batches
from lift.library.compact_store import CompactStore
from lift.library.files import SWITCH
from lift.memory.document_cache import before_each, beginning, nothing_predicted, standing_in
from lift.memory.reference_queries import Kept, Queries, ReferenceLayer
from lift.memory.tuner import layers
from longthread.cache_argument import CACHE
from longthread.errors import DataError
from longthread.files import write_text
from longthread.language_model import AdaptedLM

HEADS = 8  # of more, most tell general questions from those about people, not these from each other
FALSE_ALARMS = 0.05  # of other text, that open a memory
LEAST_DEVIATION = 1e-3  # of a head's gap: a head that never moves says nothing
WORDS = 4.0  # of a match from 0 to 1; a name's near-duplicates match by a tenth or two
CLOSED = -1e3  # the least gap: a head without slots has none


class Switch(BaseModel):
    """The calibrated switch of one memory: `heads` as (layer, head), and (1)'s constants.

    `words` has mean and deviation by which a segment's match with a question is standardised: 0 and 1 / `WORDS`. In a memory
    that was fitted before texts had pieces they are those of BM25 scores over its segments, or None for a single segment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: list[tuple[int, int]]
    mean: list[float]
    deviation: list[float]
    threshold: float
    words: tuple[float, float] | None = None

    def save(self, folder: Path) -> None:
        """Write the switch beside its adapter."""
        write_text(folder / SWITCH, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Switch | None":
        """Return the switch of an adapter; None if it has none. Raises `DataError` for a damaged one."""
        path = folder / SWITCH
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise DataError(f"{path} is damaged: fit the document again", setting="replace") from None

    def score(self, gaps_PF: Tensor, words_P: Tensor | None = None) -> Tensor:
        """Return z of (1) for the gaps of prompts in `heads`, (P,), with a segment's matches with them, if it has any."""
        mean, deviation = torch.tensor(self.mean), torch.tensor(self.deviation)
        z_P = ((gaps_PF.cpu() - mean) / deviation).mean(-1)
        return z_P if self.words is None or words_P is None else z_P + (words_P - self.words[0]) / self.words[1]


# ---- gaps -------------------------------------------------------------------------------------------------------


class Question:
    """The token ids of a prompt, and which of them are the question's. A prompt's first token hears no memory."""

    def __init__(self, ids: Sequence[int], tokens: range):
        self.ids, self.tokens = list(ids), range(max(1, tokens.start), tokens.stop)


@torch.no_grad()
def listen(model: AdaptedLM, questions: Sequence[Question], batch_tokens: int) -> list[list[Queries]]:
    """Return for each prompt its question's queries in each layer with a memory, read by the base model alone.

    What all prompts begin with is read once, and nothing is read behind a question: no query of it depends on that.
    """
    shared, before = _shared_tokens(questions), None
    if shared:
        with model.disable_adapter():
            before = beginning(model, questions[0].ids[:shared])
    heard: list[list[Queries]] = [[] for _ in questions]
    kept = Kept()
    for batch in index_batches([question.tokens.stop - shared for question in questions], 0, batch_tokens):
        recording = [ReferenceLayer(layer, None, kept) for layer in layers(model)]
        ids_BL, asked_BL = _read_behind(shared, [questions[i] for i in batch])
        kept.times_BL = asked_BL.to(model.device)
        cache = before_each(before, len(batch))
        with standing_in(model, recording):
            inputs = {"input_ids": ids_BL.to(model.device), **nothing_predicted(model)}
            model(**{CACHE: cache}, use_cache=bool(shared), **inputs)
        lengths = [len(questions[i].tokens) for i in batch]
        of_layers = [zip(*(x.split(lengths) for x in layer.queries[0]), strict=True) for layer in recording]
        for i, of_prompt in zip(batch, zip(*of_layers, strict=True), strict=True):
            heard[i] = [Queries(*parts) for parts in of_prompt]
    return heard


def _shared_tokens(questions: Sequence[Question]) -> int:
    """Return how many tokens before their questions all prompts begin with; 0 for a single prompt, read at once."""
    if len(questions) < 2:
        return 0
    before = [question.ids[: question.tokens.start] for question in questions]
    return len(os.path.commonprefix(before))


def _read_behind(shared: int, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Return the prompts' tokens from the first that is not shared to the question's last, padded on the right, (B, L).

    And which of these tokens are the question's.
    """
    width = max(question.tokens.stop for question in questions) - shared
    ids_BL, asked_BL = torch.zeros(len(questions), width, dtype=torch.long), torch.zeros(len(questions), width).bool()
    for row, question in enumerate(questions):
        first, end = question.tokens.start - shared, question.tokens.stop - shared
        ids_BL[row, :end] = torch.tensor(question.ids[shared : question.tokens.stop])
        asked_BL[row, first:end] = True
    return ids_BL, asked_BL


@torch.no_grad()
def gaps(
    heard: Sequence[Sequence[Queries]], store: CompactStore, segment: int, heads: Sequence[tuple[int, int]]
) -> Tensor:
    """Return d of (1) of a segment's memory, for prompts and for heads (layer, head): (P, F). Reads these heads alone."""
    if not heard:
        return torch.zeros(0, len(heads))
    device = heard[0][0].q_NHD.device
    lengths = torch.tensor([len(prompt[0].q_NHD) for prompt in heard], device=device)
    found_NF = torch.full((int(lengths.sum()), len(heads)), CLOSED, device=device)
    of_layer: dict[int, tuple[Tensor, Tensor]] = {}
    keys_of: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for column, (layer, head) in enumerate(heads):  # which come in order
        at = store.layers.index(layer)
        kv_head = head * len(store.slots[layer][segment]) // heard[0][at].q_NHD.shape[1]
        if not store.slots[layer][segment][kv_head]:
            continue
        if layer not in of_layer:
            of_prompts = [prompt[at] for prompt in heard]
            queries, lse = (torch.cat([getattr(x, name) for x in of_prompts]) for name in ("q_NHD", "lse_window_NH"))
            of_layer = {layer: (queries.float(), lse.float())}
        if (layer, kv_head) not in keys_of:
            keys, biases = (store.read(part, layer, segment, kv_head) for part in ("keys", "biases"))
            keys_of = {(layer, kv_head): (keys.to(device).float(), biases.to(device).float())}
        (k_SD, b_S), (q_NHD, lse_NH) = keys_of[layer, kv_head], of_layer[layer]
        gap_N = (q_NHD[:, head] @ k_SD.T + b_S).logsumexp(-1) - lse_NH[:, head]
        found_NF[:, column] = gap_N.clamp(min=CLOSED)
    return torch.segment_reduce(found_NF, "mean", lengths=lengths).cpu()


def reference_gap(question: Queries, k_SD: Tensor, b_S: Tensor, head: int) -> float:
    """Compute d of (1) of one head slowly, as the specification of `gaps`: token by token."""
    total = 0.0
    for q_D, lse in zip(question.q_NHD[:, head].double(), question.lse_window_NH[:, head].double(), strict=True):
        scores = [float(q_D @ k_D + b) for k_D, b in zip(k_SD.double(), b_S.double(), strict=True)]
        most = max(scores)
        total += most + math.log(sum(math.exp(score - most) for score in scores)) - float(lse)
    return total / len(question.q_NHD)


# ---- calibration ------------------------------------------------------------------------------------------------


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the exact area under the ROC curve.

    It is the chance that a positive score is above a negative one; ties count half.
    """
    scores, n = np.concatenate([positive, negative]), len(positive)
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]  # of equal scores, the middle one
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def best_heads(own_PF: Tensor, other_PF: Tensor, most: int = HEADS) -> list[int]:
    """Return the columns of the heads whose gap is highest for own questions against others, by AUROC, in their order."""
    own, other = own_PF.numpy(), other_PF.numpy()
    areas = [auroc(own[:, head], other[:, head]) for head in range(own.shape[1])]
    return sorted(sorted(range(len(areas)), key=lambda head: -areas[head])[:most])


def conformal_threshold(scores: Sequence[float], false_alarms: float = FALSE_ALARMS) -> float:
    """Return the threshold that a new score of the same kind exceeds with a chance of at most `false_alarms`.

    That is the ceil((n + 1)(1 - false_alarms))-th of n scores; infinite where there are too few.
    """
    rank = math.ceil((len(scores) + 1) * (1 - false_alarms))
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf
