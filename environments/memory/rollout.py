"""Requests and groups of MemoryEnv: what the others have, with the mode, and what the question cost in it."""

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
    """What one question took in its mode: seconds of retrieval and reply, tokens of the prompt, and the document's share.

    `stored_bytes` and `prepare_seconds` are of the document, whatever number of questions is asked; None: not known.
    """

    seconds: float
    tokens_read: int
    stored_bytes: int | None
    prepare_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class MemoryGroup(RolloutGroup):
    """A question's completions in one mode.

    `memory`: name of the memory that was asked, if one was. `passages` stood in the prompt; `recall` says how much of the
    evidence they hold, None where that is not known. `cut_tokens`: of the text, left out of the prompt.
    """

    document: str
    cost: Cost
    memory: str = ""
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
            "cost": asdict(self.cost),
            "cut_tokens": self.cut_tokens,
            "passages": [[chunk.start, chunk.end] for chunk in self.passages],
            "recall": None if self.recall is None else self.recall._asdict(),
        }


@dataclass(frozen=True)
class Posed:
    """A question as it is asked in one mode: its prompt, what it was made with, and the seconds of the search."""

    question: Question
    mode: str
    prepared: Prepared
    index: Index | None
    memory: Memory | None
    seconds: float

    @property
    def sample(self) -> Sample:
        """The question's sample with the messages of the prompt."""
        return replace(self.question.sample, messages=self.prepared.messages)

    def cost(self, seconds: float) -> Cost:
        """Return what the question took, with so many seconds for search and reply."""
        parts: list[tuple[int | None, float | None]] = []
        if self.mode == CONTEXT:
            parts.append((len(self.question.document.text.encode()), 0.0))
        if self.index:
            parts.append((self.index.stored_bytes, self.index.seconds))
        if self.memory:
            parts.append((self.memory.stored_bytes, self.memory.seconds))
        stored, prepared = (None if None in column else sum(column) for column in zip(*parts, strict=True))
        return Cost(seconds, len(self.prepared.tokens), stored, prepared)

    @property
    def recall(self) -> EvidenceRecall | None:
        """How much of the evidence the passages hold, or the ends of a text that was cut; None where it is not known."""
        parted = self.index is not None or self.prepared.cut_tokens > 0
        if not parted or self.question.evidence is None:
            return None
        return evidence_recall(self.question.evidence, self.prepared.passages)


def group_of(
    request: RolloutRequest, posed: Posed, completions: list[Completion], scores: list[Score], seconds: float
) -> MemoryGroup:
    """Return the group of a question's completions."""
    return MemoryGroup(
        request,
        posed.sample,
        posed.prepared.tokens,
        completions,
        scores,
        document=posed.question.document.name,
        cost=posed.cost(seconds),
        memory=posed.memory.name if posed.memory else "",
        passages=posed.prepared.passages,
        recall=posed.recall,
        cut_tokens=posed.prepared.cut_tokens,
    )


def mode_of(request: RolloutRequest) -> str:
    """Return the mode in which a request asks."""
    return request.mode if isinstance(request, MemoryRequest) else CONTEXT
