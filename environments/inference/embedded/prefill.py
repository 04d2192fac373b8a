"""Read prompts: their keys and values, and the logits that follow each. Several prompts at once where none has a prefix."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from environments.inference.embedded.batch import Columns, Prompt, as_cache
from environments.inference.embedded.limits import Limits
from environments.inference.embedded.request import Request
from environments.inference.embedded.variants import Forward
from longthread.cache_argument import CACHE


@dataclass(frozen=True)
class Prefix:
    """The prompt read last: its variant, its token ids, and each layer's keys and values of it."""

    variant: Hashable
    ids_K: Tensor
    layers: list[tuple[Tensor, Tensor]]


class Prefill:
    """Reads prompts with a model that has `layers` layers, on `device`.

    Of the limits, `chunk`: tokens of a prompt run at a time, but for a prompt of up to `whole` tokens of which no prefix has
    more than half. `together`: tokens of whole prompts run at a time, padding included; 0 reads each prompt alone.
    `keep_prefix`: whether a prompt's keys and values serve the next prompt that begins alike. `dropped`: called between
    chunks; true for a request that nobody waits for.
    """

    def __init__(self, forward: Forward, layers: int, device: torch.device, limits: Limits, keep_prefix: bool) -> None:
        self.forward, self.layers, self.device = forward, layers, device
        self.limits, self.keep_prefix = limits, keep_prefix
        self.prefix: Prefix | None = None

    def read(self, requests: Sequence[Request], dropped: Callable[[Request], bool]) -> Iterator[Prompt]:
        """Yield every request that is not dropped, with its prompt read. One that fails gets the error."""
        for group in self._groups(requests):
            group = [request for request in group if not dropped(request)]
            try:
                yield from self._whole(group) if len(group) > 1 else self._alone(group, dropped)
            except Exception as error:  # out of memory, say: these requests fail, the next need not
                if len(group) == 1:
                    group[0].fail(error)
                    continue
                for request in group:
                    yield from self.read([request], dropped)

    def _groups(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Yield requests to be read together: of similar length, and without a prefix in memory."""
        alone = [
            request
            for request in requests
            if not self.limits.together or self._shared(request) * 2 > len(request.prompt)
        ]
        yield from ([request] for request in alone)
        group: list[Request] = []
        rest = [request for request in requests if all(request is not other for other in alone)]
        for request in sorted(rest, key=lambda request: len(request.prompt)):
            distinct = {tuple(other.prompt) for other in [*group, request]}
            # Sorted: this one is the longest, so the others are padded to it, by half of their own length at most.
            padded_too_far = group and len(request.prompt) > 1.5 * len(group[0].prompt) + 256
            if group and (padded_too_far or len(distinct) * len(request.prompt) > self.limits.together):
                yield group
                group = []
            group.append(request)
        if group:
            yield group

    def _shared(self, request: Request) -> int:
        """Tokens of a request's prompt whose keys and values the prefix has; the last token is run for its logits."""
        if self.prefix is None or self.prefix.variant != request.variant:
            return 0
        return common_prefix(self.prefix.ids_K, torch.tensor(request.prompt[:-1]))

    def _served(self, request: Request) -> int:
        """Return how many tokens of a prompt that is read alone the prefix serves.

        Chunks behind a prefix take masks: where one pass may read the whole, the few tokens of a template that all prompts
        begin with are not worth them.
        """
        shared, tokens = self._shared(request), len(request.prompt)
        return 0 if tokens <= self.limits.whole and shared * 2 <= tokens else shared

    def _whole(self, requests: Sequence[Request]) -> list[Prompt]:
        """Read several prompts in one pass, each distinct one once. Padding stands behind, where no token sees it."""
        distinct = list(dict.fromkeys(tuple(request.prompt) for request in requests))
        ids_BQ = pad_sequence([torch.tensor(ids) for ids in distinct], batch_first=True).to(self.device)
        ends = sorted({len(ids) - 1 for ids in distinct})
        layers = [Columns(reserve=ids_BQ.shape[1]) for _ in range(self.layers)]
        out = self.forward(
            [requests[0].variant] * len(distinct),
            input_ids=ids_BQ,
            **{CACHE: as_cache(layers)},
            use_cache=True,
            logits_to_keep=torch.tensor(ends, device=self.device),
        )
        prompts = []
        for request in requests:
            row = distinct.index(tuple(request.prompt))
            prompts.append(Prompt(request, layers, row, out.logits[row, ends.index(len(request.prompt) - 1)]))
        return prompts

    def _alone(self, group: Sequence[Request], dropped: Callable[[Request], bool]) -> Iterator[Prompt]:
        """Read one prompt in chunks, behind what the prefix has of it."""
        for request in group:
            ids_K, start = torch.tensor(request.prompt), self._served(request)
            layers = [Columns(reserve=len(ids_K)) for _ in range(self.layers)]
            if start and self.prefix is not None:
                for layer, (keys, values) in zip(layers, self.prefix.layers, strict=True):
                    layer.update(keys[:, :, :start], values[:, :, :start])
            cache = as_cache(layers)
            step = self.limits.chunk if start or len(ids_K) > self.limits.whole else len(ids_K)
            while start < len(ids_K):
                if dropped(request):
                    return
                chunk_1Q = ids_K[None, start : start + step].to(self.device)
                inputs = {"input_ids": chunk_1Q, CACHE: cache, "use_cache": True, "logits_to_keep": 1}
                out = self.forward([request.variant], **inputs)
                start += step
            if self.keep_prefix:
                # Later columns are only ever written behind the prompt's, so views will do.
                self.prefix = Prefix(request.variant, ids_K, [layer.first(len(ids_K)) for layer in layers])
            yield Prompt(request, layers, 0, out.logits[0, -1])


def common_prefix(a: Tensor, b: Tensor) -> int:
    """Return how many leading elements two 1-D tensors share."""
    shortest = min(len(a), len(b))
    differing = (a[:shortest] != b[:shortest]).nonzero()
    return int(differing[0]) if len(differing) else shortest
