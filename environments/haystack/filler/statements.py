"""Filler beside prose: a few sentences over and over, and facts about people who are not asked about.

They are RULER's "noise" and "needle" haystacks (arXiv 2404.06654) in our own words.
"""

from collections.abc import Iterator
from random import Random

from environments.haystack.facts import RELATIONS, Fact, draw_entity, draw_value, state

# Of different lengths, so that some of them close a text to any token.
NOISE = (
    "It is quiet.", "The road goes on.", "A bird sings, and then it stops.", "Nobody is in a hurry.",
    "The clock in the hall strikes four.", "Water runs under the old bridge, as it always has.", "Bread is baked.",
    "Some days are warm and some are not, and none of them is long.", "The door stays open all night.",
    "Snow falls on the hill, on the roofs and on the empty square.",
)  # fmt: skip
PARAGRAPHS, SENTENCES = 4, 6  # in a passage; in a paragraph of facts


def noise() -> Iterator[list[list[str]]]:
    """Yield passages of the same few sentences for ever; each paragraph begins with the next of them."""
    turns = [[*NOISE[i:], *NOISE[:i]] for i in range(len(NOISE))]
    while True:
        for i in range(len(turns)):
            yield [turns[(i * PARAGRAPHS + k) % len(turns)] for k in range(PARAGRAPHS)]


def facts(split: str, number: int) -> Iterator[list[list[str]]]:
    """Yield passages of facts for ever: one about each person, of every relation in turn."""
    rng = Random(f"facts {split} {number}")
    people: set[str] = set()
    while True:
        passage: list[list[str]] = []
        for _ in range(PARAGRAPHS):
            paragraph: list[str] = []
            while len(paragraph) < SENTENCES:
                person = draw_entity(split, False, rng)
                if person.told not in people:
                    relation = RELATIONS[len(people) % len(RELATIONS)]
                    people.add(person.told)
                    fact = Fact(person, relation.name, draw_value(relation.kind, split, rng))
                    paragraph.append(state(fact, False, rng))
            passage.append(paragraph)
        yield passage
