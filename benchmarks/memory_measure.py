"""What `benchmarks.memory` measures: a document's questions asked in one way, batched, by a model in this process.

A question asks for the answer alone, as memory-env asks, or step by step: then its prompt is that of `lift ask --steps` in
every mode, with the text, the passages or nothing before the question.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.lift_measure import free
from benchmarks.lift_store import code
from benchmarks.memory_documents import MadeQuestion, counts_of, generate
from benchmarks.memory_replies import Replies
from environments.haystack import document_prompt
from environments.haystack.options import Options
from environments.haystack.prompt import instruction
from environments.haystack.tasks.task import Quiz
from environments.haystack.tokens import BREAK, Tokens
from environments.memory.config import CONTEXT, HYBRID, LOOKED_UP, REMEMBERED, RETRIEVAL, MemoryEnvConfig
from environments.memory.config import MODES as MODES
from environments.memory.memories import Memory
from environments.memory.passages import Index, Passages
from environments.memory.prompts import LOOKED_UP_INSTRUCTION, Prepared, Prompts
from environments.memory.questions import Document, Question, made_question
from environments.retrieval.hops import HOPS
from environments.retrieval.recall import evidence_recall
from environments.rollouts.scoring import score
from lift.document.document import Document as Fitted
from lift.inference import steps
from lift.library import base_model
from lift.library.library import Entry, Library
from lift.training.fit import FitOptions, fit
from lift.training.recipes import RECIPES
from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.model_shape import kv_bytes

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
        return WAYS[self.way][0] if self.way in WAYS else self.way

    @property
    def settings(self) -> dict[str, Any]:
        """What is changed of the environment's settings."""
        return WAYS[self.way][1] if self.way in WAYS else {}


@dataclass(frozen=True)
class Text:
    """A document with its questions, as memory-env asks them. `digest` names both."""

    document: Document
    questions: Sequence[Question]
    digest: str


