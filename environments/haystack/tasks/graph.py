"""Questions about a graph of people whose answer is a set, after GraphWalks (https://huggingface.co/datasets/openai/graphwalks).

    within   everyone who can be reached from a person in at most so many steps of the asked kinds
    parents  everyone who points to a person by the asked kind
    common   everyone to whom two people both point

An edge is one sentence of prose; any number of edges of a kind may leave a person. Around those that the answer needs stand
edges that nearly count ("distractor"): of another kind, the other way round, one step too far, from near-duplicates.
"""

from random import Random
from typing import NamedTuple

from environments.haystack.facts import Entity
from environments.haystack.options import ANY, GRAPH_ASKS
from environments.haystack.tasks.linked_wordings import LINK, Link
from environments.haystack.tasks.task import Draw, Quiz, answer_or_none
from environments.haystack.wording import sentence

# Kinds that have a direction, and the wordings that allow several edges of the kind to leave one person.
KINDS = {
    LINK["tutor"]: LINK["tutor"].told,
    LINK["creditor"]: LINK["creditor"].told,
    LINK["employer"]: LINK["employer"].told[:1],
    LINK["letters"]: LINK["letters"].told[1:],
    LINK["landlord"]: LINK["landlord"].told[1:],
    LINK["election"]: LINK["election"].told[:1],
}
EXTRA = 0.3  # edges for each person reached that lead back or aside, so that the graph is no tree


class Edge(NamedTuple):
    """An edge from a person to another, with its role as a needle."""

    kind: Link
    start: Entity
    end: Entity
    role: str

    def needle(self, rng: Random) -> tuple[str, str]:
        """Return the edge as a sentence, with its role."""
        return sentence(rng.choice(KINDS[self.kind]), e=self.start.told, v=self.end.told), self.role


class Asked(NamedTuple):
    """A question about the graph: its edges, the people who are the answer, its wording, and the steps to follow."""

    edges: list[Edge]
    people: list[Entity]
    question: str
    steps: int = 1


