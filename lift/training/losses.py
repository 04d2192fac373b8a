"""Losses: cross entropy of next tokens, and divergence from a teacher's logits.

T: tokens, N: places of which logits are computed, V: vocabulary, K: tokens kept of a teacher's.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from lift.document.segments import IGNORED
from longthread.language_model import CausalLM

TOP = 64  # logits kept of a teacher's


def logits_at(model: CausalLM, ids_BL: Tensor, at_N: Tensor, **inputs: Tensor) -> Tensor:
    """Return the model's logits at N positions of padded rows, (N, vocabulary), with gradients.

    `at_N` counts positions over all rows joined end to end. Rows are padded on the right. Logits at all positions would
    be most of a small model's step. So a hook gives the head these positions alone; the models' own `logits_to_keep`
    would take the same positions of every row. `inputs` are others that the model takes, such as `position_ids`.
    """

    def pick(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_BLD = args[0][:, -ids_BL.shape[1] :]  # without what an adapter has put in front
        return (hidden_BLD.flatten(0, 1).index_select(0, at_N)[None], *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        return model(input_ids=ids_BL, use_cache=False, **inputs).logits[0]
    finally:
        hook.remove()


def token_loss(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the sum of the cross entropies of all targets that are not `IGNORED`, given logits (N, vocabulary)."""
    return F.cross_entropy(logits_NV.float(), targets_N, ignore_index=IGNORED, reduction="sum")


class TopLogits(NamedTuple):
    """The ids of a teacher's most likely tokens at each position, and their log-probabilities, both (T, K)."""

    ids_TK: Tensor
    log_p_TK: Tensor


def top_logits(logits_TV: Tensor, k: int = TOP) -> TopLogits:
    """Return ids and log-probabilities of the `k` most likely tokens at each position, from logits (T, vocabulary)."""
    log_p_TK, ids_TK = logits_TV.float().log_softmax(-1).topk(min(k, logits_TV.shape[-1]), dim=-1)
    return TopLogits(ids_TK, log_p_TK)


def divergence(logits_TV: Tensor, teacher: TopLogits) -> Tensor:
    """Return KL(teacher || model) at each position, (T,), given the model's logits (T, vocabulary).

    All tokens outside the teacher's top ones count as one.
    """
    log_q_TK = logits_TV.float().log_softmax(-1).gather(-1, teacher.ids_TK)
    p_TK, q_TK = teacher.log_p_TK.exp(), log_q_TK.exp()
    p_rest_T, q_rest_T = ((1 - x.sum(-1)).clamp(min=1e-6) for x in (p_TK, q_TK))
    return (p_TK * (teacher.log_p_TK - log_q_TK)).sum(-1) + p_rest_T * (p_rest_T.log() - q_rest_T.log())
