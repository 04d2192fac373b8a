"""What `benchmarks.memory` measures: a document's questions asked in one way, batched, by a model in this process.

A question asks for the answer alone, as memory-env asks, or step by step: then its prompt is that of `lift ask --steps` in
every mode, with the text, the passages or nothing before the question. In mode `hybrid` (`environments/memory/hybrid.py`)
all questions are asked with their passages, then the memory those that got none, then the model what confirms the memory.
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
from benchmarks.memory_cells import FORMS, Answered, Asked, Exchange, policy, record
from benchmarks.memory_documents import MadeQuestion, counts_of, generate
from benchmarks.memory_replies import Replies
from benchmarks.segment_fits import LongFit, fit_segments, processes
from environments.haystack import document_prompt
from environments.haystack.prompt import instruction, tagged_reply
from environments.haystack.tasks.task import Quiz
from environments.haystack.tokens import BREAK, Tokens
from environments.memory.config import CONTEXT, LOOKED_UP, REMEMBERED, RETRIEVAL, WEIGHTS, MemoryEnvConfig
from environments.memory.hybrid import Confirming, following, same, stated
from environments.memory.memories import Memory
from environments.memory.passages import Index, Passages
from environments.memory.prompts import LOOKED_UP_INSTRUCTION, Prepared, Prompts
from environments.memory.questions import Document, Question, made_question
from environments.retrieval.ranking import Hit
from lift.document.document import Document as Fitted
from lift.inference import steps
from lift.library import base_model
from lift.library.library import Entry, Library
from lift.training.fit import FitOptions, fit
from lift.training.recipes import RECIPES
from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.model_shape import kv_bytes


@dataclass(frozen=True)
class Text:
    """A document with its questions, as memory-env asks them. `digest` names both."""

    document: Document
    questions: Sequence[Question]
    digest: str


@dataclass(frozen=True)
class Source:
    """What a document's questions are asked of in one mode: a memory, and passages with their index, where it needs them."""

    text: Text
    entry: Entry | None
    passages: Passages | None
    index: Index | None


