"""A request as the engine decodes it: a prompt, its branches (the completions being generated), and their sampling."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from environments.inference.embedded.protocol import Generation, Sampling
from environments.inference.embedded.sampling import Choice, draw
from environments.inference.embedded.variants import BASE


class Request:
    """A prompt, its n branches, and the future that gives them to whoever asked.

    `variant` says which of the server's models reads and writes (`variants`).
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, variant: Hashable = BASE) -> None:
        self.prompt, self.sampling, self.variant = list(prompt), sampling, variant
        self.future: Future[list[Generation]] = Future()
        self.branches = [Generation() for _ in range(sampling.n)]
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        # One generator a branch: what a branch draws depends on nothing else in the batch.
        self.generators = [Random((seed * 1_000_003 + i) % 2**63) for i in range(sampling.n)]

    @property
    def running(self) -> list[int]:
        """Indices of the branches that are not finished; none once the client has gone."""
        return [] if self.future.cancelled() else [i for i, b in enumerate(self.branches) if not b.finish_reason]

    @property
    def filtered(self) -> bool:
        """Whether top_k or top_p leaves out tokens."""
        return self.sampling.temperature > 0 and (self.sampling.top_k > 0 or self.sampling.top_p < 1)

    def choice(self, index: int) -> tuple[float, float, float, float]:
        """Return a branch's numbers of a `Choice`. It draws its next uniform number, so it is called once a token."""
        sampling = self.sampling
        top_k, top_p = (sampling.top_k, sampling.top_p) if self.filtered else (0, 1.0)
        return sampling.temperature, top_k, top_p, self.generators[index].random()

    def advance(
        self, index: int, token: int, logprob: float, eos_ids: Collection[int], top: list[tuple[int, float]] | None
    ) -> None:
        """Append a branch's next token, and see whether the branch ends with it."""
        branch, sampling = self.branches[index], self.sampling
        branch.ids.append(token)
        branch.logprobs.append(logprob)
        if top is not None:
            branch.top.append(top)
        if token in eos_ids or (sampling.stopped is not None and sampling.stopped(branch.ids)):
            branch.finish_reason = "stop"
        elif len(branch.ids) >= sampling.max_tokens:
            branch.finish_reason = "length"
        elif sampling.on_token is not None:
            sampling.on_token(index, branch.ids)

    def fail(self, error: Exception) -> None:
        """Give the error to whoever waits for the branches."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Branch(NamedTuple):
    """One completion of a request: branch number `number`."""

    request: Request
    number: int


def choices(branches: Sequence[Branch], device: torch.device) -> Choice:
    """Return how these branches draw their next token."""
    numbers = torch.tensor([request.choice(index) for request, index in branches], dtype=torch.float64)
    return Choice(*numbers.T.to(device))


def advance(branches: Sequence[Branch], logits_RV: Tensor, eos_ids: Collection[int]) -> None:
    """Draw the next token of each branch from its logits, shape (branches, vocabulary), and append it."""
    logits_RV = logits_RV.float()
    filtered = any(request.filtered for request, _ in branches)
    drawn = draw(logits_RV, choices(branches, logits_RV.device), filtered)
    tokens, logprobs = (values_R.tolist() for values_R in drawn)
    append(branches, tokens, logprobs, likeliest(branches, logits_RV), eos_ids)


def append(
    branches: Sequence[Branch],
    tokens: Sequence[int],
    logprobs: Sequence[float],
    tops: Iterable[list[tuple[int, float]] | None],
    eos_ids: Collection[int],
) -> None:
    """Append drawn tokens to their branches. `tops`: what `likeliest` gives."""
    for (request, index), token, logprob, top in zip(branches, tokens, logprobs, tops, strict=True):
        request.advance(index, token, logprob, eos_ids, top)


def likeliest(branches: Sequence[Branch], logits_RV: Iterable[Tensor]) -> Iterator[list[tuple[int, float]] | None]:
    """Yield for each branch the tokens with the highest log-probabilities, None where its request wants none."""
    for (request, _), logits_V in zip(branches, logits_RV, strict=True):
        count = min(request.sampling.top_logprobs, len(logits_V))
        if not count:
            yield None
            continue
        values, ids = logits_V.float().log_softmax(dim=-1).topk(count)
        yield list(zip(ids.tolist(), values.tolist(), strict=True))