class Bench:
    """A model with its tokenizer and a library of memories for each recipe, in folders below `libraries`.

    `replies`: tokens of a reply; `batch`: tokens at a time on a GPU; `lookup`: what differs from the environment's defaults
    wherever passages are looked up; `each`: questions of a kind about a document, at most; 0: all.
    """

    def __init__(
        self,
        folder: Path,
        libraries: Path,
        replies: int,
        batch: int,
        lookup: Mapping[str, Any] | None = None,
        each: int = 0,
    ):
        self.folder, self.libraries, self.lookup, self.each = folder, libraries, dict(lookup or {}), each
        self.fingerprint, self.code = base_model.fingerprint(folder), code()
        device, self.tokenizer = base_model.device("auto"), base_model.tokenizer(folder)
        self.tokens = Tokens(self.tokenizer)
        self.replies = Replies(base_model.load(folder, device), self.tokenizer, replies, batch)
        self.window = int(self.replies.model.config.get_text_config().max_position_embeddings)
        self.text = cache(self._text)
        self.indices: dict[tuple[str, str], Index] = {}

    def _text(self, length: int, seed: int, stepwise: bool = False) -> Text:
        made = generate(self.tokens, length, seed, counts_of(length))
        self._check_replies(made.questions, stepwise)
        document, questions = Document(made.name, made.text), list[Question]()
        asked = Counter[str]()
        for number, one in enumerate(made.questions):
            asked[one.kind] += 1
            if 0 < self.each < asked[one.kind]:
                continue
            quiz = Quiz((), (), one.text, one.answer, hops=2 if stepwise else 1)  # steps are asked for from two hops on
            question = made_question(document, quiz, one.kind, number, length, FORMS[stepwise], self.tokens)
            sample = replace(question.sample, messages=[])  # each would hold the text: gigabytes at a million tokens
            questions.append(replace(question, sample=sample, evidence=one.evidence or None))
        stated = json.dumps([document.digest, [[q.asked, q.sample.answer.values, q.evidence] for q in questions]])
        return Text(document, questions, hashlib.sha256(stated.encode()).hexdigest())

    def _check_replies(self, questions: Sequence[MadeQuestion], stepwise: bool) -> None:
        """Raise `ConfigError` where the longest right reply takes more tokens than a reply may have."""
        right = [
            f"<steps>{'; '.join(question.passed)}</steps>\n<answer>{value}</answer>" if stepwise else value
            for question in questions
            for value in question.answer.values
        ]
        longest = max(right, key=len)
        if (needed := len(self.tokens.encode(longest)) + 1) > self.replies.tokens:
            raise ConfigError(
                f"{longest!r} takes {needed} tokens, replies have {self.replies.tokens}", setting="replies"
            )

    def made_of(self, asked: Asked) -> JsonObject:
        """Return all that a cell's records depend on: one of anything else is measured anew."""
        remembered = {"recipe": _constants(asked.recipe), "code": self.code} if asked.recipe else {}
        lookup = {"lookup": self.lookup} if self.lookup and asked.mode in LOOKED_UP else {}
        text = self._text_of(asked).digest
        return {"base": self.fingerprint, "text": text, "replies": self.replies.tokens, **remembered, **lookup}

    def _text_of(self, asked: Asked) -> Text:
        return self.text(asked.length, asked.seed, asked.steps)

    # ---- a document's memory ----

    def library(self, recipe: str) -> Library:
        """Return the library of the memories that this model has by a recipe, in this version of lift."""
        return Library(self.libraries / f"{self.fingerprint[:12]}-{self.code[:12]}" / recipe.replace("+", "-plus"))

    def memory(self, text: Text, recipe: str) -> Entry:
        """Return the document's entry in the library, fitted where it is not there yet."""
        library, document = self.library(recipe), Fitted(text.document.name, text.document.text)
        for entry in library.entries():
            if entry.digest == document.digest:
                return entry
        out = library.folder.parent / f"{library.folder.name}-{document.digest[:12]}"
        free()  # what the last cell held: a fit sizes its batches by what is free
        model = deepcopy(self.replies.model)  # it gets an adapter, and the model is asked without one too
        fitted = fit(document, model, self.tokenizer, RECIPES[recipe], FitOptions(out, progress=False))
        entry = Entry(
            name=document.name, digest=document.digest, tokens=fitted.tokens, words=len(document.text.split()),
            recipe=recipe, constants=_constants(recipe), base_model=str(self.folder), fingerprint=self.fingerprint,
            seconds=fitted.seconds, prefill_seconds=fitted.prefill_seconds, kv_bytes=fitted.kv_bytes,
        )  # fmt: skip
        added = library.add(out, entry, replace=True)
        shutil.rmtree(out)
        return added

    # ---- asking ----

    def records(self, asked: Asked) -> list[JsonObject]:
        """Ask a cell's questions and return their lines, as memory-env writes them to samples.jsonl.

        Seconds a question are those of search and reply. What a document waits for before its first question is preparation:
        the fit, the index, or in mode `context` the reading of the text, whose keys and values are kept. What a process
        waits for once, the loading of weights, of a memory and of kernels, is in neither.
        """
        text = self._text_of(asked)
        entry = self.memory(text, asked.recipe) if asked.mode in REMEMBERED else None
        passages, index = self._index(asked, text) if asked.mode in LOOKED_UP else (None, None)
        prepared, searched = self._prepared(asked, text, entry, passages, index)
        ids = [each.tokens for each in prepared]
        read = stored = 0.0
        if entry:
            questions = self._searched_for(asked, text, prepared)
            replies, took = self.replies.remembered(self.library(asked.recipe), entry, ids, questions)
            stored += entry.bytes
            read += entry.seconds or 0.0
        elif asked.mode == CONTEXT:
            replies, took, read, shared = self.replies.behind_one_text(ids)
            dtype = self.replies.model.dtype.itemsize
            stored += len(text.document.text.encode()) + kv_bytes(self.replies.model.config, shared, dtype)
        else:
            replies, took = self.replies.bare(ids)
        if index:
            stored += index.stored_bytes
            read += index.seconds or 0.0
        cost = {
            "seconds": (took + searched) / len(ids), "tokens_read": 0, "stored_bytes": round(stored),
            "prepare_seconds": read,
        }  # fmt: skip
        pairs = zip(text.questions, prepared, replies, strict=True)
        return [_record(asked, question, one, reply, cost) for question, one, reply in pairs]

    @staticmethod
    def _searched_for(asked: Asked, text: Text, prepared: Sequence[Prepared]) -> list[str]:
        """Return what segments are ranked for: the question, as `lift ask --steps` or `lift serve` takes it from a prompt."""
        if asked.steps:
            return [question.sample.question for question in text.questions]
        return [document_prompt.question_in(each.messages[-1]["content"]) for each in prepared]

    def _index(self, asked: Asked, text: Text) -> tuple[Passages, Index]:
        settings = MemoryEnvConfig(**self.lookup, **asked.settings)
        passages = Passages.of(settings, self.tokens)
        key = text.document.digest, settings.chunking
        if key not in self.indices:
            self.indices[key] = passages.index(text.document)
        return passages, self.indices[key]

    def _prepared(
        self, asked: Asked, text: Text, entry: Entry | None, passages: Passages | None, index: Index | None
    ) -> tuple[list[Prepared], float]:
        """Return the prompts of all questions, by memory-env's own code, and the seconds of all searches."""
        order = str(asked.settings.get("order", "rank"))
        before = instruction(FORMS[True]) if asked.steps else LOOKED_UP_INSTRUCTION
        prompts = Prompts(self.tokens, FORMS[asked.steps], self.replies.tokens, order, before)
        if asked.mode == CONTEXT:
            return self._whole(prompts, text), 0.0
        memory = None
        if entry and not asked.steps:
            frame = document_prompt.request(entry.name, "{question}")
            memory = Memory(entry.name, frame, document_prompt.behind_text("{text}", frame))
        began = time.perf_counter()
        found = [passages.find(question, index) if passages and index else [] for question in text.questions]
        searched = time.perf_counter() - began
        pairs = zip(text.questions, found, strict=True)
        return [prompts.prepare(each, asked.mode, self.window, hits, memory) for each, hits in pairs], searched

    def _whole(self, prompts: Prompts, text: Text) -> list[Prepared]:
        """Return the prompts with the text. It is cut, where it must be, for the longest question, so that all have one."""
        longest = max(text.questions, key=lambda question: len(self.tokens.encode(question.asked)))
        whole = BREAK.join([prompts.instruction, text.document.text, longest.asked])
        sample = replace(longest.sample, messages=[{"role": "user", "content": whole}])
        first = prompts.prepare(replace(longest, sample=sample), CONTEXT, self.window)
        before = first.messages[0]["content"].removesuffix(longest.asked)

        def with_question(question: Question) -> Prepared:
            messages = [{"role": "user", "content": before + question.asked}]
            return replace(first, messages=messages, tokens=self.tokens.encode(self.tokens.render(messages)))

        with ThreadPoolExecutor() as pool:  # a hundred times the text: tokenizers let other threads run
            return list(pool.map(with_question, text.questions))


def _constants(recipe: str) -> JsonObject:
    return json.loads(json.dumps(asdict(RECIPES[recipe])))


def _record(asked: Asked, question: Question, one: Prepared, reply: str, cost: JsonObject) -> JsonObject:
    """Return the line of a question. The score is that of the environments (`environments.rollouts.scoring`)."""
    sample = question.sample
    scored = score(steps.value(reply) if asked.steps else reply, sample.answer, "plain")
    parted = asked.mode in LOOKED_UP or one.cut_tokens > 0
    recall = evidence_recall(question.evidence, one.passages) if parted and question.evidence else None
    return {
        "task": sample.recipe["task"], "length": asked.length, "mode": asked.mode, "question": sample.question,
        "question_key": f"{question.document.name}/{sample.recipe['seed']}", "document": question.document.name,
        "reply": reply, "answer": list(sample.answer.values), "score": scored.score, "correct": scored.correct,
        "cut_tokens": one.cut_tokens, "recall": recall._asdict() if recall else None,
        "cost": {**cost, "tokens_read": len(one.tokens)},
    }  # fmt: skip
