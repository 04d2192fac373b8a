"""Answer questions whose evidence stands in several segments: search, ask, search for whoever the replies name, ask again.

The algorithm needs no second model:

1. Open the segments that the search finds for the question, and ask.
2. Ask with the same segments open who is named together with the people of the question, or with those found last.
3. Names in both replies that were not known are searched for. Where that finds segments that are not open, open them too.
   Then ask the question again with all of them open.
4. If the reply is still "none", put the name of whoever is described in the question ("the lender of Ann Lee", asked for as
   "Who is the lender of Ann Lee?") in place of the description: a model that finds facts may not follow links by itself.
5. Repeat from 2, up to `hops` times, until no new name or no new segment is found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from environments.rollouts.values import normalise
from lift.inference import steps
from lift.inference.routing import Place
from lift.tasks import NO_ANSWER
from lift.tasks.reading import NAME

DESCRIBED = "Who is {description}?"
WHO = "Who is named together with {names}? Give every name."
ABOUT = "What is said about {names}?"
LEADS = 4  # names of a hop, at most
_INSIDE = re.compile(r"[\w,;:)’']\s+$")  # before a capital letter that does not merely begin a sentence


class Reader(Protocol):
    """Whatever finds segments for a question, and answers a question with segments open."""

    def search(self, question: str) -> Sequence[Place]:
        """Return the segments that have something to say to the question, the best first."""
        ...

    def answer(self, question: str, places: Sequence[Place]) -> str:
        """Return the reply with these segments open."""
        ...

    def names(self, question: str, places: Sequence[Place]) -> str:
        """Return the reply to a question that asks for names alone, never step by step."""
        ...


@dataclass(frozen=True)
class Answered:
    """The reply to a question, the segments that were open for it, and the names that were followed, hop by hop."""

    reply: str
    places: tuple[Place, ...]
    followed: tuple[tuple[str, ...], ...] = ()


def answered(reader: Reader, question: str, hops: int) -> Answered:
    """Answer a question, following names over at most `hops` further searches."""
    places = list(reader.search(question))
    reply = reader.answer(question, places)
    known, latest = set(names_in(question)), names_in(question)
    followed: list[tuple[str, ...]] = []
    for _ in range(hops if places else 0):
        said, described = reply, description(question) if denied(reply) else ""
        if latest:
            said += "\n" + reader.names(WHO.format(names=" and ".join(latest)), places)
        who = reader.names(DESCRIBED.format(description=described), places) if described else ""
        said = f"{who}\n{said}"
        latest = [name for name in names_in(said) if name not in known][:LEADS]
        if not latest:
            break
        known.update(latest)
        more = [place for place in reader.search(ABOUT.format(names=" and ".join(latest))) if place not in places]
        meant = [name for name in names_in(who) if name in latest]
        if not more and len(meant) != 1:
            break
        places += more
        followed.append(tuple(latest))
        reply = reader.answer(question, places) if more else reply
        if denied(reply) and len(meant) == 1:
            question = question.replace(described, meant[0])
            reply = reader.answer(question, places)
    return Answered(reply, tuple(places), tuple(followed))


def denied(reply: str) -> bool:
    """Return whether a reply says that there is no answer."""
    return normalise(steps.value(reply)) == NO_ANSWER


def description(question: str) -> str:
    """Return the first description of somebody by a name in a question, from "the" to the name; "" if there is none."""
    patterns = (rf"\b[Tt]he (?:(?!\bthe )[^,.?;:])+{re.escape(name)}" for name in names_in(question))
    found = (match for match in (re.search(pattern, question) for pattern in patterns) if match)
    return next((match[0] for match in found), "")


def names_in(text: str) -> list[str]:
    """Return the names in a text, in order, each once.

    A single capitalised word is a name inside a sentence, or alone on its line or in a list: else it may only begin a
    sentence.
    """
    found = []
    for match in NAME.finditer(text):
        name = " ".join(match[0].split())
        alone = re.match(r"\s*(?:[,.;]?\s*$|[,;])", text[match.end() :].split("\n")[0])
        if " " in name or alone or _INSIDE.search(text[: match.start()]):
            found.append(name)
    return list(dict.fromkeys(found))
