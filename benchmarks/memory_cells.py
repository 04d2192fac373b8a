"""What a cell of `benchmarks.memory` is: one document asked in one way; and the lines of its questions, as memory-env's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from environments.haystack.options import Options
from environments.memory.config import HYBRID, RETRIEVAL
from environments.memory.config import MODES as MODES
from environments.memory.hybrid import POLICY
from environments.memory.prompts import Prepared
from environments.memory.questions import Question
from environments.retrieval.hops import HOPS
from environments.retrieval.recall import evidence_recall
from environments.rollouts.scoring import score
from lift.inference import steps
from longthread.files import JsonObject

# Ways of asking beside the environment's defaults: the mode, and what each changes of its settings.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "hops": (RETRIEVAL, {"search_hops": HOPS}),
    "hybrid_hops": (HYBRID, {"search_hops": HOPS}),
    "reverse_rank": (RETRIEVAL, {"order": "reverse_rank"}),
    "both_ends": (RETRIEVAL, {"order": "both_ends"}),
    "document": (RETRIEVAL, {"order": "document"}),
    "semantic": (RETRIEVAL, {"chunking": "semantic"}),
}
STEPS = "steps"  # in names of what was asked step by step
FORMS = {False: Options(answer_format="plain"), True: Options(answer_format="tags")}  # by whether it is asked in steps


@dataclass(frozen=True)
class Asked:
    """A cell: the document of a seed and length, asked in one way: a mode, or one of `WAYS`."""

    model: str
    length: int
    seed: int
    way: str
    recipe: str = ""  # of the memory, in the modes that have one
    steps: bool = False  # whether the questions are asked step by step

    @property
    def key(self) -> str:
        """The name of the cell's file."""
        parts = [self.model, str(self.length), str(self.seed), self.way, self.recipe, STEPS if self.steps else ""]
        return "-".join(filter(None, parts))

    @property
    def mode(self) -> str:
        """The mode of memory-env."""
        return mode_of(self.way)

    @property
    def settings(self) -> dict[str, Any]:
        """What is changed of the environment's settings."""
        return WAYS[self.way][1] if self.way in WAYS else {}


def mode_of(way: str) -> str:
    """Return the mode of memory-env that a way of asking is."""
    return WAYS[way][0] if way in WAYS else way


def policy(way: str) -> JsonObject:
    """Return what names how a way of asking decides what to ask, for `made_of`; empty where it asks once."""
    return {HYBRID: POLICY} if mode_of(way) == HYBRID else {}


def outdated(cell: JsonObject) -> bool:
    """Return whether a cell's file is of an earlier hybrid, which is not to stand beside others."""
    return not policy(cell["way"]).items() <= cell["made_of"].items()


@dataclass(frozen=True)
class Exchange:
    """A question as it was asked once, the reply, and its share of the seconds of search and replies."""

    mode: str  # one of those that ask once
    prepared: Prepared
    reply: str
    seconds: float


@dataclass(frozen=True)
class Answered:
    """All exchanges of a question, which of them is its answer, and what its memory proposed in `hybrid`."""

    exchanges: Sequence[Exchange]
    answer: Exchange
    proposed: str = ""


def record(
    asked: Asked, question: Question, answered: Answered, stored_bytes: int, prepare_seconds: float
) -> JsonObject:
    """Return the line of a question. The score is that of the environments (`environments.rollouts.scoring`)."""
    sample, made = question.sample, answered.exchanges
    one, reply = answered.answer.prepared, answered.answer.reply
    scored = score(steps.value(reply) if asked.steps else reply, sample.answer, "plain")
    parted = answered.answer.mode == RETRIEVAL or one.cut_tokens > 0
    recall = evidence_recall(question.evidence, one.passages) if parted and question.evidence else None
    return {
        "task": sample.recipe["task"], "length": asked.length, "mode": asked.mode, "question": sample.question,
        "question_key": f"{question.document.name}/{sample.recipe['seed']}", "document": question.document.name,
        "reply": reply, "answer": list(sample.answer.values), "score": scored.score, "correct": scored.correct,
        "cut_tokens": one.cut_tokens, "recall": recall._asdict() if recall else None,
        "requests": len(made), "proposed": answered.proposed,
        "cost": {
            "seconds": sum(exchange.seconds for exchange in made), "stored_bytes": stored_bytes,
            "tokens_read": sum(len(exchange.prepared.tokens) for exchange in made), "prepare_seconds": prepare_seconds,
        },
    }  # fmt: skip
