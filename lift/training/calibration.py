"""Calibrate the switch of a compact memory that has just been fitted: on its own questions, and on other things."""

from collections.abc import Sequence
from itertools import islice
from random import Random

import torch
from torch import Tensor

from environments.datasets.other_prompts import general_prompts
from environments.haystack import question_wordings as wordings
from lift import tasks
from lift.document.document import Document
from lift.inference.capacity import read_tokens
from lift.inference.generate import question_prompt
from lift.inference.switch import (
    LEAST_DEVIATION,
    WORDS,
    Question,
    Switch,
    best_heads,
    conformal_threshold,
    gaps,
    listen,
)
from lift.library import segment_terms
from lift.library.compact_store import CompactStore
from lift.memory.reference_queries import Queries
from lift.tasks import Item
from lift.tasks.absent import strangers
from lift.tasks.reading import read_statements
from lift.tasks.synthetic_document import neutral
from lift.training.job import FitJob
from longthread.language_model import AdaptedLM, ChatTokenizer

OWN, OTHER = 96, 192  # questions, at most
LEAST_OWN = 4  # below that nothing can be told of the heads
COMPARED = 8  # segments of a long text in which all heads are compared


def calibrated(model: AdaptedLM, job: FitJob, store: CompactStore, own: Sequence[Item]) -> Switch | None:
    """Return the switch of a memory; None where its text yields too few questions of its own.

    Half of the other questions choose the heads and standardise them, the other half sets the threshold. A text of several
    segments says what its best segment says.
    """
    rng = Random(f"switch {job.options.seed} {job.document.name}")
    asked = list(dict.fromkeys(item.question for item in own if item.evidence))
    if len(asked) < LEAST_OWN:
        return None
    rng.shuffle(asked)
    others = _others(job, rng)
    heard = _heard(model, job.tokenizer, [*asked[:OWN], *others])
    n = min(len(asked), OWN)
    mine, chosen, held_out = heard[:n], heard[n::2], heard[n + 1 :: 2]
    n_heads = heard[0][0].q_NHD.shape[1]
    every = [(layer, head) for layer in store.layers for head in range(n_heads)]
    step = -(-store.segments // COMPARED)
    compared = range(0, store.segments, step)
    other_PF = _highest(chosen, store, compared, every)
    columns = best_heads(_highest(mine, store, compared, every), other_PF)
    heads = [every[column] for column in columns]
    seen_PF = other_PF[:, columns] if step == 1 else _highest(chosen, store, range(store.segments), heads)
    mean, deviation = seen_PF.mean(0), seen_PF.std(0).clamp(min=LEAST_DEVIATION)
    words_PS = _words(store, others[1::2])
    switch = Switch(
        heads=heads, mean=mean.tolist(), deviation=deviation.tolist(), threshold=0.0, words=(0.0, 1 / WORDS)
    )
    scores = [
        switch.score(gaps(held_out, store, segment, heads), words_PS[:, segment]) for segment in range(store.segments)
    ]
    threshold = conformal_threshold(torch.stack(scores).amax(0).tolist())
    return switch.model_copy(update={"threshold": threshold})


def _words(store: CompactStore, questions: Sequence[str]) -> Tensor:
    """Return the match of each segment's words with each question, (P, S)."""
    return torch.stack([torch.from_numpy(segment_terms.matches(store.folder, question)) for question in questions])


def _highest(
    heard: Sequence[Sequence[Queries]], store: CompactStore, segments: Sequence[int], heads: Sequence[tuple[int, int]]
) -> Tensor:
    """Return each prompt's largest gap over the segments, (P, F). One segment is read at a time."""
    found = gaps(heard, store, segments[0], heads)
    for segment in segments[1:]:
        found = torch.maximum(found, gaps(heard, store, segment, heads))
    return found


def _others(job: FitJob, rng: Random) -> list[str]:
    """Return questions about other things: about strangers, sentences of other fiction, and general ones, mixed."""
    document = job.document
    unknown = strangers(document, read_statements(document).people, "train", rng)
    asked = [wordings.ask(*next(unknown), "train", rng) for _ in range(OTHER // 3)]
    fiction = Document(document.name, neutral("train"))
    asked += [item.question for item in tasks.make(fiction, ("cloze",), OTHER // 3, job.options.seed, "train")]
    asked += [prompt.question for prompt in islice(general_prompts(rng), OTHER - len(asked))]
    rng.shuffle(asked)
    return asked


def _heard(model: AdaptedLM, tokenizer: ChatTokenizer, asked: Sequence[str]) -> list[list[Queries]]:
    prompts = [Question(*question_prompt(tokenizer, question)) for question in asked]
    return listen(model, prompts, read_tokens(model))
