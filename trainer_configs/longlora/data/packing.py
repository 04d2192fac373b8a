"""Rows of exactly so many tokens, out of documents: joined without cutting a sentence, or windows of one document.

Joining. Documents are taken in order, whole while they fit. The next one gives its longest beginning that ends with a
sentence and leaves a rest which pieces of other documents fill exactly; it goes on in the next row. For these pieces up
to four short documents are held in reserve and used up, sentence by sentence, before others are touched. Which sums of
their beginnings exist is one bit set (subset sum), so a row costs microseconds. Each piece starts its positions anew.
Only where no sum fits (text without sentences, or too few documents) is a row cut within a sentence, and counted.

Windows. A window starts at a sentence and ends with one, holds exactly the asked tokens as they stand, and shares at least
the stated overlap with the one before: it starts at the last place not behind `end - overlap` that allows all of that.
Such places come about every 25 sentences, so the overlap is some 600 tokens more than stated. Where there is none, text is
left out up to the next one, and counted; or, if asked, the window ends within a sentence.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LOOKAHEAD = 16  # documents waiting before a row is made: a choice for the reserve
AHEAD_ROWS = 8  # or so many rows' worth of tokens, which bounds memory
RESERVE = 4  # documents that complete rows
REACH = 4096  # tokens: the most that pieces of the reserve add to a row
SPLIT_OFF = 1024  # tokens split off the end of a document for the reserve when no other document is there
TRIED = 8  # documents behind the reserve, and documents given back, before a sentence is cut


@dataclass(frozen=True)
class Document:
    """The part of a document that is still to be written.

    `cuts` holds how many tokens a piece of it may take, in ascending order, up to all of them.
    """

    ids: np.ndarray  # [T] int32
    cuts: np.ndarray  # [C] int32
    number: int = 0
    total: int = 0  # tokens of the whole document

    def split(self, count: int) -> tuple["Document", "Document"]:
        """Return two documents: the first `count` tokens, and the others."""
        cuts = self.cuts[self.cuts > count] - count
        head = self.cuts[self.cuts < count]
        return (
            Document(self.ids[:count], np.append(head, count).astype(np.int32), self.number, self.total),
            Document(self.ids[count:], cuts, self.number, self.total),
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Row:
    """One training row. `starts` holds where each of its pieces of documents begins; positions count from there."""

    ids: np.ndarray  # [L] int32
    starts: np.ndarray  # [pieces] int32
    cut: bool = False  # ends within a sentence

    @property
    def position_ids(self) -> np.ndarray:
        """Return each token's position in its piece, 0, 1, 2, …, [L] int64."""
        lengths = np.diff(np.append(self.starts, len(self.ids)))
        return (np.arange(len(self.ids)) - np.repeat(self.starts, lengths)).astype(np.int64)


