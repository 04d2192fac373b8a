"""Groups in one forward pass: each prompt once, its completions behind it, each blind to the others. Exact.

    row          prompt p0 … pP-1 | completion 1 | completion 2 | … | prompt of the next group | …
    positions    0 … P-1          | P, P+1, …    | P, P+1, …        | 0, 1, …

A prompt attends causally to itself; a completion to its prompt and, causally, to itself; a group to no other. A mask
therefore has a row for each token of the completions alone, not for the prompt's. Several short groups in a pass spare a
GPU's host the launches of a pass for each. Shapes: P tokens of a prompt, C of all completions, V words; in attention B = 1
row, H heads, L tokens of the row, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from longthread.errors import ConfigError
from longthread.language_model import CausalLM

ATTENTION = "longthread_shared_prompt"  # the attn_implementation of a model that is trained so


class PromptGroup(NamedTuple):
    """Token ids of a prompt and of its completions."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


class Span(NamedTuple):
    """Where a group stands in a row: its prompt from `start`, its completions from `fork` up to `end`."""

    start: int
    fork: int
    end: int


@dataclass(frozen=True)
class Row:
    """Groups as one row of tokens."""

    groups: Sequence[PromptGroup]
    device: torch.device

    @cached_property
    def spans(self) -> list[Span]:
        """The place of each group."""
        spans, start = [], 0
        for prompt, completions in self.groups:
            fork = start + len(prompt)
            spans.append(Span(start, fork, fork + sum(map(len, completions))))
            start = spans[-1].end
        return spans

    @cached_property
    def ids_1L(self) -> Tensor:
        """The token ids."""
        ids: list[int] = []
        for prompt, completions in self.groups:
            ids += [*prompt, *(token for completion in completions for token in completion)]
        return torch.tensor([ids], device=self.device)

    @cached_property
    def positions_1L(self) -> Tensor:
        """The position of each token in its own sequence."""
        positions = []
        for prompt, completions in self.groups:
            P = len(prompt)
            positions += [torch.arange(P), *(torch.arange(P, P + len(one)) for one in completions)]
        return torch.cat(positions)[None].to(self.device)

    @cached_property
    def masks(self) -> list[Tensor]:
        """Of each group, which of its tokens each token of its completions sees: (completions' tokens, all tokens)."""
        return [self._mask(group).to(self.device) for group in self.groups]

    @staticmethod
    def _mask(group: PromptGroup) -> Tensor:
        owner_C = torch.repeat_interleave(torch.tensor([len(one) for one in group.completions]))
        C = len(owner_C)
        own_CC = (owner_C[:, None] == owner_C[None]) & torch.ones(C, C, dtype=torch.bool).tril()
        return torch.cat([torch.ones(C, len(group.prompt), dtype=torch.bool), own_CC], dim=1)

    @cached_property
    def chosen_C(self) -> Tensor:
        """The tokens of all completions, one after the other."""
        return torch.cat([self.ids_1L[0, span.fork : span.end] for span in self.spans])

    @cached_property
    def predicting_C(self) -> Tensor:
        """For each token of the completions, the place in the row that predicts it: the one before in its sequence."""
        places: list[int] = []
        for span, group in zip(self.spans, self.groups, strict=True):
            start = span.fork
            for completion in group.completions:
                places += [span.fork - 1, *range(start, start + len(completion) - 1)][: len(completion)]
                start += len(completion)
        return torch.tensor(places, device=self.device)


def shared_prompt_attention(  # noqa: PLR0913  transformers calls it so
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Compute one layer's attention over a `Row`. Takes (1, H, L, D), returns (1, L, H, D), as transformers calls it.

    Raises `ConfigError` for a model that attends otherwise.
    """
    row, name = kwargs.get("shared_prompt"), type(module).__name__
    if not isinstance(row, Row):
        raise ConfigError(f"{name} does not pass on what a forward pass is given: train another model family")
    for unknown in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if kwargs.get(unknown) is not None:
            raise ConfigError(f"{name} has {unknown}, which a shared prompt's attention has not: train another model")
    share, parts = query.shape[1] // key.shape[1], []
    key, value = (states.repeat_interleave(share, dim=1) for states in (key, value))
    for span, mask in zip(row.spans, row.masks, strict=True):
        start, fork, end = span
        own, behind = slice(start, fork), slice(fork, end)
        parts.append(
            scaled_dot_product_attention(
                query[:, :, own], key[:, :, own], value[:, :, own], is_causal=True, scale=scaling, dropout_p=dropout
            )
        )
        keys, values = key[:, :, start:end], value[:, :, start:end]
        parts.append(
            scaled_dot_product_attention(
                query[:, :, behind], keys, values, attn_mask=mask, scale=scaling, dropout_p=dropout
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*_: object, **__: object) -> None:
    """Return no mask: the row has its own."""


AttentionInterface.register(ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


def logprobs(model: CausalLM, row: Row) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each token of the completions, one after the other, and the entropy there: (C,).

    `model` must have been loaded with `ATTENTION`. Only the completions' logits are made. The entropy has no gradient.
    """
    logits_CV = model(
        input_ids=row.ids_1L,
        position_ids=row.positions_1L,
        logits_to_keep=row.predicting_C,
        use_cache=False,
        shared_prompt=row,
    ).logits[0].float()  # fmt: skip
    logprobs_CV = logits_CV.log_softmax(dim=-1)
    with torch.no_grad():
        entropy_C = -(logprobs_CV.exp() * logprobs_CV).sum(dim=-1)
    return logprobs_CV.gather(1, row.chosen_C[:, None]).squeeze(1), entropy_C