class Bench:
    """A model with its tokenizer and a library of memories for each recipe, in folders below `libraries`.

    `replies`: tokens of a reply; `batch`: tokens at a time on a GPU; `lookup`: what differs from the environment's defaults
    wherever passages are looked up; `each`: questions of a kind about a document, at most; 0: all. `fits`: segments that are
    fitted at a time on a GPU.
    """

    def __init__(
        self,
        folder: Path,
        libraries: Path,
        replies: int,
        batch: int,
        lookup: Mapping[str, Any] | None = None,
        each: int = 0,
        fits: int = 1,
    ):
        self.folder, self.libraries, self.lookup, self.each = folder, libraries, dict(lookup or {}), each
        self.fits = fits
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
            tagged_reply(value, question.passed) if stepwise else value
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
        named = {"base": self.fingerprint, "text": self._text_of(asked).digest, "replies": self.replies.tokens}
        return {**named, **remembered, **lookup, **policy(asked.way)}

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
        given = LongFit(self.folder, out.with_suffix(".json"), RECIPES[recipe], out)
        if processes(self.fits) > 1:
            given.write(document)
        began = time.perf_counter()
        fit_segments(given, self.fits)
        together = time.perf_counter() - began
        model = deepcopy(self.replies.model)  # it gets an adapter, and the model is asked without one too
        fitted = fit(document, model, self.tokenizer, RECIPES[recipe], FitOptions(out, progress=False))
        entry = Entry(
            name=document.name, digest=document.digest, tokens=fitted.tokens, words=document.words,
            recipe=recipe, constants=_constants(recipe), base_model=str(self.folder), fingerprint=self.fingerprint,
            seconds=together + fitted.seconds, prefill_seconds=fitted.prefill_seconds, kv_bytes=fitted.kv_bytes,
        )  # fmt: skip
        added = library.add(out, entry, replace=True)
        shutil.rmtree(out)
        given.text.unlink(missing_ok=True)
        return added

    # ---- asking ----

    def records(self, asked: Asked) -> list[JsonObject]:
        """Ask a cell's questions and return their lines, as memory-env writes them to samples.jsonl.

        Seconds a question are those of search and reply. What a document waits for before its first question is preparation:
        the fit, the index, or in mode `context` the reading of the text, whose keys and values are kept. What a process
        waits for once, the loading of weights, of a memory and of kernels, is in neither.
        """
        source = self.source(asked)
        exchanges, stored, read = self.exchanges(asked, source)
        answered = self._answered(asked, source, exchanges)
        if source.entry:
            stored += source.entry.bytes
            read += source.entry.seconds or 0.0
        if source.index:
            stored += source.index.stored_bytes
            read += source.index.seconds or 0.0
        pairs = zip(source.text.questions, answered, strict=True)
        return [record(asked, question, each, round(stored), read) for question, each in pairs]

    def _answered(self, asked: Asked, source: Source, exchanges: list[list[Exchange]]) -> list[Answered]:
        """Return each question with its answer: the memory's, if it was asked second and the text confirms it.

        What the model has to read for that is asked of all questions together, and joins their exchanges.
        """
        proposed = [value_of(asked, made[1].reply) if len(made) > 1 else "" for made in exchanges]
        found = {
            i: self._confirming(asked, source, i, exchanges[i], value) for i, value in enumerate(proposed) if value
        }
        accepted = {i for i, one in found.items() if one and one.followed}
        if reading := {i: [Hit(one.passage, 0.0)] for i, one in found.items() if one and not one.followed}:
            together, _, _ = self._together(asked, source, RETRIEVAL, [*reading], reading)
            for i, exchange in zip(reading, together, strict=True):
                exchanges[i].append(exchange)
                if same(value_of(asked, exchange.reply), proposed[i]):
                    accepted.add(i)
        return [Answered(made, made[i in accepted], proposed[i]) for i, made in enumerate(exchanges)]

    @staticmethod
    def _confirming(
        asked: Asked, source: Source, number: int, made: list[Exchange], proposed: str
    ) -> Confirming | None:
        """Return what confirms the value that the memory proposes, asked last; the seconds of the search join its own."""
        if not source.passages or not source.index:
            return None
        passed, began = steps.passed(made[1].reply) if asked.steps else [], time.perf_counter()
        found = source.passages.confirming(source.text.questions[number], source.index, proposed, passed)
        made[1] = replace(made[1], seconds=made[1].seconds + time.perf_counter() - began)
        return found

    def source(self, asked: Asked) -> Source:
        """Return what a cell's questions are asked of; the memory is fitted where it is not there yet."""
        text = self._text_of(asked)
        entry = self.memory(text, asked.recipe) if asked.mode in REMEMBERED else None
        passages, index = self._index(asked, text) if asked.mode in LOOKED_UP else (None, None)
        return Source(text, entry, passages, index)

    def exchanges(self, asked: Asked, source: Source) -> tuple[list[list[Exchange]], int, float]:
        """Return each question's exchanges, in order; then the bytes that were kept for them, and the seconds to read these.

        All questions that are asked in one mode are asked together; only `hybrid` asks some of them again.
        """
        made: list[list[Exchange]] = [[] for _ in source.text.questions]
        replies: list[list[str]] = [[] for _ in made]
        kept, read = 0, 0.0
        while modes := {i: mode for i, said in enumerate(replies) if (mode := following(asked.mode, said))}:
            [mode] = set(modes.values())
            together, kept, read = self._together(asked, source, mode, [*modes])
            for i, exchange in zip(modes, together, strict=True):
                made[i].append(exchange)
                replies[i].append(value_of(asked, exchange.reply))
        return made, kept, read

    def _together(
        self,
        asked: Asked,
        source: Source,
        mode: str,
        numbers: Sequence[int],
        hits: Mapping[int, Sequence[Hit]] | None = None,
    ) -> tuple[list[Exchange], int, float]:
        """Ask the questions of these numbers in a single mode. Returns as `exchanges` does, one exchange for each.

        `hits`: of each number, in place of a search.
        """
        asking = [source.text.questions[i] for i in numbers]
        prepared, searched = self._prepared(asked, source, mode, asking, [hits[i] for i in numbers] if hits else None)
        ids, kept, read = [each.tokens for each in prepared], 0, 0.0
        if mode == WEIGHTS and source.entry:
            questions = self._searched_for(asked, asking, prepared)
            replies, took = self.replies.remembered(self.library(asked.recipe), source.entry, ids, questions)
        elif mode == CONTEXT:
            replies, took, read, shared = self.replies.behind_one_text(ids)
            dtype = self.replies.model.dtype.itemsize
            kept = len(source.text.document.text.encode()) + kv_bytes(self.replies.model.config, shared, dtype)
        else:
            replies, took = self.replies.bare(ids)
        seconds = (took + searched) / len(ids)
        return [Exchange(mode, one, reply, seconds) for one, reply in zip(prepared, replies, strict=True)], kept, read

    @staticmethod
    def _searched_for(asked: Asked, questions: Sequence[Question], prepared: Sequence[Prepared]) -> list[str]:
        """Return what segments are ranked for: the question, as `lift ask --steps` or `lift serve` takes it from a prompt."""
        if asked.steps:
            return [question.sample.question for question in questions]
        return [document_prompt.question_in(each.messages[-1]["content"]) for each in prepared]

    def _index(self, asked: Asked, text: Text) -> tuple[Passages, Index]:
        settings = MemoryEnvConfig(**self.lookup, **asked.settings)
        passages = Passages.of(settings, self.tokens)
        key = text.document.digest, settings.chunking
        if key not in self.indices:
            self.indices[key] = passages.index(text.document)
        return passages, self.indices[key]

    def _prepared(
        self,
        asked: Asked,
        source: Source,
        mode: str,
        questions: Sequence[Question],
        hits: Sequence[Sequence[Hit]] | None = None,
    ) -> tuple[list[Prepared], float]:
        """Return the prompts of these questions in a single mode, by memory-env's own code, and the seconds of searches."""
        order = str(asked.settings.get("order", "rank"))
        before = instruction(FORMS[True]) if asked.steps else LOOKED_UP_INSTRUCTION
        prompts = Prompts(self.tokens, FORMS[asked.steps], self.replies.tokens, order, before)
        if mode == CONTEXT:
            return self._whole(prompts, source.text), 0.0
        memory = None
        if source.entry and not asked.steps:
            memory = Memory(source.entry.name, document_prompt.request(source.entry.name, "{question}"))
        began = time.perf_counter()
        if hits is None and mode == RETRIEVAL and source.passages and source.index:
            hits = [source.passages.find(question, source.index) for question in questions]
        searched = time.perf_counter() - began
        pairs = zip(questions, hits or [()] * len(questions), strict=True)
        return [prompts.prepare(question, mode, self.window, each, memory) for question, each in pairs], searched

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


def value_of(asked: Asked, reply: str) -> str:
    """Return what a reply to a cell's question states; "" where it says none."""
    return stated([steps.value(reply) if asked.steps else reply])


def _constants(recipe: str) -> JsonObject:
    return json.loads(json.dumps(asdict(RECIPES[recipe])))
