"""Rows packed into sequences of a fixed length, in which no row sees another.

Each row begins at position 0, and an attention mask keeps it apart. A memory is closed to the first token of every row, as
it is to the first token of a window.

B: sequences, T: tokens of each, N: tokens of answers, M: tokens of other text, K: a teacher's top tokens.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from lift.document.segments import IGNORED
from lift.training.batches import AnyRow, RegularizationRow, Row, SupervisedRow
from longthread.errors import ConfigError


class PackedBatch(NamedTuple):
    """Two packed sequences, one of questions and one of other text, with the positions of all predictions and their targets.

    Positions count tokens over both sequences joined end to end. Those that fill N or M up to a fixed shape are 0, with the
    target `IGNORED` or the weight 0.
    """

    ids_BT: Tensor
    positions_BT: Tensor  # within each row
    mask_B1TT: Tensor  # True where a token sees a token
    answer_at_N: Tensor
    answer_N: Tensor
    quiet_at_M: Tensor
    quiet_weight_M: Tensor  # every row counts as much, all together 1
    quiet_top_MK: Tensor
    quiet_log_p_MK: Tensor

    @property
    def at(self) -> Tensor:
        """Return the positions of all predictions, those of answers first, (N + M)."""
        return torch.cat([self.answer_at_N, self.quiet_at_M])


class Room(NamedTuple):
    """The fixed shape of a `PackedBatch`: tokens T of a sequence, answer tokens N, and tokens M of other text."""

    tokens: int
    answers: int
    quiet: int

    @classmethod
    def of(
        cls, supervised: Sequence[Sequence[SupervisedRow]], quiet: Sequence[Sequence[RegularizationRow]], tokens: int
    ) -> "Room":
        """Return the shape that takes any of these packs of at most `tokens` tokens."""
        return cls(
            tokens,
            *(max(sum(len(row.predicted_at) for row in pack) for pack in packs) for packs in (supervised, quiet)),
        )


def packs(rows: Sequence[AnyRow], tokens: int, rng: Random) -> list[list[AnyRow]]:
    """Return all rows once, in random order, in packs of at most `tokens` tokens each.

    Raises `ConfigError` for a row that is longer.
    """
    packed: list[list[AnyRow]] = []
    room = 0
    for row in rng.sample(list(rows), len(rows)):
        if len(row.ids) > tokens:
            raise ConfigError(f"a row of {len(row.ids):,} tokens does not fit into {tokens:,}: give at least as many")
        if len(row.ids) > room:
            packed.append([])
            room = tokens
        packed[-1].append(row)
        room -= len(row.ids)
    return packed


def collate_packed(
    supervised: Sequence[SupervisedRow], quiet: Sequence[RegularizationRow], room: Room, device: torch.device
) -> PackedBatch:
    """Return the batch of a pack of questions and a pack of other text, whose rows have their teacher's logits."""
    ids_BT, positions_BT, of_row_BT = (torch.zeros(2, room.tokens, dtype=torch.long) for _ in range(3))
    # A token behind the last row is a row of its own, so that no query is without a key.
    of_row_BT[:] = -1 - torch.arange(room.tokens)
    at: tuple[list[int], list[int]] = ([], [])
    parts: tuple[Sequence[Row], Sequence[Row]] = (supervised, quiet)
    for number, pack in enumerate(parts):
        _lay_out(pack, ids_BT[number], positions_BT[number], of_row_BT[number])
        at[number].extend(number * room.tokens + place for place in _predicted_at(pack))
    together_BTT = of_row_BT[:, :, None] == of_row_BT[:, None, :]
    answers = [row.labels[t + 1] for row in supervised for t in row.predicted_at]
    weights = [1 / (len(quiet) * row.kept) for row in quiet for _ in range(row.kept)]
    teachers = [row.teacher for row in quiet if row.teacher]
    tops = [torch.cat(parts) for parts in zip(*teachers, strict=True)] or [torch.zeros(0, 1).long(), torch.zeros(0, 1)]
    batch = PackedBatch(
        ids_BT, positions_BT, together_BTT.tril()[:, None],
        _filled(torch.tensor(at[0], dtype=torch.long), room.answers),
        _filled(torch.tensor(answers, dtype=torch.long), room.answers, IGNORED),
        _filled(torch.tensor(at[1], dtype=torch.long), room.quiet),
        _filled(torch.tensor(weights), room.quiet),
        *(_filled(top, room.quiet) for top in tops),
    )  # fmt: skip
    return PackedBatch(*(tensor.to(device) for tensor in batch))


def _lay_out(pack: Sequence[Row], ids_T: Tensor, positions_T: Tensor, of_row_T: Tensor) -> None:
    """Write the rows one behind the other: their tokens, positions and numbers."""
    start = 0
    for number, row in enumerate(pack):
        end = start + len(row.ids)
        ids_T[start:end] = torch.tensor(list(row.ids))
        positions_T[start:end] = torch.arange(len(row.ids))
        of_row_T[start:end] = number
        start = end


def _predicted_at(pack: Sequence[Row]) -> list[int]:
    """Return the positions, in the packed sequence, whose next token is predicted."""
    at, start = [], 0
    for row in pack:
        at += [start + t for t in row.predicted_at]
        start += len(row.ids)
    return at


def _filled(x: Tensor, length: int, value: int = 0) -> Tensor:
    """Return the tensor with `value` appended along its first dimension up to `length`."""
    return torch.cat([x, x.new_full((length - len(x), *x.shape[1:]), value)])
