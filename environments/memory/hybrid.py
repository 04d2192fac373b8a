"""What is asked for one question in its mode: once, but in `hybrid`, where the memory proposes and the text confirms.

1. Ask the model with the passages found for the question. What it states is the answer.
2. Where it says none, ask the memory alone. Look for a sentence of the text that has its value together with someone whom the
   memory named on its way, or with a name of the question. Without one, none is the answer.
3. A value with someone whom the memory named is the answer. With a name of the question, which may have other values too, ask
   the model itself with that sentence and its neighbours: the value is the answer if it states it as well. If not, none is.

Asked with the passages in its prompt, a memory disturbs them; unconfirmed, it invents values for what no text says.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from environments.memory.config import HYBRID, RETRIEVAL, WEIGHTS
from environments.retrieval.chunking import Chunk
from environments.retrieval.hops import leads_of, stands_in
from environments.retrieval.ranking import Ranking
from environments.retrieval.sentence_spans import sentence_spans
from environments.rollouts.values import denies, normalise

# Names the rows and cells of hybrid: an earlier one asked the memory with the passages in its prompt.
POLICY = "the memory proposes, the text confirms, the model reads what confirms it"


def opening(mode: str) -> str:
    """Return in which single mode a question is asked first."""
    return RETRIEVAL if mode == HYBRID else mode


def following(mode: str, stated: Sequence[str]) -> str | None:
    """Return in which single mode a question is asked next, or None before what confirms the last value is looked for.

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


def same(read: str, proposed: str) -> bool:
    """Return whether the model reads in the text what the memory proposes, whatever the typography."""
    return normalise(read) == normalise(proposed)


@dataclass(frozen=True)
class Confirming:
    """The passage of a text that confirms a proposed value: a sentence with the value and a name that leads to it.

    Its neighbours in the chunk stand beside it, without which a reader takes it for no text. `followed`: the name is that of
    someone whom the memory passed, and not of the question alone.
    """

    passage: Chunk
    followed: bool


def confirming(ranking: Ranking, question: str, proposed: str, k: int, passed: Sequence[str] = ()) -> Confirming | None:
    """Return what confirms a proposed value, in the `k` chunks found for it, or None if nothing does.

    Values and names are whole words, whatever their typography. A sentence with someone `passed` comes before others.
    """
    if not (value := normalise(proposed)):
        return None
    chunks = [hit.chunk for hit in ranking.search(" ".join([*passed, question, proposed]), k)]
    with_value = [pair for chunk in chunks for pair in _sentences(chunk) if stands_in(value, pair[0])]
    for names, followed in ((passed, True), (leads_of(question), False)):
        for sentence, passage in with_value:
            if any(stands_in(normalise(name), sentence) for name in names):
                return Confirming(passage, followed)
    return None


def _sentences(chunk: Chunk) -> Iterator[tuple[str, Chunk]]:
    """Yield each sentence of a chunk, normalised, and the part of the chunk that holds it and its neighbours."""
    spans = sentence_spans(chunk.text)
    for i, (first, last) in enumerate(spans):
        start, end = spans[max(0, i - 1)][0], spans[min(len(spans) - 1, i + 1)][1]
        around = replace(chunk, text=chunk.text[start:end], start=chunk.start + start, end=chunk.start + end)
        yield normalise(chunk.text[first:last]), around