class Packer:
    """Joins documents into rows of `length` tokens. The rows depend on nothing but the documents and their order.

    Invariant: every token pushed is in one row, or in `queue` or `reserve`, once and in the order of its document.

    | waiting   | holds |
    |-----------|-------|
    | `queue`   | documents in order; rows take from the first |
    | `reserve` | up to four short documents, whose pieces complete rows |

    | room left when whole documents were taken | rule |
    |-------------------------------------------|------|
    | none                                      | the row is complete |
    | `fit` with the first and the reserve      | the row ends with pieces of them |
    | `fit` with eight documents more           | with pieces of those too |
    | no sum fits                               | the last whole document goes back, and the rule is applied again |
    | nothing left to give back, or 8 times     | the first document is cut within a sentence, and `Row.cut` says so |
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.queue: deque[Document] = deque()
        self.reserve: list[Document] = []
        self.total = 0  # tokens waiting

    def push(self, document: Document) -> None:
        """Add a document to the end of the queue."""
        self.queue.append(document)
        self.total += len(document)

    def rows(self, final: bool = False) -> Iterator[Row]:
        """Yield the rows that can be made now. With `final` no document will follow, and less than a row is left."""
        while self._ready(final):
            row = self._row()
            self.total -= self.length
            yield row

    def _ready(self, final: bool) -> bool:
        """Return whether a row can be made; before the end also whether there is enough to choose from."""
        if final:
            return self.total >= self.length
        many = len(self.queue) + len(self.reserve) >= LOOKAHEAD
        return self.total >= AHEAD_ROWS * self.length or (many and self.total >= 2 * self.length)

    def _fill_reserve(self) -> None:
        """Take the shortest whole documents of the queue, or split the end off its last one."""
        while len(self.reserve) < RESERVE and self.queue:
            fresh = [d for d in list(self.queue)[1 : 2 * LOOKAHEAD] if len(d) == d.total]
            if fresh:
                document = min(fresh, key=len)
                self.queue = deque(d for d in self.queue if d is not document)
            else:
                last = self.queue[-1]
                split = last.cuts[last.cuts >= len(last) - min(SPLIT_OFF, self.length // RESERVE)][0]
                if len(last) < 2 * self.length or split == len(last):
                    return
                kept, document = last.split(int(split))
                self.queue[-1] = kept
            self.reserve.append(document)

    def _row(self) -> Row:
        self._fill_reserve()
        taken: list[Document] = []
        room = self._take_whole(taken, self.length)
        for _ in range(TRIED):
            if room == 0 or self._complete(taken, room):
                return self._joined(taken, cut=False)
            if not taken:
                break
            self.queue.appendleft(taken.pop())  # the last whole document too may end earlier
            room += len(self.queue[0])
        room = self._take_whole(taken, room)
        head, self.queue[0] = self.queue[0].split(room)
        return self._joined([*taken, head], cut=True)

    def _take_whole(self, taken: list[Document], room: int) -> int:
        """Move documents from the queue to `taken` while they fit; return the room that is left."""
        while room:
            if not self.queue:
                self.queue.append(self.reserve.pop(0))
            if len(self.queue[0]) > room:
                break
            taken.append(self.queue.popleft())
            room -= len(taken[-1])
        return room

    def _complete(self, taken: list[Document], room: int) -> bool:
        """Fill the room exactly: with a beginning of the first waiting document, and pieces of others.

        Returns False and changes nothing where that cannot be done.
        """
        others = len(self.reserve)
        for pool in (self.reserve, [*self.reserve, *list(self.queue)[1 : 1 + TRIED]]):
            parts = fit(self.queue[0].cuts, [d.cuts for d in pool], room)
            if parts is not None:
                break
        else:
            return False
        rest: list[Document] = []
        for document, count in zip([self.queue[0], *pool], parts, strict=True):
            head, tail = document.split(count)
            if count:
                taken.append(head)
            rest.append(tail)
        queue = [rest[0], *rest[1 + others :], *list(self.queue)[1 + len(pool) - others :]]
        self.queue = deque(d for d in queue if len(d))
        self.reserve = [d for d in rest[1 : 1 + others] if len(d)]
        return True

    @staticmethod
    def _joined(parts: list[Document], cut: bool) -> Row:
        lengths = [len(part) for part in parts]
        starts = np.cumsum([0, *lengths[:-1]]).astype(np.int32)
        return Row(np.concatenate([part.ids for part in parts]), starts, cut)


def fit(first: np.ndarray, others: list[np.ndarray], room: int) -> list[int] | None:
    """Return how many tokens to take of each document: `room` together, and as many as possible of the first.

    `first` and `others` hold the counts that each document allows, its cuts. Returns a count for the first and for each
    other, each 0 or one of its cuts. Returns None when no sum within `REACH` of the others' tokens fits.
    """
    reach = min(room, REACH)
    mask = (1 << (reach + 1)) - 1
    sums = [1]  # bit m: m tokens can be made of the documents so far
    for cuts in others:
        bits = sums[-1]
        for cut in cuts[: np.searchsorted(cuts, reach, "right")].tolist():
            bits |= (sums[-1] << cut) & mask
        sums.append(bits)
    for count in [*first[: np.searchsorted(first, room, "right")][::-1].tolist(), 0]:
        rest = room - count
        if rest > reach:
            return None
        if not sums[-1] >> rest & 1:
            continue
        parts = [0] * len(others)
        for i in range(len(others) - 1, -1, -1):
            if sums[i] >> rest & 1:
                continue
            parts[i] = next(c for c in others[i].tolist() if c <= rest and sums[i] >> (rest - c) & 1)
            rest -= parts[i]
        return [count, *parts]
    return None


@dataclass(frozen=True)
class Window:
    """A window of a document. `start` is the number of tokens before it."""

    start: int
    whole: bool  # starts at a sentence and ends with one


def plan_windows(cuts: np.ndarray, room: int, overlap: int, slack: int, whole: bool = True) -> list[Window]:
    """Return windows of `room` tokens over a document whose sentences end at `cuts`, token counts up to its length.

    Each shares at least `overlap` and at most `overlap + slack` tokens with the one before. A window is whole if it
    starts at a sentence and ends with one. Where no window within these bounds is whole, `whole` takes the next one
    that is, however far on, and leaves a gap. Without `whole` the window ends within a sentence.
    """
    total = int(cuts[-1])
    starts = np.concatenate([[0], cuts[:-1]])
    good = starts[np.isin(starts + room, cuts)]
    windows: list[Window] = []
    while True:
        last = windows[-1].start if windows else -1
        target = last + room - overlap if windows else 0
        low = max(target - slack, last + 1)
        fits = good[np.searchsorted(good, low) : np.searchsorted(good, target, "right")]
        later = good[np.searchsorted(good, target, "right") :][:1] if whole else good[:0]
        if len(fits) or len(later):
            windows.append(Window(int(fits[-1] if len(fits) else later[0]), True))
        elif whole or target + room > total:
            return windows
        else:
            plain = starts[np.searchsorted(starts, low) : np.searchsorted(starts, target, "right")]
            windows.append(Window(int(plain[-1]) if len(plain) else target, False))
