"""Which segments of which documents are opened for a question: by the switch, and by BM25 within a long text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import NamedTuple

import torch

from lift.inference.capacity import replied_tokens
from lift.inference.generate import question_prompt
from lift.inference.switch import Question, Switch, gaps, listen
from lift.library import segment_terms
from lift.library.compact_store import CompactStore
from lift.memory.reference_queries import Queries
from longthread.errors import ConfigError
from longthread.language_model import AdaptedLM, ChatTokenizer


class Place(NamedTuple):
    """A segment of a document."""

    document: str
    segment: int


def check_open(switches: Mapping[str, Switch | None], most: int) -> None:
    """Raise `ConfigError` if more documents have no switch than may be open: these always are."""
    always = [name for name, switch in switches.items() if switch is None]
    if len(always) > most:
        raise ConfigError(
            f"{len(always)} documents have no switch, {always[0]!r} first, and at most {most} are opened: "
            "name fewer, or fit them again",
            setting=("document", "open"),
        )


@dataclass(frozen=True)
class Router:
    """Chooses for a question at most `documents` documents, and at most `segments` segments of each.

    `model` has an adapter of the compact method, `stores` holds the documents' memories. A document opens if its best
    segment is above the threshold of its switch, or with `always` whatever its switch says; those furthest above it come
    first. A document without a switch always opens. The segments of a longer text are taken in turn from BM25's ranking and
    from that of the switch's scores: of sums over both, the best of one alone, such as the only segment that names a person,
    would be lost in many segments.
    """

    model: AdaptedLM
    tokenizer: ChatTokenizer
    stores: Mapping[str, CompactStore]
    switches: Mapping[str, Switch | None]
    documents: int = 2
    segments: int = 3
    always: bool = False

    def search(self, question: str) -> list[Place]:
        """Return the segments to open, those of the best document first; none where no memory has something to say."""
        asked = Question(*question_prompt(self.tokenizer, question))
        heard = listen(self.model, [asked], replied_tokens(self.model))
        scores = {name: self._scores(name, question, heard) for name in self.stores}
        heard_of = [name for name in scores if self.always or max(scores[name]) > 0]
        best = sorted(heard_of, key=lambda name: -max(scores[name]))
        return [
            Place(name, segment)
            for name in best[: self.documents]
            for segment in self._best_segments(name, question, scores[name])
        ]

    def _scores(self, name: str, question: str, heard: Sequence[Sequence[Queries]]) -> list[float]:
        """Return how far each segment of a document is above the threshold of its switch."""
        store, switch = self.stores[name], self.switches[name]
        if switch is None:
            return [math.inf] * store.segments
        words_S = torch.zeros(store.segments)
        if switch.words is not None:
            words_S = torch.from_numpy(segment_terms.matches(store.folder, question))
        found = (
            switch.score(gaps(heard, store, segment, switch.heads), words_S[segment])
            for segment in range(store.segments)
        )
        return [float(score) - switch.threshold for score in found]

    def _best_segments(self, name: str, question: str, scores: Sequence[float]) -> list[int]:
        if len(scores) <= self.segments:
            return list(range(len(scores)))
        rankings = [segment_terms.ranking(self.stores[name].folder, question)]
        if self.switches[name] is not None:
            rankings.append(sorted(range(len(scores)), key=lambda segment: -scores[segment]))
        every = dict.fromkeys([*in_turn(rankings), *range(len(scores))])  # where no word is known, the first ones
        return sorted(islice(every, self.segments))


def in_turn(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Return what the rankings rank, each once: the first of each ranking, then the second of each, and so on."""
    turns = chain.from_iterable(zip_longest(*rankings))
    return list(dict.fromkeys(each for each in turns if each is not None))
