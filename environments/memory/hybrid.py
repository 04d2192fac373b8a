"""What is asked for one question in its mode: once, but in `hybrid`, where the memory proposes and the text confirms.

1. Ask the model with the passages found for the question. What it states is the answer.
2. Where it says none, ask the memory alone. What that states is the answer if the text confirms it: if one sentence has both
   the value and a name of the question, or of someone whom the memory named on its way. If not, none is the answer.

Asked with the passages in its prompt, a memory disturbs them; unconfirmed, it invents values for what no text says.
"""

from collections import Counter
from collections.abc import Sequence

from environments.memory.config import HYBRID, RETRIEVAL, WEIGHTS
from environments.retrieval.hops import leads_of, stands_in
from environments.retrieval.ranking import Ranking
from environments.retrieval.sentence_spans import sentence_spans
from environments.rollouts.values import denies, normalise

# Names the rows and cells of hybrid: an earlier one asked the memory with the passages in its prompt.
POLICY = "the memory proposes, the text confirms"


def opening(mode: str) -> str:
    """Return in which single mode a question is asked first."""
    return RETRIEVAL if mode == HYBRID else mode


def following(mode: str, stated: Sequence[str]) -> str | None:
    """Return in which single mode a question is asked next, or None if it has been asked enough.

    `stated` is what each reply so far stated, in order; "" where it said none.
    """
    if not stated:
        return opening(mode)
    return WEIGHTS if mode == HYBRID and len(stated) == 1 and not stated[0] else None


def stated(replies: Sequence[str]) -> str:
    """Return the value that most replies of a group state, as the first of them has it; "" where most say none, or nothing.

    Of equally many the first counts. Only the replies decide, nothing of the right answer.
    """
    votes = [("" if denies(reply) else normalise(reply)) for reply in replies]
    most = max(votes, key=Counter(votes).__getitem__)
    return replies[votes.index(most)].strip() if most else ""


def confirms(ranking: Ranking, question: str, proposed: str, k: int, passed: Sequence[str] = ()) -> bool:
    """Return whether one of the `k` chunks found for a proposed value has it in one sentence with a name that leads to it.

    Such are the names of the question, and those that were `passed` on the way. Values and names are whole words, whatever
    their typography. What the sentence says of the name is not read: another fact of the same person is confirmed too.
    """
    value, names = normalise(proposed), [normalise(name) for name in (*leads_of(question), *passed)]
    if not value:
        return False
    chunks = (hit.chunk.text for hit in ranking.search(" ".join([*passed, question, proposed]), k))
    sentences = (normalise(text[start:end]) for text in chunks for start, end in sentence_spans(text))
    return any(stands_in(value, one) and any(stands_in(name, one) for name in names) for one in sentences)
