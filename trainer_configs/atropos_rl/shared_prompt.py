"""A group in one forward pass: its prompt once, its completions behind it, each blind to the others. Exact.

    row          prompt p0 … pP-1 | completion 1 | completion 2 | …
    positions    0 … P-1          | P, P+1, …    | P, P+1, …

The prompt attends causally to itself; a completion to the prompt and, causally, to itself. The mask therefore has a row for
each token of the completions alone, not for the prompt's. Shapes: P tokens of the prompt, C of all completions, T trained
tokens, V words; in attention B = 1 row, H heads, L = P + C, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from longthread.errors import ConfigError
from longthread.language_model import CausalLM

ATTENTION = "longthread_shared_prompt"  # the attn_implementation of a model that is trained so


@dataclass(frozen=True)
class Row:
    """One group as a row of tokens."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    device: torch.device

    @cached_property
    def ids_1L(self) -> Tensor:
        """The token ids."""
        ids = [*self.prompt, *(token for completion in self.completions for token in completion)]
        return torch.tensor([ids], device=self.device)

    @cached_property
    def positions_1L(self) -> Tensor:
        """The position of each token in its own sequence."""
        P = len(self.prompt)
        positions = [torch.arange(P), *(torch.arange(P, P + len(one)) for one in self.completions)]
        return torch.cat(positions)[None].to(self.device)

    @cached_property
    def mask_CL(self) -> Tensor:
        """Which tokens each token of the completions sees."""
        owner_C = torch.repeat_interleave(torch.tensor([len(one) for one in self.completions]))
        C = len(owner_C)
        own_CC = (owner_C[:, None] == owner_C[None]) & torch.ones(C, C, dtype=torch.bool).tril()
        return torch.cat([torch.ones(C, len(self.prompt), dtype=torch.bool), own_CC], dim=1).to(self.device)

    @cached_property
    def predicting_C(self) -> Tensor:
        """For each token of the completions, the place in the row that predicts it: the one before in its sequence."""
        P, places, start = len(self.prompt), [], len(self.prompt)
        for completion in self.completions:
            places += [P - 1, *range(start, start + len(completion) - 1)][: len(completion)]
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
    share, P = query.shape[1] // key.shape[1], len(row.prompt)
    key, value = (states.repeat_interleave(share, dim=1) for states in (key, value))
    first = scaled_dot_product_attention(
        query[:, :, :P], key[:, :, :P], value[:, :, :P], is_causal=True, scale=scaling, dropout_p=dropout
    )
    rest = scaled_dot_product_attention(
        query[:, :, P:], key, value, attn_mask=row.mask_CL, scale=scaling, dropout_p=dropout
    )
    return torch.cat([first, rest], dim=2).transpose(1, 2).contiguous(), None


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
    chosen_C = row.ids_1L[0, len(row.prompt) :]
    with torch.no_grad():
        entropy_C = -(logprobs_CV.exp() * logprobs_CV).sum(dim=-1)
    return logprobs_CV.gather(1, chosen_C[:, None]).squeeze(1), entropy_C
