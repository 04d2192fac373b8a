"""The compaction of one key/value head written out slowly, in float64: the specification of `compact`.

N: reference queries, T: tokens of the document, S: slots, D: head dimension.
"""

import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from lift.memory.compact import BOX, Compaction
from lift.memory.selection import Reference


def head_scores(reference: Reference, head: int, k_TD: Tensor) -> Tensor:
    """Return the root mean square of the whole head's attention to each key, (T,)."""
    attention_NT = _attention(reference, head, k_TD.double(), k_TD.double())
    return attention_NT[reference.heard_N].square().mean(0).sqrt()


def head_weights(reference: Reference, head: int, kept_T: Tensor, k_TD: Tensor, v_TD: Tensor, how: Compaction) -> Tensor:
    """Return w of (1) of `compact` for the kept keys, (S,)."""
    k_TD, v_TD = k_TD.double(), v_TD.double()
    p_NS = _attention(reference, head, k_TD, k_TD[kept_T])
    gate_N = _attention(reference, head, k_TD, k_TD).sum(1)
    memory_ND = torch.softmax(reference.q_GND[head].double() @ k_TD.T, 1) @ v_TD
    u_N = (1 - gate_N) * (memory_ND - reference.window_GND[head].double()).norm(dim=1) * _counts(reference, how).sqrt()
    rows_NS, wanted_N = u_N[:, None] * p_NS, u_N * gate_N * reference.heard_N
    prior = ((rows_NS.sum(1) @ wanted_N) / rows_NS.sum(1).square().sum()).clamp(*BOX)
    near_SS = (how.bias_ridge * rows_NS.square().sum(0)).sqrt().diag()
    left, right = torch.cat([rows_NS, near_SS]), torch.cat([wanted_N, near_SS.sum(1) * prior])
    return torch.from_numpy(lsq_linear(left.numpy(), right.numpy(), bounds=BOX, method="bvls").x)


def head_values(
    reference: Reference, head: int, kept_T: Tensor, w_S: Tensor, k_TD: Tensor, v_TD: Tensor, how: Compaction
) -> Tensor:  # fmt: skip
    """Return v of (2) of `compact` for kept keys with weights w, (S, D)."""
    k_TD, v_TD, w_S = k_TD.double(), v_TD.double(), w_S.double()
    window_ND = reference.window_GND[head].double()
    gate_N = _attention(reference, head, k_TD, k_TD).sum(1)
    memory_ND = torch.softmax(reference.q_GND[head].double() @ k_TD.T, 1) @ v_TD
    x_NS = _attention(reference, head, k_TD, k_TD[kept_T]) * w_S
    x_NS = x_NS / (x_NS.sum(1) + 1 - gate_N)[:, None]
    output_ND = window_ND + (gate_N * reference.heard_N)[:, None] * (memory_ND - window_ND)
    target_ND = output_ND - (1 - x_NS.sum(1))[:, None] * window_ND
    root_N1 = _counts(reference, how).sqrt()[:, None]
    extra = (how.value_ridge * (root_N1 * x_NS).square().sum() / len(w_S)).sqrt()
    x = torch.cat([root_N1 * x_NS, extra * torch.eye(len(w_S), dtype=torch.float64)])
    return torch.linalg.lstsq(x, torch.cat([root_N1 * target_ND, extra * v_TD[kept_T]]), driver="gelsd").solution


def _attention(reference: Reference, head: int, k_TD: Tensor, k_SD: Tensor) -> Tensor:
    """Return the whole head's attention to some keys of the document, (N, S), beside all others and the window."""
    q_ND, lse_window_N = reference.q_GND[head].double(), reference.lse_window_GN[head].double()
    lse_N = torch.logaddexp((q_ND @ k_TD.T).logsumexp(1), lse_window_N)
    return (q_ND @ k_SD.T - lse_N[:, None]).exp()


def _counts(reference: Reference, how: Compaction) -> Tensor:
    """Return how much each query counts, (N,)."""
    return torch.where(reference.heard_N, 1.0, how.quiet_weight).double()
