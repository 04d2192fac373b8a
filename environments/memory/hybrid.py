"""What is asked for one question in its mode: once, but in `hybrid`, where the memory proposes and the text confirms.

1. Ask the model with the passages found for the question. What it states is the answer.
2. Where it says none, ask the memory alone. Where that says none too, none is the answer.
3. Look up what the memory proposes: ask the model with the passages found for the question and the proposal. Its reply is the
   answer, so that a value that the text does not confirm is none.

Every answer is the model's own, of passages; the memory says only what to search for.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from environments.memory.config import HYBRID, RETRIEVAL, WEIGHTS
from environments.rollouts.values import denies, normalise

# Names the rows and cells of hybrid: an earlier one asked the memory with the passages in its prompt.
POLICY = "the memory proposes, the text confirms"


class Ask(NamedTuple):
    """What to ask next: in which single mode, and the proposal to search for beside the question."""

    mode: str
    proposed: str = ""


def opening(mode: str) -> Ask:
    """Return what to ask first in a mode."""
    return Ask(RETRIEVAL if mode == HYBRID else mode)


def following(mode: str, stated: Sequence[str]) -> Ask | None:
    """Return what to ask next of a question in its mode, or None once it is answered.

    `stated` is what each reply so far stated, in order; "" where it said none.
    """
    if not stated:
        return opening(mode)
    if mode != HYBRID or stated[0]:
        return None
    if len(stated) == 1:
        return Ask(WEIGHTS)
    return Ask(RETRIEVAL, stated[1]) if len(stated) == 2 and stated[1] else None


def answering(asks: Sequence[Ask]) -> int:
    """Return which of a question's requests gave its answer: the last that was not the memory's, if there is one."""
    return max((place for place, ask in enumerate(asks) if ask.mode != WEIGHTS), default=len(asks) - 1)


def stated(replies: Sequence[str]) -> str:
    """Return the value that most replies of a group state, as the first of them has it; "" where most say none, or nothing.

    Of equally many the first counts. Only the replies decide, nothing of the right answer.
    """
    votes = [("" if denies(reply) else normalise(reply)) for reply in replies]
    most = max(votes, key=Counter(votes).__getitem__)
    return replies[votes.index(most)].strip() if most else ""
