"""What `benchmarks.memory` measures: a document's questions asked in one way, batched, by a model in this process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from transformers import DynamicCache

from benchmarks.lift_measure import NEEDLES
from environments.haystack import document_prompt
from environments.haystack.options import Options
from environments.haystack.tasks.task import Answer, Quiz
from environments.haystack.tokens import Tokens
from environments.memory.config import CONTEXT, LOOKED_UP, REMEMBERED, RETRIEVAL, MemoryEnvConfig
from environments.memory.config import MODES as MODES
from environments.memory.memories import Memory
from environments.memory.passages import Index, Passages
from environments.memory.prompts import Prepared, Prompts
from environments.memory.questions import Document, Question, made_question
from environments.retrieval.recall import evidence_recall
from lift import tasks
from lift.inference.generate import GREEDY, answers, index_batches, reply_of, stop_token_ids
from lift.library import base_model, segment_terms
from lift.library.attach import Attached
from lift.library.library import Entry, Library
from lift.memory.tuner import OpenMemory, layers, open_rows
from lift.tasks import Item, synthetic_document
from lift.training.fit import FitOptions, fit
from lift.training.recipes import RECIPES
from longthread.files import JsonObject

RETRIEVALS = ("reverse_rank", "both_ends", "document", "semantic")  # beside retrieval as it is set by default
ABSENT, LINKED = 12, 12
CPU_BATCH = 16_384


@dataclass(frozen=True)
class Asked:
    """A cell: the document of a seed and length, asked in one way: a mode, or a setting of retrieval."""

    model: str
    length: int
    seed: int
    way: str

    @property
    def key(self) -> str:
        """The name of the cell's file."""
        return f"{self.model}-{self.length}-{self.seed}-{self.way}"

    @property
    def mode(self) -> str:
        """The mode of memory-env."""
        return RETRIEVAL if self.way in RETRIEVALS else self.way


@dataclass(frozen=True)
class Text:
    """A document with its questions, as memory-env asks them."""

    document: Document
    items: Sequence[Item]
    questions: Sequence[Question]