def graph(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for a set of people in a graph; absent: the set is empty."""
    ask = draw.options.graph_ask if draw.options.graph_ask != ANY else draw.rng.choice(GRAPH_ASKS)
    asked = {"within": _within, "parents": _parents, "common": _common}[ask](draw, absent)
    names = [person.told for person in asked.people]
    needles = tuple(edge.needle(draw.rng) for edge in asked.edges)
    answer = answer_or_none(absent, "set", names, "people")
    return Quiz(needles, tuple(names), asked.question, answer, asked.steps, several=True)


def phrase(kind: Link, x: str, gap: bool) -> str:
    """Return what one of several is called to whom `x` points: "a person to whom x pays rent" or "a landlord of x"."""
    noun = (kind.asked_gap if gap else kind.asked).format(x=x).removeprefix("the ")
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _strangers(draw: Draw, n: int) -> list[Entity]:
    return [draw.person(named=True) for _ in range(n)]


# ---- everyone within so many steps ----


def _within(draw: Draw, absent: bool) -> Asked:
    rng, steps = draw.rng, draw.number("hops")
    head, people = draw.person(), _strangers(draw, max(steps, draw.number("matches")))
    kinds = rng.sample(list(KINDS), rng.randint(1, 2))
    # One person stands at each number of steps, so that the answer needs all of them; the others anywhere.
    levels = [[head], *([person] for person in people[:steps])]
    for person in people[steps:]:
        levels[rng.randint(1, steps)].append(person)
    role = "distractor" if absent else "answer"  # without an edge from the head, no answer rests on the others
    edges = [
        Edge(rng.choice(kinds), rng.choice(levels[i - 1]), person, role)
        for i in range(1 + absent, steps + 1)
        for person in levels[i]
    ]
    edges += _back(levels, kinds, rng)
    edges += _beyond(draw, levels, kinds, absent)
    words = " or to ".join(phrase(kind, "that person", draw.gap) for kind in kinds)
    question = (
        f"Start with {head.asked}. One step leads from a person to {words}. "
        f"Who can be reached in at most {steps} steps? Name all of them, but not the one to start with."
    )
    return Asked(edges, people, question, steps)


def _back(levels: list[list[Entity]], kinds: list[Link], rng: Random) -> list[Edge]:
    """Return edges between people reached that make no way shorter: to as many steps as where they leave, or to fewer."""
    at = [(i, person) for i, level in enumerate(levels) for person in level]
    edges: dict[tuple[str, str], Edge] = {}
    for _ in range(int(EXTRA * len(at)) + 1):
        i, start = rng.choice(at[1:])
        end = rng.choice([person for j, person in at if j <= i and person is not start])
        edges.setdefault((start.told, end.told), Edge(rng.choice(kinds), start, end, "distractor"))
    return list(edges.values())


def _beyond(draw: Draw, levels: list[list[Entity]], kinds: list[Link], absent: bool) -> list[Edge]:
    """Return edges by which nobody else is reached: by another kind, to people reached, too far, from near-duplicates."""
    rng, edges = draw.rng, []
    others = [kind for kind in KINDS if kind not in kinds]
    for i in range(draw.options.distractors):
        (stranger,) = _strangers(draw, 1)
        if i % 4 == 0:
            edge = Edge(rng.choice(others), rng.choice(rng.choice(levels[:-1])), stranger, "distractor")
        elif i % 4 == 1:
            edge = Edge(rng.choice(kinds), stranger, rng.choice(rng.choice(levels)), "distractor")
        elif i % 4 == 2:
            edge = Edge(rng.choice(kinds), rng.choice(levels[-1]), stranger, "distractor")
        else:
            edge = Edge(rng.choice(kinds), draw.twin(levels[0][0]), stranger, "distractor")
        edges.append(edge)
    return edges


# ---- parents, common neighbours ----


def _parents(draw: Draw, absent: bool) -> Asked:
    rng, target = draw.rng, draw.person()
    people = _strangers(draw, draw.number("matches"))
    kind = rng.choice(list(KINDS))
    # Absent: they are pointed to instead.
    edges = [Edge(kind, target, p, "distractor") if absent else Edge(kind, p, target, "answer") for p in people]
    for i in range(draw.options.distractors):
        (stranger,) = _strangers(draw, 1)
        if i % 3 == 0:
            edges.append(Edge(_other(kind, rng), stranger, target, "distractor"))
        elif i % 3 == 1:
            edges.append(Edge(kind, target, stranger, "distractor"))
        else:
            edges.append(Edge(kind, stranger, draw.twin(target), "distractor"))
    question = f"Of whom is it true that {target.asked} is {phrase(kind, 'that person', draw.gap)}? Name all of them."
    return Asked(edges, people, question)


def _common(draw: Draw, absent: bool) -> Asked:
    rng, pair = draw.rng, (draw.person(), draw.person())
    people = _strangers(draw, draw.number("matches"))
    kinds = rng.choice(list(KINDS)), rng.choice(list(KINDS))
    edges = []
    for i, person in enumerate(people):
        for k in (0, 1):
            if not absent:
                edges.append(Edge(kinds[k], pair[k], person, "answer"))
            elif k == i % 2:  # each is a neighbour of one of the two alone
                edges.append(Edge(kinds[k], pair[k], person, "distractor"))
    for i in range(draw.options.distractors):
        (stranger,), k = _strangers(draw, 1), i % 2
        edges.append(Edge(kinds[k], pair[k], stranger, "distractor"))
        if i % 3 == 1:  # the other one points to them too, but by another kind
            edges.append(Edge(_other(kinds[1 - k], rng), pair[1 - k], stranger, "distractor"))
        elif i % 3 == 2:
            edges.append(Edge(kinds[1 - k], draw.twin(pair[1 - k]), stranger, "distractor"))
    first, second = (phrase(kind, person.asked, draw.gap) for kind, person in zip(kinds, pair, strict=True))
    return Asked(edges, people, f"Who is {first} and also {second}? Name all of them.")


def _other(kind: Link, rng: Random) -> Link:
    return rng.choice([other for other in KINDS if other is not kind])
