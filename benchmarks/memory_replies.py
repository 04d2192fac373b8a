"""Greedy replies to many prompts at once, timed: of a model alone, behind one text that is read once, with a memory on."""

import time
from collections.abc import Sequence
from copy import deepcopy

import torch

from lift.inference.capacity import synchronize
from lift.inference.generate import answers, continued, index_batches, reply_of, stop_token_ids
from lift.library import segment_terms
from lift.library.attach import Attached
from lift.library.library import Entry, Library
from lift.memory.document_cache import beginning, common_tokens
from lift.memory.tuner import OpenMemory, layers, open_rows
from longthread.language_model import CausalLM, ChatTokenizer

CPU_BATCH = 16_384
WARM_UP = 8  # tokens of the prompts that load kernels before anything is timed


class Replies:
    """Asks one model. `tokens`: of a reply, at most; `batch`: tokens at a time on a GPU, replies and padding included.

    Memories are attached to a copy of the model, so that it can be asked without them at any time.
    """

    def __init__(self, model: CausalLM, tokenizer: ChatTokenizer, tokens: int, batch: int):
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens
        self.batch = batch if model.device.type == "cuda" else CPU_BATCH
        self._attached: Attached | None = None
        self._warm(model)

    def _warm(self, model: CausalLM) -> None:
        answers(model, self.tokenizer, [[*range(WARM_UP)]] * 2, 2)

    def bare(self, prompts: Sequence[Sequence[int]]) -> tuple[list[str], float]:
        """Return the replies without any memory, and the seconds that all of them took."""
        began = self._now()
        replies = answers(self.model, self.tokenizer, prompts, self.tokens, self.batch)
        return replies, self._now() - began

    def _now(self) -> float:
        synchronize(self.model.device)
        return time.perf_counter()

    # ---- with a memory on ----

    def remembered(
        self, library: Library, entry: Entry, prompts: Sequence[Sequence[int]], questions: Sequence[str]
    ) -> tuple[list[str], float]:
        """Return the replies with a document's memory on, and the seconds that all of them took.

        Of a memory of several segments each row has those open that `lift serve` opens for its question.
        """
        attached = self._with(library, entry)
        folder, gated = library.path(entry), layers(attached.model)
        began = self._now()
        best = [segment_terms.best(folder, question, segment_terms.OPENED) for question in questions]
        opened = [(OpenMemory(entry.folder, None if each is None else tuple(each)),) for each in best]
        replies = [""] * len(prompts)
        for batch in index_batches([len(each) for each in prompts], self.tokens, self.batch):
            with open_rows(gated, [opened[i] for i in batch]):  # the longest prompt comes first here as there
                given = answers(attached.model, self.tokenizer, [prompts[i] for i in batch], self.tokens, 10**12)
            for i, reply in zip(batch, given, strict=True):
                replies[i] = reply
        return replies, self._now() - began

    def _with(self, library: Library, entry: Entry) -> Attached:
        """Return a copy of the model with the document's memory on."""
        if self._attached is None or self._attached.library.folder != library.folder:
            self._attached = Attached(library, deepcopy(self.model), [entry.name])
        self._attached.switch(entry.name)
        self._warm(self._attached.model)
        return self._attached

    # ---- behind one text ----

    @torch.no_grad()
    def behind_one_text(self, prompts: Sequence[Sequence[int]]) -> tuple[list[str], float, float, int]:
        """Return the replies to prompts that begin alike, which is read once, and the seconds that all of them took.

        Then the seconds of the reading, and how many tokens were read once.
        """
        shared, stops = common_tokens(prompts), stop_token_ids(self.model, self.tokenizer)
        started = self._now()
        begun = beginning(self.model, prompts[0][:shared])
        read = self._now() - started
        at_a_time = max(1, self.batch // (max(map(len, prompts)) + self.tokens))
        replies, began = list[str](), self._now()
        for first in range(0, len(prompts), at_a_time):
            rows = continued(self.model, prompts[first : first + at_a_time], stops, self.tokens, shared, begun)
            replies += [reply_of(self.tokenizer, row, stops) for row in rows]
        return replies, self._now() - began, read, shared
