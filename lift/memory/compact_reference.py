"""The compaction of one key/value head written out slowly, in float64: the specification of `compact`.

N: reference queries, T: tokens of the document, S: slots, D: head dimension.
"""

import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from lift.memory.compact import BOX, Compaction
from lift.memory.selection import Reference


class ReferenceHead:
    """One key/value head with number `head` of `reference`, over the keys and values of a document."""

    def __init__(self, reference: Reference, head: int, k_TD: Tensor, v_TD: Tensor, how: Compaction):
        self.how, self.heard_N = how, reference.heard_N
        self.k_TD, self.v_TD, self.window_ND = k_TD.double(), v_TD.double(), reference.window_GND[head].double()
        scores_NT = reference.q_GND[head].double() @ self.k_TD.T
        lse_N = torch.logaddexp(scores_NT.logsumexp(1), reference.lse_window_GN[head].double())
        self.attention_NT = (scores_NT - lse_N[:, None]).exp()  # of the whole head, beside its window
        self.gate_N = self.attention_NT.sum(1)
        self.memory_ND = scores_NT.softmax(1) @ self.v_TD
        self.weight_N = reference.weight_GN[head].double()
        self.root_N = (self.weight_N * torch.where(self.heard_N, 1.0, how.quiet_weight)).sqrt()

    def scores(self) -> Tensor:
        """Return the root mean square of the head's attention to each key, by weight, (T,)."""
        return (self.weight_N[:, None] * self.attention_NT.square())[self.heard_N].mean(0).sqrt()

    def weights(self, kept_S: Tensor) -> Tensor:
        """Return w of (1) of `compact` for the kept keys, (S,)."""
        u_N = (1 - self.gate_N) * (self.memory_ND - self.window_ND).norm(dim=1) * self.root_N
        rows_NS, wanted_N = u_N[:, None] * self.attention_NT[:, kept_S], u_N * self.gate_N * self.heard_N
        prior = ((rows_NS.sum(1) @ wanted_N) / rows_NS.sum(1).square().sum()).clamp(*BOX)
        near_SS = (self.how.bias_ridge * rows_NS.square().sum(0)).sqrt().diag()
        left, right = torch.cat([rows_NS, near_SS]), torch.cat([wanted_N, near_SS.sum(1) * prior])
        return torch.from_numpy(lsq_linear(left.numpy(), right.numpy(), bounds=BOX, method="bvls").x)

    def values(self, kept_S: Tensor, w_S: Tensor) -> Tensor:
        """Return v of (2) of `compact` for kept keys with weights w, (S, D)."""
        x_NS = self.attention_NT[:, kept_S] * w_S.double()
        x_NS = x_NS / (x_NS.sum(1) + 1 - self.gate_N)[:, None]
        output_ND = self.window_ND + (self.gate_N * self.heard_N)[:, None] * (self.memory_ND - self.window_ND)
        target_ND = output_ND - (1 - x_NS.sum(1))[:, None] * self.window_ND
        left_NS, right_ND = self.root_N[:, None] * x_NS, self.root_N[:, None] * target_ND
        near = (self.how.value_ridge * left_NS.square().sum() / len(w_S)).sqrt()
        left = torch.cat([left_NS, near * torch.eye(len(w_S), dtype=torch.float64)])
        right = torch.cat([right_ND, near * self.v_TD[kept_S]])
        return torch.linalg.lstsq(left, right, driver="gelsd").solution