class Bench:
    """A model with its tokenizer and a library of memories. `replies`: tokens; `batch`: tokens at a time on a GPU."""

    def __init__(self, folder: Path, library: Path, replies: int, batch: int):
        self.folder, self.library, self.replies = folder, Library(library), replies
        self.device = base_model.device("auto")
        self.tokenizer: Any = base_model.tokenizer(folder)
        self.tokens = Tokens(self.tokenizer)
        self.batch = batch if self.device.type == "cuda" else CPU_BATCH
        self.options = Options(answer_format="plain")
        self.model = base_model.load(folder, self.device)
        self.window = int(self.model.config.get_text_config().max_position_embeddings)
        self.text = cache(self._text)
        self.attached: Attached | None = None
        self.indices: dict[tuple[str, str], tuple[Passages, Index]] = {}

    def _text(self, length: int, seed: int) -> Text:
        made, facts = synthetic_document.generate(self.tokenizer, length, seed)
        items = tasks.make(made, ("needle",), NEEDLES, seed, "eval")
        items += [item for item in synthetic_document.items(facts) if item.kind == "linked"]
        items += tasks.make(made, ("linked",), LINKED, seed, "eval")
        items += tasks.make(made, ("absent",), ABSENT, seed, "eval")
        document = Document(made.name, made.text)
        return Text(document, items, [self._question(document, n, length, item) for n, item in enumerate(items)])

    def _question(self, document: Document, number: int, length: int, item: Item) -> Question:
        quiz = Quiz((), (), item.question, Answer("one", (item.answer,), "text"))
        question = made_question(document, quiz, item.kind, number, length, self.options, self.tokens)
        return replace(question, evidence=tuple(item.evidence) or None)

    # ---- a document's memory ----

    def memory(self, text: Text) -> Entry:
        """Return the document's entry in the library, fitted where it is not there yet."""
        name = text.document.name
        for entry in self.library.entries():
            if entry.name == name:
                return entry
        from lift.document.document import Document as Fitted

        document, out = Fitted(name, text.document.text), self.library.folder.parent / f"fit-{name}"
        self.free()
        recipe = RECIPES["compact"]
        fitted = fit(document, self.model, self.tokenizer, recipe, FitOptions(out, progress=False))
        entry = Entry(
            name=name, digest=document.digest, tokens=fitted.tokens, words=len(document.text.split()), recipe="compact",
            base_model=str(self.folder), fingerprint=base_model.fingerprint(self.folder), seconds=fitted.seconds,
            prefill_seconds=fitted.prefill_seconds, kv_bytes=fitted.kv_bytes,
        )  # fmt: skip
        self.model = base_model.load(self.folder, self.device)  # the fit has put an empty adapter into the other one
        return self.library.add(out, entry)

    def free(self) -> None:
        """Take the memories off the model, and give back what they hold."""
        if self.attached is not None:
            self.attached = None
            self.model = base_model.load(self.folder, self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- asking ----

    def records(self, asked: Asked) -> list[JsonObject]:
        """Ask a cell's questions and return their lines, as memory-env writes them to samples.jsonl."""
        text = self.text(asked.length, asked.seed)
        entry = self.memory(text) if asked.mode in REMEMBERED else None
        began = time.monotonic()
        prepared, index = self._prepared(asked, text, entry)
        if entry:
            replies = self._remembered(entry, text, prepared)
        elif asked.mode == CONTEXT:
            self.free()
            replies = self._behind_one_text([each.tokens for each in prepared])
        else:
            self.free()
            replies = answers(self.model, self.tokenizer, [p.tokens for p in prepared], self.replies, self.batch)
        seconds = (time.monotonic() - began) / len(replies)
        stored = (len(text.document.text.encode()) if asked.mode == CONTEXT else 0) + (entry.bytes if entry else 0)
        stored += index.stored_bytes if index else 0
        made = ((entry.seconds or 0.0) if entry else 0.0) + ((index.seconds or 0.0) if index else 0.0)
        lines = []
        for n, (item, question, one, reply) in enumerate(
            zip(text.items, text.questions, prepared, replies, strict=True)
        ):
            right = float(tasks.right(item, reply))
            parted = one.passages if index or one.cut_tokens else None
            recall = evidence_recall(question.evidence, parted) if parted is not None and question.evidence else None
            lines.append(
                {
                    "task": item.kind, "length": asked.length, "mode": asked.mode, "question": item.question,
                    "question_key": f"{text.document.name}/{n}", "document": text.document.name, "reply": reply,
                    "answer": item.answer, "score": right, "correct": bool(right), "cut_tokens": one.cut_tokens,
                    "recall": recall._asdict() if recall else None,
                    "cost": {
                        "seconds": seconds, "tokens_read": len(one.tokens), "stored_bytes": stored, "prepare_seconds": made
                    },
                }
            )  # fmt: skip
        return lines

    def _prepared(self, asked: Asked, text: Text, entry: Entry | None) -> tuple[list[Prepared], Index | None]:
        """Return the prompts of all questions, by memory-env's own code."""
        passages, index = self._index(asked, text) if asked.mode in LOOKED_UP else (None, None)
        order = asked.way if asked.way in RETRIEVALS[:3] else "rank"
        prompts = Prompts(self.tokens, self.options, self.replies, order)
        memory = None
        if entry:
            frame = document_prompt.request(entry.name, "{question}")
            memory = Memory(entry.name, frame, document_prompt.behind_text("{text}", frame))
        if asked.mode == CONTEXT:
            return self._whole(prompts, text), None
        return [
            prompts.prepare(q, asked.mode, self.window, passages.find(q, index) if passages and index else (), memory)
            for q in text.questions
        ], index

    def _whole(self, prompts: Prompts, text: Text) -> list[Prepared]:
        """Return the prompts with the text. It is cut, where it must be, for the longest question, so that all have one."""
        longest = max(text.questions, key=lambda question: len(question.asked))
        first = prompts.prepare(longest, CONTEXT, self.window)
        before = first.messages[0]["content"].removesuffix(longest.asked)
        made = []
        for question in text.questions:
            messages = [{"role": "user", "content": before + question.asked}]
            ids = self.tokens.encode(self.tokens.render(messages))
            made.append(replace(first, messages=messages, tokens=ids))
        return made

    def _index(self, asked: Asked, text: Text) -> tuple[Passages, Index]:
        chunking = "semantic" if asked.way == "semantic" else "fixed"
        key = (text.document.name, chunking)
        if key not in self.indices:
            passages = Passages.of(MemoryEnvConfig(chunking=chunking), self.tokens)
            self.indices[key] = passages, passages.index(text.document)
        return self.indices[key]

    def _remembered(self, entry: Entry, text: Text, prepared: Sequence[Prepared]) -> list[str]:
        """Return the replies with the document's memory on, in each row the segments that `lift serve` opens."""
        if self.attached is None:
            self.attached = Attached(self.library, self.model, [entry.name])
        attached = self.attached
        attached.switch(entry.name)
        folder, gated = self.library.path(entry), layers(attached.model)
        ids = [each.tokens for each in prepared]
        replies = [""] * len(ids)
        for batch in index_batches([len(each) for each in ids], self.replies, self.batch):
            rows = []
            for i in batch:
                best = segment_terms.best(folder, text.questions[i].sample.question, segment_terms.OPENED)
                rows.append((OpenMemory(entry.folder, None if best is None else tuple(best)),))
            with open_rows(gated, rows):  # the longest prompt comes first here as there, so the rows are the prompts'
                given = answers(attached.model, self.tokenizer, [ids[i] for i in batch], self.replies, 10**12)
            for i, reply in zip(batch, given, strict=True):
                replies[i] = reply
        return replies

    @torch.no_grad()
    def _behind_one_text(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Return the greedy replies to prompts that begin alike, which is read once."""
        shared = next(
            (i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), min(map(len, prompts))
        )
        shared = min(shared, min(map(len, prompts)) - 1)
        begun = DynamicCache()
        row = torch.tensor([list(prompts[0][:shared])], device=self.device)
        self.model(input_ids=row, past_key_values=begun, use_cache=True, logits_to_keep=1)
        at_a_time = max(1, self.batch // (max(map(len, prompts)) + self.replies))
        replies: list[str] = []
        for first in range(0, len(prompts), at_a_time):
            ends = [list(each[shared:]) for each in prompts[first : first + at_a_time]]
            replies += self._continued(begun, row, ends)
        return replies

    def _continued(self, begun: DynamicCache, row: torch.Tensor, ends: Sequence[list[int]]) -> list[str]:
        stops = stop_token_ids(self.model, self.tokenizer)
        filler, width = stops[0], max(map(len, ends))
        many, read = DynamicCache(), cast(Any, begun.layers)
        for number, layer in enumerate(read):
            keys, values = (x.expand(len(ends), -1, -1, -1) for x in (layer.keys, layer.values))
            many.update(keys, values, number)
        ids = torch.tensor([[filler] * (width - len(end)) + end for end in ends], device=self.device)
        inside = torch.tensor([[0] * (width - len(end)) + [1] * len(end) for end in ends], device=self.device)
        whole = row.expand(len(ends), -1)
        out = self.model.generate(
            input_ids=torch.cat([whole, ids], 1), attention_mask=torch.cat([torch.ones_like(whole), inside], 1),
            past_key_values=many, max_new_tokens=self.replies, eos_token_id=stops, pad_token_id=filler, **GREEDY,
        )  # fmt: skip
        return [reply_of(self.tokenizer, new, stops) for new in out[:, whole.shape[1] + width :].tolist()]
