"""Decode over fixed slots: a static key/value cache in which each request keeps its row, so that a step can be captured.

Row b of every layer's cache holds one request: column 0 takes what padding writes, then come the prompt, and behind it the
tokens of all its branches as they are made. `owner_BK` says who reads a column, as in `batch`: the prompt's keys and values
stand in memory once and are read once a step, whatever n is.

    owner_BK     padding  prompt       step 1   step 2   free
    request 0    P        0 0 0 0      1 2 3    1 2 3    . . .        0  all branches     i  branch i - 1
    request 1    P        0 0 0        1        1        . . . . . .  P  padding alone    .  nobody

A step's shapes do not depend on the requests: a `Step` is kept, on a GPU as a captured graph, for each number of rows and
of queries a row (powers of two). What ends or joins changes numbers in tensors, never the tensors.

Shapes: B rows, Q queries of a row, K columns, H key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from environments.inference.embedded.batch import ATTENTION, DEAD, SHARED, Prompt
from environments.inference.embedded.limits import Limits
from environments.inference.embedded.request import Branch, Request, append, likeliest
from environments.inference.embedded.step import PADDING, Cache, Step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOO_WIDE = 4  # times the columns that the first request of an empty cache needs: a new cache is made
SPARE = 256  # tokens for which a new row has room; it is enlarged when they are used


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


def wide_enough(columns: int) -> int:
    """Return `columns` rounded up to one of four sizes between two powers of two: at most a quarter is spare."""
    unit = max(64, power_of_two(columns) // 8)
    return -(-columns // unit) * unit


class SlotDecoder:
    """Decodes requests that each keep a row of a static cache. See `decoder.Decoder`.

    `capture`: whether steps are captured as CUDA graphs. Where a model cannot be captured, they run as they are, and one
    line says so. Raises `ValueError` for a model that was not loaded with `batch.ATTENTION`.
    """

    def __init__(self, model: PreTrainedModel, eos_ids: Collection[int], limits: Limits, capture: bool) -> None:
        if model.config._attn_implementation != ATTENTION:  # eager would add the boolean mask to the scores
            raise ValueError(f"attn_implementation must be {ATTENTION!r} (got {model.config._attn_implementation!r})")
        self.model, self.eos_ids, self.limits, self.capture = model, eos_ids, limits, capture
        self.rows: list[Request | None] = []
        self.used: list[int] = []  # columns of each row that are taken
        self.cache: Cache | None = None
        self.steps: dict[tuple[int, int, bool], Step] = {}

    @property
    def requests(self) -> list[Request]:
        """All requests, by row."""
        return [request for request in self.rows if request is not None]

    def has_room(self, joining: Sequence[Request], request: Request) -> bool:
        """Return whether a request may join, with others that are about to; an empty decoder takes any one.

        Replies longer than `SPARE` tokens may take the cache past the limit later: few are as long as they may be.
        """
        coming = [*joining, request]
        count = len(self.requests) + len(coming)
        rows, columns = self._shape(coming)
        return count == 1 or (count <= self.limits.requests and rows * columns <= self.limits.columns)

    def add(self, prompt: Prompt) -> None:
        """Copy a prompt's keys and values into a free row."""
        request, length = prompt.request, len(prompt.request.prompt)
        rows, columns = self._shape([request])
        if self.cache and not self.requests and self.cache.owner_BK.shape[1] >= TOO_WIDE * columns:
            self.clear()  # a step reads all columns of its rows, whoever needed them
        if self.cache is None:
            self.cache = Cache.like(prompt.layers)
        self._make_fit(rows, columns)
        row = self.rows.index(None)
        self.cache.fill(row, prompt, length)
        self.rows[row], self.used[row] = request, 1 + length

    def step(self) -> None:
        """Append one token to every running branch of every request."""
        rows = [(b, request, request.running) for b, request in enumerate(self.rows) if request is not None]
        rows = [row for row in rows if row[2]]
        if not rows:  # every client has gone
            return
        for b, _, running in rows:
            self._make_room(b, len(running))
        shape = power_of_two(rows[-1][0] + 1), power_of_two(max(len(running) for _, _, running in rows))
        step = self._step((*shape, any(request.filtered for _, request, _ in rows)))
        branches, places = [], []
        for b, request, running in rows:
            for q, i in enumerate(running):
                ids = request.branches[i].ids
                step.set(
                    b, q, (ids[-1], len(request.prompt) + len(ids) - 1, self.used[b] + q, i + 1), request.choice(i)
                )
                branches.append(Branch(request, i))
                places.append(b * shape[1] + q)
            self.used[b] += len(running)
        tokens_R, logprobs_R = step.run()
        tokens, logprobs = [tokens_R[place] for place in places], [logprobs_R[place] for place in places]
        append(
            branches, tokens, logprobs, likeliest(branches, [step.logits_RV[place] for place in places]), self.eos_ids
        )

    def settle(self) -> None:
        """Free the rows of requests that have no running branch."""
        for b, request in enumerate(self.rows):
            if request is not None and not request.running:
                self._free(b)

    def clear(self) -> None:
        """Free all rows, and the cache's memory."""
        self.steps.clear()
        self.cache, self.rows, self.used = None, [], []

    def _free(self, row: int) -> None:
        self.rows[row], self.used[row] = None, 0
        assert self.cache is not None
        self.cache.owner_BK[row, 1:] = DEAD

    def _step(self, shape: tuple[int, int, bool]) -> Step:
        """Return the step of this many rows and queries, with filters in its sampling or without."""
        assert self.cache is not None
        if shape not in self.steps:
            self.steps[shape] = Step(self.model, self.cache, *shape)
        step = self.steps[shape]
        if self.capture and step.graph is None:
            try:
                step.capture()
            except Exception as error:  # whatever an architecture does that a graph cannot hold
                self.capture, reason = False, str(error).strip().splitlines() or [""]
                message = f"{type(self.model).__name__} cannot be captured as a CUDA graph ({type(error).__name__}: "
                print(f"embedded server: {message}{reason[0][:160]}): steps run without one", file=sys.stderr)
        return step

    def _make_room(self, row: int, count: int) -> None:
        """See that a row has `count` free columns: drop its dead ones where these are many, else widen the cache."""
        assert self.cache is not None
        width, request = self.cache.owner_BK.shape[1], self.rows[row]
        if self.used[row] + count <= width or request is None:
            return
        owners = torch.tensor([PADDING, SHARED, *(branch + 1 for branch in request.running)])
        columns_K = torch.isin(self.cache.owner_BK[row].cpu(), owners.int()).nonzero().squeeze(1)
        if len(columns_K) + count <= width * 3 // 4:
            self.cache.keep(row, columns_K)
            self.used[row] = len(columns_K)
        else:
            rows, columns = self._shape([])
            self._make_fit(rows, max(columns, wide_enough(self.used[row] + SPARE * count)))

    def _shape(self, coming: Sequence[Request]) -> tuple[int, int]:
        """Return the rows and columns that the requests here take or soon will, with these in the lowest free rows."""
        taken = {b: request for b, request in enumerate(self.rows) if request is not None}
        rows = max([len(taken) + len(coming), *(b + 1 for b in taken)])
        needed = [columns_needed(request) for request in [*taken.values(), *coming]]
        return power_of_two(rows), wide_enough(max([*needed, *(self.used[b] for b in taken)]))

    def _make_fit(self, rows: int, columns: int) -> None:
        """Give the cache this shape if it is too small; steps of the old tensors are dropped.

        What was larger than this shape shrinks to it: rows of many short texts times columns of long ones are more than
        `has_room` counts, and than memory holds.
        """
        assert self.cache is not None
        old_rows, old_columns = self.cache.owner_BK.shape
        if rows <= old_rows and columns <= old_columns:
            return
        self.steps.clear()
        try:
            self.cache.resize(rows, columns)
        finally:
            rows = self.cache.owner_BK.shape[0]
            self.rows = [*self.rows[:rows], *[None] * (rows - len(self.rows))]
            self.used = [*self.used[:rows], *[0] * (rows - len(self.used))]


def columns_needed(request: Request) -> int:
    """Return the columns of a row in which a request can begin: its prompt, and some tokens of each branch."""
    return 1 + len(request.prompt) + len(request.branches) * min(request.sampling.max_tokens, SPARE)
