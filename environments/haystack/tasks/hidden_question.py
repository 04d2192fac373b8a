"""The question itself is hidden: a chain of people tells which one to answer, after LoongRL's KeyChain (arXiv 2510.19363).

Several questions stand in the text, each posed by somebody, and the fact that answers each. The prompt names the head of
the chain; every other chain ("distractor") leads to another question, about a near-duplicate of the person asked about.
"""

from itertools import pairwise
from random import Random

from environments.haystack.facts import RELATION, RELATIONS, Entity, Fact, ask, state
from environments.haystack.tasks.task import Draw, Needles, Quiz, answer_or_none
from environments.haystack.wording import sentence

# Who is sent on to whom: one edge at most leaves a person. `{v}` is the next one.
SENT = (
    "Those who come to {e} are sent on to {v}.",
    "Every visitor of {e} is sent on to {v}.",
    "With such matters {e} refers people to {v}.",
)
POSED = ("The question that {e} poses is this: {q}", "There is one question posed by {e}: {q}")
ASKED = (
    "Start with {x}. Go to the person to whom that person sends visitors, and so on, up to the one who poses a question. "
    "Answer that question.",
    "Begin with {x}. Move along from one to the next as told, up to the last. Reply to what is wanted there.",
)


def hidden_question(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz whose question stands in the text, some people away; absent: the chain is cut, or the fact missing."""
    rng, hops, others = draw.rng, draw.number("hops"), draw.options.distractors
    relation = draw.relation([r.name for r in RELATIONS])
    values = draw.values(relation, 1 + others)
    people, target = [draw.person() for _ in range(hops)], draw.person()
    chain = _chain(people, target, relation, values[0], draw)
    needles: Needles = [*((text, "link") for text in chain[:-1]), (chain[-1], "answer")]
    if absent:
        cut = rng.randrange(len(needles))
        # What stands behind the cut cannot be reached from the head, so no answer rests on it.
        needles = [*needles[:cut], *((text, "distractor") for text, _ in needles[cut + 1 :])]
    for i, value in enumerate(values[1:]):
        # The people of the first chain are near-duplicates of those on the way; of the others, the head alone.
        along = [draw.twin(person) if i == 0 or j == 0 else draw.person() for j, person in enumerate(people)]
        wrong = _chain(along, draw.twin(target), relation, value, draw)
        needles += [(text, "distractor") for text in wrong]
    question = ASKED[draw.gap].format(x=people[0].asked)
    steps = [person.told for person in people[1:]]
    answer = answer_or_none(absent, "one", values[:1], RELATION[relation].kind, steps)
    return Quiz(tuple(needles), tuple(values), question, answer, hops)


def _chain(people: list[Entity], target: Entity, relation: str, value: str, draw: Draw) -> list[str]:
    """Return the sentences from the first of the people to a question about the target, and the fact that answers it."""
    rng: Random = draw.rng
    sent = [sentence(rng.choice(SENT), e=a.told, v=b.told) for a, b in pairwise(people)]
    question = ask(target.asked, relation, draw.gap)
    posed = sentence(rng.choice(POSED), e=people[-1].told, q=question)
    return [*sent, posed, state(Fact(target, relation, value), False, rng)]
