"""Conversations, documents and texts as token rows: labels on replies and the mark behind each, positions for attention.

    encoder = RowEncoder(tokens)
    encoder.chat(turns)                       # one conversation
    encoder.parallel(documents, turns)        # documents that are read apart, and one conversation behind all of them
    encoder.packed(conversations)             # conversations that do not see each other
    encoder.text(text, length)                # plain text, learnt whole
    joined(rows)                              # several of these in one row, which do not see each other
    skipping(row, reach, rng)                 # the row with positions of a longer one

Turns are tokenised in pieces that end where the model begins to write, so a row's tokens are those of the prompts that the
model is asked with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

import numpy as np

from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError

IGNORED = -100  # a label that the loss leaves out
USER, REPLY, NEXT = "\ue001", "\ue002", "\ue003"  # private use area: no template contains them
JUMP = 1  # positions left out between the documents of a row and the conversation behind them


class Turn(NamedTuple):
    """What the user says, and the reply: what is given of its beginning, as by a client, and what is learnt."""

    user: str
    reply: str
    given: str = ""


@dataclass(frozen=True)
class Row:
    """A training row of L tokens. All arrays are int32 of shape (L,).

    A position that is not above the one before it begins a document. Where positions skip ahead by more than one, what
    follows sees the documents since the skip before, or since the row's start; each of them ends at the same position.
    A document may skip ahead within itself, too, in rows without parallel documents.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


class RowEncoder:
    """Encodes rows for one tokenizer and its chat template.

    Raises `ConfigError` for a template that ends a reply without a special token: no end could be learnt.
    """

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        first = tokens.render([{"role": "user", "content": USER}])
        self.before, _, self.opening = first.partition(USER)
        turns = [("user", USER), ("assistant", REPLY), ("user", NEXT)]
        chat = tokens.render([{"role": role, "content": content} for role, content in turns])
        self.between = chat.partition(REPLY)[2].partition(NEXT)[0]
        marks = [mark for mark in tokens.special if self.between.lstrip().startswith(mark)]
        if not marks:
            raise ConfigError(
                "the tokenizer's chat template has no special token behind a reply, so a model cannot learn to end one: "
                "set tokenizer.chat_template to one that has, and save it",
                setting="tokenizer",
            )
        self.end = self.between[: self.between.index(marks[0]) + len(marks[0])]

    def prompt(self, user: str, given: str = "") -> list[int]:
        """Return the tokens of a first prompt, up to where the model begins to write: behind what is given of its reply."""
        return self.tokens.encode(self.before + user + self.opening + given)

    def chat(self, turns: Sequence[Turn]) -> Row:
        """Return one conversation as a row, with labels on replies."""
        ids, labels = self._turns(turns)
        return _row(ids, labels, range(len(ids)))

    def parallel(self, documents: Sequence[str], turns: Sequence[Turn]) -> Row:
        """Return documents that each end at the same position, and a conversation that goes on behind all of them.

        With P tokens in the longest document, one of n tokens has the positions P - n to P - 1, and the conversation
        begins at P + `JUMP`.
        """
        encoded = [self.tokens.encode(document) for document in documents]
        ids, labels = self._turns(turns)
        end = max(map(len, encoded))
        positions = [p for document in encoded for p in range(end - len(document), end)]
        positions += range(end + JUMP, end + JUMP + len(ids))
        before = [token for document in encoded for token in document]
        return _row(before + ids, [IGNORED] * len(before) + labels, positions)

    def packed(self, conversations: Iterable[Sequence[Turn]]) -> Row:
        """Return conversations as documents of one row: the positions of each begin at 0."""
        return joined([self.chat(turns) for turns in conversations])

    def text(self, text: str, length: int) -> Row:
        """Return the first `length` tokens of a text, all of them to learn, with what the tokenizer puts before a text."""
        ids = self.tokens.tokenizer.encode(text, add_special_tokens=True)[:length]
        return _row(ids, ids, range(len(ids)))

    def _turns(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """Return the tokens of a conversation, which ends with its last reply's mark, and their labels."""
        ids = self.prompt(turns[0].user, turns[0].given)
        labels = [IGNORED] * len(ids)
        for turn, following in zip(turns, [*turns[1:], None], strict=True):
            learnt = turn.reply + self.end
            rest = ""
            if following:
                rest = self.between[len(self.end) :] + following.user + self.opening + following.given
            piece, offsets = self.tokens.offsets(learnt + rest)
            ids += piece
            labels += [
                token if start < len(learnt) else IGNORED for token, (start, _) in zip(piece, offsets, strict=True)
            ]
        return ids, labels


def joined(rows: Sequence[Row]) -> Row:
    """Return rows as one, in which none sees another.

    Those with a conversation behind documents come first, the longest document's first: then each begins at a lower position
    than the one before it ends at, and behind a skip, so that its conversation sees its own documents alone.
    """
    ordered = sorted(rows, key=_before_skip, reverse=True)
    return Row(*(np.concatenate([getattr(row, name) for row in ordered]) for name in Row.__annotations__))


def skipping(row: Row, reach: int, rng: Random) -> Row:
    """Return the row with positions that skip ahead once, at a random token and by a random distance, and stay below `reach`.

    Its tokens then stand as far apart as those of a text of `reach` tokens (PoSE, arXiv 2309.10400).
    """
    return replace(row, position_ids=skipped_positions(len(row), reach, rng))


def skipped_positions(tokens: int, reach: int, rng: Random) -> np.ndarray:
    """Return positions from 0, int32 of shape (tokens,), that skip ahead once and stay below `reach`."""
    positions = np.arange(tokens, dtype=np.int32)
    positions[rng.randint(1, tokens - 1) :] += rng.randint(0, reach - tokens)
    return positions


def _before_skip(row: Row) -> int:
    """Return the last position before a skip; -1 where there is none."""
    skips = np.flatnonzero(np.diff(row.position_ids) > 1)
    return int(row.position_ids[skips[0]]) if len(skips) else -1


def _row(ids: Sequence[int], labels: Sequence[int], positions: Sequence[int]) -> Row:
    return Row(*(np.array(column, np.int32) for column in (ids, labels, positions)))
