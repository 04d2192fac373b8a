"""Several trainer processes, each on a GPU of its own: all hold the policy, each computes a share of a step's groups.

The first one talks to run-api and to the server, and hands every step's groups to the others. Gradients are summed, so all
take the same step. torchrun starts the processes (`processes:` of the YAML); accelerate finds each its device.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from trainer_configs.atropos_rl.groups import Group
from trainer_configs.atropos_rl.health import Sums

PATIENCE = timedelta(days=1)  # for the groups of a step: the first process knows when to give up


class Processes:
    """This process among all. One alone hands out and sums nothing."""

    def __init__(self) -> None:
        launched = torch.distributed.is_torchelastic_launched()
        # Not told that it is on CPUs, accelerate takes each process for the only one.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE) if launched else None
        self.rank: int = state.process_index if state else 0
        self.count: int = state.num_processes if state else 1

    def share(self, groups: Sequence[Group] | None) -> Sequence[Group] | None:
        """Return the groups that the first process gives, None at the end of the run. All processes call it."""
        given = [groups]
        if self.count > 1:
            broadcast_object_list(given)
        return given[0]

    def own(self, groups: Sequence[Group]) -> list[Group]:
        """Return this process's share of the groups, of about as many tokens as that of any other."""
        return sorted(groups, key=lambda group: group.unique_tokens)[self.rank :: self.count]

    def add_up(self, parameters: Iterable[nn.Parameter], sums: Sums) -> None:
        """Add the gradients and the sums of all processes, in each of them."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # a process without a group
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
        each: list[Sums | None] = [None] * self.count
        torch.distributed.all_gather_object(each, sums)
        for rank, other in enumerate(each):
            if rank != self.rank and other is not None:
                sums.add(other)
