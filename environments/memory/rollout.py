"""Requests and groups of MemoryEnv: what the others have, with the mode, and what the question cost in it.

In mode `hybrid` a question may take two exchanges (`hybrid.py`); in the others it takes one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from environments.haystack.sample import Sample
from environments.inference.contracts import Completion
from environments.memory.config import CONTEXT
from environments.memory.memories import Memory
from environments.memory.passages import Index
from environments.memory.prompts import Prepared
from environments.memory.questions import Question
from environments.retrieval.chunking import Chunk
from environments.retrieval.recall import EvidenceRecall, evidence_recall
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.scoring import Score
from longthread.files import JsonObject


@dataclass(frozen=True)
class MemoryRequest(RolloutRequest):
    """A request to ask in one mode. `number`: of the question in the environment's list; -1 for a generated haystack."""

    mode: str = ""
    number: int = -1

    @property
    def key(self) -> str:
        """Name of the question and the mode, unique in an evaluation."""
        return f"{self.question_key}/{self.mode}"

    @property
    def question_key(self) -> str:
        """Name of the question, the same in every mode."""
        return super().key


@dataclass(frozen=True)
class Cost:
    """What one question took in its mode: seconds of search and reply, tokens of the prompts, and the document's share.

    Seconds and tokens are those of all requests that were made for it, each prompt counted once for a group.
    `stored_bytes` and `prepare_seconds` are of the document, whatever number of questions is asked; None: not known.
    """

    seconds: float
    tokens_read: int
    stored_bytes: int | None
    prepare_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class MemoryGroup(RolloutGroup):
    """A question's completions in one mode.

    `memory`: name of the memory that was asked, if one was; `proposed`: what it stated in `hybrid`. `passages` stood in the
    prompt; `recall` says how much of the evidence they hold, None where that is not known. `cut_tokens`: of the text, left
    out of the prompt.
    """

    document: str
    cost: Cost
    memory: str = ""
    proposed: str = ""
    passages: Sequence[Chunk] = ()
    recall: EvidenceRecall | None = None
    cut_tokens: int = 0

    @property
    def mode(self) -> str:
        """The mode in which the question was asked."""
        return mode_of(self.request)

    def row(self, full: bool) -> JsonObject:
        """Return the group as a row of `process`. Its prompt is kept whole unless the recipe alone builds it again."""
        rebuilt = self.mode == CONTEXT and not self.cut_tokens and self.sample.recipe["version"] > 0
        return {**super().row(full or not rebuilt), **self._of_mode()}

    def record(self) -> JsonObject:
        """Return a line of samples.jsonl."""
        key = self.request.question_key if isinstance(self.request, MemoryRequest) else self.request.key
        return {**super().record(), **self._of_mode(), "question_key": key}

    def _of_mode(self) -> JsonObject:
        return {
            "mode": self.mode,
            "document": self.document,
            **({"memory": self.memory} if self.memory else {}),
            **({"proposed": self.proposed} if self.proposed else {}),
            "cost": asdict(self.cost),
            "cut_tokens": self.cut_tokens,
            "passages": [[chunk.start, chunk.end] for chunk in self.passages],
            "recall": None if self.recall is None else self.recall._asdict(),
        }


@dataclass(frozen=True)
class Posed:
    """A question as one request asks it: its prompt, what it was made with, and the seconds of the search."""

    question: Question
    mode: str  # one of those that ask once
    prepared: Prepared
    index: Index | None
    seconds: float

    @property
    def sample(self) -> Sample:
        """The question's sample with the messages of the prompt."""
        return replace(self.question.sample, messages=self.prepared.messages)

    @property
    def recall(self) -> EvidenceRecall | None:
        """How much of the evidence the passages hold, or the ends of a text that was cut; None where it is not known."""
        parted = self.index is not None or self.prepared.cut_tokens > 0
        if not parted or self.question.evidence is None:
            return None
        return evidence_recall(self.question.evidence, self.prepared.passages)


@dataclass(frozen=True)
class Exchange:
    """A question as one request asked it, the completions, the memory asked, if any, and the seconds of search and reply."""

    posed: Posed
    completions: list[Completion]
    memory: str
    seconds: float


def group_of(
    request: RolloutRequest,
    exchanges: Sequence[Exchange],
    answer: Exchange,
    scores: list[Score],
    memory: Memory | None,
    proposed: str = "",
) -> MemoryGroup:
    """Return the group of a question: the completions of its `answer`, scored, and the cost of all that was asked for it.

    `memory`: of its document, in modes that need one; `proposed`: what it stated in `hybrid`.
    """
    posed = answer.posed
    return MemoryGroup(
        request,
        posed.sample,
        posed.prepared.tokens,
        answer.completions,
        scores,
        document=posed.question.document.name,
        cost=_cost(exchanges, memory),
        memory=next((exchange.memory for exchange in exchanges if exchange.memory), ""),
        proposed=proposed,
        passages=posed.prepared.passages,
        recall=posed.recall,
        cut_tokens=posed.prepared.cut_tokens,
    )


def _cost(exchanges: Sequence[Exchange], memory: Memory | None) -> Cost:
    first = exchanges[0].posed  # its index is that of all
    parts: list[tuple[int | None, float | None]] = []
    if first.mode == CONTEXT:
        parts.append((len(first.question.document.text.encode()), 0.0))
    if first.index:
        parts.append((first.index.stored_bytes, first.index.seconds))
    if memory:
        parts.append((memory.stored_bytes, memory.seconds))
    stored, prepared = (None if None in column else sum(column) for column in zip(*parts, strict=True))
    tokens_read = sum(len(exchange.posed.prepared.tokens) for exchange in exchanges)
    return Cost(sum(exchange.seconds for exchange in exchanges), tokens_read, stored, prepared)


def mode_of(request: RolloutRequest) -> str:
    """Return the mode in which a request asks."""
    return request.mode if isinstance(request, MemoryRequest) else CONTEXT
