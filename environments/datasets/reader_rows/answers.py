"""Checks that finished documents give every question its answer, and no other: what they state is read back."""

from collections.abc import Sequence

from environments.datasets.reader_rows.questions import Claim, ReaderQuestion, Statement
from environments.haystack.tasks.linked_wordings import readers
from environments.haystack.tasks.task import NONE


def answers_stand(
    documents: Sequence[str], statements: Sequence[Statement], questions: Sequence[ReaderQuestion]
) -> bool:
    """Return whether the documents' texts give every question its answer, and no other.

    Every statement stands once, in its document. What the sentences state is read back by the patterns of all wordings.
    """
    if any(
        [text.count(statement.text) for text in documents] != [i == statement.document for i in range(len(documents))]
        for statement in statements
    ):
        return False
    stated = [_read(text) for text in documents]
    return all(_stands(question, documents, stated) for question in questions)


_READERS = [(name, pattern) for kind, name, pattern in readers() if kind != "change" and name != "arrival"]


def _read(text: str) -> set[Claim]:
    """Return the values, links and events that a text states."""
    found = ((name, match.groupdict()) for name, pattern in _READERS for match in pattern.finditer(text))
    return {(slots["e"], name, slots["v"] if "v" in slots else slots["p"]) for name, slots in found}


def _stands(question: ReaderQuestion, documents: Sequence[str], stated: Sequence[set[Claim]]) -> bool:
    everything = set().union(*stated)
    asked = {claim[:2] for claim in question.claims} | set(question.unsaid)
    if {claim for claim in everything if claim[:2] in asked} != set(question.claims):
        return False
    home = documents[question.document]
    if question.meet:
        matches = [{e for e, *condition in claims if tuple(condition) == question.meet} for claims in stated]
        return len(matches[question.document]) == int(question.answer) == sum(map(len, matches))
    if question.named:
        places = [home.find(name) for name in question.named]
        return (
            all(sum(text.count(name) for text in documents) == 1 for name in question.named) and places[0] < places[1]
        )
    if question.answer == NONE:
        return True
    return home.count(question.answer) == sum(text.count(question.answer) for text in documents) == 1
